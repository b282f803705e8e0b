"""How speed changes with the number of images, batch, image size, codes of L_K, processes, settings and folders.

python -m benchmarks.scaling
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.table import Table

from benchmarks.common import (
    Entrant,
    Json,
    Task,
    from_ways,
    in_turns,
    measuring,
    parser,
    prepared,
    ratios,
    record,
    shown,
    summary,
)


@dataclass(frozen=True)
class Settings:
    """How long everything is measured, and on how many threads."""

    rounds: int
    seconds: float
    threads: int
    quick: bool
    console: Console

    def speeds(self, entrants: Mapping[str, Entrant], starts: int = 1) -> dict[str, list[float]]:
        """Steps per second of each entrant in each round.

        Of two processes that do the same, one may be faster by some percent for as long as it lives; so where small
        differences count, each is started several times.
        """
        speeds: dict[str, list[float]] = {name: [] for name in entrants}
        for _ in range(starts):
            with self.console.status("") as status, measuring(entrants, status.update) as workers:
                for name, values in in_turns(workers, max(self.rounds // starts, 1), self.seconds).items():
                    speeds[name] += values
        return speeds


def along(axis: str, points: Mapping[int, Task], settings: Settings) -> list[Json]:
    """encdec and the bare loop at each point of an axis, all in turns."""
    pairs = [(way, point) for point in points for way in ("encdec", "bare")]
    entrants = {f"{way} {point}": points[point].entrant(way, settings.threads) for way, point in pairs}
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
def _written(function: str, *argument: int | str) -> Iterator[str]:
    """A temporary folder that a function of `ways` fills."""
    with tempfile.TemporaryDirectory() as folder:
        from_ways(function, [folder, *argument], threads=1)
        yield folder


def synthetic(axis: str, sizes: Mapping[int, tuple[int, int]], settings: Settings) -> list[Json]:
    """An axis of synthetic data: point -> (number of images, height and width)."""
    rows = []
    for point, (total, size) in sizes.items():
        with _written("synthetic", total, size) as folder:
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


def codes(data: Task, settings: Settings) -> list[Json]:
    """The encoderless VAE with K codes."""
    counts = (8,) if settings.quick else (1, 8, 64, 512, 4096)
    return along("codes", {k: replace(data, paradigm="EncoderlessVAE", codes=k) for k in counts}, settings)


def products(data: Task, settings: Settings) -> list[Json]:
    """L_K at K = 512 relative to its two matrix products and one decoding, without the optimizer."""
    task = replace(data, codes=512)
    argument = [asdict(task), settings.rounds, settings.seconds / 2]
    taken: dict[str, list[float]] = json.loads(from_ways("products", argument, settings.threads))
    loss = {"milliseconds": summary([1000 * value for value in taken["loss"]])}
    parts = {"milliseconds": summary([1000 * value for value in taken["parts"]])}
    relative = summary(ratios(taken["loss"], taken["parts"]))
    return [
        {"products": "L_K, K = 512, forward and backward", **loss, "relative_to_parts": relative, "target": "≤ 1.1"},
        {"products": "two products and one decoding", **parts},
    ]


def processes(data: Task, settings: Settings) -> list[Json]:
    """Two gloo processes with batches of 64 beside one with batches of 128, on as many threads together."""
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


def choices(data: Task, settings: Settings) -> list[Json]:
    """The VAE with one choice undone or another one made, relative to encdec as it is."""
    rows = []
    for networks in ("mlp",) if settings.quick else ("mlp", "conv"):
        task = replace(data, networks=networks)
        entrants = _changed(task.entrant("encdec", settings.threads))
        if settings.quick:
            entrants = dict(list(entrants.items())[:2])
        speeds = settings.speeds(entrants, starts=1 if settings.quick else 3)
        rows += [
            {
                "choices": name,
                "networks": networks,
                "images_per_second": summary([task.batch * speed for speed in values]),
                "relative_to_encdec_as_it_is": summary(ratios(values, speeds["as it is"])),
            }
            for name, values in speeds.items()
        ]
    return rows


def _changed(plain: Entrant) -> dict[str, Entrant]:
    """encdec as it is, and with one choice undone or another one made."""
    hook = "--trainer.callbacks+=benchmarks.hooks."

    def changed(*args: str) -> Entrant:
        return replace(plain, command=[*plain.command, *args])

    entrants = {
        "as it is": plain,
        "Lightning's own loop": changed(f"{hook}LightningsLoop"),
        # a setting that changes nothing, but with which encdec leaves malloc as it is
        "malloc left alone": replace(plain, variables={"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}),
        "--model.optimizer.fused false": changed("--model.optimizer=Adam", "--model.optimizer.fused=false"),
        "--trainer.log_every_n_steps 1": changed("--trainer.log_every_n_steps=1"),
        "--trainer.precision bf16-mixed": changed("--trainer.precision=bf16-mixed"),
    }
    if shutil.which("g++"):  # with which torch compiles on a CPU
        entrants["--compile default"] = changed("--compile=default")
    return entrants


def pictures(data: Task, settings: Settings) -> list[Json]:
    """Batches of files, made to 64×64 by 2 workers: encdec's ImageFolder beside torchvision's and a DataLoader."""
    total, kinds, rows = 2000, [("png", 96, 80), ("jpg", 320, 256)], []
    if settings.quick:
        total, kinds = 1500, [("jpg", 40, 32)]
    for ending, width, height in kinds:
        with _written("pictures", total, ending, width, height) as folder:
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


AXES = {axis.__name__: axis for axis in (images, batch, size, codes, products, processes, choices, pictures)}


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
