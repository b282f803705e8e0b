"""Text from files and users, made fit for a terminal, a table or a file."""

import hashlib
from datetime import timedelta


def printable(text: str, longest: int | None = None) -> str:
    """A text on one line that every terminal and every UTF-8 file takes.

    Control characters (a line break, a tab, an escape sequence) and halves of surrogate pairs (a file name that is
    not UTF-8) become visible escapes such as `\\n`. What is longer than `longest` ends with `…` and six hexadecimal
    digits of its SHA-256, so that two different texts stay different.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if longest is None or len(shown) <= longest:
        return shown
    digest = hashlib.sha256(shown.encode()).hexdigest()[:6]
    return f"{shown[: max(longest - 7, 1)]}…{digest}"


def clock(seconds: float) -> str:
    """A time as 1:02:03, in hours, minutes and whole seconds."""
    return str(timedelta(seconds=round(seconds)))
