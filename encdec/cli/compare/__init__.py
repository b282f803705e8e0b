"""`python -m encdec compare`: the evaluations of many runs side by side, means over seeds."""

import argparse
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from encdec.cli.commands import COMMANDS
from encdec.cli.compare.grouping import Row, rows, summary
from encdec.cli.compare.pairs import baseline_of, of_study, paired
from encdec.evaluation.questions import QUESTIONS, why_undefined
from encdec.evaluation.reading import find, read, trained_since
from encdec.messages import fail, say, suggestion
from encdec.text import printable
from encdec.types import UserError

__all__ = ["Parser", "find", "main", "read", "rows", "summary"]

_MOST_DAMAGED = 10  # files that are named one by one
_DECIDE = ("encdec", "torch", "torchmetrics")  # the packages whose versions may change a metric


def main(args: Sequence[str]) -> None:
    """Print the table; Lightning is not needed for it.

    A report that is damaged is named on stderr and left out; the others are shown.

    Args:
        args: what follows `encdec compare`.

    Raises:
        SystemExit: with code 2 for a wrong call and 1 where no report can be read, after one sentence on stderr; with
            130 for Ctrl-C.
    """
    try:
        _compare(args)
    except UserError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


class Parser(argparse.ArgumentParser):
    """Of a command that Lightning's does not parse: says what is wrong in one sentence, too."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        command, message = self.prog.rpartition(" ")[2], printable(message)
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
    parser.add_argument(
        "--checkpoint", help="which checkpoint of each run (default: last, or best where last was not evaluated)"
    )
    parser.add_argument("--metrics", help="names of metrics, separated by commas; 'all' shows every one")
    parser.add_argument(
        "--baseline",
        help="the row that the others are compared with image by image (default: that of a study's report, or first)",
    )
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    options = parser.parse_intermixed_args(args)
    from encdec.tables import print_filled  # rich, which takes a while to import

    if options.checkpoint is not None and not options.checkpoint.removesuffix(".ckpt"):
        raise UserError("--checkpoint is empty, but it must be the name of one, such as best.", 2)
    checkpoint = options.checkpoint and options.checkpoint.removesuffix(".ckpt")
    reports = _readable(options.paths, checkpoint)
    wanted = _wanted(options.metrics, reports)
    found = rows(reports)
    baseline = baseline_of(found, options.baseline, of_study(options.paths))
    table = [["", "seeds", *map(printable, wanted)]]
    table += [[row.label, row.seeds(), *map(row.cell, wanted)] for row in found]
    _print(table, options.markdown)
    differences = paired(found, baseline, wanted)
    if differences:
        print(
            "Differences image by image, ± the standard error by the choice of test images;\n"
            "what seeds make of it, ± in the table above, is not part of it:"
        )
        _print(differences, options.markdown)
    lines = ["± in the table: the standard deviation over seeds."] if any(len(row.by_seed) > 1 for row in found) else []
    lines += [f"{printable(metric)}: {_reference(reports, metric)}" for metric in wanted]
    if not wanted:
        lines.append("No run has one of the metrics that are shown: --metrics all shows those that there are.")
    lines += [line for row in found for line in row.undefined(wanted)]
    for line in (
        *lines,
        *(line for row in found for line in row.repeated()),
        *_steps(found),
        *_outdated(reports),
        *_differences(reports),
    ):
        print_filled(line)


def _print(table: list[list[str]], as_markdown: bool) -> None:
    if as_markdown:
        print("\n".join(_markdown(table)))
        return
    from encdec.tables import print_numbers

    print_numbers(table)


def _readable(paths: Sequence[str], checkpoint: str | None) -> list[dict[str, Any]]:
    """The reports that can be read; the others are named.

    Raises:
        UserError: there is none.
    """
    reports, damaged = [], []
    for path in find(paths, checkpoint):
        try:
            reports.append(read(path))
        except UserError as error:
            damaged.append(str(error))
    if not reports:
        others = len(damaged) - 1
        raise UserError(damaged[0] + (f" Nor can the other {others}." if others else ""))
    for problem in damaged[:_MOST_DAMAGED]:
        say(f"{problem} It is left out.")
    if damaged[_MOST_DAMAGED:]:
        say(f"{len(damaged) - _MOST_DAMAGED} more files can't be read and are left out.")
    return reports


def _headlines(reports: list[dict[str, Any]]) -> list[str]:
    """What answers each question in any of the reports, and what is shown beside it."""
    found: list[str] = []
    for question in QUESTIONS:
        found += [name for report in reports if (name := question.answer(report["metrics"])) is not None]
        found += [name for name in question.beside if any(name in report["metrics"] for report in reports)]
    return list(dict.fromkeys(found))


def _wanted(metrics: str | None, reports: list[dict[str, Any]]) -> list[str]:
    known = list(dict.fromkeys(name for report in reports for name in report["metrics"]))
    if metrics is None:
        return _headlines(reports)
    if metrics == "all":
        return known
    named = [name.strip() for name in metrics.split(",")]
    wanted = list(dict.fromkeys(named))
    for name in wanted:
        if name not in known:
            whys = [why for report in reports if (why := why_undefined(name, report.get("undefined", {})))]
            names = f"known are {printable(', '.join(known)) or 'none'}"
            rest = f"it is undefined, {printable(whys[0], 300)}" if whys else names
            raise UserError(f"No run has a metric {printable(name)!r}; {rest}.", 2)
    return wanted


def _reference(reports: list[dict[str, Any]], metric: str) -> str:
    """The unit of a metric and what to compare it with, over all runs."""
    found = [report["metrics"][metric] for report in reports if metric in report["metrics"]]
    units = list(dict.fromkeys(printable(one["unit"]) for one in found))
    beside = list(
        dict.fromkeys(
            f"{one['reference']:.5g} {printable(one.get('reference_name', ''))}".strip()
            for one in found
            if "reference" in one
        )
    )
    text = " / ".join(units)
    return f"{text}; to compare with: {' / '.join(beside)}" if beside else text


def _markdown(table: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row) + " |" for row in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]


def _steps(found: list[Row]) -> list[str]:
    """Which checkpoints were taken, and of which steps where those of one row differ."""
    taken: dict[str, int] = {}
    for row in found:
        name = row.reports[0]["checkpoint"]
        taken[name] = taken.get(name, 0) + len(row.reports)
    names = [f"{printable(name)}.ckpt ({count} run{'s' * (count != 1)})" for name, count in taken.items()]
    lines = [f"{'Careful: different checkpoints' if len(taken) > 1 else 'checkpoint'}: {', '.join(names)}"]
    for row in found:
        steps = sorted({report["step"] for report in row.reports if "step" in report})
        if len(steps) > 1:
            lines.append(f"{row.label}: the checkpoints are of steps {steps[0]} to {steps[-1]}.")
    return lines


def _outdated(reports: list[dict[str, Any]]) -> list[str]:
    """Name the runs that have been trained further since they were evaluated."""
    found = [path for report in reports if (path := trained_since(report)) is not None]
    if not found:
        return []
    names = [printable(str(path)) for path in found[:_MOST_DAMAGED]]
    more = f" and {len(found) - len(names)} more" if len(found) > len(names) else ""
    return [
        f"Careful: these numbers are of earlier weights than {', '.join(names)}{more} "
        f"{'hold' if len(found) > 1 else 'holds'} now; run `python -m encdec test --ckpt_path …` again."
    ]


def _differences(reports: list[dict[str, Any]]) -> list[str]:
    """Say what makes these runs incomparable."""
    found = [
        {
            "data": report["data"]["fingerprint"],
            "feature spaces": report.get("feature_space"),
            **{f"settings of the evaluation ({name})": value for name, value in _settings(report).items()},
            "precisions": report.get("precision"),
            "versions of packages": json.dumps([report.get("versions", {}).get(name) for name in _DECIDE]),
        }
        for report in reports
    ]
    return [
        f"Careful: these runs were evaluated with different {name}."
        for name in dict.fromkeys(name for one in found for name in one)
        if len({one.get(name) for one in found}) > 1
    ]


def _settings(report: dict[str, Any]) -> dict[str, str]:
    return {
        name: json.dumps(value, sort_keys=True)
        for name, value in report.get("settings", {}).items()
        if name not in ("parts", "cache_dir", "details")
    }
