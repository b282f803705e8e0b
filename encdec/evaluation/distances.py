"""Distances between samples and images in a feature space: Fréchet, kernel, and those to nearest neighbours."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from encdec.evaluation.context import block_size
from encdec.evaluation.features import FeatureSpace
from encdec.evaluation.frechet import Frechet, frechet_influence
from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.kernel import kernel_distance
from encdec.evaluation.processes import Processes
from encdec.evaluation.references import References
from encdec.evaluation.results import Metrics

NAMES = ("frechet", "kernel", "precision", "recall", "density", "coverage")
"""The metrics in a feature space; each is named after that too."""
PAIRWISE = 10_000
"""Metrics that compare all pairs use at most so many samples and so many images."""
OF_SAMPLERS = ("frechet", "recall", "coverage")
"""Those that other samplers than the model's own are compared by."""
NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""

Scores = Mapping[str, Tensor | ImageValues]
"""Metrics by name: values of samples, (N,), or of test images."""


def feature_scores(
    frechet: Frechet,
    features: Tensor,
    test: Tensor,
    processes: Processes,
    references: References,
    names: Sequence[str] = NAMES,
) -> Scores:
    """The metrics of a set of images by name, as far as there are enough images for them, and `names` has them.

    Args:
        frechet: of all of the set and all test images.
        features: of the set, (N, d), float64.
        test: of the test images, (M, d), float64.
        processes: who shares the work.
        references: of the test images.
        names: which of the metrics.
    """
    fewest = min(len(features), len(test))
    scores: dict[str, Tensor | ImageValues] = {}
    if fewest >= 2:
        own, of_test = frechet_influence(features, test), frechet_influence(test, features)
        scores["frechet"] = _moved(frechet.compute(), own, of_test)
        if "kernel" in names:
            scores["kernel"] = _moved(*kernel_distance(features, test, processes, references.test_kernel))
    if fewest > NEIGHBOURS:
        scores |= neighbour_scores(features, test, processes, references.test_radii, names)
    return scores


def _moved(value: Tensor, influence: Tensor, test_influence: Tensor) -> ImageValues:
    """A distance as a mean over the test images, from how far each of them and each sample moves it."""
    of_samples = float(influence.var() / len(influence))
    return ImageValues((value + test_influence).double().cpu().numpy(), variance=of_samples)


def neighbour_scores(
    features: Tensor, test: Tensor, processes: Processes, test_radii: Tensor, names: Sequence[str] = NAMES
) -> dict[str, Tensor | ImageValues]:
    """Precision and density of each sample, (N,), recall and coverage of each test image, (M,).

    The ball of an image reaches to its k-th nearest other image of the same set, k = NEIGHBOURS. Precision: whether
    a sample is in the ball of a test image; density: in how many, over k; recall: whether a test image is in the
    ball of a sample; coverage: whether a sample is in the ball of a test image. Their means are the metrics.

    Source: precision, recall: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, eq. 1 and 2 (there k = 3);
    density, coverage: Naeem et al. 2020, https://arxiv.org/abs/2002.09797, eq. 3 and 4.

    Args:
        features: of the samples, (N, d).
        test: of the test images, (M, d).
        processes: who shares the work.
        test_radii: what `neighbour_radii` gives for the test images.
        names: which of the metrics, at most.
    """
    radii, limits = neighbour_radii(features, processes).square(), test_radii.square().unsqueeze(1)
    rows_of = _Squares(test, features)
    balls = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    empty = torch.zeros(0, dtype=torch.float64, device=features.device)
    recall, coverage = [empty], [empty]
    for rows in processes.share(len(test)).split(block_size(len(features))):
        squares = rows_of(rows)
        recall.append((squares <= radii).any(1).double())
        inside = squares <= limits[rows]
        coverage.append(inside.any(1).double())
        if "precision" in names or "density" in names:
            balls += inside.sum(0)
    balls = torch.stack(processes.all_gather(balls)).sum(0)
    found: dict[str, Tensor | ImageValues] = {
        "precision": (balls > 0).double(),
        "recall": _of_test(processes.merge(torch.cat(recall), len(test))),
        "density": balls.double() / NEIGHBOURS,
        "coverage": _of_test(processes.merge(torch.cat(coverage), len(test))),
    }
    return {name: values for name, values in found.items() if name in names}


def _of_test(values: Tensor) -> ImageValues:
    return ImageValues(values.cpu().numpy())


def neighbour_radii(features: Tensor, processes: Processes) -> Tensor:
    """The distance of each image to its k-th nearest other one, (N, d) -> (N,), float32."""
    rows_of = _Squares(features, features)
    radii = [torch.zeros(0, device=features.device)]
    for rows in processes.share(len(features)).split(block_size(len(features))):
        squares = rows_of(rows)
        squares[torch.arange(len(rows)), rows] = math.inf  # the image itself
        radii.append(squares.topk(NEIGHBOURS, largest=False).values[:, -1])
    return processes.merge(torch.cat(radii), len(features)).sqrt()


class _Squares:
    """Squared distances of some rows of a set (N, d) to another (M, d), float32, in half the time of float64's.

    Both are centred first, so that no more digits are lost than the distances are apart by.
    """

    def __init__(self, one: Tensor, other: Tensor) -> None:
        centre = other.double().mean(0)
        self._one, self._other = (one.double() - centre).float(), (other.double() - centre).float()
        self._squares = self._one.square().sum(1, keepdim=True), self._other.square().sum(1)

    def __call__(self, rows: Tensor) -> Tensor:
        """(len(rows), M)."""
        squares = torch.addmm(self._squares[1], self._one[rows], self._other.T, alpha=-2)
        return squares.add_(self._squares[0][rows]).clamp_(min=0)


def add_distances(
    metrics: Metrics,
    space: FeatureSpace,
    scores: Scores,
    real_scores: Mapping[str, float],
    counts: tuple[int, int, int],
    names: Sequence[str] = NAMES,
    suffix: str = "",
    source: str = "",
) -> None:
    """Add the means of scores, with those of real images as references.

    Args:
        metrics: where they are added.
        space: the feature space.
        scores: of the samples; see `feature_scores`.
        real_scores: of as many real training images.
        counts: how many samples, test images and training images there were.
        names: which of the metrics.
        suffix: of their names.
        source: how the samples were drawn, for their units, where it is not as the model does.
    """
    samples, images, reals = counts
    more = f"; {source}" if source else ""
    all_of_them = f"{samples:,} samples vs {images:,} test images{more}"
    samples, images = min(samples, PAIRWISE), min(images, PAIRWISE)
    pairs = f"{samples:,} samples vs {images:,} test images{more}"
    units = {
        "frechet": f"squared distance of features, {all_of_them}",
        "kernel": f"squared MMD of features, unbiased, over all pairs, {pairs}",
        "precision": f"share of samples, k = {NEIGHBOURS}, {pairs}",
        "recall": f"share of test images, k = {NEIGHBOURS}, {pairs}",
        "density": f"neighbourhoods that a sample is in, over k = {NEIGHBOURS}, {pairs}",
        "coverage": f"share of test images, k = {NEIGHBOURS}, {pairs}",
    }
    for name in names:
        metric = f"{name}_{space.name}{suffix}"
        if name not in scores:
            needed = 2 if name in ("frechet", "kernel") else NEIGHBOURS + 1
            metrics.undefined[metric] = f"it needs at least {needed} samples and {needed} test images"
            continue
        reference = real_scores.get(name)
        metrics.add(
            metric,
            scores[name],
            units[name],
            reference=reference,
            reference_name="" if reference is None else f"{reals:,} real training images",
        )
