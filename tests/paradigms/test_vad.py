"""The variational auto-decoder's table ends at the exact posteriors where there is a formula for them."""

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from encdec import plugins
from encdec.data import Digits
from encdec.objectives.priors import DiagonalGaussian
from encdec.types import Batch, UserError
from tests.conftest import ROOT
from tests.paradigms import linear_gaussian

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.vad import VAD
else:
    from encdec_plugins.vad import VAD

SHAPE, COPIES = (1, 8, 8), 1000


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=8).val_dataloader()))
    return first


def means(q: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    """Over the copies of each image, float64."""
    mean, log_var = (value.detach().unflatten(0, (2, COPIES)).mean(1).double() for value in q)
    return mean, log_var


def test_the_table_ends_at_the_exact_posteriors_best_diagonal_gaussians() -> None:
    vad = linear_gaussian.make(VAD, num_train=2 * COPIES).train()
    batch, images = linear_gaussian.copies(COPIES)
    exact = linear_gaussian.solve(vad, images)
    for step in range(600):
        vad.table.lr = 0.1 if step < 200 else 0.01
        vad.losses(batch).loss.mean().backward()
        vad.table.step()
    mean, log_var = means(DiagonalGaussian(*vad.table.values.chunk(2, 1)))
    torch.testing.assert_close(mean, exact.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(log_var, exact.log_var.expand_as(log_var), rtol=0, atol=0.06)
    elbo = vad.losses(batch).terms["elbo"].detach().unflatten(0, (2, COPIES)).mean(1).double()
    torch.testing.assert_close(elbo, exact.elbo, rtol=0, atol=0.15)  # one noise for each of the copies
    assert torch.equal(vad.codes(batch), vad.table.values[:, :2])


def test_a_held_out_image_gets_its_exact_posterior() -> None:
    vad = linear_gaussian.make(VAD, latent_steps=200).eval()
    batch, images = linear_gaussian.copies(COPIES)
    exact = linear_gaussian.solve(vad, images)
    mean, log_var = means(vad.posterior(batch))
    torch.testing.assert_close(mean, exact.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(log_var, exact.log_var.expand_as(log_var), rtol=0, atol=0.2)  # Adam's rate is constant


def test_the_terms_are_those_of_torch_distributions(batch: Batch) -> None:
    vad = VAD(image_shape=SHAPE, latent_dim=3, num_train=2000).train()
    torch.nn.init.normal_(vad.table.values)
    torch.manual_seed(0)
    found = vad.losses(batch)
    torch.manual_seed(0)
    mean, log_var = vad.table.values[batch.index].chunk(2, 1)
    q = Normal(mean, (log_var / 2).exp())
    z = mean + q.stddev * torch.randn(8, 3)
    nll = -Bernoulli(logits=vad.decoder(z), validate_args=False).log_prob(batch.x).sum((1, 2, 3))
    kl = kl_divergence(q, Normal(0, 1)).sum(1)
    torch.testing.assert_close(found.terms["bce"], nll)
    torch.testing.assert_close(found.terms["kl"], kl)
    torch.testing.assert_close(found.terms["elbo"], -nll - kl)
    torch.testing.assert_close(found.loss, nll + kl)
    torch.testing.assert_close(vad.codes(batch), mean)


def test_held_out_images_do_not_read_the_table(batch: Batch) -> None:
    vad = VAD(image_shape=SHAPE, latent_dim=3, num_train=2000, latent_steps=5).eval()
    before = vad.measured_losses(batch).loss
    vad.table.values.fill_(7)
    assert torch.equal(vad.measured_losses(batch).loss, before)


@pytest.mark.parametrize("setting", ["latent_lr", "latent_steps", "warm_up"])
def test_bad_settings_are_named(setting: str) -> None:
    settings: dict[str, Any] = {setting: -1}
    with pytest.raises(UserError, match=f"VAD: {setting} is -1"):
        VAD(image_shape=SHAPE, **settings)
