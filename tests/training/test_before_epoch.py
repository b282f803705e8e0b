"""`before_epoch` is called once before each epoch, with all training images in order, and disturbs nothing."""

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from encdec.cli import quiet
from encdec.data import InMemoryImages
from encdec.networks import MLPDecoder
from encdec.objectives.losses import pixel_squared_error
from encdec.paradigms import LatentVariable
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.training.images import TrainingImages
from encdec.training.signals import Signals, Stopped
from encdec.types import Batch, Losses, UserError
from tests import killing

IMAGES, BATCHES = 48, 5


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_trainer():
        yield


def blobs(**settings: Any) -> Blobs:
    """48 images to train on, in 5 batches, and 5 to validate on."""
    return Blobs(**{"num_images": 53, "batch_size": 10, **settings})


class Plain(LatentVariable):
    """A decoder of noise, with dropout."""

    def __init__(self, **kwargs: Any) -> None:
        torch.manual_seed(0)
        super().__init__(partial(MLPDecoder, hidden=(4,)), 2, image_shape=(1, 8, 8), **kwargs)
        self.dropout = torch.nn.Dropout()

    def losses(self, batch: Batch) -> Losses:
        return Losses(pixel_squared_error(self.decode(self.noise(batch.index, 2), batch.y), self.dropout(batch.x)))


class Sums(Plain):
    """Before each epoch it adds the brightness of each image, and noise, to what it has: twice is not once."""

    sums: Tensor
    calls: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("sums", torch.zeros(IMAGES))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.at: list[int] = []

    def before_epoch(self, images: TrainingImages) -> None:
        assert self.training
        self.at.append(self.global_step)
        self.calls += 1
        self.sums.mul_(0.5).add_(images.map(self.brightness)).add_(self.shared_noise(IMAGES, 1)[:, 0])

    def brightness(self, batch: Batch) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
        self.noise(batch.index, 2)
        return batch.x.flatten(1).sum(1)


def fit(model: pl.LightningModule, *callbacks: pl.Callback, data: Any = None, **settings: Any) -> pl.Trainer:
    settings = {"max_epochs": 3, **settings}
    path = settings.pop("ckpt_path", None)
    trainer = small_trainer(callbacks=[*callbacks], **settings)
    trainer.fit(model, datamodule=data or blobs(), ckpt_path=path, weights_only=True if path else None)
    return trainer


def assert_equal(one: pl.LightningModule, other: pl.LightningModule, *but: str) -> None:
    left, right = one.state_dict(), other.state_dict()
    for name in left.keys() - {*but}:
        assert torch.equal(left[name], right[name]), name


def test_it_is_called_once_before_each_epoch_and_the_training_is_the_same_without_it() -> None:
    plain, sums = Plain(), Sums()
    fit(plain)
    after = torch.rand(3)
    fit(sums)
    assert sums.at == [0, BATCHES, 2 * BATCHES]
    assert torch.equal(torch.rand(3), after)
    left, right = plain.state_dict(), sums.state_dict()
    assert all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 4}, {"limit_train_batches": 3}, {"max_steps": 12},
                                      {"val_check_interval": 2}], ids=str)  # fmt: skip
def test_it_is_called_once_before_each_epoch_whatever_a_step_is(settings: dict[str, Any]) -> None:
    sums = Sums()
    fit(sums, **settings)
    assert sums.calls == 3


class Saves(pl.Callback):
    """Saves after a step or at the end of an epoch: all that is left of a run that is killed after it."""

    def __init__(self, path: Path, step: int = -1, epoch: int = -1) -> None:
        self.path, self.step, self.epoch = path, step, epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path, weights_only=False)


@pytest.mark.parametrize(
    ("moment", "left"),
    [({"step": 1}, 2), ({"step": 7}, 1), ({"step": 2 * BATCHES - 1}, 1), ({"epoch": 0}, 2), ({"epoch": 1}, 1)],
    ids=str,
)
def test_a_killed_run_calls_it_only_for_epochs_that_it_has_not_begun(
    moment: dict[str, int], left: int, tmp_path: Path
) -> None:
    whole, second = Sums(), Sums()
    fit(whole)
    fit(Sums(), Saves(tmp_path / "killed.ckpt", **moment))
    fit(second, ckpt_path=str(tmp_path / "killed.ckpt"))
    assert len(second.at) == left
    assert second.calls == 3
    assert_equal(whole, second)


