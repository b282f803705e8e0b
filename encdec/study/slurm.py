"""The jobs of a study in the queue of a Slurm cluster: one array of them for each time that it is run.

What is done is told by the states in the jobs' folders, and what is queued or runs by `squeue`: accounting, which many
clusters lack, is never asked. Each submission is a script and a list of jobs in the study's folder; its name, which no
other submission has, is that of its jobs in the queue, so that nothing else has to be remembered.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from encdec.files import written_whole
from encdec.study import schedule
from encdec.study.plan import Job
from encdec.study.slurm_settings import GRACE
from encdec.study.spec import Study
from encdec.text import printable
from encdec.types import UserError

FOLDER = "slurm"
"""Where submissions are, in the folder of a study."""
LARGEST = 1000
"""How many jobs an array may have, as Slurm is when nobody has changed its MaxArraySize."""
_REPORT = "report"
_BEGUN = ("COMPLETING", "RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
"""States of what has begun, as `squeue` names them; all others wait."""


@dataclass(frozen=True)
class Queued:
    """A job in the queue.

    Attributes:
        id: as Slurm's commands take it, such as 4711_3.
        array: the number that all jobs of its array share.
        has_begun: whether it runs, or is about to begin or end.
        reason: why it waits, in Slurm's word, such as Resources, Dependency or BeginTime.
    """

    id: str
    array: str
    has_begun: bool
    reason: str = ""


@dataclass(frozen=True)
class Queue:
    """What of a study is in the queue.

    Attributes:
        jobs: by name.
        reports: the jobs that write the report.
    """

    jobs: Mapping[str, Queued]
    reports: tuple[Queued, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.jobs or self.reports)

    @property
    def arrays(self) -> list[str]:
        """The numbers of all arrays, those first that wait for others to end."""
        found = {each.array for each in (*self.jobs.values(), *self.reports)}
        return sorted(found, key=int, reverse=True)


@dataclass(frozen=True)
class Submitted:
    """What was put into the queue.

    Attributes:
        trials: how many of tuning.
        runs: how many runs, which wait for those.
        left: how many more there are than an array may have.
        queued: how many were in the queue already.
        has_report: whether the report is written when all have ended.
        refusal: why it is not, in the cluster's words.
    """

    trials: int
    runs: int
    left: int
    queued: int
    has_report: bool = False
    refusal: str = ""


def queue(study: Study) -> Queue:
    """What of a study is in the queue; nothing, without a question to Slurm, where it was never submitted.

    States must be read after it, not before: then one that is `running` and not in the queue has no process any more.

    Raises:
        UserError: it was submitted, and Slurm does not answer.
    """
    names = {_name(study, path.stem): path for path in (study.folder / FOLDER).glob("*.txt")}
    if not names:
        return Queue({})
    shown = _call("squeue", "--noheader", "--array", f"--name={','.join(names)}", "--format=%i|%F|%T|%r|%j")
    jobs, reports = {}, []
    for line in shown.splitlines():
        number, array, status, reason, name = line.strip().split("|", 4)
        has_begun = status in _BEGUN
        found = Queued(number, array, has_begun, "" if has_begun else reason)
        listed = names[name].read_text(encoding="utf-8").splitlines()
        if listed:
            jobs[listed[int(number.rpartition("_")[2])]] = found
        else:
            reports.append(found)
    return Queue(jobs, tuple(reports))


def submit(study: Study, waiting: Queue, jobs: Iterable[Job]) -> Submitted:
    """Put into the queue what is neither done nor there: an array of trials, one of runs that waits for it, the report.

    Args:
        study: whose jobs they are.
        waiting: what of it is in the queue.
        jobs: all of the study, read after that.

    Raises:
        UserError: Slurm refuses; or a state can't be read, or a file not be written.
    """
    missing = [job for job in jobs if job.name not in waiting.jobs and not schedule.standing(job).is_done]
    trials = [job for job in missing if job.trial is not None]
    arrays = set(waiting.arrays) - {each.array for each in waiting.reports}
    of_trials = {each.array for name, each in waiting.jobs.items() if name.startswith("tuning/")}
    if trials:
        of_trials.add(number := _submit_array(study, "trials", trials[:LARGEST]))
        arrays.add(number)
    # without a trial that is still to end, a run that lacks its settings never gets them
    runs = [job for job in missing if job.trial is None and (of_trials or not job.blocked)]
    if runs:
        needed = of_trials if any(job.blocked for job in runs[:LARGEST]) else set()
        arrays.add(_submit_array(study, "runs", runs[:LARGEST], needed))
    counts = min(len(trials), LARGEST), min(len(runs), LARGEST)
    left = len(trials) + len(runs) - sum(counts)
    if not any(counts):
        return Submitted(0, 0, left, len(waiting.jobs), bool(waiting.reports))
    try:
        _submit_report(study, arrays)
    except UserError as error:  # some clusters want a GPU or more cores from each job
        return Submitted(*counts, left, len(waiting.jobs), bool(waiting.reports), str(error))
    for each in waiting.reports:  # it would be written while jobs are still running
        _call("scancel", each.id)
    return Submitted(*counts, left, len(waiting.jobs), True)


def cancel(waiting: Queue) -> None:
    """Take a study out of the queue; jobs that run get SIGTERM, and half a minute or what the cluster gives to save.

    Raises:
        UserError: Slurm refuses.
    """
    for array in waiting.arrays:  # one at a time, because a run whose trials are gone would begin
        _call("scancel", array)


def reasons(study: Study, waiting: Queue) -> dict[str, str]:
    """What the newest job in the queue said that ended before encdec began, by the job's name.

    A line of set-up may have failed, or the node may lack this Python.
    """
    found: dict[str, str] = {}
    for listed in sorted((study.folder / FOLDER).glob("*.txt")):
        for i, name in enumerate(listed.read_text(encoding="utf-8").splitlines()):
            found.pop(name, None)
            log = listed.with_name(f"{listed.stem}_{i}.log")
            if name not in waiting.jobs and log.is_file():
                lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
                last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
                found[name] = f"{printable(last, 300)} ({log.as_posix()})"
    return found


def without_slurm() -> dict[str, str]:
    """The environment without Slurm's variables, by which Lightning would take a process for a task of a cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}


