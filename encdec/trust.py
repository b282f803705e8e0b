"""Which classes a file may name that may come from a stranger: known ones, which are imported already.

A config names classes, and naming a class imports its module. That is what a config is for when a user gives it. In
a checkpoint, and in the config of a run that a checkpoint brings along, it would let a file choose what code runs.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from encdec import plugins
from encdec.types import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*::")
"""http://…, s3://…, file:/…, and fsspec's chains; a drive of Windows has one letter."""
_LARGEST, _DEEPEST = 10_000, 50
"""Values of a config (or characters of one), and levels of them: more than any has, few enough to look at each."""


def is_address(text: str) -> bool:
    """Whether a path would be fetched from somewhere rather than read from this machine's disk."""
    return _ADDRESS.match(text) is not None


def check_config(path: Path) -> None:
    """Check a config that the user did not name: its classes are those of encdec, plugins, PyTorch and Lightning.

    It can't lead to another config either, in a file or at an address. Nothing is imported.

    Raises:
        UserError: it names something else, or is not YAML.
    """
    advice = f"if you trust this file, say so by --config {path}"
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}, the config beside the checkpoint, is not a YAML file: {reason}.") from error
    check_names(content, str(path), advice, {"lightning"})
    for text in _strings(content):
        if is_address(text) or any(_is_text(folder / text) for folder in (Path(), path.parent)):
            raise UserError(f"{path} names {quoted(text)}, which may be another config: {advice}.")


def check_names(value: Any, where: str, advice: str, also: set[str] | None = None) -> None:
    """Check that every class that is named somewhere in a value is known. Nothing is imported.

    Known are those derived from `plugins.KINDS`, and what encdec, its plugins and torch.nn define.

    Args:
        value: dictionaries and lists, as read from YAML, JSON or a checkpoint.
        where: the file that it is from.
        advice: what to do where a class is not known.
        also: packages that are trusted as well.

    Raises:
        UserError: a class is not known; the sentence names it.
    """
    trusted = plugins.packages() | (also or set())
    for text in _strings(value, where):
        if _may_be_imported(text) and not _is_known(text, trusted):
            raise UserError(f"{where} names {quoted(text)}, which is no class of encdec or of a plugin: {advice}.")


def named(path: str) -> Any:
    """What a dotted path names in the modules that are imported; None where nothing is."""
    module, _, name = path.rpartition(".")
    return vars(sys.modules[module]).get(name) if module in sys.modules else None


def _is_known(path: str, trusted: set[str]) -> bool:
    found = named(path)
    if not isinstance(found, type):
        return False
    origin = found.__module__
    kinds = tuple(plugins.KINDS.values())
    return issubclass(found, kinds) or origin.partition(".")[0] in trusted or origin.startswith("torch.nn.")


def _may_be_imported(text: str) -> bool:
    """Whether a parser that expects a class would import something for this text; other dotted words are harmless."""
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return False
    try:
        return parts[0] in sys.modules or importlib.util.find_spec(parts[0]) is not None
    except (ImportError, ValueError):
        return True


def _strings(value: Any, where: str = "") -> Iterator[str]:
    """All strings in a value, and in the YAML that strings may hold, as the parser would read them."""
    todo, seen = [(value, 0)], 0
    while todo:
        value, depth = todo.pop()
        seen += 1
        if seen > _LARGEST or depth > _DEEPEST or (isinstance(value, str) and len(value) > _LARGEST):
            raise UserError(f"{where} holds settings that are nested too deep, or too many: it is damaged or foreign.")
        if isinstance(value, dict):
            todo += [(inner, depth + 1) for pair in dict.items(value) for inner in pair]
        elif isinstance(value, list | tuple | set):
            todo += [(inner, depth + 1) for inner in value]
        elif isinstance(value, str):
            yield value
            if value.isidentifier():
                continue  # most are, and YAML takes its time
            try:
                inner = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError, RecursionError):
                continue
            if inner != value:
                todo.append((inner, depth + 1))


def _is_text(path: Path) -> bool:
    """Whether there is a file that may be YAML; pictures and checkpoints have bytes that YAML must not have."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return b"\0" not in file.read(4096)
    except (OSError, ValueError):
        return False


def quoted(text: object) -> str:
    """A stranger's text, in quotes, without control characters, and not too long."""
    words = str(text)
    return repr(words if len(words) <= 100 else f"{words[:100]}…")
