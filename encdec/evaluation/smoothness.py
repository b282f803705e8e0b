"""Whether the latent space is continuous: paths between images, and Lipschitz constants of the decoder."""

import math

import torch
from torch import Tensor

from encdec.evaluation.context import BLOCK, Context, block_size, random_order
from encdec.evaluation.view import DRAWS, View
from encdec.objectives.losses import squared_error

LINES, POINTS = 64, 33
"""Interpolations, and points of each, both ends included."""
JACOBIANS = 64
"""Draws from the prior at which the decoder is differentiated."""
LARGEST = 1_000
"""Numbers of noise up to which an image is differentiated: two images are made for each of them, at each draw."""
STEP = 0.01
"""Half the width of a central difference, in units of noise."""
CONSTANT = 1e-6
"""Change of a pixel (root mean square) below which float32 can't tell an image from another."""


def add_smoothness(context: Context) -> None:
    """Is the latent space continuous: does a small step in it make a small step between images?

    All of it is measured between noise e ~ N(0, I) and pixel means, so that paradigms with other priors compare.

    - `path_length`: how far the image travels, Σ_t ‖x_{t+1} − x_t‖₂, while e moves on a straight line between two
      draws; the mean over lines. Its reference is the mean ‖x_i − x_j‖₂ of random pairs of test images. A decoder
      that ignores its latent travels nowhere.
    - `path_ratio`: the mean path length over the mean ‖x_1 − x_0‖₂ between both ends; 1 is a cross-fade, and the
      more an image wanders or jumps to and fro on its way, the larger it is.
    - `lipschitz_mean`: the largest singular value of the Jacobian ∂x/∂e, a mean over draws from the prior: the local
      Lipschitz constant of the decoder, the largest change of an image per unit of noise; within a component, where
      noise chooses one. Undefined for noise of more than 1,000 numbers, as that of the pixels of color images is.
    """
    view, metrics = context.view, context.metrics
    lengths, ends = path_lengths(view)
    unit = "L2 distance between images with pixels in [0, 1]"
    distance = _random_pair_distance(context)
    metrics.add(
        "path_length",
        lengths,
        f"{unit}, mean over {LINES} lines",
        reference=distance,
        reference_name="" if distance is None else "random pairs of test images",
    )
    if ends.mean() <= CONSTANT * math.sqrt(context.numel):
        metrics.undefined["path_ratio"] = "the decoder gives one image whatever its latent, so no line leads anywhere"
    else:
        metrics.add("path_ratio", lengths.mean() / ends.mean(), "path length / distance between its ends")
    if torch.finfo(view.paradigm.weights_dtype).eps > 1e-6:
        why = f"weights in {view.paradigm.weights_dtype} are too coarse for differences between close latents"
        metrics.undefined["lipschitz_mean"] = why
    elif view.smooth_dim > LARGEST:
        why = f"the noise of an image has {view.smooth_dim:,} numbers, more than the {LARGEST:,} it is computed for"
        metrics.undefined["lipschitz_mean"] = why
    else:
        unit = f"L2 pixel distance per unit of noise, mean over {JACOBIANS} draws"
        metrics.add("lipschitz_mean", lipschitz(view), unit)


def path_lengths(view: View) -> tuple[Tensor, Tensor]:
    """Length of each interpolation's path between images, and the distance between its ends: two of (LINES,)."""
    draws = view.noise(DRAWS["interpolations"], torch.arange(2 * LINES)).float()
    y = torch.arange(LINES, device=view.device) % view.paradigm.num_classes
    weights = torch.linspace(0, 1, POINTS, device=view.device)[:, None]
    lengths, ends = [], []
    size = block_size(POINTS * math.prod(view.paradigm.image_shape))
    for first, last, labels in zip(draws[:LINES].split(size), draws[LINES:].split(size), y.split(size), strict=True):
        e = torch.lerp(first[:, None], last[:, None], weights)
        x = view.images(e.flatten(0, 1), labels.repeat_interleave(POINTS)).reshape(len(e), POINTS, -1)
        lengths.append(x.diff(dim=1).norm(dim=2).double().sum(1))
        ends.append((x[:, -1] - x[:, 0]).norm(dim=1).double())
    return torch.cat(lengths), torch.cat(ends)


def lipschitz(view: View) -> Tensor:
    """Largest singular value of the Jacobian e ↦ pixel means at draws from the prior, (JACOBIANS,), float64.

    By central differences, because they ask nothing of a decoder but to decode: forward-mode differentiation lacks
    rules for attention and for custom functions, and agreed with them to 3e-4 on trained networks.
    """
    draws = view.noise(DRAWS["smoothness"], torch.arange(JACOBIANS))
    labels = torch.arange(JACOBIANS, device=view.device) % view.paradigm.num_classes
    size = block_size(math.prod(view.paradigm.image_shape))
    steps = STEP * torch.eye(view.dim, dtype=draws.dtype, device=view.device)[: view.smooth_dim]
    constants = []
    for e, y in zip(draws, labels, strict=True):
        rows = []
        for part in steps.split(size):
            ahead, behind = (view.images(points, y.expand(len(part))) for points in (e + part, e - part))
            rows.append(((ahead - behind) / (2 * STEP)).flatten(1))
        columns = torch.cat(rows).split(max(1, BLOCK // len(steps)), dim=1)
        gram = torch.stack([c.double() @ c.double().T for c in columns]).sum(0)
        constants.append(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt())
    return torch.stack(constants)


def _random_pair_distance(context: Context) -> float | None:
    """Mean L2 distance between the two images of up to 1000 random pairs of test images; None without a pair."""
    order = random_order(len(context.test.labels))
    pairs = min(1000, len(order) // 2)
    if pairs == 0:
        return None
    both = (context.batches("test", part) for part in (order[:pairs], order[pairs : 2 * pairs]))
    distances = [squared_error(a.x, b.x).double().sqrt() for a, b in zip(*both, strict=True)]
    return float(torch.cat(distances).mean())
