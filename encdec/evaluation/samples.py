"""How good the samples are: distances to real images, precision and recall, diversity, and memorisation.

Sample i has noise e_i, a function of the run's seed and i alone, and the label of a test image, so that labels are
distributed as in the test split, with which samples are compared. All is drawn and measured in blocks.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from encdec.data import Images
from encdec.evaluation.base import DRAWS, Advance, Figures, Processes, View, batches, block_size
from encdec.evaluation.features import FeatureSpace
from encdec.types import Batch

PAIRWISE = 10_000
"""Figures that compare all pairs use at most so many samples and so many images."""
NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""
MEMORISED = 2000
"""Samples, and test images, whose nearest training image is looked for."""

_SUBSETS, _SUBSET_SIZE = 100, 1000  # of the kernel distance, as its authors use it
_QUERIES = 1 << 25  # numbers of the images whose neighbours are looked for in one pass over the training split
_SEED = 0  # of the random choices of images: the same in every run
_IN_FEATURES = ("frechet", "kernel", "precision", "recall", "density", "coverage")
_IN_PIXELS = ("sample_variance", "sample_variance_z", "sample_mean_distance", "memorised")


@torch.no_grad()
def evaluate_samples(
    view: View,
    train: Images,
    test: Images,
    space: FeatureSpace,
    num_samples: int,
    processes: Processes,
    figures: Figures,
    advance: Advance,
) -> None:
    """Add the figures of `num_samples` samples, each with what as many real training images score.

    In the feature space, and named after it: `frechet_…`, `kernel_…`, `precision_…`, `recall_…`, `density_…` and
    `coverage_…`. In pixels: `sample_variance`, `sample_variance_z`, `sample_mean_distance` and `memorised`.

    Args:
        view: the paradigm.
        train: the training split.
        test: the test split, with which samples are compared.
        space: the feature space.
        num_samples: how many samples are drawn.
        processes: who shares the work.
        figures: where the figures are added.
        advance: told of the progress.
    """
    device, numel, classes = view.device, math.prod(test.image_shape), len(test.classes)
    size = block_size(numel)
    # a split may be sorted by class, so that its first images would not be a sample of it
    test_order, train_order = _order(len(test.labels)), _order(len(train.labels))
    labels = test.labels[test_order[torch.arange(num_samples) % len(test_order)]]

    def drawn(positions: Tensor) -> Iterator[Batch]:
        for part in positions.split(size) if len(positions) else ():
            y = labels[part].to(device)
            yield Batch(view.images(view.noise(DRAWS["samples"], part), y), y, part.to(device))

    def looked_up(images: Images, positions: Tensor) -> Iterator[Batch]:
        return batches(images, positions, device, size) if len(positions) else iter(())

    def real(images: Images, order: Tensor) -> Iterator[Batch]:
        return looked_up(images, order[processes.share(len(order))])

    def collect(blocks: Iterator[Batch], total: int, span: Advance) -> Tensor:
        return _collect(frechet, space, blocks, total, size, processes, span)

    # a decoder that does not read labels has no classes within which z could vary
    sampled = _Moments(classes if view.reads_labels else 1, numel, device)
    held_out, seen = _Moments(1, numel, device), _Moments(classes, numel, device)
    frechet = _Frechet(space.dim, device)

    test_features = collect(held_out.watch(real(test, test_order)), len(test_order), _span(advance, 0, 0.1))
    frechet.next_set()
    share = processes.share(num_samples)
    features = collect(sampled.watch(drawn(share)), num_samples, _span(advance, 0.1, 0.25))
    sampled.gather(processes)
    if not sampled.squares.isfinite().all():
        names = [f"{name}_{space.name}" for name in _IN_FEATURES] + list(_IN_PIXELS)
        figures.undefined |= dict.fromkeys(names, "the decoder's samples are not finite numbers")
        return
    scores = _scores(frechet, features, test_features, processes)
    advance(0.4)
    frechet.next_set()
    references = train_order[:num_samples]
    real_features = collect(real(train, references), len(references), _span(advance, 0.4, 0.5))
    real_scores = _scores(frechet, real_features, test_features, processes)
    advance(0.65)
    _add_distances(figures, space, scores, real_scores, (num_samples, len(test_order), len(references)))

    for _ in seen.watch(real(train, torch.arange(len(train.labels)))):
        pass
    seen.gather(processes)
    held_out.gather(processes)
    _add_diversity(figures, sampled, held_out, seen)
    advance(0.7)

    queries, others = min(num_samples, MEMORISED), test_order[:MEMORISED]

    def query(positions: Tensor) -> Tensor:
        first, second = positions[positions < queries], positions[positions >= queries] - queries
        return torch.cat([batch.x for batch in (*drawn(first), *looked_up(test, others[second]))])

    if len(train.labels) < 2:
        figures.undefined["memorised"] = "it needs at least 2 training images"
        return
    closer = memorised(train, query, queries + len(others), device, processes, _span(advance, 0.7, 1))
    figures.add(
        "memorised",
        closer[:queries],
        f"share of {queries:,} samples nearer to a training image than that is to its nearest other one",
        reference=float(closer[queries:].mean()),
        reference_name=f"{len(others):,} held-out images",
    )


def _order(count: int) -> Tensor:
    """A random order of `count` images, the same in every run."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))


