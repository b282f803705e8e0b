"""The Fréchet distance of two sets of features, and how far each image moves it."""

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

_LEAST = 1e-10  # of a direction's variance, as a share of the largest: below, a set has no extent in it


class AsItIs(nn.Module):
    """The feature extractor of a metric that is fed with features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features


class Frechet:
    """‖μ_1 − μ_2‖² + Tr(Σ_1 + Σ_2 − 2 (Σ_1 Σ_2)^½) between the test images, which come first, and other sets.

    Every process is given all features, so that the metric has nothing to synchronise.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500, eq. 6.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self._metric = FrechetInceptionDistance(AsItIs(dim), reset_real_features=False, sync_on_compute=False)
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


def frechet_influence(features: Tensor, other: Tensor) -> Tensor:
    """How far each image of a set moves the distance to another set: its influence function, of mean zero.

    For x of the first set 2 (μ_1 − μ_2)ᵀ (x − μ_1) + (x − μ_1)ᵀ (I − T) (x − μ_1) − Tr((I − T) Σ_1), where
    T = Σ_1^{−½} (Σ_1^½ Σ_2 Σ_1^½)^½ Σ_1^{−½} is the linear map that carries the first Gaussian to the second: the
    derivatives of the distance by μ_1 and Σ_1. Its variance over images divided by their number is, to first order,
    the variance of the distance by the choice of that set.

    Source of the derivative: Takatsu 2011, Wasserstein geometry of Gaussian measures, Osaka J. Math. 48.

    Args:
        features: (N, d), N at least 2.
        other: (M, d).

    Returns:
        (N,), float64.
    """
    x, y = features.double(), other.double()
    a, b = x - x.mean(0), y - y.mean(0)
    first, second = a.T @ a / (len(a) - 1), b.T @ b / (len(b) - 1)
    variances, axes = torch.linalg.eigh(first)
    variances = variances.clamp(min=0)
    has_extent = variances > _LEAST * variances[-1].clamp(min=1e-300)
    inverse = torch.where(has_extent, variances, 1).rsqrt() * has_extent
    root = axes * variances.sqrt() @ axes.T
    values, vectors = torch.linalg.eigh(root @ second @ root)
    middle = vectors * values.clamp(min=0).sqrt() @ vectors.T
    whiten = axes * inverse @ axes.T
    change = torch.eye(len(first), dtype=first.dtype, device=first.device) - whiten @ middle @ whiten
    influence: Tensor = 2 * a @ (x.mean(0) - y.mean(0)) + ((a @ change) * a).sum(1)
    return influence - influence.mean()
