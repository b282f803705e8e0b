"""The progress bar of a terminal."""

import math
import re
from collections.abc import Callable
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.table import Column
from rich.text import Text
from torch import Tensor

from encdec.callbacks.plain_progress import PlainProgress
from encdec.text import clock
from encdec.training.step import steps_of

NARROW = 110
"""Columns of a terminal in which lines would be broken."""


def is_narrow() -> bool:
    """Whether the terminal, if it is one, has few columns."""
    console = Console()
    return console.is_terminal and console.width < NARROW


def progress() -> ProgressBar:
    """A progress bar in a terminal or a notebook, and plain lines elsewhere."""
    console = Console()
    return Progress() if console.is_terminal or console.is_jupyter else PlainProgress()


class _Words(ProgressColumn):
    """What a function says of a task, on one line whatever the terminal's width."""

    def __init__(self, words: Callable[[Task], str], style: str = "") -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._words, self._style = words, style

    def render(self, task: Task) -> Text:
        """The column of a task."""
        return Text(self._words(task), style=self._style)


class Progress(RichProgressBar):
    """A progress bar with the last batch's loss, the validation loss and the validation MSE."""

    takes_several_batches = True
    # each drawing takes 3 ms of a core, and the thread that it displaces lets all others of a training step wait
    _SECONDS = 0.5
    _next_update = 0.0
    _metrics = ""
    _last_loss: Tensor | None = None

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """In a narrow terminal, the bar takes the room that is left, and there is none for the speed."""
        narrow, theme = is_narrow(), self.theme
        columns = [
            _Words(lambda task: from_one(task.description)),
            BarColumn(None if narrow else 40, complete_style=theme.progress_bar, finished_style=theme.progress_bar),
            _Words(_batches),
            _Words(_left if narrow else lambda task: f"{clock(task.elapsed or 0)} • {_left(task)}", "dim"),
        ]
        if not narrow:
            columns.append(_Words(lambda task: f"{task.speed or 0:.2f}it/s", "dim"))
        return [*columns, _Words(lambda task: self._metrics if task.id == self.train_progress_bar_id else "", "italic")]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, now and then."""
        self._last_loss = outputs["loss"] if outputs else None
        if self._is_due() or batch_idx + 1 == trainer.num_training_batches:
            steps = steps_of(trainer)
            done = batch_idx + 1 if steps is None else steps.in_epoch or int(self.total_train_batches)
            super().on_train_batch_end(trainer, pl_module, outputs, batch, done - 1)

    @property
    def total_train_batches(self) -> int | float:
        """How many batches an epoch has; Lightning counts training steps, each of which may be of several."""
        steps = steps_of(self.trainer)
        return super().total_train_batches if steps is None else steps.in_all

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar, now and then."""
        if self._is_due():
            super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar where it is, so that what an evaluation prints stands below it."""
        super().on_test_end(trainer, pl_module)
        self.teardown(trainer, pl_module, "test")

    def _is_due(self) -> bool:
        now = perf_counter()
        due = now >= self._next_update
        if due:
            self._next_update = now + self._SECONDS
        return due

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Nothing for Lightning's own column, which would be broken into lines; the numbers stand in ours."""
        shown = {}
        if self._last_loss is not None:  # not the curve's last mean, which may be epochs old
            shown["loss"] = self._last_loss.item()
        for name in ("val/loss",) if is_narrow() else ("val/loss", "val/mse", "test/mse"):
            if name in trainer.callback_metrics:
                shown[name] = trainer.callback_metrics[name].item()
        self._metrics = "  ".join(f"{name}: {value:.4g}" for name, value in shown.items())
        return {}


def from_one(description: str) -> str:
    """Lightning's `Epoch 59/59`, which counts from 0, counted from 1 as everywhere else: `Epoch 60/60`."""
    match = re.fullmatch(r"Epoch (\d+)(?:/(-?\d+))?\s*", description)
    if match is None:
        return description
    last = "" if match[2] is None or int(match[2]) < 0 else f"/{int(match[2]) + 1}"
    return f"Epoch {int(match[1]) + 1}{last}"


def _batches(task: Task) -> str:
    return f"{int(task.completed)}/{'--' if task.total in (None, math.inf) else int(task.total)}"


def _left(task: Task) -> str:
    return f"{'-:--:--' if task.time_remaining is None else clock(task.time_remaining)} left"
