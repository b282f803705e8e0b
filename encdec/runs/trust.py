"""What is read from files that may come from a stranger: with limits, and without a way to anything else.

SECURITY.md says what is promised. `encdec.runs.build` makes objects from what is read.
"""

import re
import reprlib
import sys
from pathlib import Path
from typing import Any

import yaml

from encdec.types import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+:/|.*(::|://)", re.DOTALL)
"""http://…, s3://…, file:/…, and fsspec's chains; a drive of Windows has one letter."""
_LARGEST, _DEEPEST = 10_000, 50
"""Values of settings (or characters of one), and levels of them: more than any has, few enough to look at each."""
_LARGEST_FILE = 100_000
"""Bytes of YAML; the config of a run has 3,000."""


def is_address(text: str) -> bool:
    """Whether a path would be fetched from somewhere rather than read from this machine's disk."""
    return _ADDRESS.match(text) is not None


def named(path: str) -> Any:
    """What a dotted path names in the modules that are imported; None where nothing is."""
    module, _, name = path.rpartition(".")
    return vars(sys.modules[module]).get(name) if module in sys.modules else None


def check_size(value: Any, where: str) -> None:
    """Check that settings have an end, before anything else looks at them.

    Raises:
        UserError: they are nested too deep, or too many.
    """
    todo, seen = [(value, 0)], 0
    while todo:
        value, depth = todo.pop()
        seen += 1
        if seen > _LARGEST or depth > _DEEPEST or (isinstance(value, str) and len(value) > _LARGEST):
            raise UserError(f"{where} holds settings that are nested too deep, or too many: it is damaged or foreign.")
        if isinstance(value, dict):
            todo += [(inner, depth + 1) for pair in dict.items(value) for inner in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += [(inner, depth + 1) for inner in value]


def read_yaml(path: Path) -> tuple[yaml.Node | None, Any]:
    """The YAML in a file, as nodes and as plain values, read in bounded time and memory.

    Raises:
        UserError: there is no such file, it is not YAML, or it is larger, deeper or more repetitive than a config is.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path} is not a file.")
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1).decode()
        if len(text) >= _LARGEST_FILE:
            raise UserError(f"{path} is larger than a config is: it is damaged or foreign.")
        _check_events(text, path)
        node = yaml.compose(text, Loader=_Loader)
        return node, yaml.load(text, Loader=_Loader)
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a YAML file: {reason[:300]}.") from error


def refuse_duplicates(node: yaml.Node | None, where: str, code: int = 1) -> None:
    """Refuse two settings with one name, of which YAML takes the last silently.

    Raises:
        UserError: there are; it names the lines.
    """
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        for key, value in node.value:
            if names.count(key.value) > 1:
                lines = {str(other.start_mark.line + 1): None for other, _ in node.value if other.value == key.value}
                place = f"line{'s' * (len(lines) > 1)} {' and '.join(lines)}"
                raise UserError(f"{where} sets {shown(key.value)} twice, in {place}: keep one.", code)
            refuse_duplicates(value, where, code)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            refuse_duplicates(value, where, code)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads numbers such as 1e-3 as the parser of configs does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def _check_events(text: str, path: Path) -> None:
    """Check the size of what YAML would make of a text, before it makes it: a few aliases can fill all memory."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path} has an alias (*{event.anchor}), which no config of a run has: write it out.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        too_long = isinstance(event, yaml.ScalarEvent) and len(event.value) > _LARGEST
        if count > _LARGEST or depth > _DEEPEST or too_long:
            raise UserError(f"{path} holds settings that are nested too deep, or too many: it is damaged or foreign.")


class _Short(reprlib.Repr):
    """A short text for any value, in bounded time; it calls no method of a value's own."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if x is None or type(x) in (bool, float) else f"a {type(x).__name__}"

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if abs(x) < 10**40 else "a number of many digits"

    def repr_set(self, x: Any, level: int) -> str:
        return "a set"

    repr_frozenset = repr_deque = repr_array = repr_set


def shown(value: object) -> str:
    """A stranger's value as a short text, without control characters."""
    return _Short().repr(value)
