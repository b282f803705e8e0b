"""How far a command is, in plain lines, where its output is not a terminal."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from encdec.text import clock
from encdec.training.step import steps_of

SECONDS = 30.0
"""Between two lines, where nothing else is worth one."""


class PlainProgress(ProgressBar):
    """A line after each validation, and every 30 seconds between: epoch, step, losses and the time left.

    `loss` is that of the last batch, `val/loss` the mean over the validation split.
    """

    takes_several_batches = True

    def __init__(self) -> None:
        super().__init__()
        self._began = self._due = 0.0
        self._first_step = 0
        self._last_loss: Tensor | None = None

    def disable(self) -> None:
        """Nothing: a line on the first process is all that there is."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began, self._first_step = perf_counter(), trainer.global_step
        self._due = self._began + SECONDS

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A line, where the last one is long ago."""
        self._last_loss = outputs["loss"] if outputs else None
        if perf_counter() >= self._due:
            self._print_training(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line, in a training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._print_training(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, unless a training has started it."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            self._began = perf_counter()
            self._due = self._began + SECONDS

    on_validation_start = on_predict_start = on_test_start

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A line, where the last one is long ago."""
        now = perf_counter()
        if now >= self._due and trainer.is_global_zero:
            self._due = now + SECONDS
            stage = "validation" if trainer.validating or trainer.sanity_checking else str(trainer.state.fn.value)  # type: ignore[union-attr]
            print(f"{stage}: batch {batch_idx + 1}, {clock(now - self._began)} so far", flush=True)

    on_validation_batch_end = on_predict_batch_end = on_test_batch_end

    def _print_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = perf_counter()
        self._due = now + SECONDS
        if not trainer.is_global_zero:
            return
        last_epoch = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        words = [f"epoch {trainer.current_epoch + 1}{last_epoch}, step {trainer.global_step}"]
        # not the training curve's last mean, which may be some epochs old beside a new validation loss
        loss = None if self._last_loss is None else self._last_loss.item()
        if loss is not None:
            words.append(f"loss {loss:.4g}")
        if "val/loss" in trainer.callback_metrics:
            words.append(f"val/loss {trainer.callback_metrics['val/loss'].item():.4g}")
        steps = steps_of(trainer)
        made = trainer.global_step - self._first_step
        total = trainer.estimated_stepping_batches if steps is None else steps.length(trainer).steps
        seconds = now - self._began
        if made and math.isfinite(total):
            words.append(f"{clock(seconds / made * max(total - trainer.global_step, 0))} left")
        else:
            words.append(f"{clock(seconds)} so far")
        print(", ".join(words), flush=True)


@contextmanager
def plain_stages(shown: bool) -> Iterator[Callable[[str], Callable[[float], None]]]:
    """A line when a stage of an evaluation begins, every 30 seconds, and when the last one ends.

    Args:
        shown: whether anything is printed.

    Yields:
        What starts a stage of a name, and gives what takes the part of it that is done, from 0 to 1.
    """
    began = perf_counter()

    def say(text: str) -> None:
        if shown:
            print(f"{clock(perf_counter() - began)} {text}", flush=True)

    def stage(name: str) -> Callable[[float], None]:
        due = perf_counter() + SECONDS
        say(name)

        def advance(done: float) -> None:
            nonlocal due
            if perf_counter() >= due:
                due = perf_counter() + SECONDS
                say(f"{name}: {done:.0%}")

        return advance

    yield stage
    say("evaluated")
