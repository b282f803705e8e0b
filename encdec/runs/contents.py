"""What a checkpoint must hold, whoever wrote it: the types that all who read it rely on."""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encdec import __version__
from encdec.formats import CHECKPOINT_FORMAT, CURVE_KEY, WRITTEN_BY_KEY
from encdec.runs import trust
from encdec.types import UserError

INSTEAD = "use another one, such as the run's best.ckpt or last.ckpt"
"""What to do where a checkpoint can't be used."""
MOST = 2**48
"""More than any run counts to: at a million steps a second, after nine years."""
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})(\.\d{1,9})*((a|b|rc|\.post|\.dev)\d{1,9})*(\+[a-z0-9.]+)?")
CURRENT_WEIGHTS = "current_model_state"
"""Where Lightning's averaging callbacks keep the weights that training goes on with."""


def foreign(path: str | PathLike[str], reason: str) -> UserError:
    """The error for a checkpoint that encdec did not write."""
    return UserError(f"{path} is not a checkpoint of encdec: {reason}; {INSTEAD}.")


def is_count(value: Any) -> bool:
    """Whether a value is a number of things that were done or made."""
    return type(value) is int and 0 <= value < MOST


def is_number(value: Any) -> bool:
    """Whether a value is a number that fits a float."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)


def is_plain_tensor(value: Any) -> bool:
    """Whether a value is a tensor of numbers in memory: dense, on the CPU, and of no class of its own."""
    if type(value) not in (Tensor, nn.Parameter) or value.device.type != "cpu":
        return False
    return value.layout == torch.strided and not value.is_quantized


def check_format(written_by: Any, path: str | PathLike[str]) -> None:
    """Check who wrote a checkpoint.

    Raises:
        UserError: a newer encdec, whose format is not known; or it does not say.
    """
    if not isinstance(written_by, dict) or not is_count(written_by.get("format")):
        raise foreign(path, "what it says about who wrote it is not valid")
    if written_by["format"] > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} was written by encdec {trust.shown(written_by.get('version'))} in format "
            f"{written_by['format']}, but encdec {__version__}, which is running, reads formats up to "
            f"{CHECKPOINT_FORMAT}: update encdec."
        )


def check(checkpoint: Any, path: str | PathLike[str]) -> None:
    """Check that what encdec and Lightning read in any checkpoint has the types that they expect.

    Raises:
        UserError: it has not; the sentence says what is wrong.
        Exception: it is so foreign that it can't even be looked at.
    """
    if type(checkpoint) is not dict or type(checkpoint.get("hyper_parameters")) is not dict:
        raise foreign(path, "it has no hyper_parameters")
    if WRITTEN_BY_KEY in checkpoint:
        check_format(checkpoint[WRITTEN_BY_KEY], path)
        values = checkpoint[WRITTEN_BY_KEY].values()
        if not all(is_count(value) or (type(value) is str and _is_line(value)) for value in values):
            raise foreign(path, "what it says about who wrote it is not valid")
    hparams = checkpoint["hyper_parameters"]
    if type(hparams.get("_class_path")) is not str:
        raise foreign(path, "it does not say which paradigm it holds")
    if not all(type(name) is str for name in checkpoint) or not all(type(name) is str for name in hparams):
        raise foreign(path, "its keys are not text")
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        trust.check_size(checkpoint.get(name), str(path))
    if not all(is_count(checkpoint.get(name)) for name in ("epoch", "global_step")):
        raise foreign(path, "its epoch or its step is not a non-negative integer")
    version = checkpoint.get("pytorch-lightning_version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None or (int(match[1]), int(match[2])) < (2, 6):
        raise foreign(path, f"encdec never ran with Lightning {trust.shown(version)}")
    kinds = {"loops": dict, "callbacks": dict, "metrics": dict, "optimizer_states": list, "lr_schedulers": list,
             "ended": bool, "datamodule_hyper_parameters": dict}  # fmt: skip
    for name, kind in kinds.items():
        if type(checkpoint.get(name, kind())) is not kind:
            raise foreign(path, f"its {name} are no {kind.__name__}")
    metrics: dict[Any, Any] = checkpoint.get("metrics", {})
    if not all(type(name) is str and _is_line(name) and is_number(value) for name, value in metrics.items()):
        raise foreign(path, "its metrics are not numbers")
    for name in ("state_dict", *({CURRENT_WEIGHTS} & checkpoint.keys())):
        _check_weights(checkpoint.get(name), path)
    _check_callbacks(checkpoint.get("callbacks", {}), path)
    if "optimizer_states" in checkpoint:
        try:
            _check_progress(checkpoint, path)
        except (KeyError, TypeError, AttributeError) as error:
            raise foreign(path, "how far its training went is not valid") from error


def _is_line(text: str) -> bool:
    return len(text) <= 200 and text.isprintable()


def _check_weights(weights: Any, path: str | PathLike[str]) -> None:
    if type(weights) is not dict and not (isinstance(weights, dict) and vars(weights).keys() <= {"_metadata"}):
        raise foreign(path, "it has no weights")
    size = Path(path).stat().st_size
    for name, weight in weights.items():
        # a tensor may repeat a few numbers, and then fill all memory when it is copied
        if type(name) is not str or not is_plain_tensor(weight) or weight.nbytes > size:
            raise foreign(path, f"{trust.shown(name)} is no weight")


def _check_callbacks(states: dict[Any, Any], path: str | PathLike[str]) -> None:
    """Check the names of earlier checkpoints, which Lightning deletes when there are better ones."""
    for callback, state in states.items():
        if type(callback) is not str or not callback.isprintable() or type(state) is not dict:
            raise foreign(path, "the state of a callback is no dictionary")
        files = [value for name, value in state.items() if str(name).endswith("_model_path")]
        for file in filter(None, [*files, *state.get("best_k_models", {})]):
            # a folder and a way out of it looks to Lightning as if it lay in the folder
            climbs = [part == ".." for part in Path(file).parts]
            if trust.is_address(file) or climbs != sorted(climbs, reverse=True):
                raise foreign(path, f"it names {trust.shown(file)} as an earlier checkpoint")


def _check_progress(checkpoint: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Check what a training goes on with, as far as it is read by encdec."""
    loop, curve = checkpoint["loops"]["fit_loop"], checkpoint.get(CURVE_KEY)
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    is_valid = is_count(epochs["processed"]) and is_count(epochs["ready"]) and type(batches["current"]) is dict
    if not is_valid or type(batches["is_last_batch"]) is not bool:
        raise foreign(path, "how far its training went is not valid")
    if curve is not None:
        names, totals = curve["names"], curve["totals"]
        is_whole = type(names) is list and type(totals) is list and len(set(names)) == len(names)
        if not is_whole or not all(type(name) is str and name.isascii() and _is_line(name) for name in names):
            raise foreign(path, "its training curve is not valid")
        rows_are_whole = all(
            type(row) is list and len(row) == len(names) + 1 and all(map(is_number, row)) for row in totals
        )
        if not rows_are_whole or bool(names) != bool(totals) or not is_count(curve["logged_step"]):
            raise foreign(path, "its training curve is not valid")
        if curve["logged_step"] > checkpoint["global_step"] or any(not 0 <= row[-1] < MOST for row in totals):
            raise foreign(path, "its training curve is not valid")
