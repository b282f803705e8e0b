"""Priors and posteriors against torch.distributions and numpy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, distributions

from encdec.objectives.priors import (
    DiagonalGaussian,
    FittedGaussian,
    FittedPrior,
    GaussianMixture,
    Prior,
    StandardNormal,
)
from encdec.types import UserError

PRIORS: dict[str, Callable[[int], Prior]] = {
    "normal": StandardNormal,
    "gaussian": FittedGaussian,
    "mixture": lambda dim: GaussianMixture(dim, 3),
}


def codes(count: int = 600, dim: int = 3) -> Tensor:
    """Three clusters of their own shapes."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for k in range(3):
        axes = torch.randn(dim, dim, generator=generator) * 0.5
        centre = 4 * torch.randn(dim, generator=generator)
        parts.append(centre + torch.randn(count // 6 * (k + 1), dim, generator=generator) @ axes)
    return torch.cat(parts)


def fitted(prior: Prior) -> Prior:
    if isinstance(prior, FittedPrior):
        prior.fit(codes())
    return prior


def reference(prior: Prior) -> distributions.Distribution:
    if isinstance(prior, FittedGaussian):
        return distributions.MultivariateNormal(prior.mean.double(), prior.covariance.double())
    if isinstance(prior, GaussianMixture):
        parts = distributions.MultivariateNormal(prior.means.double(), prior.covariances.double())
        return distributions.MixtureSameFamily(distributions.Categorical(prior.weights.double()), parts)
    return distributions.MultivariateNormal(torch.zeros(prior.dim).double(), torch.eye(prior.dim).double())


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("name", PRIORS)
def test_densities_are_those_of_torch(name: str, fit: bool) -> None:
    prior = fitted(PRIORS[name](3)) if fit else PRIORS[name](3)
    z = codes()[::7].double().requires_grad_()
    expected = reference(prior).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    (found,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), z)[0], rtol=1e-3, atol=1e-3)
    assert prior.log_prob(z.detach().float()).dtype == torch.float32
    assert prior.log_prob(z.detach().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_the_density(name: str, fit: bool) -> None:
    """By their means, covariances, and the mean of the log density, which is minus the entropy."""
    prior = fitted(PRIORS[name](3)) if fit else PRIORS[name](3)
    noise = torch.randn(40_000, prior.noise_dim, generator=torch.Generator().manual_seed(1))
    z, law = prior.sample(noise), reference(prior)
    assert z.shape == (40_000, 3)
    assert torch.equal(z, prior.sample(noise)), "a sample is a function of the noise"
    torch.manual_seed(2)
    independent = law.sample((40_000,)).float()
    scale = independent.std(0).max()
    torch.testing.assert_close(z.mean(0) / scale, independent.mean(0) / scale, atol=0.05, rtol=0)
    torch.testing.assert_close(z.T.cov() / scale**2, independent.T.cov() / scale**2, atol=0.05, rtol=0)
    assert prior.log_prob(z).mean().item() == pytest.approx(law.log_prob(independent.double()).mean().item(), abs=0.05)


def test_the_gaussian_is_that_of_numpy_and_its_transport_that_of_the_eigenvectors() -> None:
    prior, z = FittedGaussian(3), codes()
    assert prior.fitted == 0
    prior.fit(z)
    assert prior.fitted == len(z)
    covariance = np.cov(z.double().numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(prior.mean.numpy(), z.double().numpy().mean(0), rtol=1e-6)
    np.testing.assert_allclose(prior.covariance.numpy(), covariance, rtol=1e-5, atol=1e-6)
    variances, vectors = torch.linalg.eigh(torch.from_numpy(covariance).float())
    noise = torch.randn(10, 3)
    moved = prior.mean + noise @ (vectors * variances.sqrt()).T
    signs = (prior.axes * vectors).sum(0).sign()  # an eigenvector's sign is free
    torch.testing.assert_close(prior.sample(noise * signs), moved, rtol=1e-4, atol=1e-4)


def test_the_mixture_finds_the_clusters_and_the_last_number_chooses_among_them() -> None:
    prior = GaussianMixture(3, components=3)
    prior.fit(codes())
    order = prior.weights.argsort()
    torch.testing.assert_close(prior.weights[order], torch.tensor([1 / 6, 2 / 6, 3 / 6]), atol=0.01, rtol=0)
    for k, part in zip(order, codes().split([100, 200, 300]), strict=True):
        torch.testing.assert_close(prior.means[k], part.mean(0), atol=0.1, rtol=0)
    noise = torch.zeros(3, 4)
    edges = prior.weights.double().cumsum(0)
    noise[:, -1] = torch.special.ndtri(torch.stack([edges[0] / 2, edges[0] + edges[1] / 2, edges[2] - 0.01])).float()
    torch.testing.assert_close(prior.sample(noise), prior.means)
    noise[:, -1] = torch.tensor([-40.0, 0, 40.0])  # beyond what a normal number can be
    assert prior.sample(noise).isfinite().all()


def test_the_same_codes_make_the_same_fit_and_it_is_saved() -> None:
    for make in (FittedGaussian, GaussianMixture):
        one, two, loaded = make(3), make(3), make(3)
        one.fit(codes())
        torch.manual_seed(5)
        two.fit(codes())
        loaded.load_state_dict(one.state_dict())
        for name, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[name])
        noise = torch.randn(9, one.noise_dim)
        assert torch.equal(loaded.sample(noise), one.sample(noise))
        assert loaded.fitted == len(codes())


def test_more_components_cannot_be_less_likely_than_one_gaussian() -> None:
    gaussian, mixture = FittedGaussian(3), GaussianMixture(3)
    for prior in (gaussian, mixture):
        prior.fit(codes())
    assert mixture.log_prob(codes()).mean() > gaussian.log_prob(codes()).mean() + 1


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_latents_than_components(count: int) -> None:
    """As many components get a weight as there are latents, and samples are near them."""
    prior, z = GaussianMixture(3), codes()[::100][:count]
    prior.fit(z)
    assert (prior.weights > 0).sum() == count
    assert prior.weights.sum().item() == pytest.approx(1)
    samples = prior.sample(torch.randn(50, 4))
    assert torch.cdist(samples, z).min(1).values.max() < 0.1
    assert prior.log_prob(z).isfinite().all()
    prior.fit(codes())
    assert (prior.weights > 0).all(), "and all of them when there are more again"


@pytest.mark.parametrize("make", [FittedGaussian, GaussianMixture])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_latents_of_any_scale_and_without_variance_in_some_direction(
    make: Callable[[int], FittedPrior], scale: float
) -> None:
    flat = codes() * scale
    flat[:, 1] = 2.0 * scale
    for z in (flat, torch.full((50, 3), scale)):
        prior = make(3)
        prior.fit(z)
        leaf = z.clone().requires_grad_()
        log_prob = prior.log_prob(leaf)
        assert log_prob.isfinite().all()
        assert torch.autograd.grad(log_prob.sum(), leaf)[0].isfinite().all()
        samples = prior.sample(torch.randn(500, prior.noise_dim))
        torch.testing.assert_close(samples[:, 1], z[0, 1].expand(500), rtol=0.01, atol=0)


def test_reduced_precision_is_left_out_of_products() -> None:
    for name in PRIORS:
        prior = fitted(PRIORS[name](3))
        z, noise = codes(60), torch.randn(20, prior.noise_dim)
        expected = prior.sample(noise), prior.log_prob(z)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(prior.sample(noise), expected[0])
            assert torch.equal(prior.log_prob(z), expected[1])
        assert prior.sample(noise.bfloat16()).dtype == torch.bfloat16


def test_a_fit_that_is_refused_leaves_the_prior_as_it_was() -> None:
    prior = FittedGaussian(3)
    prior.fit(codes())
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    broken = codes()
    broken[5, 1] = math.nan
    for z, words in ((codes(dim=2), r"\(N, 3\)"), (codes()[:0], "at least one"), (broken, "1 of 600 latents")):
        with pytest.raises(UserError, match=words):
            prior.fit(z)
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


def test_sizes_must_be_positive() -> None:
    with pytest.raises(UserError, match="StandardNormal: dim is 0"):
        StandardNormal(0)
    with pytest.raises(UserError, match="components is 0"):
        GaussianMixture(2, components=0)


def test_the_posterior_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, log_var = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    q, law = DiagonalGaussian(mean, log_var), distributions.Normal(mean, (log_var / 2).exp())
    z = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), law.log_prob(z).sum(1))
    standard = distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(q.kl(StandardNormal(3)), distributions.kl_divergence(law, standard).sum(1))
    noise = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(q.sample(noise), law.loc + law.scale * noise)
    assert torch.equal(q.sample(torch.zeros_like(noise)), q.mode)
    assert torch.equal(q.mode, mean)
    with pytest.raises(UserError, match="the prior is GaussianMixture"):
        q.kl(GaussianMixture(3))
