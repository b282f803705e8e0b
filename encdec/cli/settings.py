"""What a call sets, in its configs and flags: settings that have no effect or stand in the wrong place are refused.

The parser takes `trainer: null` or a setting beside `init_args` silently, or for something else.
"""

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from jsonargparse import Namespace

from encdec import plugins
from encdec.runs import trust
from encdec.signatures import parameters
from encdec.types import UserError

GROUPS = ("trainer", "checkpoint", "images", "floors", "evaluation", "predictions")
"""Keys that hold settings by their names."""
CLASSES = {"model": "VAE", "data": "Digits"}
"""Keys that hold a class and its settings, with an example of each."""
_FROM_DATA = "is taken from the data: leave it out"
_FROM_SEED = "is taken from seed_everything: set seed_everything instead"
TAKEN = {
    "model": {"seed": _FROM_SEED, "image_shape": _FROM_DATA, "num_classes": _FROM_DATA, "num_train": _FROM_DATA},
    "data": {"seed": _FROM_SEED},
}
"""What the program sets itself, and from what."""
_SPEC = ("class_path", "init_args", "dict_kwargs")
_CALLABLES_NEEDED = ("SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR")


def check_config(settings: Mapping[str, Any], config: str) -> None:
    """Check the settings of a config file.

    Raises:
        UserError: one has no effect, or stands in the wrong place; the sentence names the file and the key.
    """
    for key in settings:
        if not isinstance(key, str):
            raise UserError(f"{config}: keys must be names, but one is {_shown(key)}.", 2)
    for key, value in nested(settings).items():
        if key in GROUPS or key in CLASSES:
            _check(key, value, f"{config}: ")


def check_flags(args: Iterable[str]) -> None:
    """Check the settings that flags make: `--model.seed 3`, `--model={class_path: VAE, init_args: {seed: 3}}`.

    Raises:
        UserError: one has no effect, or stands in the wrong place; the sentence names it.
    """
    args = list(args)
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if not arg.startswith("--"):
            continue
        flag, equals, text = arg[2:].partition("=")
        if not equals:
            text = following
        path, parts = flag.removesuffix("+"), flag.removesuffix("+").split(".")
        if parts[0] not in (*GROUPS, *CLASSES) or parts[-1] == "help" or "help" in parts[1:2]:
            continue
        for place, part in enumerate(parts[1:], 1):
            _check_spelling(part, ".".join(parts[:place]), "")
        names = [part for part in parts[1:] if part not in _SPEC]
        if parts[0] in CLASSES and len(parts) > 1 and not equals and (not following or following.startswith("--")):
            raise UserError(f"{arg} needs a value.", 2)
        if len(names) == 1 and len(parts) <= 3:
            _refuse_taken(parts[0], names[0], "")
        if text or equals:
            _check(path, _value(text), "")


def check_values(config: Namespace, groups: Mapping[str, type]) -> None:
    """Check parsed settings for null where its class does not take it, which the parser lets pass.

    Args:
        config: of a call.
        groups: the class whose settings each of `GROUPS` holds.

    Raises:
        UserError: one is null; the sentence names it and what needs it.
    """
    for key, value in vars(config).items():
        if key in groups and isinstance(value, Namespace):
            _refuse_null(value, key, groups[key])
        _refuse_nulls(value, key)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with `model.beta: 3` written as `model: {beta: 3}`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = nested(value) if isinstance(value, dict) and all(isinstance(k, str) for k in value) else value
        first, dot, rest = key.partition(".")
        if dot:
            inner = nested({rest: value})
        if isinstance(found.get(first), dict) and isinstance(inner, dict):
            inner = {**found[first], **inner}
        found[first] = inner
    return found


