"""The training curve: means since the last point, learning rates and speed."""

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch import Tensor

from encdec.formats import CURVE_KEY
from encdec.objectives.metrics import RunningMeans, pixel_terms
from encdec.training.finite import require_finite
from encdec.types import Batch, Losses, UserError

if TYPE_CHECKING:
    from encdec.paradigms import Paradigm


class TrainingCurve(pl.Callback):
    """Logs a point every `log_every_n_steps` steps, and at the end.

    `train/NAME`, where NAME is a term of the objective, is the exact mean over the images since the last point. `mse`
    and `bce` of an output, where the objective has no such term, are measured at the steps that are logged only, and
    are means over the images of that batch. `train/loss` is that of the last player, `train/loss_NAME` that of the
    player NAME. `images_per_second` counts those of all processes and the wall time between two points, validations
    left out.
    """

    def __init__(self, paradigm: "Paradigm") -> None:
        self._paradigm = paradigm
        self._sums, self._pixels = RunningMeans(), RunningMeans()
        self._logged_step = 0
        self._rates: list[float] = []
        self._images, self._seconds, self._since = 0, 0.0, 0.0

    def take(
        self,
        trainer: pl.Trainer,
        batch: Batch,
        found: Mapping[str, Losses],
        rates: list[float],
        steps: bool,
        ends: bool,
    ) -> None:
        """Take a batch into account, and log where it is time to.

        Args:
            trainer: that trains.
            batch: what was trained on.
            found: each player's losses.
            rates: the learning rates that it was trained with.
            steps: whether the optimizers made a step after it.
            ends: whether it is the last one of the epoch.
        """
        count, own = len(batch.x), list(found)[-1]
        self._images += count
        terms: dict[str, Tensor] = {}
        for name, losses in found.items():
            more = {**losses.terms} if name == own else {**losses.terms, f"loss_{name}": losses.loss}
            if len(found) > 1 and (twice := terms.keys() & more.keys()):
                raise UserError(
                    f"{type(self._paradigm).__name__}: two players have a term {sorted(twice)[0]!r}, of which one "
                    "would hide the other: give them different names."
                )
            terms |= more
        terms["loss"] = found[own].loss
        self._sums.update(terms, count)
        self._rates = rates
        if self._is_due(trainer, steps, ends):
            measured = pixel_terms(found[own].outputs(), batch.x, leave_out=terms)
            if measured:
                self._pixels.update(measured, count)
            self._log(trainer)

    def _is_due(self, trainer: pl.Trainer, steps: bool, ends: bool) -> bool:
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]  # not set in __init__
        if step - self._logged_step >= every or step == trainer.max_steps:
            return steps
        # now, and not in on_train_end: what the last checkpoint does not know, a resumed run would log again
        return ends and trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs

    def _log(self, trainer: pl.Trainer) -> None:
        step, all_processes = trainer.global_step, self._sum_over_processes(trainer)
        means = self._sums.compute(all_processes)
        if self._pixels:
            means |= self._pixels.compute(all_processes)
        steps = f"one of the steps {self._logged_step + 1} to {step}"
        require_finite(self._paradigm, means, "training", steps)
        self._sums.reset()
        self._pixels.reset()
        self._logged_step = step
        shown = {name: value.item() for name, value in means.items()}
        floors = self._paradigm.baselines("train", shown)
        points = {f"train/{name}": value for name, value in (shown | floors).items()}
        now = perf_counter()
        points |= self._named_rates(trainer)
        points["images_per_second"] = self._images * trainer.world_size / (self._seconds + now - self._since)
        self._images, self._seconds, self._since = 0, 0.0, now
        for logger in trainer.loggers:
            logger.log_metrics(points, step=step)

    def _named_rates(self, trainer: pl.Trainer) -> dict[str, float]:
        """`lr-Adam`, or `lr-Adam/pg1` and so on for the groups of all optimizers, as Lightning's monitor names them."""
        groups = [type(optimizer).__name__ for optimizer in trainer.optimizers for _ in optimizer.param_groups]
        return {
            f"lr-{name}" + (f"/pg{number}" if len(groups) > 1 else ""): rate
            for number, (name, rate) in enumerate(zip(groups, self._rates, strict=True), 1)
        }

    def _sum_over_processes(self, trainer: pl.Trainer) -> Any:
        return lambda tensor: trainer.strategy.reduce(tensor, reduce_op="sum")

    # ------------------------------------------------------------------ around the steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start a new curve."""
        self._sums.reset()
        self._logged_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._images, self._seconds, self._since = 0, 0.0, perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._seconds += perf_counter() - self._since

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock again."""
        self._since = perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the steps since the last point, where a callback ended the training."""
        if self._sums:
            self._log(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the sums since the last point."""
        rank, processes = trainer.global_rank, trainer.world_size
        sums = self._sums.state_dict(rank, processes, self._sum_over_processes(trainer))
        checkpoint[CURVE_KEY] = {"logged_step": self._logged_step, **sums}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the curve where it was."""
        curve = checkpoint.get(CURVE_KEY)
        if curve is not None:
            self._logged_step = curve["logged_step"]
            self._sums.load_state_dict(curve, trainer.global_rank, trainer.world_size)
