"""The semi-amortised VAE is the VAE without steps, SVI with many, and learns through its steps."""

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from encdec import plugins
from encdec.data import Digits
from encdec.networks import MLPEncoder
from encdec.paradigms import VAE
from encdec.types import Batch, UserError
from tests.conftest import ROOT
from tests.paradigms import linear_gaussian

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.savae import SAVAE
    from plugins.svi import SVI
else:
    from encdec_plugins.savae import SAVAE
    from encdec_plugins.svi import SVI

SHAPE, COPIES = (1, 8, 8), 500


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=16).val_dataloader()))
    return first


def made(**settings: Any) -> SAVAE:
    return SAVAE(image_shape=SHAPE, latent_dim=3, **settings).eval()


@pytest.mark.parametrize("differentiable", [True, False])
def test_without_steps_it_is_the_vae(differentiable: bool, batch: Batch) -> None:
    savae, vae = made(latent_steps=0, differentiable=differentiable), VAE(image_shape=SHAPE, latent_dim=3).eval()
    vae.load_state_dict(savae.state_dict())
    one, other = savae.measured_losses(batch), vae.measured_losses(batch)
    assert torch.equal(one.loss, other.loss)
    for name in ("bce", "kl", "elbo"):
        assert torch.equal(one.terms[name], other.terms[name])
    gradients = [torch.autograd.grad(found.loss.mean(), [*model.parameters()])
                 for found, model in ((one, savae), (other, vae))]  # fmt: skip
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_many_steps_end_at_the_exact_posterior_whatever_the_encoder_says() -> None:
    precise: dict[str, Any] = {"latent_steps": 400, "latent_lr": 0.01}
    savae = linear_gaussian.make(SAVAE, encoder=MLPEncoder, **precise).eval()
    svi = linear_gaussian.make(SVI, **precise).eval()
    batch, images = linear_gaussian.copies(COPIES)
    exact = linear_gaussian.solve(savae, images)
    found = []
    with torch.no_grad():
        for model in (savae, svi):
            model.randomness.restart()
            q = model.posterior(batch)
            mean, log_var = (value.unflatten(0, (2, COPIES)).mean(1).double() for value in q)
            torch.testing.assert_close(mean, exact.mean, rtol=0, atol=0.03)
            torch.testing.assert_close(log_var, exact.log_var.expand_as(log_var), rtol=0, atol=0.06)
            found.append(torch.cat(q, 1))
    assert (found[0] - found[1]).abs().max() < 0.03, "with the same noise they end at the same place"


def unrolled(savae: SAVAE, batch: Batch) -> Tensor:
    """The loss of two steps by hand, with momentum 0.5 and no clip, of torch.distributions."""
    savae.randomness.restart()
    rate = savae.latent_lr

    def free_energy(mean: Tensor, log_var: Tensor) -> Tensor:
        q = Normal(mean, (log_var / 2).exp())
        z = mean + q.stddev * savae.noise(batch.index, 3)
        nll: Tensor = -Bernoulli(logits=savae.decoder(z), validate_args=False).log_prob(batch.x).sum((1, 2, 3))
        return nll + kl_divergence(q, Normal(0, 1)).sum(1)

    mean, log_var = savae.encoder(batch.x).chunk(2, 1)
    first = torch.autograd.grad(free_energy(mean, log_var).sum(), [mean, log_var], create_graph=True)
    mean, log_var = mean - rate * first[0], log_var - rate * first[1]
    second = torch.autograd.grad(free_energy(mean, log_var).sum(), [mean, log_var], create_graph=True)
    mean, log_var = mean - rate * (second[0] + first[0] / 2), log_var - rate * (second[1] + first[1] / 2)
    return free_energy(mean, log_var)


def test_the_gradient_is_that_of_the_unrolled_steps(batch: Batch) -> None:
    savae, batch = made(latent_steps=2, latent_lr=0.02).double(), batch._replace(x=batch.x.double())
    for parameter in savae.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    expected, found = unrolled(savae, batch), savae.measured_losses(batch).loss
    torch.testing.assert_close(found, expected)
    parameters = [*savae.parameters()]
    by_hand = torch.autograd.grad(expected.mean(), parameters)
    through = torch.autograd.grad(found.mean(), parameters)
    for a, b in zip(through, by_hand, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    savae.differentiable = False
    stopped = savae.measured_losses(batch).loss
    torch.testing.assert_close(stopped, expected, msg="the same value, with another gradient")
    differ = [(a - b).norm() > 1e-3 * b.norm()
              for a, b in zip(torch.autograd.grad(stopped.mean(), parameters), by_hand, strict=True)]  # fmt: skip
    assert all(differ)


def test_steps_lower_the_loss_of_each_batch_and_are_the_same_without_gradients(batch: Batch) -> None:
    savae = made(latent_steps=20, latent_lr=0.02)
    start = made(latent_steps=0)
    start.load_state_dict(savae.state_dict())
    assert savae.measured_losses(batch).loss.mean() < start.measured_losses(batch).loss.mean()
    with_graph = savae.measured_losses(batch).loss
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            inside = batch._replace(x=batch.x.clone(), index=batch.index.clone())
            assert torch.equal(savae.measured_losses(inside).loss, with_graph)


@pytest.mark.parametrize("setting", ["latent_lr", "latent_steps", "warm_up"])
def test_bad_settings_are_named(setting: str) -> None:
    settings: dict[str, Any] = {setting: -1}
    with pytest.raises(UserError, match=f"SAVAE: {setting} is -1"):
        made(**settings)


def test_compiled_networks_are_refused_where_steps_are_differentiated(batch: Batch) -> None:
    savae = made()
    savae.is_compiled = True
    with pytest.raises(UserError, match=r"which torch\.compile can't do: leave --compile out"):
        savae.losses(batch)
    savae.differentiable = False
    savae.losses(batch)
