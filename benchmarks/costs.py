"""What encdec costs apart from the steps of training: whole commands, start-up, memory, validation, checkpoints.

python -m benchmarks.costs
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.records import Json, parser, ratios, record, shown, summary
from benchmarks.tasks import Task, add_tasks, chosen, prepared
from benchmarks.turns import ROOT, Terminal, environment, orders

PARTS = ("within_a_run", "start_up", "whole_commands")
Command = tuple[list[str], int]
"""A command and the exit code that it should end with."""


@dataclass(frozen=True)
class Usage:
    """What a process took from its start to its end: seconds of wall time, and MB (10⁶ bytes) of resident memory."""

    seconds: float
    megabytes: float


def run(command: Sequence[str], threads: int, exit_code: int = 0) -> Usage:
    """Run a command on a terminal, in a folder that is deleted afterwards.

    The memory is right only as long as this process is smaller than the one that it starts.

    Raises:
        RuntimeError: it ends with another exit code; with the end of what it wrote.
    """
    terminal = Terminal()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        since = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            stdout=terminal.inside,
            stderr=terminal.inside,
        )
        os.close(terminal.inside)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - since
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != exit_code:
        raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}:\n{terminal.text()}")
    return Usage(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)


def interleaved(commands: Mapping[str, Command], rounds: int, threads: int, console: Console) -> dict[str, list[Usage]]:
    """Run each command once in every round."""
    used: dict[str, list[Usage]] = {name: [] for name in commands}
    with console.status("") as status:
        for order in orders(list(commands), rounds):
            for name in order:
                status.update(name)
                command, exit_code = commands[name]
                used[name].append(run(command, threads, exit_code))
    return used


def whole_commands(tasks: Iterable[Task], rounds: int, threads: int, console: Console) -> Iterator[Json]:
    """From the shell and back, for each task: wall time, and the peak of memory."""
    for task in tasks:
        names = ["encdec", "bare"]
        if task.networks == "mlp" and task.batch == 128:
            names += ["lightning", "bare_with_lightning"]
        used = interleaved({name: (task.command(name), 0) for name in names}, rounds, threads, console)
        seconds = {name: [usage.seconds for usage in usages] for name, usages in used.items()}
        megabytes = {name: [usage.megabytes for usage in usages] for name, usages in used.items()}
        result = {
            **task.described(),
            "seconds": {name: summary(values) for name, values in seconds.items()},
            "seconds_relative_to_bare": {
                name: summary(ratios(values, seconds["bare"])) for name, values in seconds.items()
            },
            "megabytes": {name: summary(values) for name, values in megabytes.items()},
        }
        if "bare_with_lightning" in used:
            more = [a - b for a, b in zip(megabytes["encdec"], megabytes["bare_with_lightning"], strict=True)]
            result["megabytes_of_encdec_above_bare_with_lightning"] = summary(more)
        yield result


def start_up(rounds: int, threads: int, console: Console) -> Json:
    """From the shell to an answer, and to the first optimizer step on digits, and the import of Lightning alone."""
    encdec = [sys.executable, "-m", "encdec"]
    config = ["--config", str(ROOT / "configs" / "vae.yaml"), "--trainer.accelerator=cpu", "--trainer.devices=1"]
    commands: dict[str, Command] = {
        "--version": ([*encdec, "--version"], 0),
        "--help": ([*encdec, "--help"], 0),
        "a wrong command": ([*encdec, "fti"], 2),
        "import lightning.pytorch": ([sys.executable, "-c", "import lightning.pytorch"], 0),
        "first step": ([*encdec, "fit", *config, "--trainer.callbacks+=benchmarks.callbacks.StopAtFirstStep"], 0),
    }
    if rounds > 1:
        run(commands["first step"][0], threads)  # whatever comes first also reads files into memory
    used = interleaved(commands, rounds, threads, console)
    seconds = {name: [usage.seconds for usage in usages] for name, usages in used.items()}
    return {
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "first_step_relative_to_import": summary(ratios(seconds["first step"], seconds["import lightning.pytorch"])),
    }


def within_a_run(task: Task, threads: int, console: Console) -> Json:
    """Epoch by epoch, the first left out: images per second of validation and training, and seconds of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder, console.status("validation and checkpoints"):
        path = Path(folder, "times.json")
        hook = ["--trainer.callbacks+=benchmarks.callbacks.Stopwatch", f"--trainer.callbacks.path={path}"]
        run([*task.encdec(), *hook], threads)
        times = {name: values[1:] for name, values in json.loads(path.read_text()).items()}
    relative = summary(ratios(times["validation_images_per_second"], times["training_images_per_second"]))
    measured = {name: summary(values) for name, values in times.items() if values}
    return {**task.described(), **measured, "validation_relative_to_training": relative}


