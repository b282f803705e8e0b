"""Lightning callbacks that measure from inside a run; the command line takes them by their class path."""

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from benchmarks.turns import Gate
from encdec.data import DataModule


class Turns(pl.Callback):
    """Lets a worker train only when it is its turn."""

    def __init__(self) -> None:
        self._gate: Gate | None = None

    def on_before_zero_grad(self, trainer: pl.Trainer, *_: Any) -> None:
        """Pass the gate before each step; of several processes the first one does, and the others wait for it.

        `on_train_batch_end` would count batches, for which encdec leaves its fast path.
        """
        if trainer.is_global_zero:
            self._gate = self._gate or Gate()
            self._gate.step()


class StopAtFirstStep(pl.Callback):
    """Ends the process after the first optimizer step."""

    def on_before_zero_grad(self, trainer: pl.Trainer, *_: Any) -> None:
        """End it when the second step begins."""
        if trainer.global_step > 0:
            os._exit(0)


class Stopwatch(pl.Callback):
    """Writes how fast each epoch trained and validated, and how long each checkpoint took.

    Args:
        path: JSON file, written at the end.
    """

    def __init__(self, path: str) -> None:
        self._path, self._since, self._step = path, 0.0, 0
        self._times: dict[str, list[float]] = {
            "training_images_per_second": [],
            "validation_images_per_second": [],
            "best_checkpoint_seconds": [],
            "last_checkpoint_seconds": [],
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the checkpoints."""
        save = trainer.save_checkpoint

        def timed(path: str, *args: Any, **kwargs: Any) -> None:
            since = time.perf_counter()
            save(path, *args, **kwargs)
            self._times[f"{Path(path).stem}_checkpoint_seconds"].append(time.perf_counter() - since)

        trainer.save_checkpoint = timed  # type: ignore[method-assign, assignment]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training begins."""
        self._since, self._step = time.perf_counter(), trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training has ended, validation begins."""
        images = (trainer.global_step - self._step) * _data(trainer).batch_size
        self._lap("training_images_per_second", images)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation has ended; images and checkpoints follow."""
        self._lap("validation_images_per_second", len(_data(trainer).splits["val"].labels))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write."""
        Path(self._path).write_text(json.dumps(self._times))

    def _lap(self, name: str, images: int) -> None:
        now = time.perf_counter()
        self._times[name].append(images / (now - self._since))
        self._since = now


def _data(trainer: pl.Trainer) -> DataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set outside Trainer.__init__
    assert isinstance(data, DataModule)
    return data
