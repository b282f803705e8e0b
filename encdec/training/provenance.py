"""Who wrote a checkpoint, and with what."""

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from encdec import __version__
from encdec.formats import CHECKPOINT_FORMAT, WRITTEN_BY_KEY
from encdec.types import UserError

if TYPE_CHECKING:
    from encdec.paradigms import Paradigm


class Provenance(pl.Callback):
    """Notes in each checkpoint which encdec and torch wrote it, and refuses those that could not be read back."""

    def __init__(self, paradigm: "Paradigm") -> None:
        self._paradigm = paradigm

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note it.

        Raises:
            UserError: the model could not be rebuilt from the checkpoint.
        """
        unknown = self._paradigm.not_rebuildable
        if unknown:
            raise UserError(
                f"{type(pl_module).__name__}: a checkpoint can't rebuild {', '.join(unknown)} from a lambda "
                "or a function: give a class, or functools.partial of a class."
            )
        checkpoint[WRITTEN_BY_KEY] = {"format": CHECKPOINT_FORMAT, "version": __version__, **digits_depend_on()}


def digits_depend_on() -> dict[str, str | int]:
    """What the last digits of sums depend on: another torch, or another number of threads, adds in another order."""
    return {"torch": torch.__version__.partition("+")[0], "threads": torch.get_num_threads()}
