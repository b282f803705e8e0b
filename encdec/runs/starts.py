"""Whether there is anything left to train, and whether it begins with what it should."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import OnExceptionCheckpoint

from encdec.messages import say
from encdec.runs import folders
from encdec.types import UserError


def is_finished(start: folders.Start, trainer: pl.Trainer, settings: Mapping[str, Any]) -> bool:
    """Whether the run that a call goes on with has come to its end; if so, say it.

    Args:
        start: where the training begins.
        trainer: with the call's limits.
        settings: of the call.

    Raises:
        UserError: a new run is to begin from a checkpoint that has reached the call's limits already.
    """
    if start.checkpoint is None:
        return False
    limits = folders.reached_limits(start.contents, trainer.max_epochs, trainer.max_steps)
    if start.folder.existing is None:
        if limits:
            raise UserError(
                f"{start.checkpoint} has made its {start.step} steps, so there is nothing left to train: set "
                f"{' and '.join(limits)}, or more.",
                2,
            )
        return False
    if start.checkpoint.name == "best.ckpt":  # the newest only while the last one is still to be written
        return False
    ended = folders.was_ended(start, settings)
    if ended or limits:
        more = f"{' and '.join(limits)}, or more, makes it longer"
        say(
            f"{folders.short(start.folder.existing)} is finished: it has made its {start.step} steps. "
            f"{'A callback of trainer.callbacks ended it' if ended else more}; without --resume a new run begins."
        )
    return ended or bool(limits)


def refuse_strays(trainer: pl.Trainer) -> None:
    """Refuse to begin where Lightning would begin with a file that another run has left, whatever that holds.

    Raises:
        UserError: there is such a file.
    """
    strays = sorted(Path(trainer.default_root_dir).glob("hpc_ckpt_*")) if SLURMEnvironment.detect() else []
    if strays:
        raise UserError(f"{strays[-1]} was left by another program that ran under Slurm: move it elsewhere.")
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, OnExceptionCheckpoint) and Path(callback.ckpt_path).exists():
            raise UserError(
                f"{callback.ckpt_path} was left by an earlier run, and OnExceptionCheckpoint would begin this one with "
                "it: move it elsewhere, or begin with it by --ckpt_path.",
                2,
            )
