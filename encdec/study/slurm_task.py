"""What a job of a Slurm array does on its node: one job of a study, in a process that it passes signals on to.

Slurm tells the batch script that its time is nearly over (SIGUSR1), and no other process. When it ends or requeues a
job it sends SIGTERM to all its processes; that is never passed on, as a second one would end a training without saving.
"""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

from encdec.messages import say
from encdec.requeue import requeue
from encdec.study import schedule, slurm, spec, state
from encdec.study.plan import Job
from encdec.study.spec import Study
from encdec.study.state import JobState
from encdec.types import UserError

_EVERY = 0.5  # seconds between two looks at whether a signal has come


def main(file: str, listed: str) -> int:
    """Do the job of an array's list that Slurm's variables point to, and requeue it where its time was too short.

    Args:
        file: of the study.
        listed: a file with the names of the array's jobs.

    Returns:
        The exit code: 0 where the job is done.

    Raises:
        UserError: there is no such job in the study, or its state can't be read or written.
    """
    time_over = getattr(signal, "SIGUSR1", None)  # not on Windows
    if time_over is None or "SLURM_ARRAY_TASK_ID" not in os.environ or "SLURM_ARRAY_JOB_ID" not in os.environ:
        raise UserError("`study slurm-task` is for the jobs of a Slurm array, which `study --slurm` submits.", 2)
    noted = _Noted(signal.SIGTERM, time_over)
    study = spec.load(file)
    name = Path(listed).read_text(encoding="utf-8").splitlines()[int(os.environ["SLURM_ARRAY_TASK_ID"])]
    job = next((each for each in schedule.everything(study) if each.name == name), None)
    if job is None:
        raise UserError(f"{file} has changed: it has no {name} any more.")
    if job.blocked:
        raise UserError(f"{name} can't run: {job.blocked}.")
    if not schedule.prepare(study, job):
        say(f"{name} is done.")
        return 0
    before = state.read(job.folder)
    code = _work(study, job, noted, time_over)
    found = schedule.ended(job, code, asked=bool(noted.numbers))
    if job.trial is not None:
        schedule.keep_winner(study, job.paradigm, job.data)
    say(f"{name}: {found.status}{found.error and f': {found.error}'}")
    if time_over in noted.numbers and signal.SIGTERM not in noted.numbers and found.status == "stopped":
        _go_on(study, job, before, found)
    return code if code >= 0 else 128 - code


class _Noted:
    """The signals that have come; a handler that did more, such as waiting for a process, could wait forever."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self.numbers: list[int] = []
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.numbers.append(number)


def _work(study: Study, job: Job, noted: _Noted, time_over: signal.Signals) -> int:
    """Do a job in another process, and give its exit code."""
    environment = slurm.without_slurm() | {"OMP_NUM_THREADS": str(study.slurm.cpus)}
    # Slurm names the GPUs that a job was given; without one it must not take those of others
    environment.setdefault("CUDA_VISIBLE_DEVICES", "")
    child = subprocess.Popen([sys.executable, "-m", "encdec", "study", "job", str(job.folder)], env=environment)
    is_asked = False
    while True:
        try:
            return child.wait(_EVERY)
        except subprocess.TimeoutExpired:
            pass
        if time_over in noted.numbers and signal.SIGTERM not in noted.numbers and not is_asked:
            child.terminate()
            is_asked = True


def _go_on(study: Study, job: Job, before: JobState | None, found: JobState) -> None:
    """Requeue a job whose time was too short, unless it would be too short forever."""
    if before is not None and before.stage == found.stage == "test":
        # an evaluation begins anew each time
        error = f"Its evaluation takes longer than slurm.time, {study.slurm.time or 'the limit of the partition'}."
        state.write(job.folder, replace(found, status="failed", error=error))
        say(f"{job.name}: failed: {error}")
        return
    requeue()
