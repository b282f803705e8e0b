"""What Gaussian proposals q(u|x) are over: numbers u of which a latent is a smooth function, with a known density p(u).

Three kinds of prior ask for three kinds of u:

- an affine image of noise, as N(0, I) or a fitted Gaussian: u is the noise, p(u) = N(0, I);
- a density whose samples are no smooth function of noise, as those of a mixture, where a number of the noise chooses
  the component by a step: a Gaussian over noise would have no gradient there. So u is the latent itself, in units of
  the prior's mean and covariance, and p(u) is the prior's density;
- a smooth function of noise without a known density, as a network: u is the noise again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from encdec.evaluation.view import DRAWS, View
from encdec.objectives.losses import full_precision
from encdec.objectives.priors import FittedGaussian, StandardNormal, log_normal

MOMENTS = 4096
"""Draws from a prior, whose mean and covariance are the units of its proposals."""


class Proposal(NamedTuple):
    """A Gaussian q(u|x): mean and log-variance, both (B, dim)."""

    mean: Tensor
    log_var: Tensor

    def rows(self, index: Tensor) -> "Proposal":
        """Those of some images, int64 (B,)."""
        return Proposal(self.mean[index], self.log_var[index])

    def entropy(self) -> Tensor:
        """−E_q[log q(u|x)], (B,), in nats."""
        return (0.5 * (1 + math.log(2 * math.pi)) + self.log_var / 2).sum(1)


@dataclass(frozen=True)
class Space:
    """Where Gaussian proposals live.

    Attributes:
        dim: how many numbers u has.
        latent: the latents of u: (B, dim) -> (B, latent_dim).
        log_prob: log p(u): (B, dim) -> (B,), in nats, in full precision.
        is_standard: whether p(u) is N(0, I), so that a KL has a closed form.
        of_noise: the u of the latents that noise makes: (B, noise_dim) -> (B, dim).
        of_latents: a Gaussian over latents as one over u, without its correlations; None where a latent has no u.
    """

    dim: int
    latent: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    is_standard: bool
    of_noise: Callable[[Tensor], Tensor]
    of_latents: Callable[[Proposal], Proposal] | None


def noise_space(view: View) -> Space:
    """u is the noise that a latent is made of."""
    return Space(view.dim, view.prior, log_normal, True, full_precision, None)


def latent_space(view: View) -> Space:
    """u is the latent: what a paradigm's own posterior is over."""
    prior = view.latent.sampled
    is_standard = isinstance(prior, StandardNormal)
    of_noise = view.prior
    return Space(view.latent.latent_dim, lambda u: u, prior.log_prob, is_standard, of_noise, lambda q: q)


def fit_space(view: View) -> Space:
    """Where a Gaussian is fitted to each image; see the module."""
    prior = view.latent.sampled
    if isinstance(prior, StandardNormal):
        return latent_space(view)
    if not prior.has_density:
        return noise_space(view)
    if isinstance(prior, FittedGaussian):
        mean, axes = prior.mean.double(), prior.axes.double()
    else:
        mean, axes = _moments(view)
    volume = torch.linalg.slogdet(axes).logabsdet.float()
    inverse = torch.linalg.inv(axes).float()
    mean, axes = mean.float(), axes.float()

    def latent(u: Tensor) -> Tensor:
        return mean.to(u) + u @ axes.to(u).T

    def of_latents(q: Proposal) -> Proposal:
        to_u = inverse.to(q.mean)
        return Proposal((q.mean - mean.to(to_u)) @ to_u.T, (q.log_var.exp() @ to_u.square().T).log())

    def of_noise(e: Tensor) -> Tensor:
        z = full_precision(view.prior(e))
        return of_latents(Proposal(z, z)).mean

    def log_prob(u: Tensor) -> Tensor:
        density: Tensor = prior.log_prob(latent(u)) + volume.to(u)
        return density

    is_standard = isinstance(prior, FittedGaussian)
    density = log_normal if is_standard else log_prob
    return Space(view.latent.latent_dim, latent, density, is_standard, of_noise, of_latents)


def _moments(view: View) -> tuple[Tensor, Tensor]:
    """Mean (d,) and principal axes, in columns as long as standard deviations, (d, d), of the prior's draws."""
    z = view.prior(view.noise(DRAWS["moments"], torch.arange(MOMENTS))).double()
    mean = z.mean(0)
    variances, vectors = torch.linalg.eigh((z - mean).T @ (z - mean) / len(z))
    largest = variances[-1].clamp(min=1e-10)
    return mean, vectors * variances.clamp(min=1e-6 * float(largest)).sqrt()
