"""Training stops before anything that is not finite is kept."""

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from encdec.types import UserError


class NotFiniteError(UserError):
    """Training made a loss or weights that are not finite."""


def require_finite(
    module: pl.LightningModule, means: Mapping[str, Tensor], stage: str, where: str, fitting: bool = True
) -> None:
    """Check the means of some terms.

    Args:
        module: whose terms they are.
        means: by name; a tensor of several numbers stands for its mean.
        stage: `training`, `validation` or `test`.
        where: the step or steps, for the error.
        fitting: whether they are measured in a training.

    Raises:
        UserError: one is not finite; the sentence names the term that made the loss so, if there is one; in a training
            it is a `NotFiniteError`.
    """
    values = {name: value.detach().mean().item() for name, value in means.items()}
    names = sorted(
        (name for name, value in values.items() if not math.isfinite(value)),
        key=lambda name: name.partition("_")[0] == "loss",
    )
    if not names:
        return
    found = f"{type(module).__name__}: the {stage} {names[0]} is {values[names[0]]}"
    if not fitting:
        raise UserError(f"{found}, so there is nothing to measure: take a checkpoint from before.")
    raise NotFiniteError(
        f"{found} at {where}, so the run is stopped; what it has saved, if anything, is from before. "
        "Try a lower learning rate or another precision."
    )


class FiniteWeights(pl.Callback):
    """Keeps weights that are not finite out of checkpoints."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check all weights.

        Raises:
            NotFiniteError: one is not.
        """
        for name, weights in pl_module.state_dict().items():
            if not torch.isfinite(weights).all():
                raise NotFiniteError(
                    f"{type(pl_module).__name__}: {name} is not finite after step {trainer.global_step}, so the run is "
                    "stopped; what it has saved, if anything, is from before. Try a lower learning rate or another "
                    "precision."
                )
