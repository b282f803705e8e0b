"""Training speed in the steady state: encdec's command line beside a bare loop and what its users would write else.

python -m benchmarks.throughput
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from benchmarks.common import (
    Json,
    Task,
    add_tasks,
    chosen,
    in_turns,
    measuring,
    number,
    parser,
    prepared,
    ratios,
    record,
    shown,
    summary,
)

WAYS = ("encdec", "bare", "lightning", "pythae", "script_0", "script_4")
COMPILED = ("encdec_compiled", "bare_compiled")
"""Measured only if they are asked for: compiling takes a while, and on a CPU a C++ compiler."""
TARGETS = {"script_4": 25.0, "script_0": 4.0, "pythae": 1.4}
"""How many times as fast as another way encdec should be; of the bare loop, see `target`."""


def target(way: str, task: Task) -> float | None:
    """The least that encdec's speed relative to this way should be; None if nothing was promised."""
    if way == "bare_compiled":
        return 0.95 if task.networks == "conv" and task.batch == 1024 and task.accelerator == "gpu" else None
    if way == "bare":
        return 0.95 if task.networks == "mlp" and task.batch < 1024 else 0.98
    if way == "pythae" and task.precision == "bf16-mixed":
        return 2.0
    return TARGETS.get(way)


def applies(way: str, task: Task) -> bool:
    """Whether a way is measured for a task: the slow ones for the MLP at batch 128 only, pythae for the VAE only."""
    if way == "pythae" and task.paradigm != "VAE":
        return False
    return way in ("encdec", "bare", *COMPILED) or (task.networks == "mlp" and task.batch == 128)


def compare(speeds: dict[str, list[float]], task: Task) -> dict[str, Json]:
    """Images per second of each way, and the ratios of encdec to it and of it to the bare loop, round by round.

    With the compiled bare loop it is encdec with compiled networks that is compared.
    """
    ways: dict[str, Json] = {}
    for way, steps in speeds.items():
        ways[way] = {"images_per_second": summary([speed * task.batch for speed in steps])}
        if "bare" in speeds:
            ways[way]["relative_to_bare"] = summary(ratios(steps, speeds["bare"]))
        own = "encdec_compiled" if way == "bare_compiled" else "encdec"
        if own in speeds and not way.startswith("encdec"):
            ways[way]["encdec_relative_to_it"] = summary(ratios(speeds[own], steps))
            ways[way]["target"] = target(way, task)
    return ways


def table(task: Task, ways: dict[str, Json], missing: Sequence[str]) -> Table:
    """A row for each way."""
    title = f"{task.paradigm}, {task.networks}, batch {task.batch}, {task.precision}, {task.data}"
    shown_as = Table(title=title, title_justify="left")
    shown_as.add_column("")
    for heading in ("images/s", "relative to the bare loop", "encdec relative to it", "target"):
        shown_as.add_column(heading, justify="right")
    for way, entry in ways.items():
        least = entry.get("target")
        shown_as.add_row(
            way,
            number(entry["images_per_second"]["median"]),
            *(shown(entry[key]) if key in entry else "" for key in ("relative_to_bare", "encdec_relative_to_it")),
            "" if least is None else f"≥ {least}",
        )
    for way in missing:
        shown_as.add_row(way, "not installed")
    return shown_as


def measure(
    task: Task, ways: Sequence[str], rounds: int, seconds: float, threads: int, console: Console
) -> dict[str, list[float]]:
    """Steps per second of each way in each round."""
    entrants = {way: task.entrant(way, threads) for way in ways}
    with console.status("") as status, measuring(entrants, status.update) as workers:
        return in_turns(workers, rounds, seconds)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser("throughput", "Training speed in the steady state.", rounds=9)
    add_tasks(options)
    options.add_argument("--ways", nargs="+", choices=[*WAYS, *COMPILED], default=list(WAYS))
    options.add_argument("--seconds", type=float, default=1.0, help="of a turn (%(default)s)")
    options.add_argument("--precision", default="32-true", help="of all but pythae and the scripts (%(default)s)")
    options.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    modes = ["default", "reduce-overhead"]
    options.add_argument("--compile", choices=modes, default="default", help="mode of the compiled ways (%(default)s)")
    arguments = options.parse_args(args)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 0.05
    console, results = Console(), []
    with prepared(arguments.data, arguments.quick) as data:
        how = {name: getattr(arguments, name) for name in ("precision", "accelerator")}
        for task in chosen(arguments, replace(data, compilation=arguments.compile, **how)):
            wanted = [way for way in arguments.ways if applies(way, task)]
            missing = [way for way in wanted if way == "pythae" and importlib.util.find_spec(way) is None]
            present = [way for way in wanted if way not in missing]
            speeds = measure(task, present, arguments.rounds, arguments.seconds, arguments.threads, console)
            ways = compare(speeds, task)
            console.print(table(task, ways, missing))
            results.append({**task.described(), "ways": ways, "not_installed": missing})
            record(arguments, "throughput", results)


if __name__ == "__main__":
    main()
