"""An ex-post prior is fitted to the latents of all training images, by the weights that are validated or saved."""

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from encdec.callbacks import BestAndLast
from encdec.cli import quiet
from encdec.data import DataModule, Digits, Images
from encdec.objectives.priors import FittedGaussian, FittedPrior, GaussianMixture
from encdec.objectives.search import out_of_inference, search
from encdec.training.ex_post import FitExPost
from encdec.types import Batch, UserError
from tests import killing


class Model(pl.LightningModule):
    """A linear autoencoder with dropout, whose training draws from torch's generator; part of it is never trained."""

    def __init__(self, ex_post: FittedPrior | None = None, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(dropout))
        self.decoder, self.noise = nn.Linear(3, 64), dropout
        self.frozen = nn.Dropout()
        self.ex_post = ex_post
        self.seen: list[Batch] = []

    def encode(self, batch: Batch) -> Tensor:
        torch.rand(1)  # as who samples would
        self.seen.append(batch)
        assert not torch.is_grad_enabled()
        z: Tensor = self.encoder(batch.x)
        return z

    def loss(self, batch: Batch) -> Tensor:
        z = self.encoder(batch.x)
        loss: Tensor = (self.decoder(z + self.noise * torch.randn_like(z)) - batch.x.flatten(1)).square().sum(1).mean()
        return loss

    def on_train_start(self) -> None:
        self.frozen.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert self.encoder.training
        assert not self.frozen.training
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), batch_size=len(batch.x), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class OddDigits(DataModule):
    """301 images to train and validate on."""

    def load(self) -> tuple[Images, Images]:
        train, test = Digits().load()
        return train.subset(torch.arange(301)), test


def fit(model: pl.LightningModule, *callbacks: pl.Callback, data: Any = None, **settings: Any) -> pl.Trainer:
    quiet.install()  # or a deprecation that Lightning causes ends the test
    settings = {"max_epochs": 2, "val_check_interval": 0.4, "num_sanity_val_steps": 1, **settings}
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, BestAndLast) for one in callbacks), callbacks=[*callbacks], **settings
    )  # fmt: skip
    trainer.fit(model, datamodule=OddDigits(batch_size=32) if data is None else data)
    return trainer


