"""The best and the last checkpoint of a run."""

import math
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from encdec.callbacks.image_grids import tensorboard_writers
from encdec.files import expanded
from encdec.runs.folders import ENDED_KEY
from encdec.types import UserError

METRICS_KEY = "metrics"
"""Where a checkpoint holds the validation scalars of its model, by name."""
_STATE = ("best_model_score", "current_score")


class BestAndLast(ModelCheckpoint):
    """Keeps `best.ckpt`, by a validation scalar, and `last.ckpt`, after validations and epochs and at the end.

    (Lightning's `save_last` writes `last.ckpt` only when a better one was found.) Each checkpoint holds the
    validation scalars of its model under `metrics`; one that was saved between validations has none.

    Args:
        monitor: the scalar that decides which is best; if None, the paradigm's, which is the validation loss where that
            measures progress. Where it does not, and none is given, there is no best.
        mode: whether lower or higher is better; if None, as the paradigm says of the scalar: lower, but higher for
            `val/elbo` and others that it maximizes.
        dirpath: folder; `checkpoints` in the run's folder if not given.
        seconds_between: how long `last.ckpt` is left as it is while training goes on, in seconds; 0 writes it after
            each validation. To write one takes as long as some steps, and a run that is told to stop saves anyway:
            only one that is killed repeats them.

    Raises:
        UserError: `seconds_between` is negative or no number.
    """

    takes_several_batches = True

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        dirpath: str | None = None,
        seconds_between: float = 10,
    ) -> None:
        if not seconds_between >= 0:
            raise UserError(f"checkpoint.seconds_between is {seconds_between}, but a time is 0 or more.", 2)
        dirpath = None if dirpath is None else expanded(dirpath)
        super().__init__(dirpath=dirpath, filename="best", monitor=monitor, save_top_k=1, save_on_train_epoch_end=False)
        self._asked, self._asked_mode, self.seconds_between = monitor, mode, seconds_between
        self._written_at = -math.inf
        self._started_from: Path | None = None
        self._last_saved: tuple[int, bool] | None = None  # at which step, and whether a callback had ended the training
        self._validated_step = -1
        self._metrics: dict[str, torch.Tensor] = {}

    def place(self, folder: Path, resumed: bool, checkpoint: Path | None) -> None:
        """Say where the run's own folder of checkpoints is, whether the run goes on in it, and from which.

        Raises:
            UserError: the folder that the config names holds checkpoints of another run, or can't be made.
        """
        self._started_from = checkpoint
        if self.dirpath is None:
            self.dirpath = str(folder)
        try:
            Path(self.dirpath).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The folder of checkpoints {self.dirpath} can't be made ({error.strerror}).") from error
        if str(folder) == self.dirpath:
            return
        if not resumed and any(Path(self.dirpath).glob("*.ckpt")):
            raise UserError(
                f"checkpoint.dirpath is {self.dirpath}, which holds the checkpoints of another run: name an empty "
                "folder, or leave it out."
            )

    @property
    def state_key(self) -> str:
        """Where a checkpoint holds its state, whatever it monitors."""
        return type(self).__name__

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take what the paradigm names, where the user does not."""
        self.monitor = self._asked or getattr(pl_module, "monitor", "val/loss")
        self.mode = self._asked_mode or ("max" if self.monitor in getattr(pl_module, "maximized", ()) else "min")
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        """The scores, but no paths: a run's folder may be moved."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name in _STATE:
            setattr(self, name, state_dict[name])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the metrics along: what follows the validation may ask for them, as EarlyStopping does."""
        self._metrics = {name: torch.tensor(value) for name, value in checkpoint.get(METRICS_KEY, {}).items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has the checkpoint of the step at which it begins, and perhaps a best one."""
        trainer.callback_metrics.update(self._metrics)
        assert self.dirpath is not None
        best, last = (Path(self.dirpath, f"{name}.ckpt") for name in ("best", "last"))
        goes_on_with_it = self._started_from is not None and self._started_from.resolve() == last.resolve()
        self._last_saved = (trainer.global_step, False) if goes_on_with_it else None
        self._validated_step = trainer.global_step if self._metrics else -1
        has_best, has_last = trainer.strategy.broadcast([best.is_file(), last.is_file()])
        self.last_model_path = str(last) if has_last else ""
        if has_best and self.best_model_score is not None:
            self.best_model_path = self.kth_best_model_path = str(best)
            self.best_k_models, self.kth_value = {str(best): self.best_model_score}, self.best_model_score
        else:  # a new run that starts from another one's weights has no best one yet
            self.best_model_score = None

    def on_train_batch_end(self, *args: Any) -> None:
        """Nothing: it saves after validations and at the end."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best and the last."""
        self._validated_step = trainer.global_step
        if self._saves(trainer):
            if self.monitor is not None and self.monitor not in trainer.callback_metrics:
                known = [name for name in trainer.callback_metrics if name.startswith("val/")]
                raise UserError(
                    f"checkpoint.monitor is {self.monitor!r}, but what a validation gives is {', '.join(known)}: "
                    "set it to one of them.",
                    2,
                )
            try:
                _flush(trainer)
            except OSError:
                self.save_now(trainer)
                raise
            if self.monitor is not None:
                super().on_validation_end(trainer, pl_module)
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last, where there was no validation."""
        self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last, where training ended between validations, or was ended by a callback after one."""
        self.save_now(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the metrics, and whether a callback such as EarlyStopping has ended the training."""
        checkpoint[ENDED_KEY] = _is_ended(trainer)
        validated = trainer.callback_metrics if self._validated_step == trainer.global_step else {}
        checkpoint[METRICS_KEY] = {name: value.item() for name, value in validated.items() if name.startswith("val/")}

    @property
    def saved_step(self) -> int | None:
        """The step that this process's newest `last.ckpt` is of; None if it has written none."""
        return None if self._last_saved is None else self._last_saved[0]

    def save_now(self, trainer: pl.Trainer) -> None:
        """Save `last.ckpt`, unless this step was saved already."""
        now = (trainer.global_step, _is_ended(trainer))
        if not self._saves(trainer) or self._last_saved == now:
            return
        try:
            _flush(trainer)
        finally:  # curves that can't be written must not cost the weights
            self._last_saved = now
            assert self.dirpath is not None
            self.last_model_path = str(Path(self.dirpath, "last.ckpt"))
            trainer.save_checkpoint(self.last_model_path, weights_only=False)  # False: with optimizer and loops
            self._written_at = time.monotonic()

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        due = time.monotonic() >= self._written_at + self.seconds_between
        if trainer.strategy.broadcast(due):  # all processes save, or none
            self.save_now(trainer)

    def _saves(self, trainer: pl.Trainer) -> bool:
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return fits and not getattr(trainer, "fast_dev_run", False) and trainer.global_step > 0


def best_and_last(trainer: pl.Trainer) -> BestAndLast | None:
    """The callback that keeps the run's own checkpoints, among any others that the user has added; None without it."""
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast)), None)


def _is_ended(trainer: pl.Trainer) -> bool:
    """Whether a callback has ended the training, and it may end: not before `min_epochs` and `min_steps`."""
    epochs = trainer.fit_loop.epoch_progress.current.ready
    enough = epochs >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    return trainer.should_stop and enough


def _flush(trainer: pl.Trainer) -> None:
    """Put on the disk what was logged: who goes on from the checkpoint does not log it again."""
    for writer in tensorboard_writers(trainer):
        writer.flush()
