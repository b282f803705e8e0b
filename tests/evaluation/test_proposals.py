"""Likelihoods under priors other than N(0, I): of a linear decoder they are those of Gaussians, which are known."""

import math
from typing import ClassVar

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from encdec.data import Images, InMemoryImages
from encdec.evaluation.inference import infer
from encdec.evaluation.likelihood import evaluate_likelihood
from encdec.evaluation.proposals import Proposal, fit_space, latent_space, noise_space
from encdec.evaluation.results import Metrics
from encdec.evaluation.smoothness import lipschitz
from encdec.evaluation.view import View
from encdec.objectives.priors import FittedGaussian, GaussianMixture, Prior
from encdec.types import UserError

from .helpers import context_of
from .test_likelihood import MEAN, PIXELS, SIGMA, WEIGHT, LinearGaussian, drawn

pytestmark = pytest.mark.usefixtures("no_grad")
WEIGHTS = (0.7, 0.3)
MEANS = ([1.0, -0.5], [-1.5, 1.0])
COVARIANCES = ([[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.6]])


def mixture(components: int = 2, apart: float = 1.0) -> GaussianMixture:
    """Its first components, their means moved apart."""
    prior = GaussianMixture(2, components)
    covariances = torch.tensor(COVARIANCES[:components])
    weights = torch.tensor(WEIGHTS[:components])
    variances, vectors = torch.linalg.eigh(covariances)
    prior.weights.copy_(weights / weights.sum())
    prior.means.copy_(apart * torch.tensor(MEANS[:components]))
    prior.covariances.copy_(covariances)
    prior.axes.copy_(vectors * variances.sqrt()[:, None])
    return prior


def gaussian() -> FittedGaussian:
    """The first component."""
    prior, one = FittedGaussian(2), mixture(1)
    for name, value in {"mean": one.means, "covariance": one.covariances, "axes": one.axes}.items():
        getattr(prior, name).copy_(value[0])
    return prior


class Wavy(Prior):
    """A smooth function of one number, whose density is not known."""

    has_density: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(2, 1)

    def sample(self, noise: Tensor) -> Tensor:
        return torch.cat([noise, 0.5 * noise], dim=1)

    def log_prob(self, z: Tensor) -> Tensor:
        raise UserError("it is not known")


def exact(images: Images, prior: GaussianMixture) -> float:
    """−log Σ_k weight_k N(x; 0.5 + W mean_k, W covariance_k Wᵀ + σ²I), the mean over images."""
    (x,) = images.stream([torch.arange(len(images.labels))])
    x, noise = x.double().flatten(1) / 255, SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
    parts = []
    for weight, mean, covariance in zip(prior.weights, prior.means, prior.covariances, strict=True):
        density = multivariate_normal(
            (MEAN + WEIGHT @ mean.double()).numpy(), (WEIGHT @ covariance.double() @ WEIGHT.T + noise).numpy()
        )
        parts.append(torch.from_numpy(density.logpdf(x.numpy())) + math.log(weight))
    return -torch.logsumexp(torch.stack(parts), 0).mean().item()


def drawn_from(prior: Prior) -> InMemoryImages:
    """8-bit images from the model with this prior."""
    generator = torch.Generator().manual_seed(2)
    z = prior.sample(torch.randn(60, prior.noise_dim, generator=generator)).double()
    x = MEAN + z @ WEIGHT.T + SIGMA * torch.randn(60, PIXELS, generator=generator, dtype=torch.float64)
    assert ((x > 0) & (x < 1)).double().mean() > 0.99
    return InMemoryImages((x.clamp(0, 1) * 255).round().to(torch.uint8).reshape(-1, 1, 2, 4), torch.zeros(60).long())


def evaluated(prior: Prior, with_posterior: bool = False, images: Images | None = None) -> Metrics:
    model = LinearGaussian(with_posterior=with_posterior)
    model.prior = prior
    run = context_of(View(model), images or drawn(40), posterior_steps=300, posterior_samples=256, prior_samples=4000)
    evaluate_likelihood(run, infer(run, fit=True))
    return run.metrics


def test_a_mixture_of_one_component_gives_what_a_gaussian_gives() -> None:
    """One is fitted over latents with the prior's density, the other over noise with a KL in closed form."""
    of_mixture, of_gaussian = evaluated(mixture(1)).values, evaluated(gaussian()).values
    assert of_mixture.keys() == of_gaussian.keys()
    for name in ("elbo_posterior", "nll_posterior"):
        assert of_mixture[name].value == pytest.approx(of_gaussian[name].value, abs=0.02), name
    assert of_gaussian["nll_posterior"].value == pytest.approx(exact(drawn(40), mixture(1)), abs=0.02)


