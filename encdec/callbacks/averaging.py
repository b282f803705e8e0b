"""What Lightning's averages of weights need to be seen, saved and resumed exactly.

`WeightAveraging` and `EMAWeightAveraging` put their averages in the place of the weights in validations and in
checkpoints themselves. `StochasticWeightAveraging` does so only when training ends, after the last checkpoint.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import AveragedModel

from encdec.callbacks.best_and_last import best_and_last
from encdec.runs.contents import CURRENT_WEIGHTS
from encdec.types import UserError


class ShowAverages(pl.Callback):
    """Validates, draws and saves the averaged weights wherever a callback averages weights; goes on with the others.

    It must stand before the callback that averages.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what would train on in a pass that only measures, and averages of what is an average already.

        Raises:
            UserError: StochasticWeightAveraging is to average a network with batch normalization; or the paradigm has
                a moving average of its own.
        """
        kinds = WeightAveraging | StochasticWeightAveraging
        callback = next((one for one in _callbacks(trainer) if isinstance(one, kinds)), None)
        if (
            stage == "fit"
            and callback is not None
            and any(isinstance(one, AveragedModel) for one in pl_module.modules())
        ):
            raise UserError(
                f"{type(pl_module).__name__} has a moving average of its own, which makes its samples, and "
                f"{type(callback).__name__} would average that again: leave the callback out, and set model.decay.",
                2,
            )
        normalizes = StochasticWeightAveraging.pl_module_contains_batch_norm(pl_module)
        if normalizes and _stochastic(trainer) is not None:
            raise UserError(
                "StochasticWeightAveraging would need one more epoch for this network's batch normalization, which "
                "encdec does not make: take EMAWeightAveraging, which averages its statistics too.",
                2,
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In a run that goes on within an epoch, do what StochasticWeightAveraging does at an epoch's start."""
        swa = _stochastic(trainer)
        if swa is not None and trainer.global_step > 0:
            swa.on_train_epoch_start(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the averaged weights."""
        self._swap(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the others."""
        self._swap(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save while there still are two kinds of weights: the averaged ones are about to replace the others."""
        averages = any(isinstance(one, WeightAveraging | StochasticWeightAveraging) for one in _callbacks(trainer))
        kept = best_and_last(trainer)
        if averages and kept is not None:
            kept.on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the averaged weights as the model's."""
        average = _average(trainer)
        if average is not None:
            checkpoint[CURRENT_WEIGHTS] = checkpoint["state_dict"]
            checkpoint["state_dict"] = {
                name: average[name].to(value.device) if name in _trained(pl_module) else value
                for name, value in checkpoint["state_dict"].items()
            }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the others."""
        training = trainer.state.fn == TrainerFn.FITTING
        if training and _stochastic(trainer) is not None and CURRENT_WEIGHTS in checkpoint:
            pl_module.load_state_dict(checkpoint[CURRENT_WEIGHTS])

    @torch.no_grad()
    def _swap(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        average = _average(trainer)
        if average is not None:
            for name, parameter in pl_module.named_parameters():
                current = parameter.detach().clone()
                parameter.copy_(average[name])
                average[name].copy_(current)


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]  # not set in __init__


def _stochastic(trainer: pl.Trainer) -> StochasticWeightAveraging | None:
    return next((one for one in _callbacks(trainer) if isinstance(one, StochasticWeightAveraging)), None)


def _average(trainer: pl.Trainer) -> dict[str, torch.Tensor] | None:
    """The averaged weights of StochasticWeightAveraging, the very tensors; None before it has begun."""
    swa = _stochastic(trainer)
    state = {} if swa is None else swa.state_dict()
    average: dict[str, torch.Tensor] | None = state["average_model_state"] if state.get("n_averaged") else None
    return average


def _trained(pl_module: pl.LightningModule) -> set[str]:
    return {name for name, _ in pl_module.named_parameters()}