@torch.no_grad()
def codes(weights: dict[str, Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The latents of all training images by some weights, in numpy."""
    data = OddDigits()
    images = data.splits["train"]
    (pixels,) = images.stream([torch.arange(len(images.labels))])
    weight, bias = (weights[f"encoder.1.{name}"].double().numpy() for name in ("weight", "bias"))
    found: np.ndarray[Any, np.dtype[np.float64]] = (pixels.flatten(1).double() / 255).numpy() @ weight.T + bias
    return found


def assert_fitted(weights: dict[str, Tensor]) -> None:
    """The Gaussian among some weights is that of the latents by these weights."""
    z = codes(weights)
    assert weights["ex_post.fitted"] == len(z) == data_size()
    np.testing.assert_allclose(weights["ex_post.mean"].numpy(), z.mean(0), rtol=1e-4, atol=1e-5)
    covariance = np.cov(z, rowvar=False, bias=True)
    np.testing.assert_allclose(weights["ex_post.covariance"].numpy(), covariance, rtol=1e-4, atol=1e-5)


def data_size() -> int:
    return OddDigits().num_train


class Validations(pl.Callback):
    """Checks the fit in the middle of each validation."""

    def __init__(self) -> None:
        self.count = 0

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if trainer.sanity_checking:
            assert pl_module.state_dict()["ex_post.fitted"] == 0
        else:
            assert_fitted(pl_module.state_dict())
            self.count += 1


def test_every_validation_and_every_checkpoint_has_the_fit_of_its_own_weights(tmp_path: Path) -> None:
    """9 batches an epoch, validations after the 3rd, 6th and 9th; the training ends after the 13th."""
    model, validations = Model(FittedGaussian(3)), Validations()
    kept = BestAndLast(dirpath=str(tmp_path), seconds_between=0)
    trainer = fit(model, FitExPost(), validations, kept, max_steps=13)
    assert trainer.global_step == 13
    assert validations.count == 4
    assert_fitted(model.state_dict())
    for name in ("best", "last"):
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert saved["global_step"] == (13 if name == "last" else 12)
        assert_fitted(saved["state_dict"])


def test_images_are_encoded_once_in_order_as_training_images_in_evaluation_mode() -> None:
    model = Model(FittedGaussian(3))
    fit(model, FitExPost(), max_epochs=1, val_check_interval=1.0)
    assert torch.equal(torch.cat([batch.index for batch in model.seen]), torch.arange(data_size())), "one pass, not two"
    assert {batch.split for batch in model.seen} == {"train"}


@pytest.mark.parametrize("validations", [0.4, 0])
def test_the_training_is_the_same_without_it(validations: float) -> None:
    """Weights, dropout, noise, the order of images, the position in them."""
    found = []
    for callbacks in ([], [FitExPost()]):
        model = Model(GaussianMixture(3))
        trainer = fit(model, *callbacks, limit_val_batches=1.0 if validations else 0)
        weights = {name: value for name, value in model.state_dict().items() if "ex_post" not in name}
        found.append((weights, trainer.datamodule.state_dict(), torch.rand(3)))  # type: ignore[attr-defined]
        assert (model.ex_post.fitted > 0) == bool(callbacks)  # type: ignore[union-attr]
    for name, value in found[0][0].items():
        assert torch.equal(value, found[1][0][name])
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][2], found[1][2])


def test_codes_are_preferred_and_may_be_searched_for() -> None:
    class Searches(Model):
        def codes(self, batch: Batch) -> Tensor:
            x = out_of_inference(batch.x).flatten(1)
            return search(lambda z: (self.decoder(z) - x).square().sum(1), x.new_zeros(len(x), 3), 5)

        def encode(self, batch: Batch) -> Tensor:
            raise AssertionError("images of training have codes")

    model = Searches(FittedGaussian(3))
    fit(model, FitExPost(), max_epochs=1)
    assert model.ex_post is not None
    assert model.ex_post.fitted == data_size()

    class Lacks(Searches):
        lacks = ("codes",)

        def encode(self, batch: Batch) -> Tensor:
            return Model.encode(self, batch)

    model = Lacks(FittedGaussian(3))
    fit(model, FitExPost(), max_epochs=1)
    assert_fitted(model.state_dict())


def test_it_is_in_the_training_s_precision() -> None:
    model = Model(FittedGaussian(3))
    fit(model, FitExPost(), max_epochs=1, precision="bf16-true")
    assert {batch.x.dtype for batch in model.seen} == {torch.bfloat16}
    assert model.ex_post is not None
    assert model.ex_post.fitted == data_size()


def test_models_without_such_a_prior_are_left_alone() -> None:
    model = Model()
    fit(model, FitExPost(), max_epochs=1)
    assert not model.seen


def test_no_fit_is_made_of_images_in_an_unknown_order(capsys: pytest.CaptureFixture[str]) -> None:
    class Foreign:
        def __init__(self, loader: Iterable[Batch]) -> None:
            self.loader = loader

        def __iter__(self) -> Iterator[Batch]:
            return iter(self.loader)

    class Loaded(pl.LightningDataModule):
        def train_dataloader(self) -> Foreign:
            return Foreign(OddDigits(batch_size=32).train_dataloader())

        def val_dataloader(self) -> Foreign:
            return Foreign(OddDigits(batch_size=32).val_dataloader())

    model = Model(FittedGaussian(3))
    fit(model, FitExPost(), data=Loaded(), max_epochs=2, val_check_interval=4, check_val_every_n_epoch=None)
    assert model.ex_post is not None
    assert model.ex_post.fitted == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("encdec: ")]
    assert len(said) == 1
    assert "prior of Model is not fitted" in said[0]


def test_a_model_without_latents_is_refused() -> None:
    class Nothing(Model):
        lacks = ("codes", "encode")

    with pytest.raises(UserError, match="neither `codes` nor `encode`"):
        fit(Nothing(FittedGaussian(3)), FitExPost())


def in_processes(rank: int, folder: str, port: int) -> None:
    """Train as one of two processes, and write what this one ends with."""
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    model = Model(FittedGaussian(3), dropout=0.0)
    fit(model, FitExPost(), data=OddDigits(batch_size=16), max_steps=7, devices=2, strategy="ddp")
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_fit_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    killing.together(tmp_path, in_processes, str(tmp_path), port)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"the processes disagree about {name}"
    assert data_size() % 2 == 1, "their shares differ in size"
    assert_fitted(first)
    one = Model(FittedGaussian(3), dropout=0.0)
    fit(one, FitExPost(), max_steps=7)  # within the first epoch, as its last batch has an image more than that of two
    for name, value in one.state_dict().items():
        if "axes" not in name:  # an eigenvector's sign is free
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)
