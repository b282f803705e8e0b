"""What encdec 0.1 wrote, in the words of today: its weights are the same, some names are not."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from encdec.formats import WRITTEN_BY_KEY
from encdec.messages import say
from encdec.types import UserError

_MOVED = {
    "encdec.observations.": "encdec.objectives.observations.",
    "encdec.schedules.": "encdec.training.schedules.",
}
"""Where classes were, and where they are."""
_RENAMED = {
    "EncoderlessVAE": {"codes": ("latents", {"fresh": "resampled"})},
    "ImageFolder": {"mode": ("mode", {"colour": "color"})},
}
"""Settings of a class: what they are called, and the values that are called otherwise."""
_EVALUATION = {"code_steps": 100, "sigma": 0.1, "num_images": 10_000}
"""Settings of an evaluation that had another meaning, and their values where nothing else was asked for."""
FORMAT = 1
"""Of its checkpoints and exports."""


def is_old(checkpoint: Mapping[str, Any]) -> bool:
    """Whether encdec 0.1 wrote a checkpoint."""
    return bool(checkpoint.get(WRITTEN_BY_KEY, {}).get("format", FORMAT) == FORMAT)


def refuse_to_resume(what: object) -> UserError:
    """The error for a training of encdec 0.1 that is to be resumed."""
    return UserError(
        f"{what} was written by encdec 0.1, whose repository at version 0.1 resumes its training; this version "
        "measures, exports and samples it, and trains from the start.",
        2,
    )


def converted(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint or an export of encdec 0.1 as today's would be, but for the state of its training."""
    hparams = checkpoint["hyper_parameters"]
    name = hparams["_class_path"].rpartition(".")[2]
    kept = {key: value for key, value in hparams.items() if key.startswith("_")}
    given = {key: value for key, value in hparams.items() if not key.startswith("_")}
    weights = _CONVERT.get(name, dict)(checkpoint["state_dict"])
    result = {**checkpoint, "hyper_parameters": {**_settings(name, given), **kept}, "state_dict": weights}
    result.pop("callbacks", None)  # of a training that is not resumed
    data = checkpoint.get("datamodule_hyper_parameters")
    if type(data) is dict:
        name = str(data.get("_class_path")).rpartition(".")[2]
        result["datamodule_hyper_parameters"] = _settings(name, data)
    return result


def config(values: Any) -> Any:
    """The settings in a run's config, any part of them."""
    if isinstance(values, list):
        return [config(value) for value in values]
    if not isinstance(values, dict):
        return values
    values = {key: config(value) for key, value in values.items()}
    path, arguments = values.get("class_path"), values.get("init_args")
    if isinstance(path, str):
        values["class_path"] = moved(path)
        if isinstance(arguments, dict):
            values["init_args"] = _renamed(path.rpartition(".")[2], arguments)
    return values


def evaluation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a run's config, with those of an evaluation that still mean what they meant.

    Its latents were found by a search of `code_steps`, all test images were measured, and `sigma` was that of a
    likelihood of models without one.
    """
    given = settings.get("evaluation")
    if not isinstance(given, dict) or "code_steps" not in given:
        return dict(settings)
    asked = [name for name, value in _EVALUATION.items() if given.get(name, value) != value]
    if asked:
        names = " and ".join(f"evaluation.{name}" for name in asked)
        say(f"{names} in the config of an older encdec's run meant something else, and are left out.")
    return {**settings, "evaluation": {name: value for name, value in given.items() if name not in _EVALUATION}}


def _settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config(value) for key, value in _renamed(name, given).items()}


def _renamed(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    names = _RENAMED.get(name, {})
    found = {}
    for key, value in given.items():
        new, values = names.get(key, (key, {}))
        found[new] = values.get(value, value) if isinstance(value, str) else value
    return found


def moved(path: str) -> str:
    """Where a class is that was at `path` in encdec 0.1."""
    for old, new in _MOVED.items():
        if path.startswith(old):
            return new + path.removeprefix(old)
    return path


def _of_ae(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its Gaussian was a running mean of z and of z zᵀ; it is now a mean, a covariance and the axes of that."""
    kept = {name: weight for name, weight in weights.items() if not name.startswith("codes.")}
    old = {name: weights.get(f"codes.{name}") for name in ("mean", "second_moment", "steps")}
    mean, moment, steps = old.values()
    if mean is None or moment is None or steps is None:
        return kept
    covariance = moment.double() - torch.outer(mean.double(), mean.double())
    variances, axes = torch.linalg.eigh(covariance)
    found = {"mean": mean, "covariance": covariance, "axes": axes * variances.clamp(min=0).sqrt(), "fitted": steps}
    return kept | {f"ex_post.{name}": value.to(steps if name == "fitted" else mean) for name, value in found.items()}


def _of_auto_decoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its codes were a parameter; they are now a table, with moments that are not needed to measure it."""
    kept = {name: weight for name, weight in weights.items() if name != "codes"}
    if "codes" not in weights:
        return kept
    values = weights["codes"]
    zeros = torch.zeros_like(values)
    table = {"values": values, "first_moment": zeros, "second_moment": zeros.clone()}
    table["steps"] = torch.zeros(len(values), dtype=torch.int64)
    return kept | {f"table.{name}": value for name, value in table.items()}


_CONVERT: dict[str, Any] = {"AE": _of_ae, "AutoDecoder": _of_auto_decoder}
