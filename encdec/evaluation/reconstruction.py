"""Reconstruction through an encoder, and through the best latents that can be found without one.

The decoder is fixed, and each image's latent is optimised on its own. So every paradigm is asked the same question,
how well its decoder *can* draw an image, and where there is an encoder, the difference is what the encoder gives
away for answering at once: the amortisation gap (Cremer, Li & Duvenaud 2018, https://arxiv.org/abs/1801.03558).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from encdec.evaluation.context import Context
from encdec.evaluation.view import DRAWS, View
from encdec.objectives.losses import full_precision, pixel_means, squared_error, squared_error_matrix
from encdec.objectives.search import search
from encdec.types import Batch

START_LATENTS = 512
"""Latents from the prior among which each image's search begins at the best."""
_RATE = 0.1  # of Adam, in units of the prior's standard deviation; falls to 0 along a cosine

Matrix = Callable[[Tensor, Tensor], Tensor]
"""What decodings (K, …) cost images (B, …): logits and images to (B, K)."""


def evaluate_reconstruction(context: Context) -> Tensor:
    """Add `mse_optimized`; and where images have latents `mse_encoder` and `mse_amortisation_gap`.

    All are MSE per pixel, means over the first `num_images` test images.

    Returns:
        The optimised latents, (n, dim), n the smaller of `num_images` and the size of the split.
    """
    view, metrics, processes = context.view, context.metrics, context.processes
    n = min(context.num_images, len(context.test.labels))
    latents, errors = [], []
    share = processes.share(n)
    for batch in context.batches("test", share):
        encoded = view.encode(batch)
        z, error = optimize_latents(view, batch, encoded, context.search_steps)
        through_encoder = error.new_zeros(len(error)) if encoded is None else _error(view, encoded, batch)
        latents.append(z)
        errors.append(torch.stack([error, through_encoder], dim=1) / context.numel)
        context.advance(sum(map(len, latents)) / len(share))
    merged = processes.merge(torch.cat(errors), n).cpu()
    metrics.add("mse_optimized", merged[:, 0], "per pixel")
    if encoded is not None:
        metrics.add("mse_encoder", merged[:, 1], "per pixel")
        metrics.add("mse_amortisation_gap", merged[:, 1] - merged[:, 0], "per pixel")
    return processes.merge(torch.cat(latents), n)


def optimize_latents(view: View, batch: Batch, encoded: Tensor | None, steps: int) -> tuple[Tensor, Tensor]:
    """The latents with the least squared error, by Adam from the best of `encoded` and of `START_LATENTS` of the prior.

    Returns:
        Latents (B, dim), and the squared error of each image summed over pixels, (B,): never above that of the start.
    """
    e = view.noise(DRAWS["start_codes"], torch.arange(START_LATENTS))
    prior = full_precision(view.prior(e))
    z = prior[best_of(view, batch, prior, lambda logits, x: squared_error_matrix(pixel_means(logits), x))]
    if encoded is not None:
        better = _error(view, encoded, batch) < _error(view, z, batch)
        z = torch.where(better[:, None], full_precision(encoded), z)
    # a step of one size for all dimensions would not suit latents of any scale, such as an autoencoder's
    scale = prior.std(0)
    scale = scale.clamp(min=1e-3 * scale.max()) if scale.max() > 0 else torch.ones_like(scale)
    moves = search(
        lambda move: _error(view, z + move * scale, batch),
        torch.zeros_like(z),
        steps,
        _RATE,
        cosine=True,
        keep_best=True,
    )
    z = z + moves * scale
    return z, _error(view, z, batch)


def best_of(view: View, batch: Batch, z: Tensor, cost: Matrix) -> Tensor:
    """Which of the latents z (K, dim) costs each image least, (B,); read with the image's own label."""
    if not view.reads_labels:
        return cost(view.decode(z, torch.zeros_like(batch.y[:1]).expand(len(z))), batch.x).argmin(1)
    best = torch.zeros_like(batch.y)
    for label in batch.y.unique():
        of_label = batch.y == label
        best[of_label] = cost(view.decode(z, label.expand(len(z))), batch.x[of_label]).argmin(1)
    return best


def _error(view: View, z: Tensor, batch: Batch) -> Tensor:
    return squared_error(pixel_means(view.decode(z, batch.y)), batch.x)
