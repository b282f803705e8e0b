"""What makes a run, a model or data the same: all that changes results.

A run is the same with the same model, the same seed, the same data and the same weights to begin with, if any:
`IDENTITY`, without the settings that the data module's class declares as `places` (there, the images themselves are
compared) and as `resources`. All other settings (how long it trains, on what, and what is shown and kept) may change
when a run is resumed, which is then said.

A model that is measured is the one in the checkpoint: its settings can't be others, but for those that are of its
training only (`TRAINING_ONLY`). The data may be others, which is said; but what is measured are images that the model
was not trained on.
"""

import reprlib
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from encdec.data import DataModule
from encdec.data.fingerprints import DataIdentity, PresentData, identity_in
from encdec.formats import RENAMED_VALUES
from encdec.runs import trust
from encdec.types import UserError

IDENTITY = ("model", "data", "seed_everything", "weights_sha256")
"""The settings that tell one run from another."""
TRAINING_ONLY = frozenset({"optimizer", "lr_scheduler", "lr_scheduler_interval"})
"""Settings of a model that a trained one does not depend on."""
_LINKED = frozenset({"image_shape", "num_classes", "num_train", "seed"})
"""Settings of model and data that the command line takes from elsewhere: a config does not hold them."""
_ORDER_ONLY = frozenset({"batch_size", "drop_last"})
"""Settings of all data modules that change only how images are grouped."""
_BY_CHANCE = 0.01
"""Of another data set, so many images may equal one that was trained on, as blank ones do."""
_SHORT = reprlib.Repr()
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 10
_SHORT.maxstring = _SHORT.maxother = 100

Settings = Mapping[str, Any]


def differences(before: Settings, now: Settings) -> list[str]:
    """Where settings differ, for each key of `before`: "model.init_args.beta is 4.0 instead of 1.0".

    A setting that `before` does not have, because it was written by an older version, is not compared.
    """
    return [text for key in before for text in _differing(key, before[key], now.get(key))]


