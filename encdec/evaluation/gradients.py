"""Whether pairs of image and latent contradict each other: in what they ask for, and in the decoder's gradients."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from encdec.evaluation.context import Context
from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.neighbours import latent_distances, nearest
from encdec.evaluation.smoothness import CONSTANT
from encdec.evaluation.view import View
from encdec.objectives.losses import pixel_means, squared_error
from encdec.objectives.observations import Observation

ANCHORS = 128
"""Images whose gradients are compared with each other and with that of the image of the nearest latent."""


def add_targets(context: Context, split: str, positions: Tensor, latents: Mapping[str, Tensor | None]) -> None:
    """`target_near_PAIRING`: do near latents ask for similar images?

    The mean cosine between x_i − x̄ and x_j − x̄, j the image whose latent is the nearest to that of image i. With x̄ the
    mean image, 2 (x̄ − x_i) is the gradient of the squared error with respect to the output, at the decoder that all
    training starts towards, the one that gives the mean image; so this is how far near latents agree on which way to
    leave it. The reference is the mean cosine over all pairs, about zero: what random pairing comes to. 1 would be
    equal images (up to a factor). Unlike the gradients of `add_gradients`, it does not depend on what the decoder
    has learnt already.

    Images that equal the mean image are left out.

    Args:
        context: the evaluation.
        split: `train` or `test`.
        positions: which images of it the latents belong to, int64, (n,).
        latents: by pairing, (n, d); None where there are none.
    """

    def stream(which: Tensor) -> Iterator[Tensor]:
        return (batch.x.flatten(1) for batch in context.batches(split, positions[which]))

    everything = torch.arange(len(positions))
    sums = [x.sum(0, dtype=torch.float64) for x in stream(everything)]
    mean = (torch.stack(sums).sum(0) / len(positions)).float()
    for pairing, z in latents.items():
        if z is None:
            continue
        name, cosines, kept, total = f"target_near_{pairing}", [], 0, torch.zeros_like(sums[0])
        near = nearest(latent_distances(z, z), 1)[:, 0].cpu() if len(z) > 1 else everything
        for x, near_x in zip(stream(everything), stream(near), strict=True):
            a, b = _unit(x - mean), _unit(near_x - mean)
            defined = a.any(1) & b.any(1)
            cosines.append((a * b).sum(1)[defined].double().clamp(-1, 1))
            kept, total = kept + int(a.any(1).sum()), total + a.sum(0, dtype=torch.float64)
        if len(z) < 2 or len(torch.cat(cosines)) < 2:
            context.metrics.undefined[name] = "fewer than 2 images differ from the mean image"
            continue
        context.metrics.add(
            name,
            ImageValues(torch.cat(cosines).cpu().numpy()),
            f"cosine of deviations from the mean image, mean over {len(torch.cat(cosines))} images",
            reference=_mean_cosine(total, kept),
            reference_name="all pairs",
        )


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, (n, D); those of length zero (up to rounding) become zero."""
    lengths, least = rows.norm(dim=1, keepdim=True), CONSTANT * math.sqrt(rows.shape[1])
    unit: Tensor = rows / lengths.clamp(min=least) * (lengths > least)
    return unit


def _mean_cosine(total: Tensor, count: int) -> float:
    """Mean cosine over all pairs of `count` vectors from the sum of their directions: Σ_{i≠j} u_i·u_j = ‖Σu‖² − n."""
    return float((total.double().square().sum() - count) / (count * (count - 1)))


