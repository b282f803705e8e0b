"""Reconstruction of held-out images: through a model's own latents, and at the posteriors that are fitted to them.

The mean of a fitted posterior is a latent that the prior finds likely and the decoder turns into the image, so its
error is a property of the decoder and the prior together. (The latent of the least error is not: the search for it
leaves the prior, and finds less and less the longer it goes on.)
"""

import torch
from torch import Tensor

from encdec.evaluation.context import Context
from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.inference import Inferred
from encdec.objectives.losses import pixel_means, squared_error


@torch.no_grad()
def evaluate_reconstruction(context: Context, inferred: Inferred) -> None:
    """Add `mse_posterior`; and where images have latents `mse_encoder` and `mse_amortisation_gap`.

    All are MSE per pixel: `mse_encoder` of all test images, the others means over the images at `context.chosen`.
    """
    metrics, chosen, total = context.metrics, context.chosen, len(context.test.labels)
    some = f"{len(chosen):,} of {total:,} test images"
    of_latents = None
    if inferred.latents is not None:
        of_latents = squared_errors(context.span(0, 0.8), torch.arange(total), inferred.latents)
        metrics.add("mse_encoder", ImageValues(of_latents.numpy()), "per pixel")
    if inferred.fitted is not None:
        of_means = squared_errors(context.span(0.8, 1), chosen, inferred.fitted.latents)
        metrics.add("mse_posterior", ImageValues(of_means.numpy()), f"per pixel, {some}")
        if of_latents is not None:
            gap = ImageValues((of_latents[chosen] - of_means).numpy())
            metrics.add("mse_amortisation_gap", gap, f"per pixel, {some}")


def squared_errors(context: Context, positions: Tensor, latents: Tensor, split: str = "test") -> Tensor:
    """Squared error per pixel of the decodings of latents (n, d) of the images at `positions` (n,): (n,), float64."""
    share = context.processes.share(len(positions))
    parts, done = [torch.zeros(0, dtype=torch.float64)], 0
    for batch in context.batches(split, positions[share]):
        z = latents[share[done : done + len(batch.x)].to(latents.device)]
        error = squared_error(pixel_means(context.view.decode(z, batch.y)), batch.x)
        parts.append(error.double().cpu() / context.numel)
        done += len(batch.x)
        context.advance(done / len(share))
    context.advance(1)
    return context.processes.merge(torch.cat(parts).to(context.view.device), len(positions)).cpu()
