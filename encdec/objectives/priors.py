"""Priors p(z) over latents: how noise becomes a latent, and how likely a latent is; and Gaussian posteriors q(z|x).

A prior is either given before training or fitted to the latents of the training images after it (ex-post density
estimation: Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, sec. 4).
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor, nn

from encdec.objectives.losses import full_precision, gaussian_kl
from encdec.types import UserError

_LEAST_VARIANCE = 1e-10
"""Of a fitted Gaussian's directions, as a share of the largest: a direction without variance keeps a density."""


class Prior(nn.Module, ABC):
    """p(z) over latents of `dim` numbers, each made from `noise_dim` standard normal numbers.

    Of the noise a sample is a smooth function, except of numbers beyond the first `dim`: these choose, as the component
    of a mixture.

    Args:
        dim: size of a latent.
        noise_dim: how many standard normal numbers a sample is made from; `dim` if not given.

    Raises:
        UserError: `dim` is not positive.
    """

    has_density: ClassVar[bool] = True
    """Whether `log_prob` is known; where it is not, a sample must be a smooth function of all its noise."""

    def __init__(self, dim: int, noise_dim: int | None = None) -> None:
        super().__init__()
        if dim < 1:
            raise UserError(f"{type(self).__name__}: dim is {dim}, but a latent has at least one number.", 2)
        self.dim, self.noise_dim = dim, dim if noise_dim is None else noise_dim

    @abstractmethod
    def sample(self, noise: Tensor) -> Tensor:
        """Latents as a function of standard normal noise: (B, noise_dim) -> (B, dim), of the noise's type."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z): (B, dim) -> (B,), in nats, in full precision.

        Raises:
            UserError: the density is not known.
        """


PriorCallable = Callable[[int], Prior]
"""Makes a prior for latents of a size."""


@final
class StandardNormal(Prior):
    """N(0, I); a sample is the noise itself."""

    def sample(self, noise: Tensor) -> Tensor:
        """See `Prior.sample`."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """See `Prior.log_prob`."""
        return log_normal(full_precision(z))


class FittedPrior(Prior):
    """A prior that is fitted to latents, N(0, I) until then.

    Attributes:
        fitted: how many latents it was fitted to, int64, (); 0 before it is.
    """

    fitted: Tensor

    def __init__(self, dim: int, noise_dim: int | None = None) -> None:
        super().__init__(dim, noise_dim)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.int64))

    @final
    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Fit to the latents of images, (N, dim): a function of them and their order alone.

        Raises:
            UserError: there are none, they have another size, or one is not finite; the prior stays as it was.
        """
        name = type(self).__name__
        if codes.ndim != 2 or codes.shape[1] != self.dim or len(codes) == 0:
            raise UserError(
                f"{name} is fitted to latents of shape (N, {self.dim}), at least one, but they have the shape "
                f"{tuple(codes.shape)}."
            )
        # on the CPU, so that the fit does not depend on the device, and because Apple's GPUs have no float64
        codes = codes.detach().cpu().double()
        if not codes.isfinite().all():
            raise UserError(
                f"{name} can't be fitted: {int((~codes.isfinite()).any(1).sum())} of {len(codes)} latents are not "
                "finite. Try a lower learning rate or another precision."
            )
        for buffer, value in self._estimate(codes).items():
            getattr(self, buffer).copy_(value)
        self.fitted.fill_(len(codes))

    @abstractmethod
    def _estimate(self, codes: Tensor) -> dict[str, Tensor]:
        """The buffers by name, of latents (N, dim), finite, float64."""


