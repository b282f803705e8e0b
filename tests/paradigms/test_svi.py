"""Stochastic variational inference finds the exact posterior where there is a formula for it."""

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from encdec import plugins
from encdec.data import Digits
from encdec.types import Batch, UserError
from tests.conftest import ROOT
from tests.paradigms import linear_gaussian

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.svi import SVI
else:
    from encdec_plugins.svi import SVI

PRECISE: dict[str, Any] = {"latent_steps": 400, "latent_lr": 0.01}
COPIES = 1000


@pytest.mark.parametrize("orthogonal", [True, False])
def test_the_optimum_is_the_exact_posterior_s_best_diagonal_gaussian(orthogonal: bool) -> None:
    svi = linear_gaussian.make(SVI, orthogonal=orthogonal, **PRECISE).eval()
    batch, images = linear_gaussian.copies(COPIES)
    exact = linear_gaussian.solve(svi, images)
    q = svi.posterior(batch)
    mean, log_var = (value.unflatten(0, (2, COPIES)).mean(1).double() for value in q)
    torch.testing.assert_close(mean, exact.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(log_var, exact.log_var.expand_as(log_var), rtol=0, atol=0.06)
    with torch.no_grad():
        found = svi.measured_losses(batch)
    elbo = found.terms["elbo"].unflatten(0, (2, COPIES)).mean(1).double()
    torch.testing.assert_close(elbo, exact.elbo, rtol=0, atol=0.15)  # one noise for each of the copies
    torch.testing.assert_close(found.loss, -found.terms["elbo"])
    own = torch.stack([
        kl_divergence(MultivariateNormal(m, torch.diag(v.exp())), MultivariateNormal(e, exact.covariance))
        for m, v, e in zip(mean, log_var, exact.mean, strict=True)
    ])  # fmt: skip
    assert (own - (exact.log_evidence - exact.elbo)).abs().max() < 0.01
    if orthogonal:
        torch.testing.assert_close(exact.elbo, exact.log_evidence, msg="the diagonal is the posterior itself")


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=8).val_dataloader()))
    return first


def test_a_posterior_is_an_image_s_own_and_the_same_in_every_mode(batch: Batch) -> None:
    svi = SVI(image_shape=(1, 8, 8), latent_dim=3).eval()

    def posterior(of: Batch) -> torch.Tensor:
        svi.randomness.restart()
        return torch.cat(svi.posterior(of), 1)

    whole = posterior(batch)
    assert not whole.requires_grad
    assert all(parameter.grad is None for parameter in svi.parameters())
    torch.testing.assert_close(posterior(batch.rows(slice(2, 5))), whole[2:5])
    with torch.no_grad():
        assert torch.equal(posterior(batch), whole)
    with torch.inference_mode():
        clone = batch._replace(x=batch.x.clone(), index=batch.index.clone(), y=batch.y.clone())
        assert torch.equal(posterior(clone), whole)


def test_a_step_of_the_decoder_is_that_of_the_elbo_with_the_posterior_fixed(batch: Batch) -> None:
    svi = SVI(image_shape=(1, 8, 8), latent_dim=3).eval()
    found = svi.measured_losses(batch)
    gradients = torch.autograd.grad(found.loss.mean(), [*svi.parameters()])
    svi.randomness.restart()
    q = svi.posterior(batch)
    nll = svi.observation.nll(svi.decode(q.sample(svi.noise(batch.index, 3)), batch.y), batch.x)
    for found_one, expected in zip(gradients, torch.autograd.grad(nll.mean(), [*svi.parameters()]), strict=True):
        torch.testing.assert_close(found_one, expected)


@pytest.mark.parametrize("setting", ["latent_steps", "latent_lr", "warm_up"])
def test_bad_settings_are_named(setting: str) -> None:
    settings: dict[str, Any] = {setting: -1}
    with pytest.raises(UserError, match=f"SVI: {setting} is -1"):
        SVI(image_shape=(1, 8, 8), **settings)