def table(title: str, rows: Sequence[tuple[str, Json, str]]) -> Table:
    """What, how much, and what was promised."""
    made = Table(title=title, title_justify="left")
    made.add_column("")
    made.add_column("median (95 %)", justify="right")
    made.add_column("target", justify="right")
    for name, entry, target in rows:
        made.add_row(name, shown(entry), target)
    return made


def commands_table(measured: Json) -> Table:
    """Of one of `whole_commands`."""
    relative = measured["seconds_relative_to_bare"]
    rows = [(f"{name}, seconds", entry, "") for name, entry in measured["seconds"].items()]
    rows += [(f"{name}, relative to bare", relative[name], "") for name in ("encdec", "lightning") if name in relative]
    rows += [(f"{name}, peak MB", entry, "") for name, entry in measured["megabytes"].items()]
    more = measured.get("megabytes_of_encdec_above_bare_with_lightning")
    if more is not None:
        rows.append(("encdec above bare_with_lightning, MB", more, "≤ 150"))
    return table(f"A fit of {measured['epochs']} epochs: {_about(measured)}", rows)


def start_up_table(measured: Json) -> Table:
    """Of `start_up`."""
    quick = ("--version", "--help", "a wrong command")
    rows = [(f"{name}, seconds", entry, "< 0.3" * (name in quick)) for name, entry in measured["seconds"].items()]
    rows.append(("first step relative to the import", measured["first_step_relative_to_import"], "≤ 1.5"))
    return table("Start-up", rows)


def within_table(measured: Json) -> Table:
    """Of `within_a_run`."""
    targets = {"validation_relative_to_training": "≥ 3"}
    entries = {name: entry for name, entry in measured.items() if isinstance(entry, dict)}
    rows = [(name.replace("_", " "), entry, targets.get(name, "")) for name, entry in entries.items()]
    return table(f"Within a run: {_about(measured)}", rows)


def _about(task: Json) -> str:
    return f"{task['paradigm']}, {task['networks']}, batch {task['batch']}, {task['data']}"


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser("costs", "What encdec costs apart from the steps of training.", rounds=5)
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process (%(default)s)")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_tasks(options)  # of the whole commands; within a run it is the VAE's MLPs with batches of 128
    arguments = options.parse_args(args)
    if arguments.quick:
        arguments.rounds = 1
    console, rounds, threads = Console(), arguments.rounds, arguments.threads
    results: Json = {}
    with prepared(arguments.data, arguments.quick) as data:
        if "within_a_run" in arguments.parts:
            results["within_a_run"] = within_a_run(replace(data, epochs=rounds + 1), threads, console)
            console.print(within_table(results["within_a_run"]))
        if "start_up" in arguments.parts:
            results["start_up"] = start_up(rounds, threads, console)
            console.print(start_up_table(results["start_up"]))
        if "whole_commands" in arguments.parts:
            results["whole_commands"] = []
            for measured in whole_commands(chosen(arguments, replace(data, epochs=2)), rounds, threads, console):
                results["whole_commands"].append(measured)
                console.print(commands_table(measured))
                record(arguments, "costs", results)  # all of them take half an hour
    record(arguments, "costs", results)


if __name__ == "__main__":
    main()
