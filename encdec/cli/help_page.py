"""The help of a command: its own options first, with the settings of the model and the data that a call names."""

import argparse
import collections.abc
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl

from encdec import plugins, private
from encdec.cli import errors, given, trainer_flags
from encdec.cli.commands import COMMANDS
from encdec.cli.parser import Parser
from encdec.cli.run_config import CALLBACKS
from encdec.cli.settings import TAKEN
from encdec.messages import say
from encdec.signatures import parameters

_OWN = {
    "fit": ("checkpoint", "images", "floors"),
    "validate": ("floors",),
    "test": ("evaluation", "floors"),
    "predict": ("predictions",),
}
"""The groups of settings that matter to each command."""
_GROUPS = {
    "checkpoint": "checkpoints",
    "images": "images for TensorBoard",
    "floors": "floors beside the metrics",
    "evaluation": "the evaluation",
    "predictions": "the files that it writes",
}
_FIRST = ("model", "data", "config", "ckpt_path", "sampler", "name", "resume")
"""Options that come before the others."""
_WORDS = {
    "config": "Settings from a YAML file, a later one wins; `encdec configs` lists those that come with encdec.",
    "seed_everything": "Seed of the run: of its weights, its noise and the order of images.",
    "print_config": "Show every setting and its value as YAML, instead of doing anything.",
    "data": "The data set: {data}.",
    "model": "The paradigm: {model}. With it, this page shows its settings.",
    "ckpt_path": "The checkpoint or export to measure; without --model or --config, with the settings of its run.",
}
_WORDS_OF_FIT = {"ckpt_path": "Begin a new run from this checkpoint."}
_KINDS = {"config": "FILE", "ckpt_path": "FILE", "model": "NAME", "data": "NAME", "name": "NAME", "print_config": "",
          "seed_everything": "INT", "compile": "MODE"}  # fmt: skip
_OURS = ("encdec.", f"{plugins.PACKAGE}.")
_OF_TRAINER = ("max_epochs", "max_steps", "max_time", "accelerator", "devices", "precision", "strategy", "num_nodes",
               "callbacks", "gradient_clip_val", "accumulate_grad_batches", "default_root_dir")  # fmt: skip
"""Settings of the trainer that come before the others."""
_OF_OPTIMIZERS = ("lr", "betas", "momentum", "weight_decay")
"""Settings that are shown of a class that is not encdec's."""
_COLUMNS, _COLUMNS_OF_TRAINER = 34, 42
"""Of an option with its kind; a longer one has a line of its own, or moves what follows it."""
_MOST_NAMES = 8


class Row(NamedTuple):
    """An option: its name without dashes, what kind of value it takes, what it does, and its value."""

    name: str
    kind: str
    text: str
    value: str = ""


def show_if_asked(parser: argparse.ArgumentParser, command: str, args: Sequence[str]) -> None:
    """Print the page and end, if a call asks for it.

    Raises:
        SystemExit: it does.
    """
    if given.asks_for_help(args):
        print(page(parser, command, args))
        raise SystemExit(0)


def page(parser: argparse.ArgumentParser, command: str, args: Sequence[str]) -> str:
    """The page.

    Args:
        parser: of the command.
        command: such as `fit`.
        args: what follows it; the classes that they name, also in configs, are shown with their settings.
    """
    call = given.of(args)
    by_group: dict[str, list[argparse.Action]] = {}
    for action in {action.dest: action for action in private.actions(parser)}.values():
        group = action.dest.partition(".")[0] if "." in action.dest else ""
        if action.option_strings and action.help != argparse.SUPPRESS and not action.dest.endswith(".help"):
            by_group.setdefault(group, []).append(action)
    sections = [("", _run_options(by_group.pop("", []), command, call))]
    own = [(_GROUPS[name], _group(CALLBACKS[name], by_group.get(name, []), call)) for name in _OWN[command]]
    of_classes = [(f"{name} (--{key} {name})", rows) for key, name, rows in _classes(call)]
    sections += [*of_classes, *own] if command == "fit" else [*own, *reversed(of_classes)]
    trainer = _trainer(by_group.get("trainer", []), call)
    width = max(min(shutil.get_terminal_size().columns, 112), 60)
    lines = [f"usage: encdec {command} [options]", "", COMMANDS[command]]
    for title, rows in sections:
        lines += ["", f"settings of {title}:" if title else "options:", *_wrapped(rows, width)]
    lines += ["", "settings of Lightning's Trainer:", *(_one_line(row, width) for row in trainer), "", *_ending(call)]
    return "\n".join(lines)


def _run_options(actions: list[argparse.Action], command: str, call: given.Given) -> list[Row]:
    names = {key: ", ".join(cls.__name__ for cls in plugins.subclasses(plugins.KINDS[key])) for key in TAKEN}
    rows = []
    for action in sorted(actions, key=lambda action: _place(action.dest, _FIRST)):
        own = _WORDS_OF_FIT.get(action.dest) if command == "fit" else None
        text = str(own or _WORDS.get(action.dest) or action.help)
        kind = _KINDS.get(action.dest, action.metavar or "VALUE")
        value = call.classes.get(action.dest) or call.values.get(action.dest, action.default)
        if action.nargs == "?":
            kind, value = f"[{kind}]", value or None
        rows.append(Row(action.dest, str(kind), text.format(**names) if action.dest in names else text, _shown(value)))
    return [*rows, Row("help", "", "Show this page.")]


def _group(cls: type, actions: list[argparse.Action], call: given.Given) -> list[Row]:
    """The settings of a callback or of the trainer, which the parser knows."""
    known = parameters(cls)
    return [
        Row(
            action.dest,
            _kind(known.get(action.dest.partition(".")[2], (Any,))[0]),
            str(action.help or ""),
            _shown(call.values.get(action.dest, action.default)),
        )
        for action in actions
    ]


