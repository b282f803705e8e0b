"""How often a decoder is called for each training image: counted in the first epoch, whatever else happens."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from encdec.networks import MLPDecoder
from encdec.objectives.losses import pixel_squared_error
from encdec.paradigms import VAE, EncoderlessVAE, LatentVariable, Paradigm
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.training.decoder_calls import DecoderCalls, in_checkpoint
from encdec.training.images import TrainingImages
from encdec.types import Batch, Losses

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_trainer():
        yield


class Twice(LatentVariable):
    """Decodes each image twice, and once before the epoch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(partial(MLPDecoder, hidden=(4,)), 2, image_shape=SHAPE, **kwargs)

    def before_epoch(self, images: TrainingImages) -> None:
        images.map(self._brightness)

    def _brightness(self, batch: Batch) -> Tensor:
        return self.decode(self.noise(batch.index, 2), batch.y).flatten(1).sum(1)

    def losses(self, batch: Batch) -> Losses:
        self._brightness(batch)
        return Losses(pixel_squared_error(self.decode(self.noise(batch.index, 2), batch.y), batch.x))


class SaveAt(pl.Callback):
    """Saves within the first epoch, and stops there."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def held(path: Path) -> float | None:
    return in_checkpoint(torch.load(path, weights_only=True))


def counted(paradigm: Paradigm, folder: Path, **settings: Any) -> float | None:
    """What the last checkpoint of a training says; 53 images, 5 of them to validate on."""
    trainer = small_trainer(**{"max_epochs": 2, **settings})
    trainer.fit(paradigm, Blobs(num_images=53, batch_size=10))
    trainer.save_checkpoint(folder / "last.ckpt")
    assert not [one for one in paradigm.modules() if one._forward_hooks], "the hook is gone"
    return held(folder / "last.ckpt")


def test_a_vae_decodes_each_image_once(tmp_path: Path) -> None:
    assert counted(VAE(image_shape=SHAPE, latent_dim=2), tmp_path) == 1


def test_samples_of_the_prior_are_shared_by_a_batch(tmp_path: Path) -> None:
    """48 images in 5 batches of at most 10, each of which decodes the same number of latents."""
    assert counted(EncoderlessVAE(image_shape=SHAPE, latent_dim=2, num_prior_samples=16), tmp_path) == 5 * 16 / 48


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"check_val_every_n_epoch": 2}])
def test_the_work_before_an_epoch_counts_and_validations_do_not(settings: dict[str, Any], tmp_path: Path) -> None:
    assert counted(Twice(), tmp_path, **settings) == 3


def test_a_limit_cuts_the_images_too(tmp_path: Path) -> None:
    assert counted(Twice(), tmp_path, limit_train_batches=3) == 2 + 48 / 30


def test_a_run_that_is_resumed_within_the_epoch_counts_on(tmp_path: Path) -> None:
    save = SaveAt(tmp_path / "within.ckpt", 2)
    small_trainer(max_epochs=1, callbacks=[save]).fit(Twice(), Blobs(num_images=53, batch_size=10))
    assert held(save.path) is None, "of an epoch that is not through there is no number"
    model, trainer = Twice(), small_trainer(max_epochs=2)
    trainer.fit(model, Blobs(num_images=53, batch_size=10), ckpt_path=save.path, weights_only=True)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert held(tmp_path / "last.ckpt") == 3


def test_one_that_began_without_a_count_has_none(tmp_path: Path) -> None:
    save = SaveAt(tmp_path / "within.ckpt", 2)
    small_trainer(max_epochs=1, callbacks=[save]).fit(Twice(), Blobs(num_images=53, batch_size=10))
    content = torch.load(save.path, weights_only=True)
    del content["callbacks"]["DecoderCalls"]
    torch.save(content, save.path)
    trainer = small_trainer(max_epochs=2)
    trainer.fit(Twice(), Blobs(num_images=53, batch_size=10), ckpt_path=save.path, weights_only=True)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert held(tmp_path / "last.ckpt") is None


def test_the_decoder_of_a_compiled_model_is_not_counted(tmp_path: Path) -> None:
    model = Twice()
    model.is_compiled = True
    assert counted(model, tmp_path) is None


@pytest.mark.parametrize(
    "state", [None, 3, {}, {"is_whole": True}, {"is_whole": True, "decoded": "3", "images": 1},
              {"is_whole": True, "decoded": 3, "images": 0}, {"is_whole": 1, "decoded": 3, "images": 3}],
)  # fmt: skip
def test_a_foreign_count_is_none(state: Any) -> None:
    assert in_checkpoint({"callbacks": {"DecoderCalls": state}}) is None
    assert in_checkpoint({}) is None


def test_counting_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = VAE(image_shape=SHAPE, latent_dim=2)
        small_trainer(max_epochs=2).fit(model, Blobs(num_images=53, batch_size=10))
        return model.state_dict()

    with_count = trained()
    monkeypatch.setattr(DecoderCalls, "on_train_start", lambda *_: None)
    for name, value in trained().items():
        assert torch.equal(value, with_count[name]), name
