"""Batches come several at a time, unless a setting, a callback, the model or the data count them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import callbacks as lightnings
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encdec.callbacks import BestAndLast
from encdec.networks import MLPDecoder, MLPEncoder
from encdec.paradigms import VAE, EncoderlessVAE, LatentVariable
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.types import Batch, Losses

BATCHES = 27


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_trainer():
        yield


def data() -> Blobs:
    return Blobs(num_images=150, batch_size=5)


def vae() -> VAE:
    return VAE(partial(MLPEncoder, hidden=(4,)), partial(MLPDecoder, hidden=(4,)), 2, image_shape=(1, 8, 8))


def calls(model: pl.LightningModule | None = None, images: pl.LightningDataModule | None = None, **trainer: Any) -> int:
    """How often Lightning calls `training_step` in one epoch of 27 batches."""
    made = small_trainer(**{"max_epochs": 1, **trainer})
    made.fit(vae() if model is None else model, datamodule=data() if images is None else images)
    return int(made.fit_loop.epoch_loop.batch_progress.total.completed)


class AtStart(pl.Callback):
    """Counts."""

    def on_train_batch_start(self, *args: Any) -> None:
        """Count."""


class AtEnd(pl.Callback):
    """Counts."""

    def on_train_batch_end(self, *args: Any) -> None:
        """Count."""


class DoesNotMind(AtEnd):
    """Is called after each batch, or after several."""

    takes_several_batches = True


class Inherits(AtStart):
    """Counts as its parent does."""


class Means(LatentVariable):
    """A decoder of nothing."""

    def losses(self, batch: Batch) -> Losses:
        logits = self.decode(self.noise(batch.index, self.latent_dim), batch.y)
        return Losses((logits.sigmoid() - batch.x).square().flatten(1).sum(1), logits=logits)


class CountingMeans(Means):
    """Looks at each batch."""

    def on_train_batch_end(self, *args: Any) -> None:
        """Look."""


class MovingMeans(Means):
    """Changes each batch on its way."""

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch._replace(x=batch.x * 0.5)


class MovedBlobs(Blobs):
    """Changes each batch on its way."""

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch._replace(x=batch.x * 0.5)


def means(cls: type[Means]) -> Means:
    return cls(partial(MLPDecoder, hidden=(4,)), 2, image_shape=(1, 8, 8))


ONE_BY_ONE: dict[str, Callable[[], int]] = {
    "val_check_interval, in batches": lambda: calls(val_check_interval=9),
    "val_check_interval, a share": lambda: calls(val_check_interval=0.5),
    "val_check_interval of one batch": lambda: calls(val_check_interval=1),
    "validations by batches": lambda: calls(val_check_interval=20, check_val_every_n_epoch=None),
    "max_steps": lambda: calls(max_steps=1000),
    "profiler": lambda: calls(profiler="simple"),
    "a callback at the start": lambda: calls(callbacks=[AtStart()]),
    "a callback at the end": lambda: calls(callbacks=[AtEnd()]),
    "a callback's parent": lambda: calls(callbacks=[Inherits()]),
    "one of two callbacks": lambda: calls(callbacks=[DoesNotMind(), AtEnd()]),
    "max_time": lambda: calls(max_time="00:01:00:00"),  # it is looked at after each batch
    "Timer": lambda: calls(callbacks=[lightnings.Timer(interval="step")]),
    "a model that counts": lambda: calls(means(CountingMeans)),
    "a model that moves batches": lambda: calls(means(MovingMeans)),
    "data that move batches": lambda: calls(images=MovedBlobs(num_images=150, batch_size=5)),
}
FEWER: dict[str, tuple[Callable[[], int], int]] = {
    "limit_train_batches": (lambda: calls(limit_train_batches=20), 20),
    "limit_train_batches, a share": (lambda: calls(limit_train_batches=0.5), 13),
    "overfit_batches": (lambda: calls(overfit_batches=3), 3),
    "fast_dev_run": (lambda: calls(fast_dev_run=4), 4),
    "max_steps within the epoch": (lambda: calls(max_steps=5), 5),
}
SEVERAL: dict[str, tuple[Callable[[], int], int]] = {
    "nothing": (lambda: calls(), 2),
    "limit_val_batches": (lambda: calls(limit_val_batches=1), 2),
    "validations every second epoch": (lambda: calls(check_val_every_n_epoch=2), 2),
    "a callback that does not mind": (lambda: calls(callbacks=[DoesNotMind()]), 2),
    "EarlyStopping": (lambda: calls(callbacks=[lightnings.EarlyStopping("val/loss")]), 2),
    "a model without hooks": (lambda: calls(means(Means)), 2),
    "2 accumulated": (lambda: calls(accumulate_grad_batches=2), 2),
    "3 accumulated: 15 and 12": (lambda: calls(accumulate_grad_batches=3), 2),
    "10 accumulated: 10, 10 and 7": (lambda: calls(accumulate_grad_batches=10), 3),
    "20 accumulated: 20 and 7": (lambda: calls(accumulate_grad_batches=20), 2),
}


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer` in `LightningModule`")
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_batches_come_one_by_one_where_they_are_counted(name: str) -> None:
    assert ONE_BY_ONE[name]() == BATCHES


@pytest.mark.parametrize("name", FEWER)
def test_settings_that_end_an_epoch_mean_batches(name: str) -> None:
    call, expected = FEWER[name]
    assert call() == expected


@pytest.mark.parametrize("name", SEVERAL)
def test_batches_come_several_at_a_time_elsewhere(name: str) -> None:
    call, expected = SEVERAL[name]
    assert call() == expected


@pytest.mark.parametrize(
    ("kept", "expected", "step"),
    [(BestAndLast, 2, 27), (partial(lightnings.ModelCheckpoint, save_last=True, every_n_train_steps=5), BATCHES, 25)],
    ids=["encdec's", "Lightning's"],
)
def test_checkpoints_by_validations_do_not_count_batches(kept: Any, expected: int, step: int, tmp_path: Any) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        callbacks=[kept(dirpath=str(tmp_path))], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(vae(), datamodule=data())
    assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == expected
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step


def test_a_callback_sees_as_many_batches_as_lightning_says() -> None:
    """In order, each once, and the step it is at."""

    class Sees(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int, int]] = []

        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
        ) -> None:
            self.seen.append((batch_idx, trainer.global_step, len(batch.x)))

    sees = Sees()
    small_trainer(max_epochs=1, callbacks=[sees], accumulate_grad_batches=2).fit(vae(), datamodule=data())
    assert sees.seen == [(number, min((number + 1) // 2, 14) if number < 26 else 14, 5) for number in range(BATCHES)]


class Rows(Dataset[Batch]):
    """Images that no data module of encdec gives."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, position: int) -> Batch:
        x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(position))
        return Batch(x, torch.tensor(0), torch.tensor(position), "")


