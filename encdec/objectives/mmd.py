"""Maximum mean discrepancy: how far two sets of points are apart, as the difference of their means in a kernel's space.

Source: Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html, lemma 6.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from encdec.objectives.pairs import mean_of_others, squared_distances

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the inverse multiquadratic kernels that are summed, as in the reference implementation of the WAE."""

Kernel = Callable[[Tensor], Tensor]
"""k(x, y) as a function of squared distances ‖x − y‖², of any shape."""


def inverse_multiquadratic(base: float, scales: Sequence[float] = SCALES) -> Kernel:
    """k(x, y) = Σ_s C_s / (C_s + ‖x − y‖²), C_s = `base` · s: of every width at once, with tails that reach far points.

    Source: Tolstikhin et al. 2018, https://arxiv.org/abs/1711.01558, sec. 4; there `base` = 2 d σ², the expected
    squared distance of two points from a prior N(0, σ²I) of d numbers.
    """

    return partial(_inverse_multiquadratic, widths=tuple(base * s for s in scales))  # which can be pickled


def _inverse_multiquadratic(squared_distances: Tensor, widths: Sequence[float]) -> Tensor:
    return torch.stack([width / (width + squared_distances) for width in widths]).sum(0)


def gaussian_mixture(variances: Sequence[float]) -> Kernel:
    """k(x, y) = Σ_s exp(−‖x − y‖² / 2s), s in `variances`: Gaussians of several widths.

    Source: Li, Swersky & Zemel 2015, https://arxiv.org/abs/1502.02761, sec. 5.
    """
    return partial(_gaussian_mixture, variances=tuple(variances))


def _gaussian_mixture(squared_distances: Tensor, variances: Sequence[float]) -> Tensor:
    return torch.stack([(squared_distances / (-2 * s)).exp() for s in variances]).sum(0)


def unbiased_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """The squared MMD of the distributions that two sets are drawn from: (N, …), (M, …) -> (), in full precision.

    mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j). Its expectation is the squared MMD, so
    where the two distributions are equal it is zero on average and negative half of the time. Of fewer than two points
    there is no such estimate: then it is 0, without a gradient.

    Source: Gretton et al. 2012, lemma 6, eq. 3.
    """
    if min(len(x), len(y)) < 2:
        return torch.zeros((), device=x.device)
    within = mean_of_others(kernel(squared_distances(x, x))) + mean_of_others(kernel(squared_distances(y, y)))
    return within - 2 * kernel(squared_distances(x, y)).mean()


def biased_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """The squared MMD of two sets themselves: (N, …), (M, …) -> (), in full precision.

    mean_{i,j} k(x_i, x_j) + mean_{i,j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j), with the pairs of a point with itself:
    never negative, and zero only of equal sets; so two sets of one distribution are some way apart.

    Source: Gretton et al. 2012, eq. 5.
    """
    within = kernel(squared_distances(x, x)).mean() + kernel(squared_distances(y, y)).mean()
    return within - 2 * kernel(squared_distances(x, y)).mean()
