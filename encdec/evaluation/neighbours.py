"""Whether similar images have similar latents."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from encdec.evaluation.context import Context, block_size
from encdec.evaluation.image_values import ImageValues

NEIGHBOURS = 10
"""k: how many nearest neighbours of an image are compared."""


def add_neighbours(context: Context, split: str, positions: Tensor, latents: Mapping[str, Tensor | None]) -> None:
    """`neighbours_PAIRING`: are similar images given similar latents?

    The mean over images of the share of an image's k = 10 nearest neighbours among the others (Euclidean, between
    pixels) that are also among the k nearest of its latent (Euclidean, between latents). 1: all of them; k/(n − 1), the
    reference: what latents give that know nothing about their images. Equal distances are ordered by position.

    Args:
        context: the evaluation.
        split: `train` or `test`.
        positions: which images of it the latents belong to, int64, (n,).
        latents: by pairing, (m, d), of the first m ≤ n of these images; None where there are none.
    """
    metrics, device = context.metrics, context.view.device
    distances = _pixel_distances(context, split, positions)
    for pairing, z in latents.items():
        if z is None:
            continue
        name, n = f"neighbours_{pairing}", len(z)
        if n < NEIGHBOURS + 2:
            metrics.undefined[name] = f"it needs at least {NEIGHBOURS + 2} images with a latent, and there are {n}"
            continue
        between_images, between_latents = distances[:n, :n], latent_distances(z.to(device), z.to(device))
        if not between_images.any():
            metrics.undefined[name] = "all images are the same, so none has nearest neighbours"
        elif not between_latents.any():
            metrics.undefined[name] = "all images have the same latent, so no latent has nearest neighbours"
        else:
            near_images, near_latents = nearest(between_images), nearest(between_latents)
            kept = (near_images.unsqueeze(2) == near_latents.unsqueeze(1)).any(2).double().mean(1)
            unit = f"share of an image's {NEIGHBOURS} nearest neighbours, mean over {n} images"
            metrics.add(
                name, ImageValues(kept.cpu().numpy()), unit, reference=NEIGHBOURS / (n - 1), reference_name="chance"
            )


def _pixel_distances(context: Context, split: str, positions: Tensor) -> Tensor:
    """Squared Euclidean distances in grey levels (0…255), exact, float64, (n, n)."""
    device, blocks = context.view.device, positions.split(block_size(context.numel))
    parts = [pixels.flatten(1) for pixels in context.images(split).stream(blocks)]
    # products and sums of whole numbers are exact in float64, so neither the blocks nor the device change an order
    wide = [part.to(device, torch.float64).square().sum(1) for part in parts]
    rows = []
    for a, square in zip(parts, wide, strict=True):
        a = a.to(device, torch.float64)
        products = [a @ b.to(device, torch.float64).T for b in parts]
        rows.append(square.unsqueeze(1) + torch.cat(wide) - 2 * torch.cat(products, dim=1))
    return torch.cat(rows)


def latent_distances(z: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances, float64: (m, d), (n, d) -> (m, n); equal latents are at a distance of exactly zero."""
    return torch.cdist(z.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


def nearest(distances: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The k nearest others of each row, (n, n) -> (n, k), equal ones by their position."""
    others = distances.clone().fill_diagonal_(math.inf)
    return others.sort(dim=1, stable=True).indices[:, :k]
