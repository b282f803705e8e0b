"""The prior that is fitted to the latents of the training images, for models that have one."""

import sys
from collections.abc import Callable
from typing import final

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from encdec.data.loader import Loader
from encdec.messages import say
from encdec.objectives.priors import FittedPrior
from encdec.training.images import TrainingImages
from encdec.types import Batch, UserError

MEANWHILE = 10_000
"""How many training images a fit during the training takes at most; to encode all would take a sixth of its time."""


@final
class FitExPost(pl.Callback):
    """Fits a model's `ex_post` prior to the latents of its training images: of all when the training ends.

    Until then it is fitted at each validation, and at the end of epochs without one, to those of the first 10,000, so
    that images that are drawn meanwhile, and checkpoints that are saved then, have a fit of their own weights. (One
    that is saved within an epoch has that of the last validation or epoch.) A model has such a prior if its attribute
    `ex_post` is not None; the latents are those of its method `codes`, or else `encode`. Where weights are averaged,
    this callback must stand behind the one that does so.

    Source: Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, sec. 4.
    """

    def __init__(self) -> None:
        self._fitted = (-1, 0)  # at which step, to how many at most
        self._has_said = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier training."""
        self._fitted = (-1, 0)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit to the weights that are about to be validated."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            is_last = trainer.max_epochs == trainer.current_epoch + 1 or trainer.global_step == trainer.max_steps
            self._fit(trainer, pl_module, sys.maxsize if is_last else MEANWHILE)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit, unless a validation did so after the last step."""
        self._fit(trainer, pl_module, MEANWHILE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit to the latents of all images, unless a validation did so after the last step."""
        self._fit(trainer, pl_module, sys.maxsize)

    def _fit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, most: int) -> None:
        prior = getattr(pl_module, "ex_post", None)
        if not isinstance(prior, FittedPrior) or self._fitted >= (trainer.global_step, most):
            return
        codes = codes_of_training(trainer, pl_module, most)
        if codes is not None:
            prior.fit(codes)
            self._fitted = (trainer.global_step, most)
        elif not self._has_said:
            self._has_said = True
            say(
                f"the ex-post prior of {type(pl_module).__name__} is not fitted, because the training images are not "
                "those of a data module of encdec: samples are drawn from N(0, I)."
            )


def codes_of_training(trainer: pl.Trainer, pl_module: pl.LightningModule, most: int) -> Tensor | None:
    """The latents of the first `most` training images, (N, d), on every process; None where the order is not known.

    They are made in evaluation mode, without gradients, in the training's precision. All processes call it together,
    each encodes its share; neither the order of training images nor torch's random numbers are changed by it.

    Raises:
        UserError: the model has no method for it.
    """
    if not isinstance(trainer.train_dataloader, Loader):
        return None
    lacks = getattr(pl_module, "lacks", ())
    names = [name for name in ("codes", "encode") if name not in lacks and hasattr(pl_module, name)]
    if not names:
        raise UserError(
            f"{type(pl_module).__name__} has an ex-post prior, but neither `codes` nor `encode`, so there are no "
            "latents that it could be fitted to: set ex_post to None."
        )
    encode: Callable[[Batch], Tensor] = getattr(pl_module, names[0])
    return TrainingImages(trainer, pl_module, most).map(lambda batch: encode(batch).float())
