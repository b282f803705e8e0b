"""The kernel distance of two sets of features, over all pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

from encdec.evaluation.context import block_size
from encdec.evaluation.processes import Processes


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy, with how far each image moves it.

    Attributes:
        value: (), float64; unbiased, so that it may be slightly negative.
        influence: of each sample, (N,), of mean zero.
        test_influence: of each test image, (M,), of mean zero.
    """

    value: Tensor
    influence: Tensor
    test_influence: Tensor


def kernel_distance(features: Tensor, test: Tensor, processes: Processes, test_means: Tensor) -> KernelDistance:
    """E k(x, x') + E k(y, y') − 2 E k(x, y) over all pairs of different images, k(x, y) = (xᵀy / d + 1)³.

    The influence of a sample is twice what E_x' k(x, x') − E_y k(x, y) differs from its mean; its variance over the
    samples divided by their number is, to first order, the variance of the distance by the choice of samples.

    Source: Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, sec. 4 (there over subsets); Gretton et al. 2012,
    https://jmlr.org/papers/v13/gretton12a.html, eq. 3 and theorem 8.

    Args:
        features: of the samples, (N, d), N at least 2.
        test: of the test images, (M, d), M at least 2.
        processes: who shares the work.
        test_means: what `means_within` gives for the test images, (M,).
    """
    within = means_within(features, processes)
    of_samples, of_test = _means_between(features, test, processes)
    samples, images = within - of_samples, test_means - of_test
    value = within.mean() + test_means.mean() - 2 * of_samples.mean()
    return KernelDistance(value, 2 * (samples - samples.mean()), 2 * (images - images.mean()))


def means_within(features: Tensor, processes: Processes) -> Tensor:
    """The mean kernel of each image with the others of its set, (N, d) -> (N,), float64."""
    x, means = features.float(), [torch.zeros(0, dtype=torch.float64, device=features.device)]
    for rows in processes.share(len(x)).split(block_size(len(x))):
        values = _kernel(x[rows], x)
        values[torch.arange(len(rows)), rows] = 0
        means.append(values.sum(1, dtype=torch.float64) / (len(x) - 1))
    return processes.merge(torch.cat(means), len(x))


def _means_between(features: Tensor, test: Tensor, processes: Processes) -> tuple[Tensor, Tensor]:
    """The mean kernel of each sample with the test images, (N,), and of each test image with the samples, (M,)."""
    x, y = features.float(), test.float()
    means, sums = [torch.zeros(0, dtype=torch.float64, device=x.device)], torch.zeros(len(y), device=x.device).double()
    for rows in processes.share(len(x)).split(block_size(len(y))):
        values = _kernel(x[rows], y)
        means.append(values.sum(1, dtype=torch.float64) / len(y))
        sums += values.sum(0, dtype=torch.float64)
    sums = torch.stack(processes.all_gather(sums)).sum(0)
    return processes.merge(torch.cat(means), len(x)), sums / len(x)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    # in float32, which takes half the time: its rounding is far below the standard error
    base = torch.addmm(torch.ones((), device=x.device), x, y.T, alpha=1 / x.shape[1])
    return base.square().mul_(base)
