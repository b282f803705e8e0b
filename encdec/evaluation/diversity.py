"""How diverse samples are: their variance, as a share of that of real images."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from encdec.evaluation.processes import Processes
from encdec.evaluation.results import Metrics
from encdec.types import Batch

NAMES = ("sample_variance", "sample_variance_z", "sample_mean_distance")
"""The metrics of this module."""


class Moments:
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


def add_diversity(metrics: Metrics, sampled: Moments, held_out: Moments, seen: Moments) -> None:
    """Add the metrics of this module; `held_out` are the moments of test images, `seen` those of training images."""
    variance = held_out.variance()
    total, within = seen.variance() / variance, seen.variance_within() / variance
    reads_labels = len(sampled.counts) > 1
    constant = "all test images are the same, so their variance is zero"
    metrics.add(
        "sample_variance",
        sampled.variance() / variance,
        "share of the test images' variance",
        reference=_finite(total),
        reference_name="real training images",
        undefined=constant,
    )
    metrics.add(
        "sample_variance_z",
        sampled.variance_within() / variance,
        "share of the test images' variance, within labels",
        reference=_finite(within if reads_labels else total),
        reference_name="real training images" + (" within classes" if reads_labels else ""),
        undefined=constant if variance == 0 else "no label has more than one sample",
    )
    metrics.add(
        "sample_mean_distance",
        (sampled.mean() - seen.mean()).square().mean(),
        "MSE per pixel, mean sample vs mean training image",
        reference=float((held_out.mean() - seen.mean()).square().mean()),
        reference_name="mean test image",
    )


def _finite(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None
