"""Fixtures: a project folder of its own for each test, and the real command line in this process."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

# tests run side by side, one on each core; it must be set before torch is imported
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from lightning.pytorch import seed_everything
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encdec import plugins
from encdec.cli import main

from .small_data import write_all

ROOT = Path(__file__).parent.parent
RunCLI = Callable[..., None]
T = TypeVar("T")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of signals, studies and Slurm mostly wait."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _seeded() -> None:
    seed_everything(0, verbose=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project folder as working directory."""
    monkeypatch.chdir(new_project(tmp_path, monkeypatch))
    # what a Lightning run leaves in the environment would leak into the next test
    for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(variable, "0")
    return tmp_path


def new_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped configs and plugins, small data sets, and no runs."""
    for name in ("configs", "plugins"):
        (folder / name).symlink_to(ROOT / name)
    write_all(folder, monkeypatch)
    return folder


@pytest.fixture
def cli(project: Path) -> RunCLI:
    """The command line, on one CPU process."""

    def run(*args: str) -> None:
        main([*args, *ON_CPU] if args[0] in COMMANDS else [*args])

    return run


def refused(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    """What the command line says when it refuses a call: one foreseen sentence, with an exit code, and nothing else."""
    with pytest.raises(SystemExit) as stop:
        main([*args])
    err = capsys.readouterr().err
    assert stop.value.code == code, err
    assert err.startswith("encdec: error: ")
    assert len(err.strip().splitlines()) == 1, err
    assert "ENCDEC_DEBUG" not in err, "it is foreseen"
    return err


def shipped(base: type[T]) -> list[type[T]]:
    """The classes of a kind in the files of encdec and its plugins, without those that other tests define."""
    folders = (ROOT / "encdec", ROOT / "plugins")
    files = {cls: Path(str(sys.modules[cls.__module__].__file__)).resolve() for cls in plugins.subclasses(base)}
    return [cls for cls, file in files.items() if any(file.is_relative_to(folder) for folder in folders)]


def events(run: str | Path) -> EventAccumulator:
    """All that a run wrote for TensorBoard."""
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def encdec_in(
    project: Path, *args: str, launcher: Sequence[str] = ("-m", "encdec")
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which must end well within a few minutes."""
    command = [sys.executable, *launcher, *args]
    return subprocess.run(
        command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200
    )


# one thread: with more, how many there are at a time depends on the load, and bits with it
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
COMMANDS = {"fit", "validate", "test", "predict"}
ON_CPU = ("--trainer.accelerator=cpu", "--trainer.devices=1")
