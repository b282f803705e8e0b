"""What is inferred about test images before anything is measured: their latents, and their posteriors.

A model's own latent or posterior, and for every model a Gaussian that is fitted to each image by maximising the ELBO,
the decoder fixed. The fitted ones treat models with and without an encoder alike: they are what the decoder and the
prior together allow, and an encoder's distance to them is its amortisation gap (Cremer, Li & Duvenaud 2018,
https://arxiv.org/abs/1801.03558).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from encdec.evaluation.context import Context, block_size
from encdec.evaluation.proposals import Proposal, Space, fit_space
from encdec.evaluation.view import DRAWS, View
from encdec.objectives.losses import full_precision, gaussian_kl
from encdec.objectives.observations import Bernoulli, Observation
from encdec.objectives.search import search
from encdec.types import Batch

START_LATENTS = 512
"""Latents from the prior; where a model has no posterior, each image's search begins at the most likely of them."""
_RATE = 0.05  # of Adam, for mean and log standard deviation; falls to 0 along a cosine
_START_LOG_VAR = -2.0

Matrix = Callable[[Tensor, Tensor], Tensor]
"""What decodings (K, …) cost images (B, …): logits and images to (B, K)."""


@dataclass(frozen=True)
class Fitted:
    """Gaussians that are fitted to images.

    Attributes:
        q: of the images at `context.chosen`, over the numbers of `space`, (n, dim).
        space: what they are over.
    """

    q: Proposal
    space: Space

    @property
    def latents(self) -> Tensor:
        """The latents at their means, (n, latent_dim)."""
        return self.space.latent(self.q.mean)


@dataclass(frozen=True)
class Inferred:
    """What is known of the test images, on every process.

    Attributes:
        latents: those that `encode` gives to all of them, (N, latent_dim); None where images have none.
        posterior: the model's own, over latents, of all of them; None where it has none.
        fitted: those of the images at `context.chosen`; None where they were not asked for.
    """

    latents: Tensor | None = None
    posterior: Proposal | None = None
    fitted: Fitted | None = None


@torch.no_grad()
def infer(context: Context, fit: bool) -> Inferred:
    """Infer the latents and the posteriors of the test images.

    Args:
        context: the evaluation.
        fit: whether Gaussians are fitted.
    """
    latents, posterior = _own(context.span(0, 0.3 if fit else 1))
    return Inferred(latents, posterior, _fitted(context.span(0.3, 1), posterior) if fit else None)


def own_observation(view: View) -> Observation:
    """The model's own p(x|z); Bernoulli where it has none."""
    found = getattr(view.paradigm, "observation", None)
    return found if isinstance(found, Observation) else Bernoulli()


def _own(context: Context) -> tuple[Tensor | None, Proposal | None]:
    """Latents and own posteriors of all test images; None for what there is none of."""
    view, processes, total = context.view, context.processes, len(context.test.labels)
    first = next(context.batches("test", torch.arange(min(2, total))))
    encoded, inferred = view.encode(first), view.posterior(first)
    # both may come from one search, which then is made once
    is_mean = encoded is not None and inferred is not None and torch.equal(encoded, inferred[0])
    latents, means, log_vars = list[Tensor](), list[Tensor](), list[Tensor]()
    share = processes.share(total)
    done = 0
    for batch in context.batches("test", share) if encoded is not None or inferred is not None else ():
        found = view.posterior(batch) if inferred is not None else None
        if found is not None:
            means.append(full_precision(found[0]))
            log_vars.append(full_precision(found[1]))
        if encoded is not None:
            z = found[0] if is_mean and found is not None else view.encode(batch)
            assert z is not None
            latents.append(z.detach())
        done += len(batch.x)
        context.advance(done / len(share))
    context.advance(1)

    def merged(parts: list[Tensor], example: Tensor) -> Tensor:
        return processes.merge(torch.cat([example[:0], *parts]), total)

    posterior = None
    if inferred is not None:
        mean, log_var = map(full_precision, inferred)
        posterior = Proposal(merged(means, mean), merged(log_vars, log_var))
    return None if encoded is None else merged(latents, encoded.detach()), posterior


def _fitted(context: Context, own: Proposal | None) -> Fitted:
    view, processes, chosen = context.view, context.processes, context.chosen
    space, observation = fit_space(view), own_observation(view)
    share = chosen[processes.share(len(chosen))]
    parts, done = [Proposal(*torch.zeros(2, 0, space.dim, device=view.device))], 0
    # a block holds both the images and as many decodings
    for batch in context.batches("test", share, block_size(context.numel, 1024)):
        start = own.rows(batch.index) if own is not None and view.latent.sampled.has_density else None

        def advance(step: int, before: int = done, count: int = len(batch.x)) -> None:
            context.advance((before + count * step / context.posterior_steps) / len(share))

        parts.append(fit_posterior(view, batch, space, start, observation, context.posterior_steps, advance))
        done += len(batch.x)
    context.advance(1)
    mean, log_var = (processes.merge(torch.cat(rows), len(chosen)) for rows in zip(*parts, strict=True))
    return Fitted(Proposal(mean, log_var), space)


def fit_posterior(
    view: View,
    batch: Batch,
    space: Space,
    start: Proposal | None,
    observation: Observation,
    steps: int,
    advance: Callable[[int], None] = lambda step: None,
) -> Proposal:
    """The Gaussian q(u|x) of each image that maximises its ELBO, by Adam on mean and log-variance.

    Begins at the posterior `start` over latents, or where there is none, or a latent has no u, at the most likely of
    `START_LATENTS` from the prior. `advance` takes the number of each step.
    """
    if start is not None and space.of_latents is not None:
        start = space.of_latents(start)
    else:
        e = view.noise(DRAWS["start_codes"], torch.arange(START_LATENTS))
        best, _ = best_of(view, batch, view.prior(e), observation.nll_matrix)
        mean = full_precision(space.of_noise(e))[best]
        start = Proposal(mean, torch.full_like(mean, _START_LOG_VAR))
    draws = itertools.count(DRAWS["fit"])

    def negative_elbo(mean: Tensor, log_std: Tensor) -> Tensor:
        draw = next(draws)
        advance(draw - DRAWS["fit"])
        noise = full_precision(view.noise(draw, batch.index, space.dim))
        u, q = mean + log_std.exp() * noise, Proposal(mean, 2 * log_std)
        nll = observation.nll(view.decode(space.latent(u), batch.y), batch.x)
        return nll + (gaussian_kl(*q) if space.is_standard else -space.log_prob(u) - q.entropy())

    mean, log_std = search(negative_elbo, (start.mean, start.log_var / 2), steps, _RATE, cosine=True)
    return Proposal(mean, 2 * log_std)


def best_of(view: View, batch: Batch, z: Tensor, cost: Matrix) -> tuple[Tensor, Tensor]:
    """Which of the latents z (K, dim) costs each image least, and how much, (B,); read with the image's own label."""
    if not view.reads_labels:
        found = cost(view.decode(z, torch.zeros_like(batch.y[:1]).expand(len(z))), batch.x).min(1)
        return found.indices, found.values
    best = torch.zeros_like(batch.y)
    least = torch.zeros(len(batch.y), device=batch.x.device, dtype=torch.float64)
    for label in batch.y.unique():
        of_label = batch.y == label
        found = cost(view.decode(z, label.expand(len(z))), batch.x[of_label]).min(1)
        best[of_label], least[of_label] = found.indices, found.values.double()
    return best, least
