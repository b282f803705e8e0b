"""Distances of all pairs of two sets of points, as every loss that compares sets takes them."""

import torch
from torch import Tensor

from encdec.objectives.losses import full_precision, squared_error_matrix

_LEAST = 1e-6


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖² of all pairs: (N, …), (M, …) -> (N, M), never below zero, in full precision."""
    return squared_error_matrix(y, x).clamp(min=0)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖ of all pairs: (N, …), (M, …) -> (N, M); not below 0.001, where it has no gradient."""
    return squared_error_matrix(y, x).clamp(min=_LEAST).sqrt()  # the gradient of a root at 0 is infinite


def mean_of_others(matrix: Tensor) -> Tensor:
    """The mean of what is beside the diagonal: (N, N) -> (); 0 of a single point, which has no others."""
    n = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()) / max(n * (n - 1), 1)


def product(one: Tensor, other: Tensor) -> Tensor:
    """The matrix product, in full precision also where autocast would round it: (N, K), (K, M) -> (N, M)."""
    with torch.autocast(one.device.type, enabled=False):
        return full_precision(one) @ full_precision(other)