class Asks(pl.Callback):
    """Asks a run to stop in a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("step", "left"), [(BATCHES, 2), (7, 1)], ids=["at an epoch's start", "within an epoch"])
def test_a_run_that_is_told_to_stop_calls_it_once(step: int, left: int, tmp_path: Path) -> None:
    whole, second = Sums(), Sums()
    fit(whole)

    def save(trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(tmp_path / "stopped.ckpt", weights_only=False)

    first = Sums()
    with pytest.raises(Stopped):
        fit(first, Asks(step), Signals(save))
    assert len(first.at) == 3 - left
    fit(second, ckpt_path=str(tmp_path / "stopped.ckpt"))
    assert len(second.at) == left
    assert_equal(whole, second)


class Reads(Plain):
    """Notes all images."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[Batch] = []

    def before_epoch(self, images: TrainingImages) -> None:
        assert len(images) == IMAGES
        self.seen += images


def test_all_images_come_in_order_in_the_training_s_precision() -> None:
    reads = Reads()
    data = blobs()
    fit(reads, data=data, max_epochs=1, precision="bf16-true")
    assert torch.equal(torch.cat([batch.index for batch in reads.seen]), torch.arange(IMAGES))
    assert {batch.split for batch in reads.seen} == {"train"}
    x = torch.cat([batch.x for batch in reads.seen])
    (pixels,) = data.splits["train"].stream([torch.arange(IMAGES)])
    assert torch.equal(x, (pixels.float() / 255).bfloat16())


def test_nothing_is_read_for_a_paradigm_that_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, stream = [], InMemoryImages.stream

    def counted(images: InMemoryImages, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for pixels in stream(images, batches):
            reads.append(len(pixels))
            yield pixels

    monkeypatch.setattr(InMemoryImages, "stream", counted)
    for model, expected in ((Plain(), IMAGES), (Reads(), 2 * IMAGES)):
        reads.clear()
        fit(model, max_epochs=1, limit_val_batches=0)
        assert sum(reads) == expected


class Foreign(pl.LightningDataModule):
    """Images of another data module."""

    def train_dataloader(self) -> DataLoader[Any]:
        batches: Any = list(blobs().train_dataloader())
        return DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


def test_images_in_an_unknown_order_are_refused_where_they_are_asked_for() -> None:
    fit(Plain(), data=Foreign(), max_epochs=1)
    with pytest.raises(UserError, match=r"Sums needs all training images in order before each epoch.*DataLoader"):
        fit(Sums(), data=Foreign(), max_epochs=1)


def in_processes(rank: int, folder: str, port: int) -> None:
    """Train as one of two processes, and write what this one ends with."""
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    quiet.install()
    model = OddSums()
    fit(model, data=blobs(num_images=52, batch_size=5), max_epochs=2, devices=2, strategy="ddp")
    torch.save((model.state_dict(), model.at), f"{folder}/{rank}.pt")


class OddSums(Sums):
    """The same for a number of images that two processes can't share evenly."""

    def before_epoch(self, images: TrainingImages) -> None:
        self.at.append(self.global_step)
        assert [len(batch.x) for batch in images] == [5] * 9 + [2]
        self.sums[:-1].mul_(0.5).add_(images.map(self.brightness)).add_(self.shared_noise(IMAGES - 1, 1)[:, 0])


@pytest.mark.slow
def test_two_processes_share_the_work_and_have_what_one_has(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    killing.together(tmp_path, in_processes, str(tmp_path), port)
    (first, at), (second, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(at) == 2
    assert torch.equal(first["sums"], second["sums"])
    (pixels,) = blobs(num_images=52).splits["train"].stream([torch.arange(IMAGES - 1)])
    brightness = (pixels.float() / 255).flatten(1).sum(1)
    assert torch.corrcoef(torch.stack([first["sums"][:-1], brightness]))[0, 1] > 0.9, "in the order of the indices"
