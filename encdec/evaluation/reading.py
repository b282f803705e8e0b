"""Evaluation reports from files that anyone may have written: found, read and checked as a whole."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from encdec.files import expanded, sha256
from encdec.formats import REPORT_ENDING, REPORT_FORMAT
from encdec.text import printable
from encdec.types import UserError

_DEFAULT = ("last", "best")  # which checkpoint's report is taken of each run, in this order
_LARGEST_FILE = 16 << 20  # bytes; a report has some 20 thousand
_LARGEST_VALUE = 1e300  # so that sums over runs stay finite
_DEEPEST = 50
_REQUIRED = {"name": str, "seed": int, "metrics": dict, "data": dict}
_OPTIONAL = {
    "version": str, "paradigm": str, "checkpoint": str, "sha256": str, "step": int, "precision": str,
    "feature_space": str, "settings": dict, "config": dict, "versions": dict, "undefined": dict,
}  # fmt: skip
_TYPES = {str: "text", int: "an integer", dict: "an object"}


def find(paths: Iterable[str], checkpoint: str | None) -> list[Path]:
    """The reports below files and folders, in their order, each file once.

    Args:
        paths: reports, or folders of runs.
        checkpoint: whose reports are taken; None takes `last` of each folder that has one, and `best` of the others.

    Raises:
        UserError: a path does not exist, or there is no such report below it.
    """
    found: list[Path] = []
    for path in map(Path, map(expanded, paths)):
        try:
            below = [path] if not path.is_dir() and os.path.lexists(path) else _below(path, checkpoint)
        except OSError as error:
            problem = f"{_shown(path)} can't be looked into ({error.strerror}): give folders of runs."
            raise UserError(problem, 2) from error
        found += below
    by_file: dict[str, Path] = {}
    for path in found:
        by_file.setdefault(os.path.realpath(path), path)
    return list(by_file.values())


def read(path: Path) -> dict[str, Any]:
    """A report, checked as a whole; its `checkpoint` is the stem of the checkpoint's file, its `path` where it lies.

    Raises:
        UserError: it can't be read, or it is not a report; the sentence says what is wrong.
    """
    try:
        report: dict[str, Any] = _parsed(path)
        _check(report)
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error.args[0] if error.args else error)
        if isinstance(error, RecursionError):
            problem = f"it is nested more deeply than {_DEEPEST} levels"
        if isinstance(error, UnicodeDecodeError):
            problem = f"its byte {error.start} is not UTF-8"
        raise UserError(
            f"{_shown(path)} can't be read as an evaluation ({type(error).__name__}): "
            f"{printable(problem or 'unknown reason', 200)}; write it again by `python -m encdec test`."
        ) from error
    report["checkpoint"] = Path(report.get("checkpoint") or path.name.removesuffix(REPORT_ENDING)).stem
    report["path"] = str(path)
    return report


def trained_since(report: dict[str, Any]) -> Path | None:
    """The checkpoint beside a report that was read, if it holds other weights now; None if not, or if there is none."""
    path = Path(report["path"])
    checkpoint = path.with_name(path.name.removesuffix(REPORT_ENDING) + ".ckpt")
    try:
        is_newer = checkpoint.stat().st_mtime_ns > path.stat().st_mtime_ns  # spares reading files of gigabytes
        return checkpoint if is_newer and "sha256" in report and sha256(checkpoint) != report["sha256"] else None
    except OSError:  # a report without its checkpoint is as good
        return None


def _below(path: Path, checkpoint: str | None) -> list[Path]:
    if not path.exists():
        raise UserError(f"There is no {_shown(path)!r}: give folders of runs, such as lightning_logs.", 2)
    by_folder: dict[Path, dict[str, Path]] = {}
    for report in sorted(path.rglob(f"*{REPORT_ENDING}")):
        by_folder.setdefault(report.parent, {})[report.name.removesuffix(REPORT_ENDING)] = report
    wanted = _DEFAULT if checkpoint is None else (checkpoint,)
    found = []
    for reports in by_folder.values():
        found += [reports[name] for name in wanted if name in reports][:1]
    if not found:
        others = sorted({name for reports in by_folder.values() for name in reports})
        hint = f" It holds that of {printable(', '.join(others), 100)}: --checkpoint takes it." if others else ""
        raise UserError(
            f"{_shown(path)} holds no {printable(wanted[0])}{REPORT_ENDING}: run `python -m encdec test --ckpt_path "
            f"…/{printable(wanted[0])}.ckpt`{' (or best.ckpt)' if checkpoint is None else ''}.{hint}"
        )
    return found


def _shown(path: Path) -> str:
    return printable(str(path))


def _parsed(path: Path) -> Any:
    if not path.is_file():  # a folder, or a pipe, which would be waited for
        raise ValueError("it is no file" if path.exists() else "there is no such file")
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"it has more than {_LARGEST_FILE >> 20} MiB")
    return json.loads(content.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_unique)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {name!r} twice")
        found[name] = value
    return found


def _check(report: Any) -> None:
    _check_depth(report)
    _is(report, dict, "the report")
    if "format" not in report:
        raise KeyError("it has no 'format'")
    _is(report["format"], int, "format")
    if report["format"] < REPORT_FORMAT:
        raise ValueError(
            f"its format is {report['format']}, of an older encdec whose metrics mean other things, but this one reads "
            f"{REPORT_FORMAT}"
        )
    if report["format"] > REPORT_FORMAT:
        raise ValueError(f"its format is {report['format']}, but this encdec reads {REPORT_FORMAT}")
    for name, kind in _REQUIRED.items():
        if name not in report:
            raise KeyError(f"it has no {name!r}")
        _is(report[name], kind, name)
    for name, kind in _OPTIONAL.items():
        if name in report:
            _is(report[name], kind, name)
    if "fingerprint" not in report["data"]:
        raise KeyError("data has no 'fingerprint'")
    _is(report["data"]["fingerprint"], str, "data.fingerprint")
    history = report.get("history", [])
    if not (isinstance(history, list) and all(isinstance(entry, str) for entry in history)):
        raise TypeError(f"history is {_brief(history)}, but it must be a list of texts")
    for name, why in report.get("undefined", {}).items():
        _is(why, str, f"undefined.{name}")
    without_effect = report["data"].get("without_effect", [])
    if not (isinstance(without_effect, list) and all(isinstance(name, str) for name in without_effect)):
        raise TypeError(f"data.without_effect is {_brief(without_effect)}, but it must be a list of texts")
    for name, metric in report["metrics"].items():
        where = f"metrics.{name}"
        _is(metric, dict, where)
        for key in ("value", "unit"):
            if key not in metric:
                raise KeyError(f"{where} has no {key!r}")
        for key in ("value", "standard_error", "reference"):
            if key in metric:
                _is_number(metric[key], f"{where}.{key}")
        for key in ("unit", "reference_name"):
            _is(metric.get(key, ""), str, f"{where}.{key}")


def _check_depth(report: Any) -> None:
    level, depth = [report], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise RecursionError
        inner = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [value for values in inner if isinstance(values, list) for value in values]


def _is(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{where} is {_brief(value)}, but it must be {_TYPES[kind]}")


def _is_number(value: Any, where: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{where} is {_brief(value)}, but it must be a number")
    if not (abs(value) <= _LARGEST_VALUE and math.isfinite(value)):
        raise ValueError(f"{where} is {_brief(value)}, but it must lie within ±{_LARGEST_VALUE:g}")


def _brief(value: Any) -> str:
    try:
        return printable(json.dumps(value), 40)
    except ValueError:  # an integer of more digits than Python prints
        return "a huge integer"
