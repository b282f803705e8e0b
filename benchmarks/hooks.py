"""Lightning callbacks that measure from inside a run; the command line takes them by their class path."""

import os
from typing import Any

import lightning.pytorch as pl

from benchmarks.common import Gate


class Turns(pl.Callback):
    """Lets a worker train only when it is its turn."""

    def __init__(self) -> None:
        self._gate: Gate | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Pass the gate; of several processes the first one does, and the others wait for it in the next step."""
        if trainer.is_global_zero:
            self._gate = self._gate or Gate()
            self._gate.reached(trainer.global_step)


class StopAtFirstStep(pl.Callback):
    """Ends the process after the first optimizer step."""

    def on_train_batch_end(self, *_: Any) -> None:
        """End it."""
        os._exit(0)
