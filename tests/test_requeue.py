"""A job of Slurm puts itself back into the queue, and says so before Slurm can end it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from encdec.requeue import requeue


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command will be looked for; there is none yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    return tmp_path / "scontrol"


def answer(scontrol: Path, script: str) -> None:
    scontrol.write_text(f"#!/bin/sh\n{script}\n")
    scontrol.chmod(0o755)


def test_it_says_so_before_slurm_can_end_it(scontrol: Path) -> None:
    answer(scontrol, "kill $PPID; exec /bin/sleep 10")
    call = [sys.executable, "-c", "from encdec.requeue import requeue; requeue()"]
    ended = subprocess.run(call, env=os.environ, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stderr == "encdec: Slurm job 11_3 goes back into the queue.\n"


def test_why_it_could_not(scontrol: Path, capfd: pytest.CaptureFixture[str]) -> None:
    could_not = "encdec: Slurm job 11_3 could not be put back into the queue: "
    requeue()
    assert could_not + "[Errno 2] No such file or directory: 'scontrol'\n" in capfd.readouterr().err
    answer(scontrol, '[ "$*" = "requeue 11_3" ] && echo "Job is not requeueable" >&2; exit 1')
    requeue()
    assert could_not + "Job is not requeueable\n" in capfd.readouterr().err
