"""Studies of small runs in processes of their own, and what they leave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from encdec.study import state
from encdec.study.state import JobState
from tests import killing
from tests.conftest import ENVIRONMENT

COMMON = ["--trainer.max_epochs", 2, "--images.every_n_epochs", 100, "--evaluation.parts", ["reconstruction"],
          "--evaluation.num_images", 4]  # fmt: skip
VAE = ["--config", "configs/vae.yaml"]
AE = ["--config", "configs/ae.yaml"]
DIGITS = {"digits": ["--data", "Digits"]}
SECONDS = 170
"""After which a study hangs."""


def write(path: Path, **changes: Any) -> Path:
    """A study's file; a key that is None is left out."""
    content = {
        "name": path.stem,
        "seeds": [0],
        "data": DIGITS,
        "paradigms": {"vae": VAE},
        "common": COMMON,
        "local": {"slots": 2, "threads": 1, "gpus": []},
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "encdec", "study", *args]


def run(*args: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    done = subprocess.run(
        command(*args), env=ENVIRONMENT | environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


@contextmanager
def started(*args: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own; nothing of it is left at the end."""
    process = subprocess.Popen(
        command(*args), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    with killing.gone_at_the_end(process):
        yield process


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """What a condition gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


def folder(name: str, job: str) -> Path:
    return Path("lightning_logs/studies", name, job)


def job(name: str, job: str) -> JobState:
    found = state.read(folder(name, job))
    assert found is not None, f"{job} of {name} has no state"
    return found


def trains(name: str, place: str, epoch: int = 1) -> Callable[[], JobState | None]:
    """Gives the state of a job once it has trained for some epochs, and still does."""

    def ask() -> JobState | None:
        found = state.read(folder(name, place))
        is_there = found is not None and found.status == "running" and found.stage == "fit" and found.epoch >= epoch
        return found if is_there else None

    return ask


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a process that ended and that nobody has waited for is none
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def left(name: str) -> dict[str, Any]:
    """All results of a study, by their place, without times, processes and versions of files."""
    found: dict[str, Any] = {}
    root = Path("lightning_logs/studies", name)
    for path in sorted(root.rglob("curves.csv")):
        found[str(path.relative_to(root))] = path.read_text()
    for path in sorted(root.rglob("last.evaluation.json")):
        found[str(path.relative_to(root))] = _without_times(json.loads(path.read_text()), name)
    for path in sorted(root.rglob("last.ckpt")):
        weights = torch.load(path, weights_only=True)["state_dict"]
        found[str(path.relative_to(root))] = {key: value.tolist() for key, value in weights.items()}
    for path in sorted(root.rglob("state.json")):
        content = json.loads(path.read_text())
        for key in ("attempts", "pid", "begun", "ended", "fit_seconds", "test_seconds"):
            del content[key]
        found[str(path.relative_to(root))] = _without_times(content, name)
    return found


def _without_times(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        # Lightning counts batches that were fetched again, so that the file of a resumed run's checkpoint is another
        kept = ((key, inner) for key, inner in value.items() if "seconds" not in key and key != "sha256")
        return {key: _without_times(inner, name) for key, inner in kept}
    if isinstance(value, list):
        return [_without_times(inner, name) for inner in value]
    return value.replace(f"studies/{name}/", "studies/NAME/") if isinstance(value, str) else value
