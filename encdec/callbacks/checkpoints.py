"""The best and the last checkpoint of a run."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

METRICS_KEY = "metrics"
"""Where a checkpoint holds the validation scalars of its model, by name."""


class BestAndLast(ModelCheckpoint):
    """Keeps `best.ckpt`, by a validation scalar, and `last.ckpt`, after each validation and at the end.

    (Lightning's `save_last` writes `last.ckpt` only when a better one was found.) Each checkpoint holds the
    validation scalars of its model under `metrics`.

    Args:
        monitor: the scalar that decides which is best.
        mode: whether lower or higher is better.
        dirpath: folder; `checkpoints` in the run's folder if not given.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min", dirpath: str | None = None
    ) -> None:
        super().__init__(
            dirpath=dirpath, filename="best", monitor=monitor, mode=mode, save_top_k=1, save_on_train_epoch_end=False
        )
        self._last_step_saved = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has the checkpoint of the step at which it begins."""
        self._last_step_saved = trainer.global_step if trainer.global_step > 0 else -1

    def on_train_batch_end(self, *args: Any) -> None:
        """Nothing: it saves after validations and at the end."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best and the last."""
        super().on_validation_end(trainer, pl_module)
        self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last, where there was no validation."""
        self._save_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last, where training ended between validations."""
        self._save_last(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the metrics."""
        checkpoint[METRICS_KEY] = {
            name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }

    def _save_last(self, trainer: pl.Trainer) -> None:
        saves = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not saves or getattr(trainer, "fast_dev_run", False) or self._last_step_saved == trainer.global_step:
            return
        self._last_step_saved = trainer.global_step
        assert self.dirpath is not None
        self.last_model_path = str(Path(self.dirpath, "last.ckpt"))
        trainer.save_checkpoint(self.last_model_path, weights_only=False)  # False: with optimizer and loops
