"""Maximum mean discrepancy: how far two sets of points are apart, as the difference of their means in a kernel's space.

Source: Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html, lemma 6.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from encdec.objectives.losses import squared_error_matrix

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


def unbiased_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """The squared MMD of the distributions that two sets are drawn from: (N, …), (M, …) -> (), in full precision.

    mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j). Its expectation is the squared MMD, so
    where the two distributions are equal it is zero on average and negative half of the time. Of fewer than two points
    there is no such estimate: then it is 0, without a gradient.

    Source: Gretton et al. 2012, lemma 6, eq. 3.
    """
    if min(len(x), len(y)) < 2:
        return torch.zeros((), device=x.device)
    within = _mean_of_others(kernel(squared_distances(x, x))) + _mean_of_others(kernel(squared_distances(y, y)))
    return within - 2 * kernel(squared_distances(x, y)).mean()


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖² of all pairs: (N, …), (M, …) -> (N, M), never below zero."""
    return squared_error_matrix(y, x).clamp(min=0)


def _mean_of_others(matrix: Tensor) -> Tensor:
    """The mean of what is beside the diagonal: (N, N) -> ()."""
    n = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()) / (n * (n - 1))
