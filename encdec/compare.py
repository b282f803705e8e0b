"""`python -m encdec compare`: the evaluations of many runs side by side, mean and spread over seeds."""

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from encdec.commands import COMMANDS, fail, suggestion
from encdec.types import UserError

ENDING = ".evaluation.json"
"""last.ckpt is reported in last.evaluation.json, and in last.evaluation.csv."""
FIGURES = (
    "mse",
    "mse_encoder",
    "mse_optimised",
    "nll_bernoulli",
    "elbo_posterior",
    "frechet_classifier",
    "precision_classifier",
    "recall_classifier",
    "sample_variance",
)
"""Shown if not asked for others, as far as the runs have them."""


def main(args: Sequence[str]) -> None:
    """Print the table; Lightning is not needed for it.

    Args:
        args: what follows `encdec compare`.

    Raises:
        SystemExit: with code 2 for a wrong call and 1 for files that can't be read, after one sentence on stderr.
    """
    try:
        _compare(args)
    except UserError as error:
        fail(str(error), error.exit_code)


class Parser(argparse.ArgumentParser):
    """Of a command that Lightning's does not parse: says what is wrong in one sentence, too."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        command = self.prog.rpartition(" ")[2]
        wrong = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
        if wrong.startswith("-"):
            flags = [flag for action in self._actions for flag in action.option_strings]
            fail(f"{command} has no option {wrong}{suggestion(wrong, flags) or '.'}", 2)
        fail(f"{command}: {message}.", 2)


def _compare(args: Sequence[str]) -> None:
    parser = Parser(
        prog="encdec compare",
        description=COMMANDS["compare"],
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="*", default=["lightning_logs"], help="runs, folders of runs, or JSON files")
    parser.add_argument("--checkpoint", default="last", help="which checkpoint of each run (default: last)")
    parser.add_argument("--figures", help="names of figures, separated by commas; 'all' shows every one")
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    options = parser.parse_args(args)
    reports = [_read(path) for path in find(options.paths, options.checkpoint)]
    known = list(dict.fromkeys(name for report in reports for name in report["figures"]))
    wanted = _wanted(options.figures, known)
    groups = _by_run(reports)
    header = ["", "seeds", *wanted]
    rows = [
        [name, str(len(runs)), *(summary([_value(run, figure) for run in runs]) for figure in wanted)]
        for name, runs in groups.items()
    ]
    references = [_reference(reports, figure) for figure in wanted]
    if options.markdown:
        print("\n".join(_markdown([header, *rows])))
    else:
        table = Table()
        for column, heading in enumerate(header):
            table.add_column(heading, justify="right" if column else "left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    for figure, reference in zip(wanted, references, strict=True):
        print(f"{figure}: {reference}")
    _warn_of_differences(reports)


def find(paths: Iterable[str], checkpoint: str) -> list[Path]:
    """The evaluations of a checkpoint below files and folders, sorted.

    Raises:
        UserError: a path does not exist, or there is no evaluation below it.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
            continue
        if not path.exists():
            raise UserError(f"There is no {str(path)!r}: give folders of runs, such as lightning_logs.", 2)
        below = sorted(path.rglob(f"{checkpoint}{ENDING}"))
        if not below:
            raise UserError(
                f"{path} holds no {checkpoint}{ENDING}: run `python -m encdec test --ckpt_path …/{checkpoint}.ckpt`."
            )
        found += below
    return list(dict.fromkeys(found))


def summary(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation, to the first digit of the spread, which is left out where it is 0."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = statistics.fmean(known)
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    if spread == 0:
        return f"{mean:.5g}"
    digits = max(0, -math.floor(math.log10(spread)))
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        for key in ("name", "seed", "figures", "data"):
            report[key]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} can't be read as an evaluation ({type(error).__name__}): "
            "write it again by `python -m encdec test`."
        ) from error
    return dict(report)


def _wanted(figures: str | None, known: list[str]) -> list[str]:
    if figures is None:
        return [name for name in FIGURES if name in known]
    if figures == "all":
        return known
    wanted = [name.strip() for name in figures.split(",")]
    for name in wanted:
        if name not in known:
            raise UserError(f"No run has a figure {name!r}; known are {', '.join(known)}.", 2)
    return wanted


def _by_run(reports: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        groups.setdefault(report["name"], []).append(report)
    return groups


def _value(report: dict[str, Any], figure: str) -> float | None:
    found = report["figures"].get(figure)
    return None if found is None else float(found["value"])


def _reference(reports: list[dict[str, Any]], figure: str) -> str:
    """The unit of a figure and what to compare it with, over all runs."""
    found = [report["figures"][figure] for report in reports if figure in report["figures"]]
    units = list(dict.fromkeys(one["unit"] for one in found))
    beside = list(
        dict.fromkeys(f"{one['reference']:.5g} {one['reference_name']}" for one in found if "reference" in one)
    )
    text = " / ".join(units)
    return f"{text}; to compare with: {' / '.join(beside)}" if beside else text


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _warn_of_differences(reports: list[dict[str, Any]]) -> None:
    """Say what makes these runs incomparable."""
    found = [
        {
            "data": report["data"]["fingerprint"],
            "feature spaces": report.get("feature_space"),
            "evaluation settings": json.dumps(report.get("settings"), sort_keys=True),
            "precisions": report.get("precision"),
        }
        for report in reports
    ]
    for name in found[0]:
        if len({one[name] for one in found}) > 1:
            print(f"Careful: these runs were evaluated with different {name}.")
