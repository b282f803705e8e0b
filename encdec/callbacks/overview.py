"""TensorBoard's first charts: the validation metrics that matter, each with its floor and its gap."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter

GROUP = "Overview"
"""Of the charts; the capital puts it before the other groups, which TensorBoard sorts by name."""
LINES = ("floor", "gap", "mean_image", "pca")
"""What a chart shows beside the metric. TensorBoard has a color for each run, so each line is a run below the run."""
_METRICS = ("loss", "mse", "bce", "elbo", "nll", "sample_variance")
_BESIDE = re.compile(rf"(mse|bce)_({'|'.join(LINES)})(.*)")


def overview(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The charts' values, by line (the metric itself is "") and then by tag.

    Args:
        metrics: validation scalars by name; others are left out.
    """
    values = {name.removeprefix("val/"): value for name, value in metrics.items() if name.startswith("val/")}
    lines: dict[str, dict[str, float]] = {"": {}}
    for name, value in values.items():
        beside = _BESIDE.fullmatch(name)
        if beside is not None:
            term, line, variant = beside.groups()
            lines.setdefault(line, {})[f"{GROUP}/{term}{variant}"] = value
        elif name.startswith(_METRICS):
            lines[""][f"{GROUP}/{name}"] = value
    # a floor that is that of several outputs is logged once
    floors = lines.get("floor", {})
    for tag in lines.get("gap", {}):
        shared = re.sub(r"(mse|bce).*", r"\1", tag)
        if tag not in floors and shared in floors:
            floors[tag] = floors[shared]
    return lines


def write_overview(writer: SummaryWriter, metrics: Mapping[str, float], step: int) -> None:
    """Write the charts' points of a validation.

    Args:
        writer: TensorBoard's, of the run.
        metrics: validation scalars by name.
        step: of the weights that were validated.
    """
    for line, values in overview(metrics).items():
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        if points:
            file_writer(writer, line).add_summary(Summary(value=points), step)


def take_back(writer: SummaryWriter, step: int) -> None:
    """Hide all that a run has written from a step on: it is written again."""
    start = Event(session_log=SessionLog(status=SessionLog.START))
    for line in ("", *LINES):
        if Path(writer.get_logdir(), line).is_dir():
            file_writer(writer, line).add_event(start, step)


def file_writer(writer: SummaryWriter, line: str = "") -> FileWriter:
    """What writes a TensorBoard writer's events; a new file where an earlier training has closed its own.

    Args:
        writer: of the run.
        line: one of `LINES`, for what writes its points; it is flushed and closed with the run's.
    """
    attributes: Any = writer  # torch annotates these two as None
    if attributes.file_writer is None:
        attributes.file_writer = FileWriter(writer.get_logdir())
        attributes.all_writers = {writer.get_logdir(): attributes.file_writer}
    folder = str(Path(writer.get_logdir(), line)) if line else writer.get_logdir()
    if folder not in attributes.all_writers:
        attributes.all_writers[folder] = FileWriter(folder)
    found: FileWriter = attributes.all_writers[folder]
    return found
