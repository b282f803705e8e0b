"""The curves of a training, as a small table of numbers."""

import csv
import io
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encdec.files import written_whole

FILE = "curves.csv"
"""In the folder of a job: step, tag, value."""
_NAMES = ("loss", "mse", "bce", "kl", "elbo", "nll")
TAGS = tuple(f"{split}/{name}" for split in ("train", "val") for name in _NAMES)
"""What is kept of TensorBoard's scalars: means per image, in nats but for the mean squared error per pixel."""


def write(run: Path, path: Path) -> None:
    """Write the curves that a run has logged; only the heading where it logged none.

    Raises:
        UserError: it can't be written.
    """
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("step", "tag", "value"))
    for tag in sorted(set(events.Tags()["scalars"]) & set(TAGS)):
        writer.writerows((point.step, tag, repr(point.value)) for point in events.Scalars(tag))
    with written_whole(path) as file:
        file.write(lines.getvalue().encode())