@pytest.mark.parametrize("with_posterior", [False, True])
def test_two_components_give_the_exact_likelihood(with_posterior: bool) -> None:
    """Also the ELBO, where the components are far apart, so that each image's posterior is a Gaussian."""
    prior = mixture(apart=2.0)
    images = drawn_from(prior)
    found, truth = evaluated(prior, with_posterior, images).values, exact(images, prior)
    assert found["nll_posterior"].value == pytest.approx(truth, abs=0.01)
    assert -found["elbo_posterior"].value == pytest.approx(truth, abs=0.1)
    if with_posterior:  # that under N(0, I), so a proposal like any other, with a looser ELBO
        assert found["elbo_amortisation_gap"].value > 0.1
        assert found["nll_encoder"].unit.endswith("own posterior, K = 256")


def test_where_components_overlap_the_bound_is_above() -> None:
    """One Gaussian for an image misses what another component has; draws from the prior do not."""
    found, truth = evaluated(mixture()).values, exact(drawn(40), mixture())
    assert truth < found["nll_posterior"].value < truth + 0.2
    assert found["nll_posterior"].value < -found["elbo_posterior"].value < truth + 0.4
    assert found["nll_prior"].value == pytest.approx(truth, abs=0.05)


def test_a_posterior_over_latents_is_moved_into_the_space_of_the_fit() -> None:
    """Its mean keeps its latent; its variance is that of the moved Gaussian in each number."""
    model = LinearGaussian()
    q = Proposal(torch.randn(5, 2), torch.randn(5, 2))
    for prior in (mixture(), gaussian()):
        model.prior = prior
        space = fit_space(View(model))
        assert space.of_latents is not None
        u = space.of_latents(q)
        torch.testing.assert_close(space.latent(u.mean), q.mean, rtol=1e-4, atol=1e-4)
        draws = q.mean[0] + (q.log_var[0] / 2).exp() * torch.randn(200_000, 2)
        moved = space.of_latents(Proposal(draws, torch.zeros_like(draws))).mean
        torch.testing.assert_close(moved.var(0).log(), u.log_var[0], rtol=0, atol=0.02)
        # a density of u: that of z times the volume
        grid = torch.cartesian_prod(*[torch.linspace(-8, 8, 161)] * 2)
        assert (space.log_prob(grid).exp().sum() * 0.01).item() == pytest.approx(1, abs=0.01)


def test_a_prior_without_a_density_is_fitted_over_its_noise() -> None:
    """x = 0.5 + W (1, ½)ᵀ e + noise, which is Gaussian; a posterior over latents is of no use then."""
    found = evaluated(Wavy(), with_posterior=True)
    direction = WEIGHT @ torch.tensor([1.0, 0.5], dtype=torch.float64)
    covariance = torch.outer(direction, direction) + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
    (x,) = drawn(40).stream([torch.arange(40)])
    density = multivariate_normal([MEAN] * PIXELS, covariance.numpy())
    truth = -density.logpdf((x.double().flatten(1) / 255).numpy()).mean()
    assert found.values["nll_posterior"].value == pytest.approx(truth, abs=0.02)
    assert not {"nll_encoder", "nll_prior"} & found.values.keys()
    assert found.undefined == dict.fromkeys(
        ("nll_encoder", "elbo_encoder", "elbo_amortisation_gap"), "Wavy has no known density at the posterior's latents"
    )


def test_spaces_of_priors() -> None:
    model = LinearGaussian()
    assert latent_space(View(model)).is_standard
    model.prior = Wavy()
    assert fit_space(View(model)).dim == noise_space(View(model)).dim == 1
    model.prior = mixture()
    assert fit_space(View(model)).dim == 2
    assert not fit_space(View(model)).is_standard


def test_the_number_that_chooses_a_component_is_not_differentiated() -> None:
    """At the edge between two components an image jumps, which is no slope."""
    model = LinearGaussian()
    model.prior = mixture()
    view = View(model)
    assert (view.dim, view.smooth_dim) == (3, 2)
    assert lipschitz(view).max() < 0.15, "W times a standard deviation, and no more"