def of_run(settings: Settings, also: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Those of a run's settings that make it the run that it is.

    Args:
        settings: of a call, or what a run saved.
        also: settings of the data that are left out as well.
    """
    data = settings.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("init_args"), Mapping):
        left_out = also | _declared(data, "places", "resources")
        data = {**data, "init_args": {name: v for name, v in data["init_args"].items() if name not in left_out}}
    return {key: settings.get(key) for key in IDENTITY} | {"data": data}


def of_checkpoint(contents: Settings) -> dict[str, Any]:
    """The settings that a checkpoint holds, as a config has them; without the data, where it does not name them."""
    found: dict[str, Any] = {}
    for key, hparams in (("model", "hyper_parameters"), ("data", "datamodule_hyper_parameters")):
        held = contents.get(hparams)
        if isinstance(held, Mapping) and isinstance(held.get("_class_path"), str):
            names = (name for name in held if not name.startswith("_") and name not in _LINKED)
            found[key] = {"class_path": held["_class_path"], "init_args": {name: held[name] for name in names}}
    if "seed" in contents["hyper_parameters"]:
        found["seed_everything"] = contents["hyper_parameters"]["seed"]
    return found


def same_places(before: Settings, now: Settings) -> bool:
    """Whether two calls for the same kind of data take them from the same place."""
    places = _declared(now["data"], "places")
    of_before, of_now = ((settings.get("data") or {}).get("init_args") or {} for settings in (before, now))
    return all(of_before.get(place) == of_now.get(place) for place in places)


def check_resumed(run: object, contents: Settings, settings: Settings) -> None:
    """Check that a run's newest checkpoint was made with the settings of the call.

    Raises:
        UserError: it was not, so the run's config was changed since.
    """
    held = of_checkpoint(contents)
    differing = differences({key: of_run(held)[key] for key in held}, of_run(settings))
    if differing:
        raise UserError(
            f"--resume can't go on with {run}: its checkpoint was made with other settings than its config.yaml now "
            f"holds, {differing[0]}. Change that back, or begin a new run.",
            2,
        )


def is_of_training_only(difference: str) -> bool:
    """Whether settings differ in what a run keeps, but a new one that begins with its weights may change."""
    return difference.startswith(tuple(f"model.init_args.{name}" for name in TRAINING_ONLY))


def check_measured(path: str | PathLike[str], contents: Settings, settings: Settings) -> list[str]:
    """Check that a checkpoint is measured as the model that it holds.

    Returns:
        What differs of seed and data, which may be meant.

    Raises:
        UserError: the settings are of another model.
    """
    held = of_checkpoint(contents)
    differing = differences({"model": _without(held["model"], TRAINING_ONLY)}, settings)
    if differing:
        raise UserError(
            f"{path} does not fit the model that the config describes: {differing[0]}. Leave that out: a checkpoint is "
            "measured as the model that it holds."
        )
    held.pop("model")
    held.pop("data", None)
    return [*data_differences(contents, settings), *differences(held, settings)]


def check_held_out(
    path: str | PathLike[str], contents: Settings, data: PresentData, settings: Settings, *splits: str
) -> list[str]:
    """Check that no image of the splits that are measured is one that a checkpoint was trained on.

    Args:
        path: of the checkpoint.
        contents: of it.
        data: that there are now.
        settings: of the call.
        splits: of `val` and `test`, those that are measured.

    Returns:
        How the data differ from those of the training, where they do.

    Raises:
        UserError: some are.
    """
    before, now = identity_in(contents, path), data.identity
    if before is None:
        return []
    for split in splits:
        overlap, total = data.trained_on(before, split), now.images[split]
        if overlap and (now.name == before.name or overlap > _BY_CHANCE * total):
            why = _why(before, now, data_differences(contents, settings))
            raise UserError(f"{path} was trained on {overlap} of the {total} images of the {split} split: {why}.")
        if overlap:
            return [f"it was trained on images that equal {overlap} of the {total} of the {split} split"]
        if overlap is None and now.name == before.name:
            unknown = f"whether it was trained on images of the {split} split is not known: its checkpoint would tell"
            return [f"its data were others ({_counts(before, now)}), and {unknown}"]
    if now.name == before.name and now.differs(before, "train", *splits):
        return [f"its data were others ({_counts(before, now)})"]
    return []


def check_same_data(run: object, before: DataIdentity, data: PresentData) -> None:
    """Check that a run is resumed with the images that it was trained and validated on.

    Raises:
        UserError: it is not.
    """
    now = data.identity
    if now.name != before.name or now.differs(before, "train", "val"):
        raise UserError(
            f"{now.name} has {now.images['train']} images to train on, but there were {before.images['train']} when "
            f"{run} was saved: the data have changed ({_counts(before, now)}), so restore them, or begin a new run."
        )


def _why(before: DataIdentity, now: DataIdentity, differing: list[str]) -> str:
    if now.name == before.name and now.total != before.total:
        return (
            f"the data have changed since ({_counts(before, now)}), so the splits are others. Give the data as they "
            "were, or train a new run on these; where a data set grows, keep its test images in a folder of their own"
        )
    if differing:
        return f"{differing[0]}, so the splits are others. Leave that out, or train a new run"
    return "the splits are others. Give the data as they were, or train a new run"


def _counts(before: DataIdentity, now: DataIdentity) -> str:
    if now.total == before.total:
        return f"{now.total} images as before, but not the same ones"
    more = now.total - before.total
    return f"{now.total} images, {abs(more)} {'more' if more > 0 else 'fewer'} than the {before.total} that there were"


def data_differences(contents: Settings, settings: Settings) -> list[str]:
    """How the data that a call names differ from those that a checkpoint names, but for places and resources."""
    held = of_checkpoint(contents)
    if "data" not in held:
        return []
    before, now = (of_run(of, _ORDER_ONLY)["data"] for of in (held, settings))
    other_class = differences({"class_path": before["class_path"]}, now)
    return [f"data.{text}" for text in other_class] or differences({"data": before}, {"data": now})


def _without(spec: Settings, names: frozenset[str]) -> dict[str, Any]:
    return {**spec, "init_args": {name: value for name, value in spec["init_args"].items() if name not in names}}


def _declared(data: Settings, *attributes: str) -> frozenset[str]:
    """The settings that a data module's class declares."""
    path = data.get("class_path")
    found = trust.named(path) if isinstance(path, str) else None
    if not (isinstance(found, type) and issubclass(found, DataModule)):
        return frozenset()
    return frozenset().union(*(getattr(found, attribute) for attribute in attributes))


def _differing(name: str, before: Any, now: Any) -> Iterator[str]:
    key = name.rpartition(".")[2]
    if key == "init_args":  # a class without any has none
        before, now = before or {}, now or {}
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for inner in dict.fromkeys([*before, *now]):
            if inner in before or key != "init_args":
                yield from _differing(f"{name}.{inner}", before.get(inner), now.get(inner))
    elif not _same(key, before, now):
        yield f"{name} is {_shown(now)} instead of {_shown(before)}"


def _same(key: str, before: Any, now: Any) -> bool:
    if key == "class_path" and isinstance(before, str) and isinstance(now, str):
        return before.rpartition(".")[2] == now.rpartition(".")[2]  # short names are unique
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        return len(before) == len(now) and all(_same("", *pair) for pair in zip(before, now, strict=True))
    if isinstance(before, str) and isinstance(now, str):
        return RENAMED_VALUES.get((key, before), before) == RENAMED_VALUES.get((key, now), now)
    try:
        return bool(before == now) or bool(before != before and now != now)  # not a number equals nothing
    except Exception:  # what a stranger's file holds may not be comparable
        return False


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        value = value["class_path"].rpartition(".")[2]
    return _SHORT.repr(value)
