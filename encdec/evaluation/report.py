"""The results of an evaluation as one JSON and one CSV file next to the checkpoint, with all that repeats them."""

import csv
import io
import json
import math
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from encdec import __version__
from encdec.evaluation import image_values
from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.questions import QUESTIONS
from encdec.evaluation.results import Metrics
from encdec.files import written_whole
from encdec.formats import REPORT_ENDING, VALUES_ENDING

_PACKAGES = ("torch", "torchvision", "torchmetrics", "lightning", "jsonargparse", "numpy")


def versions() -> dict[str, str]:
    """Versions of encdec, Python and the packages that numbers depend on."""
    found = {"encdec": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """Where the numbers were made, as far as it changes their last digits."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": device.type, "device_name": name, "threads": torch.get_num_threads(), "system": platform.system()}


def metrics_as_dict(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Every metric with its unit and, where it has them, its standard error and its reference."""
    return {
        name: {
            key: value
            for key, value in {
                "value": metric.value,
                "standard_error": metric.standard_error,
                "unit": metric.unit,
                "reference": metric.reference,
                "reference_name": metric.reference_name,
            }.items()
            if value not in (None, "")
        }
        for name, metric in metrics.values.items()
    }


def write(report: dict[str, Any], images: Mapping[str, ImageValues], folder: Path, stem: str) -> Iterator[Path]:
    """Write a report as STEM.evaluation.json and, its metrics in one row, as STEM.evaluation.csv; each when asked for.

    `images` are the values of images of which metrics are means; of the answers to the questions and what is shown
    beside them, STEM.evaluation.npz has them.

    A file is there whole or not at all. What JSON lacks is written as text: a setting that is infinite, a date, a
    path that is not UTF-8.
    """
    row = {name: report[name] for name in ("name", "version", "paradigm", "seed", "checkpoint", "step")}
    row |= {"data": report["data"]["class"], "fingerprint": report["data"]["fingerprint"]}
    for name, metric in report["metrics"].items():
        row[name] = metric["value"]
        if "standard_error" in metric:
            row[f"{name}_standard_error"] = metric["standard_error"]
    lines = io.StringIO()
    writer = csv.DictWriter(lines, row)
    writer.writeheader()
    writer.writerow(row)
    as_json, as_csv = folder / f"{stem}{REPORT_ENDING}", folder / f"{stem}{REPORT_ENDING.replace('json', 'csv')}"
    content = json.dumps(_finite(report), indent=1, allow_nan=False, ensure_ascii=False, default=str) + "\n"
    for path, text in ((as_json, content), (as_csv, lines.getvalue())):
        with written_whole(path) as file:
            file.write(text.encode(errors="backslashreplace"))  # as JSON writes half a surrogate pair, too
        yield path
    names = {name for question in QUESTIONS for name in (*question.headline, *question.beside)}
    path = folder / f"{stem}{VALUES_ENDING}"
    with written_whole(path) as file:
        image_values.write(file, {name: values for name, values in images.items() if name in names})
    yield path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
