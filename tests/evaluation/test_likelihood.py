"""Likelihoods and optimised latents, against a model whose likelihood and best latents are known in closed form.

Its decoder is linear: x = b + Wz + noise of σ, so that x ~ N(b, WWᵀ + σ²I) and z|x is Gaussian too. The columns of
W are orthogonal, so that z|x has a diagonal covariance.
"""

import math
from typing import Any

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from encdec.data import Images, InMemoryImages
from encdec.evaluation import context, likelihood
from encdec.evaluation.likelihood import (
    LogMeanExp,
    evaluate_likelihood,
    fit_posterior,
    posterior_likelihoods,
    prior_likelihoods,
)
from encdec.evaluation.proposals import Proposal, fit_space, latent_space
from encdec.evaluation.reconstruction import evaluate_reconstruction, optimize_latents
from encdec.evaluation.results import Metrics
from encdec.evaluation.view import View
from encdec.objectives.observations import Bernoulli, Gaussian
from encdec.objectives.priors import DiagonalGaussian
from encdec.paradigms import LatentVariable, Paradigm
from encdec.types import Batch, Losses

from .helpers import context_of

pytestmark = pytest.mark.usefixtures("no_grad")
DIM, PIXELS, SIGMA = 2, 8, 0.1
MEAN = 0.5
AXES = torch.linalg.qr(torch.randn(PIXELS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
WEIGHT = AXES * torch.tensor([0.15, 0.08], dtype=torch.float64)


class LinearGaussian(LatentVariable):
    """x = 0.5 + Wz + noise, with an encoder that is off by `bias`; with labels, the mean is 0.05 higher for each."""

    def __init__(
        self, bias: float = 0.0, labelled: bool = False, with_posterior: bool = True, sigma: float = SIGMA
    ) -> None:
        super().__init__(latent_dim=DIM, image_shape=(1, 2, 4), num_classes=3 if labelled else 1)
        self.bias, self.labelled = bias, labelled
        self.lacks = frozenset() if with_posterior else frozenset({"posterior", "encode"})
        self.observation = Gaussian(sigma)

    def mean(self, y: Tensor) -> Tensor:
        shift: Tensor = 0.05 * y if self.labelled else 0.0 * y
        return MEAN + shift[:, None]

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = (self.mean(y) + z @ WEIGHT.float().T).logit(eps=1e-6)
        return logits.reshape(-1, 1, 2, 4)

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        precision = 1 + WEIGHT.square().sum(0) / SIGMA**2
        residual = batch.x.flatten(1).double() - self.mean(batch.y)
        mean = residual @ WEIGHT / SIGMA**2 / precision
        return DiagonalGaussian((mean + self.bias).float(), (-precision.log()).expand_as(mean).float())

    def encode(self, batch: Batch) -> Tensor:
        return self.posterior(batch).mean

    def losses(self, batch: Batch) -> Losses:
        z = batch.x.new_zeros(len(batch.x), DIM) if self.lacks else self.encode(batch)
        logits = self.decode(z, batch.y)
        return Losses(self.observation.nll(logits, batch.x), logits=logits)


def drawn(count: int, labelled: bool = False) -> InMemoryImages:
    """8-bit images from the model."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3 if labelled else torch.zeros(count, dtype=torch.int64)
    z = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    x = MEAN + 0.05 * y[:, None] + z @ WEIGHT.T
    x += SIGMA * torch.randn(count, PIXELS, generator=generator, dtype=torch.float64)
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).reshape(-1, 1, 2, 4)
    return InMemoryImages(pixels, y, ("a", "b", "c") if labelled else ("image",))


def exact_nll(images: Images, labelled: bool = False) -> Tensor:
    (x,) = images.stream([torch.arange(len(images.labels))])
    x = x.double().flatten(1) / 255 - (0.05 * images.labels[:, None] if labelled else 0)
    covariance = (WEIGHT @ WEIGHT.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)).numpy()
    density = multivariate_normal([MEAN] * PIXELS, covariance)
    return -torch.from_numpy(density.logpdf(x.numpy()))


def whole(images: Images) -> Batch:
    whole_split = torch.arange(len(images.labels))
    (batch,) = context_of(View(LinearGaussian()), images).batches("test", whole_split, 10_000)
    return batch


def test_log_mean_exp_of_parts_is_that_of_the_whole() -> None:
    log_weights = 400 * torch.randn(5, 12, dtype=torch.float64) - 2000
    estimate = LogMeanExp()
    for part in log_weights.split([1, 4, 7], dim=1):
        estimate.update(part)
    torch.testing.assert_close(estimate.value, torch.logsumexp(log_weights, 1) - math.log(12))
    w = (log_weights - log_weights.max(1, keepdim=True).values).exp()
    torch.testing.assert_close(estimate.effective_count, w.sum(1).square() / w.square().sum(1))


@pytest.mark.parametrize("samples", [1, 7])
def test_with_the_exact_posterior_every_estimate_is_the_exact_likelihood(samples: int) -> None:
    """All importance weights are equal then, whatever K is, and the ELBO has no gap."""
    images, view = drawn(50), View(LinearGaussian())
    batch = whole(images)
    posterior = view.posterior(batch)
    assert posterior is not None
    estimates, elbo = posterior_likelihoods(
        view, batch, latent_space(view), Proposal(*posterior), {"g": Gaussian(SIGMA)}, samples
    )
    torch.testing.assert_close(-estimates["g"].value, exact_nll(images), rtol=0, atol=2e-4)
    torch.testing.assert_close(
        estimates["g"].effective_count, torch.full((50,), float(samples)).double(), rtol=1e-3, atol=0
    )
    # with one code and an exact posterior the noise in log p(x|z) is that of the KL's sample, which the ELBO averages
    assert elbo["g"].mean() == pytest.approx(-exact_nll(images).mean().item(), abs=1.0)


def test_codes_from_the_prior_give_the_likelihood_as_their_number_grows() -> None:
    images, view = drawn(40), View(LinearGaussian(with_posterior=False))
    exact = exact_nll(images).mean().item()
    errors = []
    for samples in (10, 100, 20_000):
        estimate = prior_likelihoods(view, whole(images), {"g": Gaussian(SIGMA)}, samples)["g"]
        errors.append(-estimate.value.mean().item() - exact)
    assert errors[0] > errors[1] > abs(errors[2]), "the bound is above, and tightens with K"
    assert errors[2] == pytest.approx(0, abs=0.02)


def test_likelihoods_are_of_the_image_given_its_own_label() -> None:
    images, view = drawn(30, labelled=True), View(LinearGaussian(labelled=True, with_posterior=False))
    assert view.reads_labels
    estimate = prior_likelihoods(view, whole(images), {"g": Gaussian(SIGMA)}, 20_000)["g"]
    torch.testing.assert_close(-estimate.value, exact_nll(images, labelled=True), rtol=0, atol=0.3)


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_a_fitted_posterior_is_the_exact_one(bias: float) -> None:
    images, view = drawn(40), View(LinearGaussian(bias))
    batch = whole(images)
    truth = View(LinearGaussian()).posterior(batch)
    assert truth is not None
    start = view.posterior(batch)
    fitted = fit_posterior(
        view, batch, fit_space(view), Proposal(*start) if start and bias else None, Gaussian(SIGMA), 300
    )
    torch.testing.assert_close(fitted.mean, truth[0], rtol=0, atol=0.15)
    torch.testing.assert_close(fitted.log_var, truth[1], rtol=0, atol=0.3)


def evaluated(paradigm: Paradigm, images: Images, **changes: Any) -> Metrics:
    run = context_of(View(paradigm), images, **changes)
    evaluate_likelihood(run)
    return run.metrics


def test_the_amortisation_gap_is_what_a_wrong_encoder_loses() -> None:
    """A posterior of the right variance whose mean is off by b loses ½ b² Σ precision nats."""
    images = drawn(60)
    found = evaluated(LinearGaussian(0.3), images, search_steps=300, posterior_samples=256).values
    lost = 0.5 * 0.3**2 * float((1 + WEIGHT.square().sum(0) / SIGMA**2).sum())
    assert found["elbo_amortisation_gap"].value == pytest.approx(lost, rel=0.05)
    assert found["elbo_optimized"].value == pytest.approx(-exact_nll(images).mean().item(), abs=0.02)
    assert found["nll_optimized"].value == pytest.approx(exact_nll(images).mean().item(), abs=0.01)
    spread = found["nll_gaussian"].standard_error
    assert spread == pytest.approx(exact_nll(images).std().item() / math.sqrt(60), rel=0.05)


def test_every_number_of_codes_and_every_kind_of_data_is_stated() -> None:
    found = evaluated(LinearGaussian(), drawn(10)).values
    assert found["nll_gaussian"].unit == "nats per image, grey pixels, σ = 0.1; posterior, K = 16"
    assert "binarised at 0.5" in found["nll_bernoulli_binary"].unit
    without = evaluated(LinearGaussian(with_posterior=False), drawn(10)).values
    assert without["nll_gaussian"].unit == "nats per image, grey pixels, σ = 0.1; prior, K = 500"
    assert without["nll_optimized"].unit == "nats per image, gaussian, fitted posterior, K = 16"
    assert not {"elbo_posterior", "elbo_amortisation_gap"} & set(without)


def test_bernoulli_likelihoods_on_grey_and_on_binarised_pixels() -> None:
    """A decoder that ignores its code has the cross-entropy of its one output, whatever K is."""

    class FlatGaussian(LinearGaussian):
        def decode(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.linspace(-2, 2, PIXELS).reshape(1, 1, 2, 4).expand(len(z), -1, -1, -1) + 0 * z.sum()

    model = FlatGaussian(with_posterior=False)
    model.observation = Bernoulli()
    images = drawn(20)
    found = evaluated(model, images).values
    x, p = whole(images).x.flatten(1).double(), torch.linspace(-2, 2, PIXELS).double().sigmoid()
    for name, pixels in {"nll_bernoulli": x, "nll_bernoulli_binary": (x >= 0.5).double()}.items():
        expected = -(pixels * p.log() + (1 - pixels) * (1 - p).log()).sum(1).mean().item()
        assert found[name].value == pytest.approx(expected, rel=1e-6)
    assert found["nll_ess"].value == pytest.approx(500, rel=1e-3)


@pytest.mark.parametrize("with_posterior", [True, False])
def test_metrics_do_not_depend_on_the_batch_size(with_posterior: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = LinearGaussian(0.2, with_posterior=with_posterior), drawn(30)
    first = evaluated(model, images).values
    for module in (context, likelihood):
        monkeypatch.setattr(module, "BLOCK", 40)
    for name, metric in evaluated(model, images).values.items():
        assert metric.value == pytest.approx(first[name].value, rel=1e-4), name


def test_optimized_latents_are_least_squares() -> None:
    images, view = drawn(40), View(LinearGaussian(with_posterior=False))
    batch = whole(images)
    latents, errors = optimize_latents(view, batch, None, 200)
    residual = batch.x.flatten(1).double() - MEAN
    best = residual @ WEIGHT / WEIGHT.square().sum(0)
    torch.testing.assert_close(latents.double(), best, rtol=0, atol=0.05)
    torch.testing.assert_close(errors.double(), (residual - best @ WEIGHT.T).square().sum(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_the_gap_of_reconstruction_is_what_the_encoder_loses(bias: float) -> None:
    images = drawn(40)
    run = context_of(View(LinearGaussian(bias)), images, num_images=25, search_steps=200)
    latents = evaluate_reconstruction(run)
    assert latents.shape == (25, DIM)
    values = {name: metric.value for name, metric in run.metrics.values.items()}
    batch = whole(images).rows(slice(25))
    residual = batch.x.flatten(1).double() - MEAN
    best = residual @ WEIGHT / WEIGHT.square().sum(0)
    encoded = LinearGaussian(bias).encode(batch)
    lost = (((encoded - best) @ WEIGHT.T).square().sum(1) / PIXELS).mean().item()
    assert values["mse_amortisation_gap"] == pytest.approx(lost, rel=0.02)
    assert values["mse_encoder"] - values["mse_optimized"] == pytest.approx(values["mse_amortisation_gap"])


def test_a_search_never_ends_above_its_start() -> None:
    images, view = drawn(20), View(LinearGaussian())
    batch = whole(images)
    encoded = view.encode(batch)
    assert encoded is not None
    start = ((view.decode(encoded, batch.y).sigmoid() - batch.x) ** 2).flatten(1).sum(1)
    for steps in (0, 1, 3):
        assert (optimize_latents(view, batch, encoded, steps)[1] <= start + 1e-6).all()
