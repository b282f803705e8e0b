"""Latents as numbers: what an encoder is said to be needed for, measured on any paradigm.

A *pairing* says which latent an image is trained or decoded with: `random` (drawn from the prior), `encoder` (what
`encode` gives), `paired` (what training used, where `encode` does not give it, as with fixed random latents), or
`posterior` (the mean of the Gaussian that is fitted to a held-out image). Each metric exists for the pairings it is
defined for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from encdec.evaluation.context import Context, random_order
from encdec.evaluation.gradients import add_gradients, add_targets, spread
from encdec.evaluation.inference import Inferred
from encdec.evaluation.neighbours import add_neighbours
from encdec.evaluation.reconstruction import squared_errors
from encdec.evaluation.results import Metrics
from encdec.evaluation.smoothness import add_smoothness
from encdec.evaluation.view import DRAWS
from encdec.types import Batch

IMAGES = 2000
"""How many images neighbours are looked for among, and targets and `mse_paired` are measured on."""
ACTIVE_VARIANCE = 0.01
"""A dimension is active if the variance of its posterior mean exceeds this (Burda et al. 2016, sec. 5)."""


def evaluate_latent(context: Context, inferred: Inferred) -> None:
    """Add all metrics of the latent space. Encoding is shared by the processes; each does all else, which is cheap."""
    view, metrics, advance = context.view, context.metrics, context.advance
    num_train = len(context.train.labels)
    some_test, some_train = random_order(len(context.test.labels))[:IMAGES], spread(num_train, IMAGES)
    paired = _latents(context, view.codes, "train", some_train) if _has_own_pairing(context) else None
    advance(0.1)

    encoded = None if inferred.latents is None else inferred.latents[some_test.to(view.device)]
    fitted = None if inferred.fitted is None else inferred.fitted.latents[: len(some_test)]
    if encoded is not None or fitted is not None:
        add_neighbours(context, "test", some_test, {"encoder": encoded, "posterior": fitted})
    if paired is not None:
        add_neighbours(context, "train", some_train, {"paired": paired})
    advance(0.3)

    add_smoothness(context)
    advance(0.5)

    if inferred.posterior is not None:
        add_active_units(metrics, "active_units", inferred.posterior.mean)
    if inferred.fitted is not None:
        add_active_units(metrics, "active_units_posterior", inferred.fitted.q.mean)
    advance(0.6)

    pairings = {
        "random": view.prior(view.noise(DRAWS["pairings"], some_train)),
        "encoder": _latents(context, view.encode, "train", some_train),
        "paired": paired,
    }
    add_targets(context, "train", some_train, pairings)
    for done, (pairing, latents) in enumerate(pairings.items(), start=1):
        if latents is not None:
            add_gradients(context, "train", some_train, pairing, latents)
        advance(0.6 + 0.1 * done)

    if paired is not None:
        metrics.add("mse_paired", squared_errors(context, some_train, paired, "train"), "per pixel, training images")
    advance(1.0)


def add_active_units(metrics: Metrics, name: str, means: Tensor) -> None:
    """The number of dimensions that q(z|x) uses: those with Var_x(E_q[z]) > 0.01.

    Source: Burda et al. 2016, https://arxiv.org/abs/1509.00519, sec. 5.

    Args:
        metrics: where the metric is added.
        name: its name.
        means: posterior means of images, (n, d).
    """
    if len(means) < 2:
        metrics.undefined[name] = "it needs at least 2 images"
        return
    active = (means.double().var(dim=0, correction=0) > ACTIVE_VARIANCE).sum()
    metrics.add(name, float(active), f"of {means.shape[1]} dimensions")


def _has_own_pairing(context: Context) -> bool:
    """Whether training images have latents that `encode` does not give them."""
    batch = next(context.batches("train", torch.arange(min(8, len(context.train.labels)))))
    paired, encoded = context.view.codes(batch), context.view.encode(batch)
    return paired is not None and (encoded is None or not torch.equal(paired, encoded))


def _latents(
    context: Context, latent: Callable[[Batch], Tensor | None], split: str, positions: Tensor
) -> Tensor | None:
    """The latents of the images at `positions` (n,), float, (n, d), on every process; None where there are none."""
    view, processes = context.view, context.processes
    if len(positions) == 0 or latent(next(context.batches(split, positions[:1]))) is None:
        return None
    mine = positions[processes.share(len(positions))]
    parts = [torch.zeros(0, view.latent.latent_dim, dtype=view.paradigm.weights_dtype, device=view.device)]
    for batch in context.batches(split, mine):
        z = latent(batch)
        assert z is not None
        parts.append(z.detach())
    return processes.merge(torch.cat(parts), len(positions))