def _value(text: str) -> Any:
    """What a flag's value means, where it is null, a list or settings; other text as it is."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, list | dict) else text


def _check(path: str, value: Any, where: str) -> None:
    """Check the value of a key, and what is in it."""
    top, name = path.partition(".")[0], path.rpartition(".")[2]
    if path in GROUPS:
        if not isinstance(value, dict):
            raise UserError(f"{where}{path} must hold settings by their names, but it is {_shown(value)}.", 2)
        for key, inner in value.items():
            _check(f"{path}.{key}", inner, where)
        return
    if path in CLASSES and (not isinstance(value, str | dict) or not value or _is_number(value)):
        raise UserError(
            f"{where}{path} must be the name of a class, such as {CLASSES[path]}, or its class_path and init_args, "
            f"but it is {_shown(value)}.",
            2,
        )
    if name in plugins.KINDS and isinstance(value, list | dict) and not value:
        raise UserError(
            f"{where}{path} must be the name of a class, or its class_path and init_args, but it is empty.", 2
        )
    if name == "lr_scheduler":
        _refuse_needing_code(path, value, where)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _check(f"{path}[{index}]", inner, where)
    elif isinstance(value, dict):
        _check_spec(path, value, where)
        inner_args = {
            key: inner for part in ("init_args", "dict_kwargs") for key, inner in (value.get(part) or {}).items()
        }
        for key, inner in {**{k: v for k, v in value.items() if k not in _SPEC}, **inner_args}.items():
            if path == top:
                _refuse_taken(top, str(key), where)
            _check(f"{path}.{key}", inner, where)


def _check_spec(path: str, value: dict[Any, Any], where: str) -> None:
    """Check a class with its settings: `class_path` and `init_args`, and nothing beside them."""
    keys = [str(key) for key in value]
    for key in keys:
        _check_spelling(key, path, where)
    if not any(key in _SPEC for key in keys):
        if len(keys) == 1 and re.fullmatch(r"[A-Z]\w*", keys[0]) and isinstance(value[keys[0]], dict | type(None)):
            raise UserError(
                f"{where}{path} has no key {keys[0]!r}: name a class as class_path, and its settings in init_args.", 2
            )
        return
    for key in keys:
        if key not in _SPEC:
            raise UserError(f"{where}{path}.{key} stands beside init_args: put it in, as {path}.init_args.{key}.", 2)
    if "class_path" in value and (not isinstance(value["class_path"], str) or not value["class_path"].strip()):
        raise UserError(
            f"{where}{path}.class_path must be the name of a class, but it is {_shown(value['class_path'])}.", 2
        )
    for part in ("init_args", "dict_kwargs"):
        if part in value and not isinstance(value[part], dict):
            raise UserError(
                f"{where}{path}.{part} must hold settings by their names, but it is {_shown(value[part])}.", 2
            )


def _check_spelling(key: str, path: str, where: str) -> None:
    if path in GROUPS or key in _SPEC:
        return
    close = ["class_path"] if key == "class" else difflib.get_close_matches(key, _SPEC[:2], n=1, cutoff=0.75)
    if close:
        raise UserError(f"{where}{path} has no key {key!r}; did you mean {close[0]}?", 2)


def _refuse_taken(top: str, key: str, where: str) -> None:
    if key in TAKEN.get(top, {}):
        raise UserError(f"{where}{top}.{key} {TAKEN[top][key]}.", 2)


def _refuse_needing_code(path: str, value: Any, where: str) -> None:
    name = str(value.get("class_path") if isinstance(value, dict) else value).rpartition(".")[2]
    if name in _CALLABLES_NEEDED:
        raise UserError(
            f"{where}{path}: {name} is made of objects that no config can hold; encdec.training.schedules.Phases "
            "puts schedules one after the other.",
            2,
        )


def _refuse_nulls(value: Any, path: str) -> None:
    """Look for classes with their settings, however deep."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_nulls(inner, f"{path}[{index}]")
    elif isinstance(value, Namespace):
        class_path, init_args = value.get("class_path"), value.get("init_args")
        if isinstance(class_path, str) and isinstance(init_args, Namespace):
            _refuse_null(init_args, path, trust.named(class_path))
            for key, inner in vars(init_args).items():
                _refuse_nulls(inner, f"{path}.{key}")
        elif class_path is None:
            for key, inner in vars(value).items():
                _refuse_nulls(inner, f"{path}.{key}")


def _refuse_null(values: Any, path: str, cls: Any) -> None:
    nulls = [key for key, value in vars(values).items() if value is None and key not in TAKEN.get(path, {})]
    if not nulls or not isinstance(cls, type):
        return
    known = parameters(cls)
    for key in nulls:
        hint, default = known.get(key, (Any, None))
        if not (hint is Any or default is None or type(None) in (hint, *typing.get_args(hint))):
            raise UserError(f"{path}.{key} is null, but {cls.__name__} needs a value: give one, or leave it out.", 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.replace(".", "", 1).lstrip("-").isdigit()


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
