"""Reading checkpoints: weights and plain values only, never code."""

import inspect
import pickle
import warnings
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from encdec import plugins
from encdec.files import written_whole
from encdec.paradigms import Paradigm
from encdec.types import UserError


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """The contents of a checkpoint that encdec wrote, on the CPU.

    Raises:
        UserError: there is no such file, or it is damaged, foreign, or holds more than weights and plain values.
    """
    require_file(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} can't be read as a checkpoint: it is truncated, foreign, or holds code "
            f"({type(error).__name__}); use another one, such as the run's best.ckpt or last.ckpt."
        ) from error
    if not isinstance(checkpoint, dict) or "_class_path" not in checkpoint.get("hyper_parameters", {}):
        raise UserError(f"{path} is not a checkpoint of encdec: it does not say which paradigm it holds.")
    return checkpoint


def require_file(path: str | PathLike[str]) -> None:
    """Check that there is a checkpoint.

    Raises:
        UserError: there is no such file.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint {str(path)!r}: give the path of a .ckpt file that `fit` wrote.", 2)


def paradigm_class(checkpoint: dict[str, Any], path: str | PathLike[str]) -> type[Paradigm]:
    """The paradigm that a checkpoint holds, looked up among those that encdec and its plugins define.

    Raises:
        UserError: it is not among them.
    """
    name = checkpoint["hyper_parameters"]["_class_path"]
    for known in plugins.subclasses(Paradigm):
        # a config may name a class by the package that exports it
        if name.rpartition(".")[2] == known.__name__ and known.__module__.startswith(name.rpartition(".")[0]):
            return known
    raise UserError(
        f"{path} holds a {name}, which is none of the paradigms known here "
        f"({', '.join(sorted(known.__name__ for known in plugins.subclasses(Paradigm)))}): "
        "put the plugin that defines it into ./plugins."
    )


def load_paradigm(path: str | PathLike[str]) -> Paradigm:
    """See `encdec.load`."""
    plugins.load()
    checkpoint = read_checkpoint(path)
    known = paradigm_class(checkpoint, path)
    accepted = _parameters(known)
    hparams = checkpoint["hyper_parameters"]
    foreign = [name for name in hparams if name not in accepted and not name.startswith("_")]
    if foreign:
        raise UserError(
            f"{path} was written by another version of {known.__name__}: it has the settings {', '.join(foreign)}, "
            "which are not known here."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Lightning calls what jsonargparse 4 deprecates
            paradigm = pl.LightningModule.load_from_checkpoint(Path(path), map_location="cpu", weights_only=True)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} does not fit the {known.__name__} that is known here: {reason}") from error
    assert isinstance(paradigm, Paradigm)
    paradigm.hparams.update(hparams)
    paradigm._not_rebuildable.clear()  # the checkpoint's own settings rebuild it
    return paradigm.eval()


def _parameters(cls: type) -> set[str]:
    """The names that the constructors of a class and its bases accept."""
    return {name for base in cls.__mro__ if base is not object for name in inspect.signature(base).parameters}


def check_fits(paradigm: Paradigm, checkpoint: dict[str, Any], path: str | PathLike[str]) -> None:
    """Check that a checkpoint's weights are those of a paradigm, by name and shape.

    Raises:
        UserError: they are not; it names the first that differs.
    """
    held = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in paradigm.state_dict().items()}
    for name in sorted(held.keys() | wanted.keys()):
        if held.get(name) != wanted.get(name):
            raise UserError(
                f"{path} does not fit the model that the config describes: {name} is {held.get(name, 'missing')} in "
                f"the checkpoint and {wanted.get(name, 'missing')} in the model; give the config it was made with."
            )


class CheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are there whole or not at all, and reads no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; what was there before is replaced when the new one was found to be good.

        Raises:
            UserError: it can't be written, for example because the disk is full.
        """
        with written_whole(Path(path), _verify) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read_checkpoint`."""
        return read_checkpoint(path)


def _verify(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        if file.testzip() is not None:
            raise OSError("what was written can't be read back")
