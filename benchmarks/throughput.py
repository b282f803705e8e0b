"""Training speed in the steady state: encdec's command line, a bare fused loop, and what its users would write else.

python -m benchmarks.throughput
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from benchmarks.records import Json, number, parser, ratios, record, shown, summary
from benchmarks.tasks import Task, add_tasks, chosen, prepared
from benchmarks.turns import in_turns, measuring

BASELINES = ("bare", "lightning", "pythae", "script")
TARGETS = {"pythae": 1.4, "lightning": 1.5}
"""How many times as fast as a baseline encdec should be; of the bare loop, see `target`."""


def target(baseline: str, task: Task) -> float | None:
    """The least that encdec's speed relative to this baseline should be; None if nothing was promised."""
    if baseline == "bare":
        return 0.92 if task.networks == "mlp" and task.batch < 1024 else 0.97
    return TARGETS.get(baseline)


def applies(baseline: str, task: Task) -> bool:
    """Whether a baseline is measured: the slow ones for MLPs at batch 128 only, pythae for the VAE only."""
    if baseline == "pythae" and task.paradigm != "VAE":
        return False
    return baseline == "bare" or (task.networks == "mlp" and task.batch == 128)


def compare(steps: dict[str, list[float]], task: Task) -> dict[str, Json]:
    """Images per second of encdec and of each baseline, and encdec's relative to the latter, round by round.

    Args:
        steps: per second, of `encdec` and of baselines, in each round.
        task: what was trained.
    """
    speeds: dict[str, Json] = {}
    for name, values in steps.items():
        speeds[name] = {"images_per_second": summary([value * task.batch for value in values])}
        if name != "encdec":
            speeds[name] |= {"encdec_relative": summary(ratios(steps["encdec"], values)), "target": target(name, task)}
    return speeds


def table(task: Task, threads: int, speeds: dict[str, Json], missing: Sequence[str]) -> Table:
    """A row for encdec and for each baseline."""
    title = f"{task.paradigm}, {task.networks}, batch {task.batch}, {task.precision}, {task.data}, {threads} threads"
    made = Table(title=title, title_justify="left")
    made.add_column("")
    for heading in ("images/s", "encdec relative to it (95 %)", "target"):
        made.add_column(heading, justify="right")
    for name, entry in speeds.items():
        least, relative = entry.get("target"), entry.get("encdec_relative")
        made.add_row(
            name,
            number(entry["images_per_second"]["median"]),
            "" if relative is None else shown(relative),
            "" if least is None else f"≥ {least}",
        )
    for name in missing:
        made.add_row(name, "not installed")
    return made


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser("throughput", "Training speed in the steady state.", rounds=15)
    add_tasks(options)
    options.add_argument("--baselines", nargs="+", choices=BASELINES, default=list(BASELINES))
    options.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of each process (%(default)s)")
    options.add_argument("--seconds", type=float, default=0.5, help="of a turn (%(default)s)")
    options.add_argument("--precision", default="32-true", help="of all but pythae and the script (%(default)s)")
    options.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    arguments = options.parse_args(args)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 0.05
    console, results = Console(), []
    with prepared(arguments.data, arguments.quick) as data:
        how = {name: getattr(arguments, name) for name in ("precision", "accelerator")}
        for task in chosen(arguments, replace(data, **how)):
            wanted = [name for name in arguments.baselines if applies(name, task)]
            missing = [name for name in wanted if name == "pythae" and importlib.util.find_spec(name) is None]
            for threads in arguments.threads:
                present = ["encdec", *(name for name in wanted if name not in missing)]
                entrants = {name: task.entrant(name, threads) for name in present}
                with console.status("") as status, measuring(entrants, status.update) as workers:
                    speeds = compare(in_turns(workers, arguments.rounds, arguments.seconds), task)
                console.print(table(task, threads, speeds, missing))
                results.append({**task.described(), "threads": threads, "speeds": speeds, "not_installed": missing})
                record(arguments, "throughput", results)


if __name__ == "__main__":
    main()
