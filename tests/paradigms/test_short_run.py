"""Langevin chains against the exact posterior of a linear Gaussian model, and chains that are stored."""

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.optim import Adam

from encdec import plugins
from encdec.data import Digits
from encdec.networks import MLPDecoder
from encdec.objectives.langevin import langevin
from encdec.paradigms import StoredLatents, has_codes
from encdec.testing import check_paradigm
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import Batch, UserError
from tests.conftest import ROOT
from tests.paradigms.linear_gaussian import LinearGaussian

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.short_run import ShortRun
else:
    from encdec_plugins.short_run import ShortRun

SHAPE, DIM, SIGMA = (1, 8, 8), 3, 1.0


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=32).val_dataloader()))
    return first


def test_a_long_chain_has_the_moments_that_its_step_gives() -> None:
    """With the energy P z²/2 and the step s the chain is autoregressive, of variance 1 / (P (1 − s² P / 4))."""
    precision, mean, step = torch.tensor([1.0, 4.0]), torch.tensor([0.5, -1.0]), 0.6
    generator = torch.Generator().manual_seed(0)
    start = torch.zeros(40_000, 2)
    z = langevin(
        lambda z: (precision * (z - mean).square()).sum(1) / 2,
        start,
        200,
        step,
        lambda: torch.randn(start.shape, generator=generator),
    )
    torch.testing.assert_close(z.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), 1 / (precision * (1 - step**2 * precision / 4)), atol=0, rtol=0.03)


def test_a_step_is_the_formula() -> None:
    z, e = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -0.5]])
    found = langevin(lambda z: z.pow(3).sum(1), z, 1, 0.2, lambda: e)
    torch.testing.assert_close(found, z - 0.02 * 3 * z.square() + 0.2 * e)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_where_gradients_are_off(mode: Any, batch: Batch) -> None:
    model = ShortRun(image_shape=SHAPE, latent_dim=DIM, latent_steps=3).eval()
    expected = model.measured_losses(batch).loss
    with mode():
        of_mode = batch._replace(x=batch.x.clone())
        torch.testing.assert_close(model.measured_losses(of_mode).loss, expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_chains_of_a_linear_model_end_at_its_posterior(batch: Batch) -> None:
    torch.manual_seed(0)
    decoder = partial(MLPDecoder, hidden=())
    model = ShortRun(decoder, DIM, 400, 0.15, observation=partial(LinearGaussian, SIGMA), image_shape=SHAPE).eval()
    layers: Any = model.decoder.layers
    weight, bias = layers[0].weight.detach(), layers[0].bias.detach()
    covariance = torch.linalg.inv(torch.eye(DIM) + weight.T @ weight)
    x = batch.x[:1]
    exact = (x.flatten(1) - bias) @ weight @ covariance
    index = torch.arange(4000)  # chains of one image, each with its own noise
    many = Batch(x.expand(4000, -1, -1, -1), batch.y[:1].expand(4000), index, "val")
    z = model.encode(many)
    torch.testing.assert_close(z.mean(0), exact[0], atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), covariance, atol=0.05, rtol=0)


def test_stored_chains_go_on_and_held_out_images_begin_at_the_prior(batch: Batch) -> None:
    model = ShortRun(image_shape=SHAPE, latent_dim=DIM, num_train=2000, latent_steps=2, persistent=True)
    assert model.chains is not None
    assert has_codes(model)
    model.randomness.begin_step(0, 0, 1, torch.device("cpu"))
    before = model.chains.values.clone()
    model.train().losses(batch)
    moved = model.chains.values.ne(before).any(1).nonzero()[:, 0]
    assert torch.equal(moved, batch.index.sort().values)
    after = model.chains.values.clone()
    model.eval().measured_losses(batch)
    assert torch.equal(model.chains.values, after), "validation moves no chain"
    assert not has_codes(ShortRun(image_shape=SHAPE, latent_dim=DIM))


def test_persistent_chains_keep_the_contract(tmp_path: Any) -> None:
    check_paradigm(ShortRun, tmp_path, latent_dim=4, latent_steps=2, persistent=True)


def test_rows_that_are_not_finite_are_not_written() -> None:
    table = StoredLatents(4, 2, seed=0)
    before = table.values.clone()
    table.write(torch.tensor([1, 3]), torch.tensor([[1.0, torch.inf], [2.0, 3.0]]))
    before[3] = torch.tensor([2.0, 3.0])
    assert torch.equal(table.values, before)


def test_more_steps_fit_better() -> None:
    """On the same decoder budget, chains of 20 steps find latents of a lower error than those of 1."""
    losses = []
    for steps in (1, 20):
        torch.manual_seed(0)
        data = Digits(batch_size=128)
        model = ShortRun(image_shape=SHAPE, latent_dim=8, latent_steps=steps, optimizer=partial(Adam, lr=3e-3))
        with quiet_trainer():
            trainer = small_trainer(max_epochs=15)
            trainer.fit(model, data)
        losses.append(float(trainer.callback_metrics["val/loss"]))
    assert losses[1] < losses[0] - 2, losses


@pytest.mark.parametrize("settings", [{"latent_steps": 0}, {"step_size": 0.0}])
def test_bad_settings_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(settings))} is 0"):
        ShortRun(image_shape=SHAPE, **settings)