def _span(advance: Advance, start: float, end: float) -> Advance:
    """The progress of a part, as progress of the whole."""
    return lambda done: advance(start + (end - start) * done)


# ---------------------------------------------------------------------- distances in feature space


class _AsItIs(nn.Module):
    """The feature extractor of a metric that is fed with features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        return features


class _Frechet:
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
        self._test = False
        self._metric.reset()

    def update(self, features: Tensor) -> None:
        self._metric.update(features.double(), real=self._test)

    def compute(self) -> Tensor:
        distance = self._metric.compute()
        assert isinstance(distance, Tensor)
        return distance.clamp(min=0)  # rounding makes equal sets slightly negative


def _collect(
    frechet: _Frechet,
    space: FeatureSpace,
    blocks: Iterator[Batch],
    total: int,
    size: int,
    processes: Processes,
    advance: Advance,
) -> Tensor:
    """The first features of a set of `total` images, (≤ PAIRWISE, dim), float64; `frechet` is given all of them.

    `blocks` are the images of this process's share, `size` at a time. The shares of all processes interleave, so
    their n-th blocks together are a contiguous part of the set.
    """
    kept, step = [], size * processes.count
    for start in range(0, total, step):
        batch = next(blocks, None)  # of the last part this process may have no share
        part = torch.zeros(0, space.dim, device=frechet.device) if batch is None else space.features(batch.x)
        features = processes.merge(part, min(step, total - start)).double()
        frechet.update(features)
        if start < PAIRWISE:
            kept.append(features[: PAIRWISE - start].clone())  # not a view, which would keep all of the part
        advance(min(1.0, (start + step) / total))
    return torch.cat(kept)


def _scores(frechet: _Frechet, features: Tensor, test: Tensor, processes: Processes) -> dict[str, Tensor]:
    """The figures of a set of images by name, as far as there are enough images for them."""
    fewest = min(len(features), len(test))
    scores = {}
    if fewest >= 2:
        scores["frechet"] = frechet.compute()
        scores["kernel"], scores["kernel_spread"] = kernel_distance(features, test)
    if fewest > NEIGHBOURS:
        scores |= neighbour_scores(features, test, processes)
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


def neighbour_scores(features: Tensor, test: Tensor, processes: Processes) -> dict[str, Tensor]:
    """Precision and density of each sample, (N,), recall and coverage of each test image, (M,).

    The ball of an image reaches to its k-th nearest other image of the same set, k = NEIGHBOURS. Precision: whether
    a sample is in the ball of a test image; density: in how many, over k; recall: whether a test image is in the
    ball of a sample; coverage: whether a sample is in the ball of a test image. Their means are the figures.

    Source: precision, recall: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, eq. 1 and 2 (there k = 3);
    density, coverage: Naeem et al. 2020, https://arxiv.org/abs/2002.09797, eq. 3 and 4.

    Args:
        features: of the samples, (N, d).
        test: of the test images, (M, d).
        processes: who shares the work.
    """
    radii, test_radii = _radii(features, processes), _radii(test, processes)
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


def _radii(features: Tensor, processes: Processes) -> Tensor:
    """The distance of each image to its k-th nearest other one, (N, d) -> (N,)."""
    radii = []
    for rows in processes.share(len(features)).split(block_size(len(features))):
        nearest = torch.cdist(features[rows], features).topk(NEIGHBOURS + 1, largest=False).values
        radii.append(nearest[:, -1])  # the nearest is the image itself
    return processes.merge(torch.cat(radii), len(features))


def _add_distances(
    figures: Figures,
    space: FeatureSpace,
    scores: dict[str, Tensor],
    real_scores: dict[str, Tensor],
    counts: tuple[int, int, int],
) -> None:
    samples, images, reals = counts
    all_of_them = f"{samples:,} samples vs {images:,} test images"
    samples, images = min(samples, PAIRWISE), min(images, PAIRWISE)
    subsets, size = _subsets(samples, images)
    pairs = f"{samples:,} samples vs {images:,} test images"
    units = {
        "frechet": f"squared distance of features, {all_of_them}",
        "kernel": f"squared MMD of features, mean ± spread of {subsets} subsets of {size:,}, {pairs}",
        "precision": f"share of samples, k = {NEIGHBOURS}, {pairs}",
        "recall": f"share of test images, k = {NEIGHBOURS}, {pairs}",
        "density": f"neighbourhoods that a sample is in, over k = {NEIGHBOURS}, {pairs}",
        "coverage": f"share of test images, k = {NEIGHBOURS}, {pairs}",
    }
    for name in _IN_FEATURES:
        figure = f"{name}_{space.name}"
        if name not in scores:
            needed = 2 if name in ("frechet", "kernel") else NEIGHBOURS + 1
            figures.undefined[figure] = f"it needs at least {needed} samples and {needed} test images"
            continue
        reference = float(real_scores[name].mean()) if name in real_scores else None
        figures.add(
            figure,
            scores[name],
            units[name],
            reference=reference,
            reference_name="" if reference is None else f"{reals:,} real training images",
        )
    kernel = f"kernel_{space.name}"
    if kernel in figures.values and subsets > 1:
        figures.values[kernel] = replace(figures.values[kernel], standard_error=float(scores["kernel_spread"]))


# ---------------------------------------------------------------------- diversity


class _Moments:
    """Sums over images by label, in float64: means and variances of pixels follow from them."""

    def __init__(self, labels: int, numel: int, device: torch.device) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.counts, self.sums, self.squares = zeros(labels), zeros(labels, numel), zeros(labels)

    def watch(self, blocks: Iterator[Batch]) -> Iterator[Batch]:
        """The same blocks, counted in passing."""
        for batch in blocks:
            x = batch.x.flatten(1).double()
            y = batch.y if len(self.counts) > 1 else torch.zeros_like(batch.y)
            self.counts.index_add_(0, y, torch.ones_like(x[:, 0]))
            self.sums.index_add_(0, y, x)
            self.squares.index_add_(0, y, x.square().sum(1))
            yield batch

    def gather(self, processes: Processes) -> None:
        """Add the sums of the other processes."""
        self.counts, self.sums, self.squares = (
            torch.stack(processes.all_gather(sums)).sum(0) for sums in (self.counts, self.sums, self.squares)
        )

    def mean(self) -> Tensor:
        """Mean image, (D,)."""
        return self.sums.sum(0) / self.counts.sum()

    def variance(self) -> Tensor:
        """Σ_d Var[x_d]."""
        square = self.squares.sum() / self.counts.sum()
        return _no_rounding(square - self.mean().square().sum(), square)

    def variance_within(self) -> Tensor:
        """Σ_d E_y Var[x_d | y] over the labels of several images; not a number if there are none."""
        several = self.counts > 1
        counts, sums, squares = self.counts[several], self.sums[several], self.squares[several]
        variances = _no_rounding(squares / counts - (sums / counts.unsqueeze(1)).square().sum(1), squares / counts)
        return (counts * variances).sum() / counts.sum()


def _no_rounding(variance: Tensor, square: Tensor) -> Tensor:
    """A variance, or zero where it is no more than the rounding of the mean square that it was made of."""
    return torch.where(variance < 1e-12 * square, 0.0, variance)


def _add_diversity(figures: Figures, sampled: _Moments, held_out: _Moments, seen: _Moments) -> None:
    variance = held_out.variance()
    total, within = seen.variance() / variance, seen.variance_within() / variance
    reads_labels = len(sampled.counts) > 1
    constant = "all test images are the same, so their variance is zero"
    figures.add(
        "sample_variance",
        sampled.variance() / variance,
        "share of the test images' variance",
        reference=_finite(total),
        reference_name="real training images",
        undefined=constant,
    )
    figures.add(
        "sample_variance_z",
        sampled.variance_within() / variance,
        "share of the test images' variance, within labels",
        reference=_finite(within if reads_labels else total),
        reference_name="real training images" + (" within classes" if reads_labels else ""),
        undefined=constant if variance == 0 else "no label has more than one sample",
    )
    figures.add(
        "sample_mean_distance",
        (sampled.mean() - seen.mean()).square().mean(),
        "MSE per pixel, mean sample vs mean training image",
        reference=float((held_out.mean() - seen.mean()).square().mean()),
        reference_name="mean test image",
    )


def _finite(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None


# ---------------------------------------------------------------------- memorisation


def memorised(
    train: Images,
    query: Callable[[Tensor], Tensor],
    total: int,
    device: torch.device,
    processes: Processes,
    advance: Advance,
) -> Tensor:
    """Whether each of `total` images is nearer to a training image than that is to its nearest other one, (total,).

    Distances are those of pixels. An image nearest to one that the training split has twice does not count,
    since nothing is nearer than its copy.

    Args:
        train: the training split, of two images or more.
        query: the images at some positions, (Q,) -> (Q, C, H, W).
        total: how many there are.
        device: where distances are computed.
        processes: who shares the work.
        advance: told of the progress.
    """

    def image(positions: Tensor) -> Tensor:
        size = block_size(math.prod(train.image_shape))
        return torch.cat([batch.x for batch in batches(train, positions, device, size)])

    distances, nearest = _nearest(train, query, total, None, device, processes, _span(advance, 0, 0.5))
    unique, which = nearest.unique(return_inverse=True)
    seen = unique.cpu()
    own, _ = _nearest(train, lambda rows: image(seen[rows]), len(seen), seen, device, processes, _span(advance, 0.5, 1))
    return (distances < own[which]).double()


def _nearest(
    train: Images,
    query: Callable[[Tensor], Tensor],
    total: int,
    own: Tensor | None,
    device: torch.device,
    processes: Processes,
    advance: Advance,
) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest training image and its position, (total,); query i is not compared with own[i].

    Exact: ‖q − x‖² = ‖q‖² − 2 qᵀx + ‖x‖² in float64.
    """
    n, numel, share = len(train.labels), math.prod(train.image_shape), processes.share(total)
    parts = (share if len(share) else torch.zeros(1, dtype=torch.int64)).split(max(1, _QUERIES // numel))
    distances, positions = [], []
    for done, part in enumerate(parts):
        queries = query(part).flatten(1).double()
        best = torch.full((len(part),), torch.inf, dtype=torch.float64, device=device)
        position = torch.zeros(len(part), dtype=torch.int64, device=device)
        for batch in batches(train, torch.arange(n), device, block_size(max(numel, len(part)))):
            x = batch.x.flatten(1).double()
            found = torch.addmm(x.square().sum(1), queries, x.T, alpha=-2)
            if own is not None:
                found.masked_fill_(own[part].to(device).unsqueeze(1) == batch.index, torch.inf)
            smallest, column = found.min(1)
            nearer = smallest < best
            best, position = torch.where(nearer, smallest, best), torch.where(nearer, batch.index[column], position)
            advance((done + (int(batch.index[-1]) + 1) / n) / len(parts))
        best += queries.square().sum(1)
        # one grey level in one pixel is 1.5e-5, so what is below is the rounding of a zero
        distances.append(best.masked_fill(best < 1e-9, 0))
        positions.append(position)
    size = len(share)
    return processes.merge(torch.cat(distances)[:size], total), processes.merge(torch.cat(positions)[:size], total)
