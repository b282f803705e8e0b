"""Turns what the parser says about a wrong call into one sentence, with a suggestion where there is one."""

import inspect
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Trainer

from encdec import plugins
from encdec.commands import suggestion
from encdec.data import DataModule
from encdec.paradigms import Paradigm

_LONGEST = 400


def sentence(message: str, keys: Iterable[str]) -> str:
    """One sentence for an error message of jsonargparse.

    Args:
        message: of one or many lines.
        keys: the keys that the parser knows, for suggestions.
    """
    key_match = re.search(r'Parser key "([^"]+)"', message)
    key = key_match[1] if key_match else ""
    if match := re.search(r"argument (\S+): expected one argument", message):
        return f"{match[1].rpartition('/')[2]} needs a value."
    if (match := re.search(r"unrecognized arguments: (\S+)", message)) and not match[1].startswith("-"):
        hint = "--config" if Path(match[1]).suffix in (".yaml", ".yml") else "--model"
        return f"{match[1]!r} stands alone, but values follow an option: is it {hint} {match[1]}?"
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        flag = match[1].split("=")[0].lstrip("-")
        return f"There is no option --{flag}{suggestion(flag, keys, prefix='--')}."
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        return f"There is no option {match[1]!r} here{suggestion(match[1], _parameters())}."
    if match := re.search(r"does not accept option '([^']+)'", message):
        name = match[1].partition(".")[0]
        tops = {known.partition(".")[0] for known in keys}
        return f"A config has no key {name!r}{suggestion(name, tops)}."
    if match := re.search(r"arguments are required: (\S+)", message):
        if match[1] == "model" or match[1].endswith(".model"):
            return "--model is missing: give --config FILE, for example configs/vae.yaml, or --model NAME."
        return f"The setting {match[1].rpartition('.')[2]!r} has no default: give it a value."
    if match := re.search(r"Path is not a file: '([^']+)'", message):
        return f"{key} must be a file, but {os.path.relpath(match[1])!r} is a folder."
    if match := re.search(r"File does not exist: '([^']+)'", message):
        configs = [str(path) for path in Path().glob("configs/**/*.yaml")]
        name = Path(match[1]).name
        return f"There is no file {match[1]!r}{suggestion(name, {Path(p).name: p for p in configs})}."
    kind = plugins.KINDS.get(key.rpartition(".")[2])
    if kind is not None and (match := re.search(r"(?:dot import path string|Given value): (\S+)", message)):
        classes = plugins.subclasses(kind)
        names = [known.__name__ for known in classes]
        name = match[1].rpartition(".")[2]
        if names.count(match[1]) > 1:
            paths = [f"{known.__module__}.{name}" for known in classes if known.__name__ == name]
            return f"{key}: {name} is the name of several classes; give one of {', '.join(paths)}."
        return f"{key}: there is no class {match[1]!r}{suggestion(name, names)}; known are {', '.join(names)}."
    if match := re.search(r"Expected an? (.+?)\. Got value: (.*)", message):
        return f"{key}: {match[2]!r} is not valid; expected {_type_name(match[1])}."
    if match := re.search(r"Given value: (.*)", message):
        names = re.findall(r"- Expected an? (.+)", message)
        # what a setting could also be written as helps nobody
        names = [name for name in names if not name.startswith(("path but ", "dot import path"))]
        expected = dict.fromkeys(map(_type_name, names)) or {"the name of a class": None}
        return f"{key}: {match[1]!r} is not valid; expected {' or '.join(expected)}."
    text = " ".join(message.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def unexpected(error: BaseException) -> str:
    """One sentence for an error that nobody foresaw: what it says, and where in our code or a plugin's it arose."""
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}…"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "<" not in frame.filename]
    frame = (ours or frames)[-1]
    place = f"{os.path.relpath(frame.filename)}, line {frame.lineno}" if frame.filename else "no file"
    return f"{type(error).__name__}: {reason} ({place}). ENCDEC_DEBUG=1 shows the traceback."


def _parameters() -> set[str]:
    classes: list[type] = [Paradigm, DataModule, Trainer]
    for kind in plugins.KINDS.values():
        classes += plugins.subclasses(kind)
    return {name for cls in classes for name in inspect.signature(cls).parameters} - {"args", "kwargs"}


def _type_name(name: str) -> str:
    """A type as people write it: "<class 'float'>" -> "float", "typing.Literal['a', 'b']" -> "'a', 'b'"."""
    name = re.sub(r"<class '([\w.]+\.)?(\w+)'>", r"\2", name).replace("typing.", "")
    name = re.sub(r"Literal\[(.*?)\]", r"one of \1", name)
    return name.replace("NoneType", "null")
