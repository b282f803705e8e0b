"""Text from files and users, made fit for a terminal, a table or a file."""

import hashlib
import os
import shlex
import subprocess
import sys
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


def word(path: str | os.PathLike[str]) -> str:
    """A path as one word of a command that is copied into a shell: quoted where the shell would split or change it."""
    text = os.fspath(path)
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)


def with_article(name: str) -> str:
    """The name of a class with “a” or “an” before it, as it is written."""
    return f"an {name}" if name[:1] in "AEIOU" else f"a {name}"


def spread(value: float) -> str:
    """A standard error or deviation to two digits: 0.012, 6.1, 613, and 6.1e+09 where nobody would count the digits."""
    return f"{value:.0f}" if 99.5 <= value < 1e8 else f"{value:.2g}"


def clock(seconds: float) -> str:
    """A time as 1:02:03, in hours, minutes and whole seconds."""
    return str(timedelta(seconds=round(seconds)))