def _classes(call: given.Given) -> list[tuple[str, str, list[Row]]]:
    """The key and the name of the class of the model and of the data, where it is known, and its settings."""
    found = []
    for key, name in sorted(call.classes.items(), reverse=True):
        kind = plugins.KINDS[key]
        cls = next((cls for cls in plugins.subclasses(kind) if name.rpartition(".")[2] == cls.__name__), None)
        if cls is None:
            say(f"{key}: {errors.no_class(name, [kind])}")
            continue
        found.append((key, cls.__name__, _settings(cls, key, call, TAKEN[key])))
    return found


def _settings(cls: type, key: str, call: given.Given, without: Iterable[str] = (), count: int = 0) -> list[Row]:
    """The settings of a class, and after each that is a class, the settings of that.

    Args:
        cls: the class.
        key: what its settings have before their names, such as `model.decoder`.
        call: what is set.
        without: names that are left out.
        count: of arguments that are given by who makes an object of it.
    """
    known = parameters(cls, count)
    parser = Parser()
    parser.add_class_arguments(cls, key, skip=set(inspect.signature(cls).parameters) - known.keys())
    # what a text says of its default is said anyway, of the value that is set
    texts = {action.dest: str(action.help or "").partition(" (default:")[0] for action in private.actions(parser)}
    rows = []
    for name, (hint, default) in known.items():
        if name in without or (not cls.__module__.startswith(_OURS) and name not in _OF_OPTIMIZERS):
            continue
        full = f"{key}.{name}"
        kind, given_by_maker = _made(hint)
        value = call.values.get(full, default)
        text = texts.get(full, "")
        classes: list[type[Any]] = [] if kind is None else plugins.subclasses(kind)
        names = [one.__name__ for one in classes]
        if 1 < len(classes) < _MOST_NAMES and any(one not in text for one in names):
            text += f" {', '.join(names)}."
        named = _shown(value).rpartition(".")[2]
        chosen = next((one for one in classes if named == one.__name__), None)
        rows.append(Row(full, "NAME" if kind else _kind(hint), text, named if chosen else _shown(value)))
        if chosen is not None:
            rows += _settings(chosen, full, call, count=given_by_maker)
    return rows


def _made(hint: Any) -> tuple[type | None, int]:
    """The class of what a hint asks for, where a call names it: an object, or what a factory makes; its arguments."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((made for part in typing.get_args(hint) if (made := _made(part))[0] is not None), (None, 0))
    if typing.get_origin(hint) is collections.abc.Callable:
        arguments, result = typing.get_args(hint)
        return _made(result)[0], len(arguments) if isinstance(arguments, list) else 0
    is_kind = isinstance(hint, type) and issubclass(hint, tuple(plugins.KINDS.values()))
    return (hint if is_kind else None), 0


def _trainer(actions: list[argparse.Action], call: given.Given) -> list[Row]:
    rows = _group(pl.Trainer, [one for one in actions if not _is_hidden(one)], call)
    return sorted(rows, key=lambda row: _place(row.name.partition(".")[2], _OF_TRAINER))


def _is_hidden(action: argparse.Action) -> bool:
    return action.dest.partition(".")[2] in trainer_flags.NOT_HONORED


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _kind(hint: Any) -> str:
    """What kind of value a hint describes, in one word or the choices that there are."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = {_kind(part) for part in typing.get_args(hint) if part is not type(None)} - {"VALUE"}
        kinds -= {"INT"} if "NUMBER" in kinds else set()
        return kinds.pop() if len(kinds) == 1 else "VALUE"
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    hint = typing.get_origin(hint) or hint
    names = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", dict: "SETTINGS"}
    if hint in (list, tuple, set, collections.abc.Iterable, collections.abc.Sequence):
        return "LIST"
    return names.get(hint, "VALUE")


def _shown(value: Any) -> str:
    """A default or a value as a flag takes it; nothing for none."""
    if value in (None, inspect.Parameter.empty, argparse.SUPPRESS):
        return ""
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"].rpartition(".")[2]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(getattr(value, "__name__", None) or value)


def _wrapped(rows: Sequence[Row], width: int) -> list[str]:
    lines = []
    for row in rows:
        text = " ".join([*row.text.split(), *[f"({row.value})"] * bool(row.value)])
        wrapped = textwrap.wrap(text, width - _COLUMNS, break_long_words=False) or [""]
        first = _option(row)
        if len(first) >= _COLUMNS:
            lines.append(first)
        else:
            lines.append(f"{first:<{_COLUMNS}}{wrapped.pop(0)}".rstrip())
        lines += [" " * _COLUMNS + line for line in wrapped]
    return lines


def _one_line(row: Row, width: int) -> str:
    """The option, its first sentence as far as there is room, and its value."""
    text = re.sub(r":\w+:|`", "", " ".join(row.text.split()))
    text = re.split(r"(?<=[a-z)])\. |\.$| Default:", text)[0]
    value = f" ({row.value})" * bool(row.value)
    first = f"{_option(row):<{_COLUMNS_OF_TRAINER}}"
    first += " " * (not first.endswith(" "))
    room = max(width - len(first) - len(value), 0)
    if len(text) > room:
        text = f"{text[: max(room - 1, 0)].rstrip()}…" if room > 4 else ""
    return f"{first}{text}{value}".rstrip()


def _option(row: Row) -> str:
    return f"  --{row.name} {row.kind}".rstrip()


def _ending(call: given.Given) -> list[str]:
    example = "--model.decoder.help ConvDecoder" if "model" in call.classes else "--model NAME --help"
    what = "Settings of another class" if "model" in call.classes else "Settings of a paradigm"
    return [f"{what}: {example}.", "All settings and their values: --print_config."]