def add_gradients(context: Context, split: str, positions: Tensor, pairing: str, latents: Tensor) -> None:
    """Do the pairs of image and latent ask the decoder for contradictory things?

    Compared are the gradients of an image's reconstruction term with respect to the decoder's parameters, its latent
    held fixed: the direction in which this pair pulls the decoder.

    - `gradient_near_PAIRING`: the mean cosine between the gradients of an image and of the one whose latent is
      the nearest among n images. Where near latents have similar images, they ask for similar things: clearly positive.
      Under random pairing two almost equal latents have unrelated images, and on average what one asks for is undone
      by the other: zero.
    - `gradient_conflict_PAIRING`: how often such a near pair pulls in opposite directions (a negative cosine). 0:
      never; 0.5, the reference: as often as not, so the next step undoes this one.
    The reference of the first is the mean cosine over all pairs of different images. A decoder that can still improve
    for all of them at once has a positive one; at the end of any training the gradients sum to almost zero, and so
    does this. So it says whether training is over, and nothing about the pairing.

    `random` is what training saw in the encoderless VAE. For a paradigm that was trained otherwise it is what random
    pairing would do to its decoder now, which at first is to make all of what it learnt undone, so that near pairs
    agree to some extent. Once a decoder gives the local mean of its targets, near gradients cancel under any pairing:
    read these as what is left to learn, and `add_targets` as what the pairing asks for.

    Images whose gradient is exactly zero have no direction and are left out.

    Args:
        context: the evaluation.
        split: `train` or `test`.
        positions: which images of it the latents belong to, int64, (n,).
        pairing: name of the pairing.
        latents: of these images, (n, d); up to ANCHORS of them, evenly spaced, are compared with all.
    """
    metrics = context.metrics
    names = [f"gradient_{kind}_{pairing}" for kind in ("near", "conflict")]
    anchors = spread(len(latents), ANCHORS)
    total, count, cosines = torch.zeros(1, device=context.view.device), 0, []
    if len(latents) > 1:
        distances = latent_distances(latents[anchors], latents)
        distances[torch.arange(len(anchors)), anchors] = math.inf
        pairs = torch.stack([anchors, distances.argmin(1).cpu()], dim=1).flatten()
        gradients = _unit_gradients(context, split, positions[pairs], latents[pairs])
        for of_anchor, of_nearest in zip(gradients, gradients, strict=True):  # one iterator: two at a time
            if of_anchor is None:
                continue
            total, count = total + of_anchor, count + 1  # a sum, so that gradients need not be kept
            if of_nearest is not None:
                cosines.append((of_anchor @ of_nearest).double().clamp(-1, 1))
    if len(cosines) < 2:
        metrics.undefined |= dict.fromkeys(names, "fewer than 2 images pull the decoder in any direction")
        return
    near, cosine = torch.stack(cosines), _mean_cosine(total, count)
    unit = f"of {len(near)} images with that of the nearest latent among {len(latents)}"
    metrics.add(names[0], near, f"mean cosine {unit}", reference=cosine, reference_name="all pairs")
    metrics.add(
        names[1],
        (near < 0).double(),
        f"share of negative cosines {unit}",
        reference=0.5,
        reference_name="unrelated images",
    )


def _unit_gradients(context: Context, split: str, positions: Tensor, latents: Tensor) -> Iterator[Tensor | None]:
    """The gradient of each image's reconstruction term, scaled to length 1, (P,); None where it is zero."""
    view = context.view
    # parameters that decoding does not use (an encoder, a discriminator, a table of latents) get no gradient
    parameters = [p for p in view.paradigm.parameters() if p.requires_grad]
    done = 0
    for batch in context.batches(split, positions):
        for x, y in zip(batch.x.split(1), batch.y.split(1), strict=True):
            with torch.enable_grad():
                loss = _reconstruction_term(view, view.decode(latents[done : done + 1].detach(), y), x)
                found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else []
            done += 1
            used = [gradient.float().flatten() for gradient in found if gradient is not None]
            direction = torch.cat(used) if used else torch.zeros(1, device=view.device)
            length = direction.norm()
            yield direction / length if length > 0 else None


def _reconstruction_term(view: View, logits: Tensor, x: Tensor) -> Tensor:
    observation = getattr(view.paradigm, "observation", None)
    if isinstance(observation, Observation):
        return observation.nll(logits, x).sum()
    return squared_error(pixel_means(logits), x).sum()


def spread(total: int, most: int) -> Tensor:
    """Up to `most` positions, evenly spaced, because the images of a split may be sorted by class."""
    count = min(most, total)
    return torch.arange(count) * total // max(count, 1)
