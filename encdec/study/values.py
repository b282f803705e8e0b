"""Values of a study's file: what they are as texts, and one sentence where they are not what is expected."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from encdec.messages import suggestion
from encdec.text import printable
from encdec.types import UserError

_LONGEST = 200


def wrong(path: Path, key: str, what: str) -> UserError:
    """The error for a key of a file."""
    return UserError(f"{path}: {printable(key)} {what}.", 2)


def text(value: Any) -> str:
    """A value as it stands on a command line, shortened for a sentence: `true`, `null`, `[512, 512]`."""
    found = value if isinstance(value, str) else json.dumps(value, default=str)
    return found if len(found) <= _LONGEST else f"{found[:_LONGEST]}…"


def texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Values as they stand on a command line."""
    return tuple(value if isinstance(value, str) else json.dumps(value, default=str) for value in values)


def refuse_unknown(given: Mapping[Any, Any], known: Sequence[str], what: str, path: Path) -> None:
    """Refuse a key that is not known, with a suggestion.

    Raises:
        UserError: there is one.
    """
    for key in given:
        if key not in known:
            raise UserError(
                f"{path}: {what} {text(key)!r}{suggestion(str(key), known)}; there are {', '.join(known)}.", 2
            )


def mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    """Settings by their names.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, dict):
        raise wrong(path, key, f"is {text(value)!r}, but it must hold settings by their names")
    return value


def integer(path: Path, key: str, value: Any) -> int | None:
    """A number of at least 1, or None.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(path, key, f"is {text(value)!r}, but it must be an integer of at least 1")
    return value


def one_of(path: Path, key: str, value: Any, known: Sequence[str], what: str) -> str:
    """One of some names.

    Raises:
        UserError: it is none of them.
    """
    if value not in known:
        hint = suggestion(str(value), known)
        raise wrong(path, key, f"is {text(value)!r}, which is not {what}{hint}; there are {', '.join(known)}")
    return str(value)


def number_of(grid: Mapping[str, Sequence[str]]) -> int:
    """How many combinations a grid has."""
    return math.prod(len(values) for values in grid.values())
