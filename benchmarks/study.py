"""A study on two slots with a thread each, and its commands one after the other with both cores.

python -m benchmarks.study

Six jobs of two epochs on half of the training images of Fashion-MNIST, and a small evaluation of each. `commands` runs
`encdec fit` and `encdec test` of each job in turn, as a shell script does, with as many threads as the study has slots.
`study` is `encdec study`; `spawned` is the same with processes that each import PyTorch, as on Windows and macOS. A run
that is not timed comes first and leaves the classifier of the training images, which all of them use.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.records import Json, parser, ratios, record, shown, summary
from benchmarks.turns import ROOT
from encdec.study import plan, spec

SLOTS, TARGET = 2, 1.6
"""Jobs at a time, and how many times as fast as its commands a study should be."""
SMALL = ["--evaluation.num_images", 200, "--evaluation.num_samples", 1000, "--images.every_n_epochs", 100]


def write(name: str, data: str, quick: bool) -> Path:
    """The file of a study in the working directory."""
    fashion = ["--config", f"{ROOT}/configs/data/fashion_mnist.yaml", "--data.data_dir", f"{ROOT}/data"]
    content = {
        "name": name,
        "seeds": [0] if quick else [0, 1, 2],
        "data": {"data": [*fashion, "--data.val_fraction", 0.5] if data == "FashionMNIST" else ["--data", data]},
        "paradigms": {each: ["--config", f"{ROOT}/configs/{each}.yaml"] for each in ("vae", "ae")},
        "common": ["--trainer.max_epochs", 1 if quick else 2, *SMALL],
        "local": {"slots": SLOTS, "threads": 1, "gpus": []},
    }
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def study(path: Path, environment: Mapping[str, str]) -> None:
    """Run a study by its command, which ends when all jobs are done."""
    _run(["study", str(path)], environment)


def commands(path: Path, environment: Mapping[str, str]) -> None:
    """Run the commands of a study's jobs one after the other, on as many threads as it has slots."""
    for job in plan.jobs(spec.load(path)):
        for command in (["fit", *job.fit], ["test", *job.test]):
            _run(command, {**environment, "OMP_NUM_THREADS": str(SLOTS)})


ENTRANTS: dict[str, tuple[Callable[[Path, Mapping[str, str]], None], dict[str, str]]] = {
    "commands": (commands, {}),
    "study": (study, {}),
    "spawned": (study, {"ENCDEC_STUDY_FORK": "0"}),
}


def _run(args: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run encdec in a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    path = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "encdec", *args], env={**inherited, **path, **environment}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def measured(data: str, quick: bool, rounds: int) -> dict[str, list[float]]:
    """Wall-clock seconds of each entrant, round by round, each of them first in its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ENTRANTS}
    study(write("warm-up", data, quick=True), {})
    for turn in range(rounds):
        names = list(ENTRANTS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run, environment = ENTRANTS[name]
            path = write(f"{name}-{turn}", data, quick)
            began = time.perf_counter()
            run(path, environment)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def compare(seconds: Mapping[str, Sequence[float]]) -> dict[str, Json]:
    """Seconds of each entrant, and how many times as fast as the commands it was, round by round."""
    return {
        name: {"seconds": summary(values), "times_as_fast": summary(ratios(seconds["commands"], values))}
        for name, values in seconds.items()
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure, show and record."""
    arguments = parser("study", "A study, and its commands one after the other.", rounds=3).parse_args(args)
    data = arguments.data or ("Digits" if arguments.quick else "FashionMNIST")
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            seconds = measured(data, arguments.quick, arguments.rounds)
        finally:
            os.chdir(before)
    found = compare(seconds)
    table = Table(title=f"{2 if arguments.quick else 6} jobs on {data}, {SLOTS} slots with a thread each; "
                  f"{os.cpu_count()} cores", title_justify="left")  # fmt: skip
    for heading in ("", "seconds", f"times as fast as the commands (target {TARGET})"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, entry in found.items():
        table.add_row(name, shown(entry["seconds"]), shown(entry["times_as_fast"]))
    Console().print(table)
    record(arguments, "study", found)


if __name__ == "__main__":
    main()
