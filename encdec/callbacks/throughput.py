"""Speed of training."""

from time import perf_counter
from typing import Any

import lightning.pytorch as pl

from encdec.paradigms import Paradigm
from encdec.types import Batch


class Throughput(pl.Callback):
    """Logs `images_per_second`: training images of all processes per second of wall time, validation not counted."""

    def __init__(self) -> None:
        self._images, self._seconds, self._since = 0, 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._images, self._seconds, self._since = 0, 0.0, perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._seconds += perf_counter() - self._since

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start it again."""
        self._since = perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count a batch; log at the steps of the training curve."""
        self._images += batch.x.shape[0]
        if isinstance(pl_module, Paradigm) and pl_module.is_logging_due():
            now = perf_counter()
            seconds = self._seconds + now - self._since
            for logger in trainer.loggers:
                logger.log_metrics(
                    {"images_per_second": self._images * trainer.world_size / seconds}, step=trainer.global_step
                )
            self._images, self._seconds, self._since = 0, 0.0, now
