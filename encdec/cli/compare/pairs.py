"""Differences between rows of runs that share their test images: taken image by image, so they are known far better."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec.cli.compare.grouping import Row
from encdec.files import expanded
from encdec.formats import REPORT_ENDING, VALUES_ENDING
from encdec.messages import say
from encdec.text import printable, spread
from encdec.types import UserError

if TYPE_CHECKING:
    from encdec.evaluation.image_values import ImageValues


def of_study(paths: Sequence[str]) -> str | None:
    """The name of the paradigm that the report of a study compares others with, if all that is given is one study."""
    import yaml  # it takes a while

    from encdec.study.schedule import COPY

    file = Path(expanded(paths[0]), COPY) if len(paths) == 1 else Path()
    if not file.is_file():
        return None
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        named = (content.get("report") or {}).get("baseline", next(iter(content["paradigms"])))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, AttributeError, KeyError, TypeError, StopIteration):
        return None  # the rows are there without it
    return str(named)


def baseline_of(rows: Sequence[Row], label: str | None, of_study: str | None = None) -> Row:
    """The row that the others are compared with.

    Args:
        rows: all.
        label: of the row; None for the first row of the runs named `of_study`, or the first of all.
        of_study: see there.

    Raises:
        UserError: no row has that label.
    """
    if label is None:
        return next((row for row in rows if row.reports[0]["name"] == of_study), rows[0])
    for row in rows:
        if row.label == label:
            return row
    names = ", ".join(row.label for row in rows)
    raise UserError(f"No row is called {printable(label)!r}, so none can be the baseline; there are {names}.", 2)


def paired(rows: Sequence[Row], baseline: Row, metrics: Sequence[str]) -> list[list[str]]:
    """A table of differences to a baseline, of the metrics that at least one row shares images with it in.

    Each cell is the mean over seeds minus that of the baseline, ± its standard error by the choice of test images (and,
    of distances, of samples); the spread over seeds is not part of it. Empty where nothing is shared.
    """
    of_baseline = _values(baseline)
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row is baseline or _evaluated(row) != _evaluated(baseline):
            continue
        own = _values(row)
        for metric in metrics:
            if metric in own and metric in of_baseline:
                difference = own[metric].minus(of_baseline[metric])
                if difference is not None:
                    cells.setdefault(row.label, {})[metric] = _shown(difference)
    shown = [metric for metric in metrics if any(metric in found for found in cells.values())]
    if not shown:
        return []
    table = [[f"minus {baseline.label}", *map(printable, shown)]]
    return table + [[label, *(found.get(metric, "") for metric in shown)] for label, found in cells.items()]


def _evaluated(row: Row) -> set[tuple[str, str]]:
    """On what images, and in what feature spaces, the runs of a row were evaluated."""
    return {(report["data"]["fingerprint"], str(report.get("feature_space"))) for report in row.reports}


def _values(row: Row) -> dict[str, "ImageValues"]:
    """The values of images of a row's metrics, means over its seeds; without those that a run lacks."""
    from encdec.evaluation.image_values import mean_of  # NumPy, which takes a while to import

    found: list[dict[str, ImageValues]] = []
    for reports in row.by_seed.values():
        of_runs = [_read(report) for report in reports]
        of_seed = {}
        for name in set.intersection(*(set(one) for one in of_runs)):
            mean = mean_of([one[name] for one in of_runs])
            if mean is not None:
                of_seed[name] = mean
        found.append(of_seed)
    means = {name: mean_of([one[name] for one in found]) for name in set.intersection(*map(set, found))}
    return {name: mean for name, mean in means.items() if mean is not None}


def _read(report: dict[str, Any]) -> dict[str, "ImageValues"]:
    """The values of images beside a report; none where there is no such file, or one that is damaged, which is said."""
    from encdec.evaluation import image_values

    path = Path(report["path"])
    path = path.with_name(path.name.removesuffix(REPORT_ENDING) + VALUES_ENDING)
    if not path.is_file():
        return {}
    try:
        return image_values.read(path)
    except (ValueError, OSError) as error:
        why = printable(str(error), 100)
        say(f"{printable(str(path))} can't be read, so its run is not compared image by image ({why}).")
        return {}


def _shown(difference: "ImageValues") -> str:
    error = difference.standard_error
    return f"{difference.mean:+.4g}" + ("" if error is None else f" ± {spread(error)}")
