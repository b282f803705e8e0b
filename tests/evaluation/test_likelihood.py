"""Likelihoods and fitted posteriors, against a model whose likelihood and posteriors are known in closed form.

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
from encdec.evaluation.context import random_order
from encdec.evaluation.inference import fit_posterior, infer
from encdec.evaluation.likelihood import LogMeanExp, evaluate_likelihood, posterior_likelihood, prior_likelihood
from encdec.evaluation.proposals import Proposal, fit_space, latent_space
from encdec.evaluation.reconstruction import evaluate_reconstruction
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
    estimate, elbo = posterior_likelihood(
        view, batch, latent_space(view), Proposal(*posterior), Gaussian(SIGMA), samples
    )
    torch.testing.assert_close(-estimate.value, exact_nll(images), rtol=0, atol=2e-4)
    torch.testing.assert_close(estimate.effective_count, torch.full((50,), float(samples)).double(), rtol=1e-3, atol=0)
    # with one code and an exact posterior the noise in log p(x|z) is that of the KL's sample, which the ELBO averages
    assert elbo.mean() == pytest.approx(-exact_nll(images).mean().item(), abs=1.0)


def test_codes_from_the_prior_give_the_likelihood_as_their_number_grows() -> None:
    images, view = drawn(40), View(LinearGaussian(with_posterior=False))
    exact = exact_nll(images).mean().item()
    errors = []
    for samples in (10, 100, 20_000):
        estimate = prior_likelihood(view, whole(images), Gaussian(SIGMA), samples)
        errors.append(-estimate.value.mean().item() - exact)
    assert errors[0] > errors[1] > abs(errors[2]), "the bound is above, and tightens with K"
    assert errors[2] == pytest.approx(0, abs=0.02)


def test_likelihoods_are_of_the_image_given_its_own_label() -> None:
    images, view = drawn(30, labelled=True), View(LinearGaussian(labelled=True, with_posterior=False))
    assert view.reads_labels
    estimate = prior_likelihood(view, whole(images), Gaussian(SIGMA), 20_000)
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
    evaluate_likelihood(run, infer(run, fit=True))
    return run.metrics


def test_the_amortisation_gap_is_what_a_wrong_encoder_loses() -> None:
    """A posterior of the right variance whose mean is off by b loses ½ b² Σ precision nats."""
    images = drawn(60)
    found = evaluated(LinearGaussian(0.3), images, posterior_steps=300, posterior_samples=256).values
    lost = 0.5 * 0.3**2 * float((1 + WEIGHT.square().sum(0) / SIGMA**2).sum())
    assert found["elbo_amortisation_gap"].value == pytest.approx(lost, rel=0.05)
    assert found["elbo_posterior"].value == pytest.approx(-exact_nll(images).mean().item(), abs=0.02)
    assert found["nll_posterior"].value == pytest.approx(exact_nll(images).mean().item(), abs=0.01)
    spread = found["nll_encoder"].standard_error
    assert spread == pytest.approx(exact_nll(images).std().item() / math.sqrt(60), rel=0.05)


@pytest.mark.parametrize("kind", ["posterior", "latents", "neither"])
def test_some_images_with_a_control_variate_give_what_all_give(kind: str) -> None:
    """A fifth of them: the error of their choice is far below what it is without the others."""
    images = drawn(400)
    model = LinearGaussian(0.3, with_posterior=kind == "posterior")
    model.lacks = model.lacks - {"encode"} if kind == "latents" else model.lacks
    exact = exact_nll(images)
    settings = {"posterior_steps": 60, "posterior_samples": 8, "prior_samples": 50}
    everything = evaluated(model, images, **settings).values["nll_posterior"]
    some = evaluated(model, images, num_images=80, **settings).values["nll_posterior"]
    alone = exact.std().item() / math.sqrt(80)  # the standard error without the others
    assert abs(some.value - everything.value) < (0.1 if kind == "posterior" else 0.5) * alone
    assert everything.standard_error is not None and some.standard_error is not None  # noqa: PT018
    assert everything.standard_error == pytest.approx(exact.std().item() / 20, rel=0.02)
    assert everything.standard_error < 1.02 * some.standard_error < 0.65 * alone
    assert "80 test images, corrected by all 400" in some.unit


def test_a_bound_that_one_latent_carries_is_doubtful() -> None:
    run = evaluated(LinearGaussian(with_posterior=False), drawn(10), prior_samples=1)
    assert run.doubtful.keys() == {"nll_prior"}
    assert "the effective sample size of its latents (prior, K = 1) is 1.0" in run.doubtful["nll_prior"]


@pytest.mark.parametrize("settings", [{"prior_samples": 1}, {"posterior_samples": 1, "prior_samples": 200_000}])
def test_the_lowest_bound_is_the_headline(settings: dict[str, int]) -> None:
    """Which of the two is tighter depends on how many latents they have."""
    found = evaluated(LinearGaussian(with_posterior=False), drawn(40), posterior_steps=1, **settings).values
    lowest = "nll_posterior" if settings["prior_samples"] == 1 else "nll_prior"
    assert min(found["nll_posterior"].value, found["nll_prior"].value) == found[lowest].value
    assert (found["nll_bound"].value, found["nll_bound"].standard_error) == (
        found[lowest].value,
        found[lowest].standard_error,
    )
    assert found["nll_bound"].unit == "nats per image, Gaussian, σ = 0.1, the lowest of its bounds"


def test_every_number_of_latents_and_every_observation_model_is_stated() -> None:
    found = evaluated(LinearGaussian(), drawn(10)).values
    assert found["nll_encoder"].unit == "nats per image, Gaussian, σ = 0.1, own posterior, K = 16"
    assert found["elbo_amortisation_gap"].unit == "nats per image, Gaussian, σ = 0.1, fitted − own posterior"
    assert "nll_prior" not in found
    without = evaluated(LinearGaussian(with_posterior=False), drawn(10)).values
    assert without["nll_prior"].unit == "nats per image, Gaussian, σ = 0.1, prior, K = 500"
    assert without["nll_posterior"].unit == "nats per image, Gaussian, σ = 0.1, fitted posterior, K = 16"
    assert not {"nll_encoder", "elbo_encoder", "elbo_amortisation_gap"} & set(without)


def test_the_bernoulli_likelihood_of_grey_pixels() -> None:
    """A decoder that ignores its code has the cross-entropy of its one output, whatever K is."""

    class FlatGaussian(LinearGaussian):
        def decode(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.linspace(-2, 2, PIXELS).reshape(1, 1, 2, 4).expand(len(z), -1, -1, -1) + 0 * z.sum()

    model = FlatGaussian(with_posterior=False)
    model.observation = Bernoulli()
    images = drawn(20)
    found = evaluated(model, images).values
    x, p = whole(images).x.flatten(1).double(), torch.linspace(-2, 2, PIXELS).double().sigmoid()
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean().item()
    assert found["nll_prior"].value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("with_posterior", [True, False])
def test_metrics_do_not_depend_on_the_batch_size(with_posterior: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = LinearGaussian(0.2, with_posterior=with_posterior), drawn(30)
    first = evaluated(model, images).values
    for module in (context, likelihood):
        monkeypatch.setattr(module, "BLOCK", 40)
    for name, metric in evaluated(model, images).values.items():
        assert metric.value == pytest.approx(first[name].value, rel=1e-4), name


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_the_gap_of_reconstruction_is_what_the_encoder_loses(bias: float) -> None:
    """The mean of the fitted posterior is that of the exact one, from which the encoder's is off by the bias."""
    images = drawn(40)
    run = context_of(View(LinearGaussian(bias)), images, num_images=25, posterior_steps=300)
    evaluate_reconstruction(run, infer(run, fit=True))
    values = {name: metric.value for name, metric in run.metrics.values.items()}
    batch, chosen = whole(images), random_order(40)[:25]
    truth = LinearGaussian().encode(batch).double()
    residual = batch.x.flatten(1).double() - MEAN
    best = (residual - truth @ WEIGHT.T).square().mean(1)
    encoded = (residual - (truth + bias) @ WEIGHT.T).square().mean(1)
    assert values["mse_encoder"] == pytest.approx(encoded.mean().item(), rel=1e-4), "of all images"
    assert values["mse_posterior"] == pytest.approx(best[chosen].mean().item(), rel=0.01)
    lost = (encoded - best)[chosen].mean().item()
    assert values["mse_amortisation_gap"] == pytest.approx(lost, rel=0.05, abs=1e-4)
    assert "25 of 40 test images" in run.metrics.values["mse_posterior"].unit