@final
class FittedGaussian(FittedPrior):
    """N(mean, covariance) of latents, by maximum likelihood.

    Attributes:
        mean: (dim,).
        covariance: (dim, dim).
        axes: its eigenvectors, in columns, times the square roots of the eigenvalues, (dim, dim).
    """

    mean: Tensor
    covariance: Tensor
    axes: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("covariance", torch.eye(dim))
        self.register_buffer("axes", torch.eye(dim))

    def sample(self, noise: Tensor) -> Tensor:
        """See `Prior.sample`: mean + noise · axesᵀ."""
        with full_products(noise):
            e = full_precision(noise)
            z: Tensor = self.mean.to(e) + e @ self.axes.to(e).T
        return z.to(noise.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """See `Prior.log_prob`."""
        return _log_gaussians(z, self.mean[None], self.axes[None])[:, 0]

    def _estimate(self, codes: Tensor) -> dict[str, Tensor]:
        mean = codes.mean(0)
        covariance = (codes - mean).T @ (codes - mean) / len(codes)
        return {"mean": mean, "covariance": covariance, "axes": _axes(covariance)}


@final
class GaussianMixture(FittedPrior):
    """Σ_k weight_k N(mean_k, covariance_k) of latents, by expectation maximisation from k-means clusters.

    It is scikit-learn's estimator with a fixed seed. 10 components: Ghosh et al. 2020. A sample is made of dim + 1
    numbers, of which the last chooses the component. Where there are fewer latents than components, only as many
    components get a weight as there are latents.

    Args:
        dim: size of a latent.
        components: how many Gaussians.

    Attributes:
        weights: of the components, (K,), their sum is 1.
        means: (K, dim).
        covariances: (K, dim, dim).
        axes: of each component as `FittedGaussian.axes`, (K, dim, dim).

    Raises:
        UserError: `components` is not positive.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    axes: Tensor

    def __init__(self, dim: int, components: int = 10) -> None:
        super().__init__(dim, dim + 1)
        if components < 1:
            raise UserError(f"GaussianMixture: components is {components}, but it must be at least 1.", 2)
        self.components = components
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, dim))
        self.register_buffer("covariances", torch.eye(dim).repeat(components, 1, 1))
        self.register_buffer("axes", torch.eye(dim).repeat(components, 1, 1))

    def sample(self, noise: Tensor) -> Tensor:
        """See `Prior.sample`."""
        e = full_precision(noise)
        component = chosen_component(self.weights.to(e), e[:, -1])
        with full_products(noise):
            scaled = torch.einsum("kij,bj->kbi", self.axes.to(e), e[:, :-1])
        rows = torch.arange(len(e), device=e.device)
        return (self.means.to(e)[component] + scaled[component, rows]).to(noise.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """See `Prior.log_prob`."""
        parts = _log_gaussians(z, self.means, self.axes)
        return torch.logsumexp(self.weights.to(parts).log() + parts, dim=1)

    def _estimate(self, codes: Tensor) -> dict[str, Tensor]:
        from sklearn import mixture  # slow to import, and no other prior needs it
        from sklearn.exceptions import ConvergenceWarning

        found = min(self.components, len(codes))
        if found == 1:  # scikit-learn refuses a single latent
            mean = codes.mean(0, keepdim=True)
            weights, means = torch.ones(1), mean
            covariances = ((codes - mean).T @ (codes - mean) / len(codes))[None]
        else:
            # what is added to variances, in their own unit: latents may have any scale
            least = max(1e-6 * float(codes.var(0, correction=0).mean()), 1e-20)
            estimator = mixture.GaussianMixture(found, reg_covar=least, random_state=0)
            with warnings.catch_warnings():
                # equal latents make fewer clusters, and 100 rounds may not be the last: a fit all the same
                warnings.simplefilter("ignore", ConvergenceWarning)
                estimator.fit(codes.numpy())
            parts = estimator.weights_, estimator.means_, estimator.covariances_
            weights, means, covariances = (torch.from_numpy(part) for part in parts)
        estimate = {"weights": weights, "means": means, "covariances": covariances, "axes": _axes(covariances)}
        # the components that got no latents: without weight, and otherwise as they began
        rest = GaussianMixture(self.dim, self.components).state_dict()
        rest["weights"] = torch.zeros(self.components)
        return {name: torch.cat([value, rest[name][found:].to(value)]) for name, value in estimate.items()}


class DiagonalGaussian(NamedTuple):
    """q(z|x) = N(mean, diag(exp(log_var))) of each image.

    Attributes:
        mean: (B, d); the mode too.
        log_var: log-variance, (B, d).
    """

    mean: Tensor
    log_var: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely latent of each image, (B, d): its mean."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """Latents as a function of standard normal noise: (B, d) -> (B, d), differentiable in mean and log-variance.

        Source: Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, sec. 2.4.
        """
        return self.mean + (self.log_var / 2).exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x): (B, d) -> (B,), in nats, in full precision."""
        log_std = full_precision(self.log_var) / 2
        return log_normal((full_precision(z) - full_precision(self.mean)) * (-log_std).exp()) - log_std.sum(1)

    def kl(self, prior: Prior) -> Tensor:
        """KL(q(z|x) ‖ p(z)): (B,), in nats, in closed form.

        Raises:
            UserError: there is none for this prior.
        """
        if not isinstance(prior, StandardNormal):
            raise UserError(
                f"KL(q ‖ p) is computed in closed form for the prior StandardNormal, but the prior is "
                f"{type(prior).__name__}: set the prior to StandardNormal.",
                2,
            )
        return gaussian_kl(self.mean, self.log_var)


def chosen_component(weights: Tensor, noise: Tensor) -> Tensor:
    """Components with these probabilities as a function of standard normal numbers: (K,), (B,) -> (B,), int64."""
    cumulative = weights.cumsum(0)
    share = torch.special.ndtr(noise.detach()).clamp(max=1 - 2**-24)  # below 1, as the last edge is
    return torch.searchsorted(cumulative / cumulative[-1], share, right=True)


def log_normal(e: Tensor) -> Tensor:
    """log N(e; 0, I): (…, d) -> (…), in nats."""
    return -0.5 * (e.square() + math.log(2 * math.pi)).sum(-1)


def _axes(covariance: Tensor) -> Tensor:
    """Eigenvectors, in columns, times the square roots of the eigenvalues: (…, d, d) -> (…, d, d)."""
    variances, vectors = torch.linalg.eigh(covariance)
    least = (_LEAST_VARIANCE * variances[..., -1:]).clamp(min=1e-20)
    axes: Tensor = vectors * torch.maximum(variances, least).sqrt()[..., None, :]
    return axes


def _log_gaussians(z: Tensor, means: Tensor, axes: Tensor) -> Tensor:
    """log N(z_b; mean_k, axes_k axes_kᵀ): (B, d), (K, d), (K, d, d) -> (B, K)."""
    z = full_precision(z)
    means, axes = means.to(z), axes.to(z)
    std: Tensor = torch.linalg.vector_norm(axes, dim=1)  # (K, d)
    with full_products(z):
        e: Tensor = torch.einsum("bkj,kji->bki", z[:, None] - means, axes / std[:, None]) / std
    return log_normal(e) - std.log().sum(1)


def full_products(tensor: Tensor) -> torch.autocast:
    """Where matrix products have the precision of their factors, whatever the training's is."""
    return torch.autocast(tensor.device.type, enabled=False)
