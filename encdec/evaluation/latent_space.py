"""Codes as numbers: what an encoder is said to be needed for, measured on any paradigm.

A *pairing* says which code an image is trained or decoded with: `random` (drawn from the prior), `encoder` (what
`encode` gives), `paired` (what training used, where `encode` does not give it, as with fixed random codes), or
`optimised` (found for a held-out image by search). Each figure below exists for the pairings it is defined for.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from encdec.data import Images
from encdec.evaluation.base import BLOCK, DRAWS, Advance, Figures, Processes, View, batches, block_size
from encdec.objectives.losses import pixel_means, squared_error
from encdec.objectives.observations import Observation
from encdec.types import Batch

NEIGHBOURS = 10
"""k: how many nearest neighbours of an image are compared."""
IMAGES = 2000
"""How many images neighbours are looked for among, and targets and `mse_paired` are measured on."""
LINES, POINTS = 64, 33
"""Interpolations, and points of each, both ends included."""
JACOBIANS = 64
"""Draws from the prior at which the decoder is differentiated."""
STEP = 0.01
"""Half the width of a central difference, in units of noise."""
ANCHORS = 128
"""Images whose gradients are compared with each other and with that of the image of the nearest code."""
ACTIVE_VARIANCE = 0.01
"""A dimension is active if the variance of its posterior mean exceeds this (Burda et al. 2016, sec. 5)."""
ACTIVE_IMAGES = 10_000
"""Most images that active units are counted on."""

_CONSTANT = 1e-6  # change of a pixel (root mean square) below which float32 can't tell a picture from another


def evaluate_latent(
    view: View,
    train: Images,
    test: Images,
    optimised_codes: Tensor | None,
    optimised_means: Tensor | None,
    figures: Figures,
    processes: Processes,
    advance: Advance,
) -> None:
    """Add all figures of this module.

    Args:
        view: the paradigm, in evaluation mode.
        train: the images it was trained on, in the order that their indices refer to.
        test: held-out images.
        optimised_codes: codes found by search for the first n test images, (n, d), where they were searched for.
        optimised_means: means of Gaussian posteriors found by search for the first n test images, (n, d).
        figures: where the figures are added.
        processes: how encoding is shared; everything else is cheap, and computed on each process alike.
        advance: told how much is done.
    """
    some_test, some_train = torch.arange(min(IMAGES, len(test.labels))), _spread(len(train.labels), IMAGES)
    encoded = _codes(view, view.encode, test, some_test, processes)
    paired = _codes(view, view.paired_codes, train, some_train, processes) if _has_own_pairing(view, train) else None
    advance(0.1)

    optimised = None if optimised_codes is None else optimised_codes[: len(some_test)]
    if encoded is not None or optimised is not None:
        add_neighbours(figures, test, some_test, {"encoder": encoded, "optimised": optimised}, view.device)
    if paired is not None:
        add_neighbours(figures, train, some_train, {"paired": paired}, view.device)
    advance(0.3)

    add_smoothness(figures, view, test)
    advance(0.5)

    def posterior_mean(batch: Batch) -> Tensor | None:
        posterior = view.posterior(batch)
        return None if posterior is None else posterior[0]

    means = _codes(view, posterior_mean, test, torch.arange(min(ACTIVE_IMAGES, len(test.labels))), processes)
    add_active_units(figures, "active_units", means)
    add_active_units(figures, "active_units_optimised", optimised_means)
    advance(0.6)

    pairings = {
        "random": view.prior(view.noise(DRAWS["pairings"], some_train)),
        "encoder": _codes(view, view.encode, train, some_train, processes),
        "paired": paired,
    }
    add_targets(figures, train, some_train, pairings, view.device)
    for done, (pairing, codes) in enumerate(pairings.items(), start=1):
        if codes is not None:
            add_gradients(figures, pairing, view, train, some_train, codes)
        advance(0.6 + 0.1 * done)

    if paired is not None:
        figures.add("mse_paired", _squared_errors(view, train, some_train, paired), "per pixel")
    advance(1.0)


# ---------------------------------------------------------------------- neighbours


def add_neighbours(
    figures: Figures, images: Images, positions: Tensor, codes: Mapping[str, Tensor | None], device: torch.device
) -> None:
    """`neighbours_PAIRING`: are similar images given similar codes?

    The mean over images of the share of an image's k = 10 nearest neighbours among the others (Euclidean, between
    pixels) that are also among the k nearest of its code (Euclidean, between codes). 1: all of them; k/(n − 1), the
    reference: what codes give that know nothing about their images. Equal distances are ordered by position.

    Args:
        figures: where the figures are added.
        images: a split.
        positions: which images of it the codes belong to, int64, (n,).
        codes: by pairing, (m, d), of the first m ≤ n of these images; None where there are none.
        device: where distances are computed, in float64.
    """
    distances = _pixel_distances(images, positions, device)
    for pairing, z in codes.items():
        if z is None:
            continue
        name, n = f"neighbours_{pairing}", len(z)
        if n < NEIGHBOURS + 2:
            figures.undefined[name] = f"it needs at least {NEIGHBOURS + 2} images with a code, and there are {n}"
            continue
        between_images, between_codes = distances[:n, :n], _code_distances(z.to(device), z.to(device))
        if not between_images.any():
            figures.undefined[name] = "all images are the same, so none has nearest neighbours"
        elif not between_codes.any():
            figures.undefined[name] = "all images have the same code, so no code has nearest neighbours"
        else:
            near_images, near_codes = _nearest(between_images), _nearest(between_codes)
            kept = (near_images.unsqueeze(2) == near_codes.unsqueeze(1)).any(2).double().mean(1)
            unit = f"share of an image's {NEIGHBOURS} nearest neighbours, mean over {n} images"
            figures.add(name, kept, unit, reference=NEIGHBOURS / (n - 1), reference_name="chance")


def _pixel_distances(images: Images, positions: Tensor, device: torch.device) -> Tensor:
    """Squared Euclidean distances in grey levels (0…255), exact, float64, (n, n)."""
    parts = [pixels.flatten(1) for pixels in images.stream(positions.split(block_size(math.prod(images.image_shape))))]
    # products and sums of whole numbers are exact in float64, so neither the blocks nor the device change an order
    wide = [part.to(device, torch.float64).square().sum(1) for part in parts]
    rows = []
    for a, square in zip(parts, wide, strict=True):
        a = a.to(device, torch.float64)
        products = [a @ b.to(device, torch.float64).T for b in parts]
        rows.append(square.unsqueeze(1) + torch.cat(wide) - 2 * torch.cat(products, dim=1))
    return torch.cat(rows)


def _code_distances(z: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances, float64: (m, d), (n, d) -> (m, n); equal codes are at a distance of exactly zero."""
    return torch.cdist(z.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _nearest(distances: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The k nearest others of each row, (n, n) -> (n, k), equal ones by their position."""
    others = distances.clone().fill_diagonal_(math.inf)
    return others.sort(dim=1, stable=True).indices[:, :k]


# ---------------------------------------------------------------------- smoothness


def add_smoothness(figures: Figures, view: View, test: Images) -> None:
    """Is the latent space continuous: does a small step in it make a small step between images?

    All of it is measured between noise e ~ N(0, I) and pixel means, so that paradigms with other priors compare.

    - `path_length`: how far the picture travels, Σ_t ‖x_{t+1} − x_t‖₂, while e moves on a straight line between two
      draws; the mean over lines. Its reference is the mean ‖x_i − x_j‖₂ of random pairs of test images. A decoder
      that ignores its code travels nowhere.
    - `path_ratio`: the mean path length over the mean ‖x_1 − x_0‖₂ between both ends; 1 is a cross-fade, and the
      more a picture wanders or jumps to and fro on its way, the larger it is.
    - `lipschitz_mean`, `lipschitz_max`: the largest singular value of the Jacobian ∂x/∂e at draws from the prior,
      the local Lipschitz constant of the decoder: the largest change of a picture per unit of noise.
    """
    lengths, ends = path_lengths(view)
    unit = "L2 distance between images with pixels in [0, 1]"
    distance = _random_pair_distance(test, view.device)
    figures.add(
        "path_length",
        lengths,
        f"{unit}, mean over {LINES} lines",
        reference=distance,
        reference_name="" if distance is None else "random pairs of test images",
    )
    pixels = math.prod(view.paradigm.image_shape)
    if ends.mean() <= _CONSTANT * math.sqrt(pixels):
        figures.undefined["path_ratio"] = "the decoder gives one picture whatever its code, so no line leads anywhere"
    else:
        figures.add("path_ratio", lengths.mean() / ends.mean(), "path length / distance between its ends")
    if torch.finfo(view.paradigm.code_dtype).eps > 1e-6:
        why = f"weights in {view.paradigm.code_dtype} are too coarse for differences between close codes"
        figures.undefined |= {"lipschitz_mean": why, "lipschitz_max": why}
        return
    constants = lipschitz(view)
    figures.add("lipschitz_mean", constants, f"L2 pixel distance per unit of noise, mean over {JACOBIANS} draws")
    figures.add("lipschitz_max", constants.max(), f"L2 pixel distance per unit of noise, largest of {JACOBIANS} draws")


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
    steps = STEP * torch.eye(view.dim, dtype=draws.dtype, device=view.device)
    constants = []
    for e, y in zip(draws, labels, strict=True):
        rows = []
        for part in steps.split(size):
            ahead, behind = (view.images(points, y.expand(len(part))) for points in (e + part, e - part))
            rows.append(((ahead - behind) / (2 * STEP)).flatten(1))
        columns = torch.cat(rows).split(max(1, BLOCK // view.dim), dim=1)
        gram = torch.stack([c.double() @ c.double().T for c in columns]).sum(0)
        constants.append(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt())
    return torch.stack(constants)


def _random_pair_distance(images: Images, device: torch.device) -> float | None:
    """Mean L2 distance between the two images of up to 1000 random pairs; None without a pair."""
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(0))
    pairs = min(1000, len(order) // 2)
    if pairs == 0:
        return None
    size = block_size(math.prod(images.image_shape))
    both = (batches(images, part, device, size) for part in (order[:pairs], order[pairs : 2 * pairs]))
    distances = [squared_error(a.x, b.x).double().sqrt() for a, b in zip(*both, strict=True)]
    return float(torch.cat(distances).mean())


# ---------------------------------------------------------------------- active units


def add_active_units(figures: Figures, name: str, means: Tensor | None) -> None:
    """The number of dimensions that q(z|x) uses: those with Var_x(E_q[z]) > 0.01; nothing is added for None.

    Source: Burda et al. 2016, https://arxiv.org/abs/1509.00519, sec. 5.

    Args:
        figures: where the figure is added.
        name: its name.
        means: posterior means of images, (n, d).
    """
    if means is None:
        return
    if len(means) < 2:
        figures.undefined[name] = "it needs at least 2 images"
        return
    active = (means.double().var(dim=0, correction=0) > ACTIVE_VARIANCE).sum()
    figures.add(name, float(active), f"of {means.shape[1]} dimensions")


# ---------------------------------------------------------------------- contradictions


def add_targets(
    figures: Figures, images: Images, positions: Tensor, codes: Mapping[str, Tensor | None], device: torch.device
) -> None:
    """`target_near_PAIRING`: do near codes ask for similar pictures?

    The mean cosine between x_i − x̄ and x_j − x̄, j the image whose code is the nearest to that of image i. With x̄ the
    mean image, 2 (x̄ − x_i) is the gradient of the squared error with respect to the picture, at the decoder that all
    training starts towards, the one that gives the mean image; so this is how far near codes agree on which way to
    leave it. The reference is the mean cosine over all pairs, about zero: what random pairing comes to. 1 would be
    equal images (up to a factor). Unlike the gradients of `add_gradients`, it does not depend on what the decoder
    has learnt already.

    Images that equal the mean image are left out.

    Args:
        figures: where the figures are added.
        images: a split.
        positions: which images of it the codes belong to, int64, (n,).
        codes: by pairing, (n, d); None where there are none.
        device: where cosines are computed.
    """
    size = block_size(math.prod(images.image_shape))

    def stream(which: Tensor) -> Iterator[Tensor]:
        return (batch.x.flatten(1) for batch in batches(images, positions[which], device, size))

    everything = torch.arange(len(positions))
    sums = [x.sum(0, dtype=torch.float64) for x in stream(everything)]
    mean = (torch.stack(sums).sum(0) / len(positions)).float()
    for pairing, z in codes.items():
        if z is None:
            continue
        name, cosines, kept, total = f"target_near_{pairing}", [], 0, torch.zeros_like(sums[0])
        nearest = _nearest(_code_distances(z, z), 1)[:, 0].cpu() if len(z) > 1 else everything
        for x, near in zip(stream(everything), stream(nearest), strict=True):
            a, b = _unit(x - mean), _unit(near - mean)
            defined = a.any(1) & b.any(1)
            cosines.append((a * b).sum(1)[defined].double().clamp(-1, 1))
            kept, total = kept + int(a.any(1).sum()), total + a.sum(0, dtype=torch.float64)
        if len(z) < 2 or len(torch.cat(cosines)) < 2:
            figures.undefined[name] = "fewer than 2 images differ from the mean image"
            continue
        figures.add(
            name,
            torch.cat(cosines),
            f"cosine of deviations from the mean image, mean over {len(torch.cat(cosines))} images",
            reference=_mean_cosine(total, kept),
            reference_name="all pairs",
        )


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, (n, D); those of length zero (up to rounding) become zero."""
    lengths, least = rows.norm(dim=1, keepdim=True), _CONSTANT * math.sqrt(rows.shape[1])
    unit: Tensor = rows / lengths.clamp(min=least) * (lengths > least)
    return unit


def _mean_cosine(total: Tensor, count: int) -> float:
    """Mean cosine over all pairs of `count` vectors from the sum of their directions: Σ_{i≠j} u_i·u_j = ‖Σu‖² − n."""
    return float((total.double().square().sum() - count) / (count * (count - 1)))


def add_gradients(figures: Figures, pairing: str, view: View, images: Images, positions: Tensor, codes: Tensor) -> None:
    """Do the pairs of image and code ask the decoder for contradictory things?

    Compared are the gradients of an image's reconstruction term with respect to the decoder's parameters, its code
    held fixed: the direction in which this pair pulls the decoder.

    - `gradient_near_PAIRING`: the mean cosine between the gradients of an image and of the one whose code is the
      nearest among n images. Where near codes have similar images, they ask for similar things: clearly positive.
      Under random pairing two almost equal codes have unrelated images, and on average what one asks for is undone
      by the other: zero.
    - `gradient_conflict_PAIRING`: how often such a near pair pulls in opposite directions (a negative cosine). 0:
      never; 0.5, the reference: as often as not, so the next step undoes this one.
    - `gradient_cosine_PAIRING`: the mean cosine over all pairs of different images. A decoder that can still improve
      for all of them at once has a positive one; at the end of any training the gradients sum to almost zero, and so
      does this. So it says whether training is over, and nothing about the pairing; neither does the mean negative
      part of the cosine over all pairs, which is why the conflict is measured between near codes.

    `random` is what training saw in the encoderless VAE. For a paradigm that was trained otherwise it is what random
    pairing would do to its decoder now, which at first is to make all of what it learnt undone, so that near pairs
    agree to some extent. Once a decoder gives the local mean of its targets, near gradients cancel under any pairing:
    read these as what is left to learn, and `add_targets` as what the pairing asks for.

    Images whose gradient is exactly zero have no direction and are left out.

    Args:
        figures: where the figures are added.
        pairing: name of the pairing.
        view: the paradigm.
        images: a split.
        positions: which images of it the codes belong to, int64, (n,).
        codes: their codes, (n, d); up to ANCHORS of them, evenly spaced, are compared with all.
    """
    names = [f"gradient_{kind}_{pairing}" for kind in ("near", "conflict", "cosine")]
    anchors = _spread(len(codes), ANCHORS)
    total, count, cosines = torch.zeros(1, device=view.device), 0, []
    if len(codes) > 1:
        distances = _code_distances(codes[anchors], codes)
        distances[torch.arange(len(anchors)), anchors] = math.inf
        pairs = torch.stack([anchors, distances.argmin(1).cpu()], dim=1).flatten()
        gradients = _unit_gradients(view, images, positions[pairs], codes[pairs])
        for of_anchor, of_nearest in zip(gradients, gradients, strict=True):  # one iterator: two at a time
            if of_anchor is None:
                continue
            total, count = total + of_anchor, count + 1  # a sum, so that gradients need not be kept
            if of_nearest is not None:
                cosines.append((of_anchor @ of_nearest).double().clamp(-1, 1))
    if len(cosines) < 2:
        figures.undefined |= dict.fromkeys(names, "fewer than 2 images pull the decoder in any direction")
        return
    near, cosine = torch.stack(cosines), _mean_cosine(total, count)
    unit = f"of {len(near)} images with that of the nearest code among {len(codes)}"
    figures.add(names[0], near, f"mean cosine {unit}", reference=cosine, reference_name="all pairs")
    figures.add(
        names[1],
        (near < 0).double(),
        f"share of negative cosines {unit}",
        reference=0.5,
        reference_name="unrelated images",
    )
    figures.add(names[2], cosine, f"mean cosine over all pairs of {count} images")


def _unit_gradients(view: View, images: Images, positions: Tensor, codes: Tensor) -> Iterator[Tensor | None]:
    """The gradient of each image's reconstruction term, scaled to length 1, (P,); None where it is zero."""
    # parameters that decoding does not use (an encoder, a discriminator, a table of codes) get no gradient
    parameters = [p for p in view.paradigm.parameters() if p.requires_grad]
    done = 0
    for batch in batches(images, positions, view.device, block_size(math.prod(images.image_shape))):
        for x, y in zip(batch.x.split(1), batch.y.split(1), strict=True):
            with torch.enable_grad():
                loss = _reconstruction_term(view, view.decode(codes[done : done + 1].detach(), y), x)
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


# ---------------------------------------------------------------------- codes


def _spread(total: int, most: int) -> Tensor:
    """Up to `most` positions, evenly spaced, because the images of a split may be sorted by class."""
    count = min(most, total)
    return torch.arange(count) * total // max(count, 1)


def _has_own_pairing(view: View, train: Images) -> bool:
    """Whether training images have codes that `encode` does not give them."""
    batch = next(batches(train, torch.arange(min(8, len(train.labels))), view.device, 8))
    paired, encoded = view.paired_codes(batch), view.encode(batch)
    return paired is not None and (encoded is None or not torch.equal(paired, encoded))


def _codes(
    view: View, code: Callable[[Batch], Tensor | None], images: Images, positions: Tensor, processes: Processes
) -> Tensor | None:
    """The codes of the images at `positions` (n,), float, (n, d), on every process; None where there are none."""
    if len(positions) == 0 or code(next(batches(images, positions[:1], view.device, 1))) is None:
        return None
    mine = positions[processes.share(len(positions))]
    parts = [torch.zeros(0, view.dim, dtype=view.paradigm.code_dtype, device=view.device)]
    for batch in batches(images, mine, view.device, block_size(math.prod(images.image_shape))):
        z = code(batch)
        assert z is not None
        parts.append(z.detach())
    return processes.merge(torch.cat(parts), len(positions))


def _squared_errors(view: View, images: Images, positions: Tensor, codes: Tensor) -> Tensor:
    """Squared error per pixel of each image's decoded code, (n,)."""
    size = block_size(math.prod(images.image_shape))
    errors = [
        squared_error(pixel_means(view.decode(z, batch.y)), batch.x)
        for z, batch in zip(codes.split(size), batches(images, positions, view.device, size), strict=True)
    ]
    return torch.cat(errors) / math.prod(images.image_shape)
