"""What is said to the user on stderr: lines, errors, suggestions."""

import difflib
import os
import sys
from collections.abc import Iterable
from typing import NoReturn


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean …?` for the most similar of `known` (of its values, if it is a dict of them), or nothing."""
    by_name = known if isinstance(known, dict) else {candidate: candidate for candidate in known}
    lowered = {candidate.lower(): value for candidate, value in by_name.items()}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    # the very same name is known elsewhere, but not where it was given
    return f"; did you mean {prefix}{lowered[close[0]]}?" if close and lowered[close[0]] != name else ""


def no_yaml(path: object, error: Exception) -> str:
    """One sentence for a file that can't be read as YAML.

    Args:
        path: of the file.
        error: of reading or parsing it.
    """
    if isinstance(error, OSError):
        return f"{path} can't be read ({error.strerror or error})."
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return f"{path} is not a YAML file: {' '.join(str(error).split())}."
    tabs = ": indent by spaces, not by tabs" if r"\t" in problem else ""
    return f"{path} is not a YAML file: line {mark.line + 1}, column {mark.column + 1}: {problem}{tabs}."


def say(text: str) -> None:
    """Print a line on stderr; one process of a machine does, not all."""
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":
        print(f"encdec: {text}", file=sys.stderr)


def fail(text: str, code: int) -> NoReturn:
    """Print an error on stderr and exit: with 2 for a wrong call, 1 for a fault found at run time."""
    say(f"error: {text}")
    raise SystemExit(code)
