"""KL annealing and free bits, against plain formulas; and the best checkpoint that they are judged by."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from encdec.objectives.losses import free_bits_kl, gaussian_kl
from encdec.paradigms import VAE, kl_weight
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.types import Batch, UserError
from tests.conftest import RunCLI

SHAPE = (1, 8, 8)
FIT = ("fit", "--config=configs/vae.yaml", "--data.batch_size=300", "--trainer.enable_progress_bar=false")


class Weights(pl.Callback):
    """What the KL weighs in each step of a training, read off the loss; and in validations."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = {"train": [], "val": []}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, VAE)
        losses = pl_module.losses

        def watched(batch: Batch) -> Any:
            found = losses(batch)
            weights = (found.loss - found.terms["bce"]) / found.terms["kl"]
            self.seen["train" if pl_module.training else "val"].append(weights.median().item())
            return found

        any_module: Any = pl_module
        any_module.losses = watched


@pytest.mark.parametrize(("warm_up", "expected"), [(3, [0.25, 0.5, 0.75, 1, 1]), (0, [1] * 5), (1, [0.5, 1, 1, 1, 1])])
def test_the_weight_rises_over_the_epochs_and_is_full_in_validations(warm_up: int, expected: list[float]) -> None:
    weights, beta = Weights(), 2.0
    vae = VAE(image_shape=SHAPE, latent_dim=3, beta=beta, warm_up=warm_up)
    with quiet_trainer():
        small_trainer(max_epochs=5, callbacks=[weights]).fit(vae, Blobs(batch_size=12, val_fraction=0.3))
    steps = len(weights.seen["train"]) // 5
    assert steps > 1
    per_step = [beta * weight for weight in expected for _ in range(steps)]
    assert weights.seen["train"] == pytest.approx(per_step, abs=1e-4)
    assert weights.seen["val"] == pytest.approx([beta] * len(weights.seen["val"]), abs=1e-4)
    assert kl_weight(vae.eval(), warm_up, beta) == beta


def posterior() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4), torch.randn(6, 4) - 1


def test_free_bits_are_a_maximum_for_each_image_and_dimension() -> None:
    mean, log_var = posterior()
    kl = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0))
    for free in (0.0, 0.3, 1.0, 50.0):
        expected = sum(torch.maximum(torch.tensor(free), kl[:, j]) for j in range(4))
        torch.testing.assert_close(free_bits_kl(mean, log_var, free), expected)
    torch.testing.assert_close(free_bits_kl(mean, log_var, 0.0), gaussian_kl(mean, log_var))
    assert (kl < 0.3).any()
    assert (kl > 1.0).any()


def test_a_dimension_within_its_free_bits_has_no_gradient() -> None:
    mean, log_var = (value.requires_grad_() for value in posterior())
    kl = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).detach()
    (gradient,) = torch.autograd.grad(free_bits_kl(mean, log_var, 0.8).sum(), mean)
    assert torch.equal(gradient, torch.where(kl > 0.8, mean, 0).detach())


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_free_bits_change_the_loss_and_neither_kl_nor_elbo(beta: float) -> None:
    x = torch.rand(5, *SHAPE)
    batch = Batch(x, torch.zeros(5).long(), torch.arange(5), "val")
    with torch.no_grad():
        torch.manual_seed(0)
        free = VAE(image_shape=SHAPE, latent_dim=3, beta=beta, free_bits=0.1).eval()
        torch.manual_seed(0)
        plain = VAE(image_shape=SHAPE, latent_dim=3, beta=beta).eval()
        one, other = free.measured_losses(batch), plain.measured_losses(batch)
        q = free.posterior(batch)
    for name in ("bce", "kl", "elbo"):
        assert torch.equal(one.terms[name], other.terms[name])
    kl = kl_divergence(Normal(q.mean, (q.log_var / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(one.loss, one.terms["bce"] + beta * kl.clamp(min=0.1).sum(1))
    assert (one.loss > other.loss).all()


@pytest.mark.parametrize("setting", ["warm_up", "free_bits", "beta"])
def test_bad_settings_are_named(setting: str) -> None:
    settings: dict[str, Any] = {setting: -1}
    with pytest.raises(UserError, match=f"VAE: {setting} is -1, but it can't be negative"):
        VAE(image_shape=SHAPE, **settings)


def test_what_the_best_is_chosen_by() -> None:
    make = partial(VAE, image_shape=SHAPE)
    monitors = [make(**settings).monitor for settings in ({}, {"warm_up": 1}, {"free_bits": 0.1})]
    assert monitors == ["val/loss", "val/elbo", "val/elbo"]


@pytest.mark.parametrize(
    ("flags", "better"),
    [
        (("--model.warm_up=2",), max),
        (("--checkpoint.monitor=val/elbo",), max),
        (("--model.warm_up=2", "--checkpoint.mode=min"), min),
        (("--checkpoint.monitor=val/kl",), min),
    ],
    ids=["warm-up", "the ELBO of a user", "a user's mode", "another scalar"],
)
def test_the_best_checkpoint_has_the_best_of_what_it_is_chosen_by(
    flags: tuple[str, ...], better: Any, cli: RunCLI, project: Path
) -> None:
    """The ELBO rises from epoch to epoch, so with the wrong mode the first would be kept."""
    cli(*FIT, *flags, "--trainer.max_epochs=4", "--trainer.callbacks+=tests.paradigms.test_warm_up.Remember")
    best = torch.load(project / "lightning_logs/vae/version_0/checkpoints/best.ckpt", weights_only=True)
    name = "val/kl" if "--checkpoint.monitor=val/kl" in flags else "val/elbo"
    seen = [epoch[name] for epoch in Remember.seen]
    assert len(seen) == 4
    assert len(set(seen)) == 4
    assert best["metrics"][name] == better(seen)


class Remember(pl.Callback):
    """The scalars of each validation of the last training."""

    seen: list[dict[str, float]] = []  # noqa: RUF012  # the command line makes the instance

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.clear()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.seen.append({key: value.item() for key, value in trainer.callback_metrics.items()})