def collated(rows: list[Batch]) -> Batch:
    x, y, index = (torch.stack([row[part] for row in rows]) for part in range(3))  # type: ignore[misc]
    return Batch(x, y, index)


def test_a_loader_of_ones_own_is_trained_on() -> None:
    """Without the data module's order and resuming: its batches come one by one."""
    paradigm = EncoderlessVAE(partial(MLPDecoder, hidden=(4,)), 2, image_shape=(1, 8, 8))
    before = [p.detach().clone() for p in paradigm.parameters()]
    loader: Any = DataLoader(Rows(), batch_size=4, collate_fn=collated)
    trainer = small_trainer(max_epochs=2)
    trainer.fit(paradigm, loader, loader)
    assert trainer.global_step == trainer.fit_loop.epoch_loop.batch_progress.total.completed == 10
    assert not any(torch.equal(one, other) for one, other in zip(before, paradigm.parameters(), strict=True))


def test_a_run_that_counts_batches_now_and_then_does_not_is_one_run(tmp_path: Any) -> None:
    """A checkpoint within an epoch, made with batches one by one, is gone on from with 16 at a time."""

    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 40:
                trainer.save_checkpoint(tmp_path / "40.ckpt", weights_only=False)

    def weights(model: VAE) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}

    pl.seed_everything(1, verbose=False)
    whole = vae()
    start = weights(whole)
    small_trainer(max_epochs=3, callbacks=[Saves()]).fit(whole, datamodule=data())
    several, rest = vae(), small_trainer(max_epochs=3)
    several.load_state_dict(start)
    rest.fit(several, datamodule=data(), ckpt_path=str(tmp_path / "40.ckpt"), weights_only=True)
    assert rest.global_step == 3 * BATCHES
    for name, value in whole.state_dict().items():
        assert torch.equal(value, several.state_dict()[name]), name
