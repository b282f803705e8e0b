"""Distances between samples and images in a feature space: Fréchet, kernel, and those to nearest neighbours."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from encdec.evaluation.context import block_size
from encdec.evaluation.features import FeatureSpace
from encdec.evaluation.processes import Processes
from encdec.evaluation.results import Metrics

NAMES = ("frechet", "kernel", "precision", "recall", "density", "coverage")
"""The metrics in a feature space; each is named after that too."""
PAIRWISE = 10_000
"""Metrics that compare all pairs use at most so many samples and so many images."""
OF_SAMPLERS = ("frechet", "recall", "coverage")
"""Those that other samplers than the model's own are compared by."""
NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""

_SUBSETS, _SUBSET_SIZE = 100, 1000  # of the kernel distance, as its authors use it
_SEED = 0  # of the subsets: the same in every run


class _AsItIs(nn.Module):
    """The feature extractor of a metric that is fed with features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        return features


class Frechet:
    """‖μ_1 − μ_2‖² + Tr(Σ_1 + Σ_2 − 2 (Σ_1 Σ_2)^½) between the test images, which come first, and other sets.

    Every process is given all features, so that the metric has nothing to synchronise.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500, eq. 6.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self._metric = FrechetInceptionDistance(_AsItIs(dim), reset_real_features=False, sync_on_compute=False)
        self._metric.to(device)
        self._test = True
        self.device = device

    def next_set(self) -> None:
        """The next features are those of another set, to be compared with the test images."""
        self._test = False
        self._metric.reset()

    def update(self, features: Tensor) -> None:
        """Add features of a set, (N, dim)."""
        self._metric.update(features.double(), real=self._test)

    def compute(self) -> Tensor:
        """The distance between the test images and the set, ()."""
        distance = self._metric.compute()
        assert isinstance(distance, Tensor)
        return distance.clamp(min=0)  # rounding makes equal sets slightly negative


def feature_scores(
    frechet: Frechet,
    features: Tensor,
    test: Tensor,
    processes: Processes,
    test_radii: Tensor | None = None,
    names: Sequence[str] = NAMES,
) -> dict[str, Tensor]:
    """The metrics of a set of images by name, as far as there are enough images for them, and `names` has them.

    `test_radii` is what `neighbour_radii` gives for the test images, where there are enough of them.
    """
    fewest = min(len(features), len(test))
    scores = {}
    if fewest >= 2:
        scores["frechet"] = frechet.compute()
        if "kernel" in names:
            scores["kernel"], scores["kernel_spread"] = kernel_distance(features, test)
    if fewest > NEIGHBOURS:
        scores |= neighbour_scores(features, test, processes, test_radii)
    return scores


def kernel_distance(features: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Squared maximum mean discrepancy with the kernel (xᵀy / d + 1)³: mean and spread over random subsets.

    Source: Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, sec. 4.

    Args:
        features: of the samples, (N, d).
        test: of the test images, (M, d).
    """
    subsets, size = _subsets(len(features), len(test))
    with warnings.catch_warnings():
        # it warns that it keeps all features: they are at most PAIRWISE, and kept already
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(
            _AsItIs(features.shape[1]), subsets=subsets, subset_size=size, sync_on_compute=False
        )
    metric.update(test.float(), real=True)  # twice as fast as float64, and its rounding is far below the spread
    metric.update(features.float(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        mean, spread = metric.compute()
    return mean, spread


def _subsets(samples: int, images: int) -> tuple[int, int]:
    """Number and size of the kernel distance's subsets; one where it is all there is."""
    size = min(_SUBSET_SIZE, samples, images)
    return (1 if size == samples == images else _SUBSETS), size


def neighbour_scores(
    features: Tensor, test: Tensor, processes: Processes, test_radii: Tensor | None = None
) -> dict[str, Tensor]:
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
        test_radii: what `neighbour_radii` gives for the test images, where it is known.
    """
    radii = neighbour_radii(features, processes)
    test_radii = neighbour_radii(test, processes) if test_radii is None else test_radii
    balls = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    recall, coverage = [], []
    for rows in processes.share(len(test)).split(block_size(len(features))):
        distances = torch.cdist(test[rows], features)
        inside = distances <= test_radii[rows].unsqueeze(1)
        balls += inside.sum(0)
        recall.append((distances <= radii).any(1).double())
        coverage.append(inside.any(1).double())
    balls = torch.stack(processes.all_gather(balls)).sum(0)
    return {
        "precision": (balls > 0).double(),
        "recall": processes.merge(torch.cat(recall), len(test)),
        "density": balls.double() / NEIGHBOURS,
        "coverage": processes.merge(torch.cat(coverage), len(test)),
    }


def neighbour_radii(features: Tensor, processes: Processes) -> Tensor:
    """The distance of each image to its k-th nearest other one, (N, d) -> (N,)."""
    radii = []
    for rows in processes.share(len(features)).split(block_size(len(features))):
        nearest = torch.cdist(features[rows], features).topk(NEIGHBOURS + 1, largest=False).values
        radii.append(nearest[:, -1])  # the nearest is the image itself
    return processes.merge(torch.cat(radii), len(features))


def add_distances(
    metrics: Metrics,
    space: FeatureSpace,
    scores: dict[str, Tensor],
    real_scores: dict[str, Tensor],
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
    subsets, size = _subsets(samples, images)
    pairs = f"{samples:,} samples vs {images:,} test images{more}"
    units = {
        "frechet": f"squared distance of features, {all_of_them}",
        "kernel": f"squared MMD of features, mean ± spread of {subsets} subsets of {size:,}, {pairs}",
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
        reference = float(real_scores[name].mean()) if name in real_scores else None
        metrics.add(
            metric,
            scores[name],
            units[name],
            reference=reference,
            reference_name="" if reference is None else f"{reals:,} real training images",
        )
    kernel = f"kernel_{space.name}{suffix}"
    if kernel in metrics.values and subsets > 1:
        metrics.values[kernel] = replace(metrics.values[kernel], standard_error=float(scores["kernel_spread"]))
