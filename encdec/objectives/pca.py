"""Principal components of the images of a split, in passes that processes share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from encdec.types import Drawing, Shape, UserError

if TYPE_CHECKING:
    from encdec.data import Images

LARGEST_COVARIANCE = 4096
"""Up to this many pixels PCA uses the D × D covariance in float64 (128 MiB)."""

_BLOCK = 256  # images; a sum of as many products of 8-bit numbers, 256 · 255² < 2²⁴, is exact in float32
_LARGEST_EXACT = 1024  # an eigendecomposition of 3,072 pixels takes 11 s on one core, 30 iterations a tenth of it
_OVERSAMPLING = 10  # of subspace iteration; Halko et al. suggest 5 to 10
Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""


def alone(tensor: Tensor) -> Tensor:
    """What the only process adds up."""
    return tensor


@final
@dataclass(frozen=True)
class PCA:
    """The k directions in which the training images vary most.

    Attributes:
        mean: the mean image, float64, (D,), pixels in [0, 1].
        axes: orthonormal columns, most variance first, float64, (D, k).
    """

    mean: Tensor
    axes: Tensor


def principal_components(
    images: Images,
    components: int,
    rank: int = 0,
    processes: int = 1,
    reduce: Reduce = alone,
    drawing: Drawing = Drawing(),  # noqa: B008  # it can't change
) -> PCA:
    """PCA of a split of D pixels, in passes that processes share; no copy of the split in floating point.

    - D ≤ 1024: the eigenvectors of the covariance, from one pass; 8 D² bytes.
    - D ≤ `LARGEST_COVARIANCE`: its leading eigenvectors by subspace iteration; as many bytes.
    - beyond: subspace iteration without the covariance, in 6 passes; 16 D (k + 10) bytes.

    Subspace iteration from a random start (Halko, Martinsson & Tropp 2011, https://arxiv.org/abs/0909.4061,
    alg. 4.4) ends a little above the exact residuals: by 1e-4 of them or less after 30 iterations.

    Args:
        images: the training split.
        components: k; at most D are taken.
        rank: which process this is.
        processes: how many there are.
        reduce: adds a tensor up over them.
        drawing: how a training draws the images, where their distribution is another by that.
    """
    split = _Split(images, rank, processes, reduce, drawing)
    dim = math.prod(images.image_shape)
    components = min(components, dim)
    total, products = split.sums(dense=dim <= LARGEST_COVARIANCE)
    mean = total / len(images.labels) / 255
    if not products.numel():
        return PCA(mean, _leading(lambda v: split.times_covariance(mean, v), dim, components, 4))
    covariance = products.div_(len(images.labels) * 255**2).addr_(mean, mean, alpha=-1)
    if dim <= _LARGEST_EXACT:
        return PCA(mean, torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :components].contiguous())
    return PCA(mean, _leading(lambda v: covariance @ v, dim, components, 30))


@dataclass(frozen=True)
class _Split:
    """The images of a split with weights, which are 1 on average; see `principal_components` for the attributes."""

    images: Images
    rank: int
    processes: int
    reduce: Reduce
    drawing: Drawing

    def sums(self, dense: bool) -> tuple[Tensor, Tensor]:
        """Σ_i w_i x_i, (D,), and if `dense` Σ_i w_i x_i x_iᵀ, (D, D), else (0, D); pixels 0…255."""
        dim, weights = math.prod(self.images.image_shape), self._weights()
        total = torch.zeros(dim, dtype=torch.float64)
        products = torch.zeros(dim if dense else 0, dim, dtype=torch.float64)
        for pixels, y in self._blocks():
            x = pixels.float()  # in which the sums of a block are exact
            total += x.sum(0, dtype=torch.float64) if weights is None else weights[y] @ x.double()
            if dense and weights is None:
                products += x.T @ x
            elif dense and weights is not None:
                products += (weights[y, None] * x).T @ x.double()
        total, products = self.reduce(total), self.reduce(products)
        if self.drawing.horizontal_flips:
            mirror = mirrored(self.images.image_shape)
            total = (total + total[mirror]) / 2
            products = (products + products[mirror[: len(products)]][:, mirror]) / 2
        return total, products

    def times_covariance(self, mean: Tensor, basis: Tensor) -> Tensor:
        """Σ_i w_i (x_i − mean)(x_i − mean)ᵀ · basis: (D, k) -> (D, k); of mirrored images too, if they are drawn."""
        if not self.drawing.horizontal_flips:
            return self._times(mean, basis)
        mirror = mirrored(self.images.image_shape)  # the mean is its own mirror image
        product, of_mirrored = self._times(mean, torch.cat([basis, basis[mirror]], 1)).chunk(2, 1)
        return (product + of_mirrored[mirror]) / 2

    def _times(self, mean: Tensor, basis: Tensor) -> Tensor:
        product, weights = torch.zeros_like(basis), self._weights()
        for pixels, y in self._blocks():
            centred = pixels.double() / 255 - mean
            projected = centred @ basis
            product += centred.T @ (projected if weights is None else weights[y, None] * projected)
        return self.reduce(product)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return blocks(self.images, self.rank, self.processes)

    def _weights(self) -> Tensor | None:
        """How often an image of each class is drawn, (C,), float64; None where each is drawn once."""
        if not self.drawing.class_balanced:
            return None
        counts = torch.bincount(self.images.labels.cpu(), minlength=len(self.images.classes)).double()
        return counts.sum() / (counts > 0).sum() / counts.clamp(min=1)


def mirrored(image_shape: Shape) -> Tensor:
    """Where the pixels of an image are in its mirror image, left to right, int64, (D,): its own inverse."""
    return torch.arange(math.prod(image_shape)).reshape(image_shape).flip(-1).flatten()


def _leading(times: Callable[[Tensor], Tensor], dim: int, components: int, iterations: int) -> Tensor:
    """The leading eigenvectors of a symmetric matrix that is known by its products, (dim, components)."""
    start = torch.randn(
        dim, min(dim, components + _OVERSAMPLING), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    basis = torch.linalg.qr(start).Q
    for _ in range(iterations):
        basis = torch.linalg.qr(times(basis)).Q
    small = basis.T @ times(basis)
    axes: Tensor = basis @ torch.linalg.eigh((small + small.T) / 2).eigenvectors.flip(1)[:, :components]
    return axes


def blocks(images: Images, rank: int, processes: int, share: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (B, D), uint8, and labels (B,) of this process's share of a split.

    Raises:
        UserError: the split is empty, or its pixels are not 8-bit numbers.
    """
    n = len(images.labels)
    if n == 0:
        raise UserError("A split without images has no floors: it needs at least one image.")
    parts = (torch.arange(rank, n, processes) if share is None else share).split(_BLOCK)
    for part, pixels in zip(parts, images.stream(parts), strict=True):
        if pixels.dtype != torch.uint8:
            raise UserError(f"Floors are computed from 8-bit pixels, but this data set streams {pixels.dtype}.")
        yield pixels.flatten(1), images.labels[part]