def _submit_array(study: Study, kind: str, jobs: Sequence[Job], after: Iterable[str] = ()) -> str:
    """Submit jobs, to begin when the arrays `after` have ended."""
    key = _new_key(kind)
    listed = study.folder / FOLDER / f"{key}.txt"
    most = f"%{study.slurm.parallel}" if study.slurm.parallel else ""
    options = [
        f"--array=0-{len(jobs) - 1}{most}",
        *study.slurm.asks,
        f"--signal=B:USR1@{GRACE}",  # without B: it would reach, and end, all processes that have no handler
        "--requeue",
        *_after(after),
    ]
    command = ["study", "slurm-task", study.path.as_posix(), listed.as_posix()]
    # listed first: nothing is ever in the queue that can't be found there
    _write(listed, "".join(f"{job.name}\n" for job in jobs))
    return _sbatch(study, key, options, f"{key}_%a.log", command)


def _submit_report(study: Study, after: Iterable[str]) -> None:
    """Submit what writes the report when the arrays `after` have ended."""
    key = _new_key(_REPORT)
    _write(study.folder / FOLDER / f"{key}.txt", "")
    options = [*study.slurm.limits, *study.slurm.options, *_after(after)]
    _sbatch(study, key, options, f"{key}.log", ["study", "report", study.path.as_posix()])


def _sbatch(study: Study, key: str, options: Iterable[str], log: str, command: Sequence[str]) -> str:
    """Submit a script that runs encdec, and give the number of the job."""
    folder = study.folder / FOLDER
    script = folder / f"{key}.sh"
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={_name(study, key)}",
        *(f"#SBATCH {option}" for option in options),
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={(folder / log).as_posix()}",
        "set -e",
        *study.slurm.setup,
        # in place of the shell, which would not pass a signal on
        f"exec {shlex.join([sys.executable, '-m', 'encdec', *command])}",
    ]
    _write(script, "\n".join(lines) + "\n")
    try:
        # a cluster of several answers with its name after the number
        return _call("sbatch", "--parsable", str(script)).strip().partition(";")[0]
    except UserError:
        for path in (script, script.with_suffix(".txt")):
            path.unlink()
        raise


def _after(arrays: Iterable[str]) -> list[str]:
    numbers = sorted(arrays, key=int)
    return [f"--dependency=afterany:{':'.join(numbers)}"] if numbers else []


def _new_key(kind: str) -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{kind}"  # their order is that of their times


def _name(study: Study, key: str) -> str:
    return f"encdec-{study.name}-{key}"


def _write(path: Path, text: str) -> None:
    with written_whole(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def _call(command: str, *args: str) -> str:
    """What one of Slurm's commands prints.

    Raises:
        UserError: it is missing or refuses; the sentence holds what it said.
    """
    if shutil.which(command) is None:
        raise UserError(f"There is no {command} on this machine: call this where Slurm's commands are.")
    # a shell within a job must not hand the size and place of that job on; these two say where the cluster is
    env = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CLUSTERS") if name in os.environ}
    done = subprocess.run(
        [command, *args], capture_output=True, text=True, errors="replace", env=without_slurm() | env, check=False
    )
    if done.returncode:
        lines = [line.removeprefix(f"{command}: error: ").strip() for line in done.stderr.splitlines()]
        said = "; ".join(filter(None, lines)) or f"it ended with code {done.returncode}"
        raise UserError(f"Slurm's {command} refused: {printable(said, 500)}")
    return done.stdout
