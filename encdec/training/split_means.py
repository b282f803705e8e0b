"""Exact means over a split of what is measured in validations and tests."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from encdec.objectives.metrics import RunningMeans, pixel_terms
from encdec.training import schedules
from encdec.training.finite import require_finite
from encdec.types import Batch

if TYPE_CHECKING:
    from encdec.paradigms import Paradigm


class SplitMeans(pl.Callback):
    """Logs `val/NAME` and `test/NAME`: means over all images of the split, on all processes, whatever the batches.

    NAME is a term of the objective, or `mse` (per pixel) and `bce` (nats per image) of its outputs. A loss of the set
    of images, which depends on the batch, is the mean over batches, weighted by their images.
    """

    def __init__(self, paradigm: "Paradigm") -> None:
        self._paradigm, self._sums = paradigm, RunningMeans()
        self._of_images: list[dict[str, Tensor]] | None = None

    def measure(self, batch: Batch) -> None:
        """Take a batch into account."""
        if self._paradigm.is_compiled and batch.x.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        losses = self._paradigm.measured_losses(batch)
        terms = {"loss": losses.loss, **losses.terms}
        terms |= pixel_terms(losses.outputs(), batch.x, leave_out=terms)
        self._sums.update(terms, len(batch.x))
        if self._of_images is not None:
            rows = {name: value for name, value in terms.items() if value.ndim}
            self._of_images.append({"": batch.index, **rows})

    def of_images(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the images that this process tested: their positions in the split, (n,), and each term of theirs, (n,)."""
        parts = self._of_images or []
        if not parts:
            return torch.zeros(0, dtype=torch.int64), {}
        values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return values.pop(""), values

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start new sums."""
        self._sums.reset()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start new sums, and keep what they are of."""
        self.begin_test()

    def begin_test(self) -> None:
        """Start new sums, and keep what they are of."""
        self._sums.reset()
        self._of_images = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the means; step ReduceLROnPlateau.

        Raises:
            UserError: a mean is not finite, or what the scheduler monitors is not measured.
        """
        values = self._log(trainer, "val")
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            schedules.step_plateaus(trainer, values)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the means.

        Raises:
            UserError: a mean is not finite.
        """
        self._log(trainer, "test")

    def _log(self, trainer: pl.Trainer, stage: str) -> dict[str, Tensor]:
        fitting = trainer.state.fn == TrainerFn.FITTING

        def summed(tensor: Tensor) -> Tensor:
            total: Tensor = trainer.strategy.reduce(tensor, reduce_op="sum")
            return total

        values = self.values(stage, summed, f"step {trainer.global_step}", fitting)
        log_measured(trainer, values, with_epoch=True)
        return values

    def values(
        self,
        stage: str,
        reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        where: str = "",
        fitting: bool = False,
    ) -> dict[str, Tensor]:
        """The means and their floors by name, as `val/mse`.

        Args:
            stage: `val` or `test`.
            reduce: adds a tensor up over all processes.
            where: the step, for the error.
            fitting: whether they are measured in a training.

        Raises:
            UserError: one is not finite.
        """
        means = self._sums.compute(reduce)
        require_finite(self._paradigm, means, "validation" if stage == "val" else stage, where, fitting)
        means |= {
            name: torch.tensor(value)
            for name, value in self._paradigm.baselines(
                stage, {name: mean.item() for name, mean in means.items()}
            ).items()
        }
        return {f"{stage}/{name}": value.float() for name, value in means.items()}


def log_measured(trainer: pl.Trainer, values: dict[str, Tensor], with_epoch: bool = False) -> None:
    """Log scalars of a split, the same on all processes, at the step of the weights that were measured.

    Lightning would log them at its count of training steps, each of which may train on several batches.
    """
    module: Any = trainer.lightning_module
    # already summed over processes: sync_dist only averages equal numbers, and keeps Lightning from warning
    if trainer.state.fn != TrainerFn.FITTING:
        module.log_dict({**values, "step": torch.tensor(float(module.loaded_step))}, sync_dist=True)
        return
    module.log_dict(values, sync_dist=True, logger=False)
    if not trainer.sanity_checking:
        points = {name: value.item() for name, value in values.items()}
        points |= {"epoch": trainer.current_epoch} if with_epoch else {}
        for logger in trainer.loggers:
            logger.log_metrics(points, step=trainer.global_step)
