"""How speed changes with the number of images, batch, image size, samples of a bound, processes and folders.

python -m benchmarks.scaling
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from benchmarks.records import Json, parser, ratios, record, shown, summary
from benchmarks.tasks import Task, prepared, written
from benchmarks.turns import Entrant, in_turns, measuring


@dataclass(frozen=True)
class Settings:
    """How long everything is measured, and on how many threads."""

    rounds: int
    seconds: float
    threads: int
    quick: bool
    console: Console

    def speeds(self, entrants: Mapping[str, Entrant]) -> dict[str, list[float]]:
        """Steps per second of each entrant in each round."""
        with self.console.status("") as status, measuring(entrants, status.update) as workers:
            return in_turns(workers, self.rounds, self.seconds)


def along(axis: str, points: Mapping[int, Task], settings: Settings) -> list[Json]:
    """encdec and the bare loop at each point of an axis, all in turns."""
    pairs = [(name, point) for point in points for name in ("encdec", "bare")]
    entrants = {f"{name} {point}": points[point].entrant(name, settings.threads) for name, point in pairs}
    speeds = settings.speeds(entrants)
    rows = []
    for point, task in points.items():
        images = [speed * task.batch for speed in speeds[f"encdec {point}"]]
        relative = ratios(speeds[f"encdec {point}"], speeds[f"bare {point}"])
        epoch = summary([task.images / speed for speed in images])
        rows.append({
            axis: point,
            "images_per_second": summary(images),
            "milliseconds_per_step": summary([1000 / speed for speed in speeds[f"encdec {point}"]]),
            "seconds_per_epoch": epoch,
            "relative_to_bare": summary(relative),
        })  # fmt: skip
    return rows


@contextmanager
def _folder(function: str, *argument: int | str) -> Iterator[str]:
    """A temporary folder that a function of `data` fills."""
    with tempfile.TemporaryDirectory() as folder:
        written(function, folder, *argument)
        yield folder


def synthetic(axis: str, sizes: Mapping[int, tuple[int, int]], settings: Settings) -> list[Json]:
    """An axis of synthetic data: point -> (number of images, height and width)."""
    rows = []
    for point, (total, size) in sizes.items():
        with _folder("synthetic", total, size) as folder:
            rows += along(axis, {point: Task(folder, "FashionMNIST", total)}, settings)
    return rows


def images(data: Task, settings: Settings) -> list[Json]:
    """The VAE on 1,500 to 96,000 synthetic images of 28×28."""
    totals = (300,) if settings.quick else (1500, 6000, 24000, 96000)
    return synthetic("images", {total: (total, 28) for total in totals}, settings)


def size(data: Task, settings: Settings) -> list[Json]:
    """The VAE on synthetic images of 14×14 to 112×112."""
    sizes, total = ((14,), 300) if settings.quick else ((14, 28, 56, 112), 6000)
    return synthetic("size", {pixels: (total, pixels) for pixels in sizes}, settings)


def batch(data: Task, settings: Settings) -> list[Json]:
    """The VAE with batches of 32 to 2048."""
    sizes = (32,) if settings.quick else (32, 128, 512, 2048)
    return along("batch", {size: replace(data, batch=size) for size in sizes}, settings)


def samples(data: Task, settings: Settings) -> list[Json]:
    """The encoderless VAE with K latents from the prior."""
    counts = (8,) if settings.quick else (1, 8, 64, 512, 4096)
    return along("samples", {k: replace(data, paradigm="EncoderlessVAE", samples=k) for k in counts}, settings)


def processes(data: Task, settings: Settings) -> list[Json]:
    """Two gloo processes with batches of 64, and one with batches of 128, on as many threads together."""
    one = replace(data, batch=128).entrant("encdec", settings.threads)
    on_two = ["--data.batch_size=64", "--trainer.devices=2", "--trainer.strategy=ddp"]
    two = replace(one, command=[*one.command, *on_two], threads=max(settings.threads // 2, 1))
    speeds = settings.speeds({"1": one, "2": two})
    relative = {name: summary(ratios(values, speeds["1"])) for name, values in speeds.items()}
    return [
        {
            "processes": int(name),
            "images_per_second": summary([128 * speed for speed in values]),
            "relative_to_one_process": relative[name],
        }
        for name, values in speeds.items()
    ]


def pictures(data: Task, settings: Settings) -> list[Json]:
    """Batches of files, made to 64×64 by 2 workers: encdec's ImageFolder, and torchvision's with a DataLoader."""
    total, kinds, rows = 2000, [("png", 96, 80), ("jpg", 320, 256)], []
    if settings.quick:
        total, kinds = 1500, [("jpg", 40, 32)]
    for ending, width, height in kinds:
        with _folder("pictures", total, ending, width, height) as folder:
            task = Task(folder, "ImageFolder", total)
            names = ("encdec", "torchvision")
            longer = replace(settings, seconds=4 * settings.seconds)  # an epoch or more: workers deliver in bursts
            speeds = longer.speeds({name: task.entrant(f"pictures_{name}", settings.threads) for name in names})
        each = {name: summary([task.batch * speed for speed in values]) for name, values in speeds.items()}
        rows.append({
            "pictures": f"{ending}, {width}×{height}",
            "images_per_second": each["encdec"],
            "torchvision": each["torchvision"],
            "relative_to_torchvision": summary(ratios(speeds["encdec"], speeds["torchvision"])),
            "target": "≥ 1",
        })  # fmt: skip
    return rows


AXES = {axis.__name__: axis for axis in (images, batch, size, samples, processes, pictures)}


def table(title: str, rows: Sequence[Json]) -> Table:
    """One row for each point; the first column says which."""
    made = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        made.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        made.add_row(*(shown(cell) if isinstance(cell, dict) else str(cell) for cell in cells))
    return made


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser("scaling", "How speed changes with the size of things.", rounds=5)
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process (%(default)s)")
    options.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    options.add_argument("--seconds", type=float, default=0.5, help="of a turn (%(default)s)")
    arguments = options.parse_args(args)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 0.05
    console, results = Console(), {}
    settings = Settings(arguments.rounds, arguments.seconds, arguments.threads, arguments.quick, console)
    with prepared(arguments.data, arguments.quick) as data:
        for axis in arguments.axes:
            results[axis] = AXES[axis](data, settings)
            console.print(table(str(AXES[axis].__doc__), results[axis]))
            record(arguments, "scaling", results)


if __name__ == "__main__":
    main()
