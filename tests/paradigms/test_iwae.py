"""IWAE against its definition, and on a model whose likelihood is known: a linear decoder with Gaussian pixels."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from encdec import plugins
from encdec.data import Digits
from encdec.networks import MLPDecoder
from encdec.paradigms import VAE
from encdec.types import Batch, UserError
from tests.conftest import ROOT
from tests.paradigms.linear_gaussian import LinearGaussian

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.iwae import IWAE
else:
    from encdec_plugins.iwae import IWAE

SHAPE, DIM, SIGMA = (1, 8, 8), 3, 1.0


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=32).val_dataloader()))
    return first


def restarted(model: IWAE | VAE) -> None:
    model.randomness.restart()


def test_the_loss_is_the_bound_of_its_samples(batch: Batch) -> None:
    model = IWAE(image_shape=SHAPE, latent_dim=DIM, num_posterior_samples=5).eval()
    losses = model.measured_losses(batch)
    restarted(model)
    noise = model.noise(batch.index, 5 * DIM).view(-1, 5, DIM)
    q = model.posterior(batch)
    law = Normal(q.mean, (q.log_var / 2).exp())
    weights = []
    for k in range(5):
        z = law.mean + law.stddev * noise[:, k]
        pixels = Bernoulli(logits=model.decoder(z), validate_args=False)
        log_p = pixels.log_prob(batch.x).sum((1, 2, 3)) + Normal(0, 1).log_prob(z).sum(1)
        weights.append(log_p - law.log_prob(z).sum(1))
    log_weights = torch.stack(weights, 1).double()
    expected = -(log_weights - log_weights.max()).exp().mean(1).log() - log_weights.max()
    torch.testing.assert_close(losses.loss.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(losses.terms["elbo"].double(), log_weights.mean(1), rtol=1e-5, atol=1e-4)
    assert (losses.loss <= -losses.terms["elbo"] + 1e-4).all(), "Jensen"


def test_one_sample_is_the_vae_with_its_kl_by_that_sample(batch: Batch) -> None:
    model = IWAE(image_shape=SHAPE, latent_dim=DIM, num_posterior_samples=1).eval()
    vae = VAE(image_shape=SHAPE, latent_dim=DIM).eval()
    vae.load_state_dict(model.state_dict())
    ours, theirs = model.measured_losses(batch), vae.measured_losses(batch)
    assert ours.logits is not None
    assert theirs.logits is not None
    torch.testing.assert_close(ours.logits, theirs.logits)  # of the same sample
    restarted(vae)
    q = vae.posterior(batch)
    z = q.sample(vae.noise(batch.index, DIM))
    by_sample = q.log_prob(z) - vae.prior.log_prob(z)
    torch.testing.assert_close(ours.loss, theirs.loss - theirs.terms["kl"] + by_sample)
    # on average over samples the two are one
    differences = []
    for draw in range(400):
        z = q.sample(torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(draw)))
        differences.append(q.log_prob(z) - vae.prior.log_prob(z) - q.kl(vae.prior))
    torch.testing.assert_close(torch.stack(differences).mean(), torch.tensor(0.0), atol=0.02, rtol=0)


def test_the_bound_falls_with_k_to_the_exact_likelihood(batch: Batch) -> None:
    """−log p(x) of a linear Gaussian model is known, and q, here a wrong one, leaves a gap that K closes."""
    torch.manual_seed(0)

    def made(count: int) -> IWAE:
        model = IWAE(
            image_shape=SHAPE,
            decoder=partial(MLPDecoder, hidden=()),
            latent_dim=DIM,
            num_posterior_samples=count,
            observation=partial(LinearGaussian, SIGMA),
        )
        return model.eval()

    reference = made(1)
    layers: Any = reference.decoder.layers
    layer = layers[0]
    cov = layer.weight @ layer.weight.T + SIGMA**2 * torch.eye(64)
    exact = -MultivariateNormal(layer.bias.detach(), cov.detach()).log_prob(batch.x.flatten(1)).mean()
    bounds = []
    for count in (1, 4, 16, 256, 4096):
        model = made(count)
        model.load_state_dict(reference.state_dict())
        with torch.no_grad():
            bounds.append(float(model.measured_losses(batch).loss.mean()))
    assert bounds == sorted(bounds, reverse=True), bounds
    assert bounds[0] > float(exact) + 0.2
    assert math.isclose(bounds[-1], float(exact), abs_tol=0.05), (bounds, float(exact))


def test_less_than_one_sample_is_refused() -> None:
    with pytest.raises(UserError, match="num_posterior_samples is 0"):
        IWAE(image_shape=SHAPE, num_posterior_samples=0)
