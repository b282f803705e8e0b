"""What is left to do of a study, whoever does it: this machine or a cluster."""

import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from encdec import __version__
from encdec.evaluation.reading import read as read_evaluation
from encdec.files import written_whole
from encdec.formats import REPORT_ENDING
from encdec.messages import say
from encdec.study import locks, plan, state
from encdec.study.plan import Job
from encdec.study.spec import Study
from encdec.study.state import JobState
from encdec.types import UserError

COPY = "study.yaml"
"""The study's file as it was when it last ran, in its folder."""
WINNER = "winner.json"
"""What came out of the trials of a paradigm on a data set, beside them."""


@dataclass(frozen=True)
class Standing:
    """Where a job stands.

    Attributes:
        job: of the study.
        state: of what is in its folder; None where it never began, or what is there has other settings.
        is_outdated: whether a result of other settings is in its folder.
    """

    job: Job
    state: JobState | None
    is_outdated: bool = False

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state is not None and self.state.status == "done"


def standing(job: Job) -> Standing:
    """Where a job stands; a run whose evaluation is gone, damaged or of another format has failed in `test`.

    Raises:
        UserError: its state can't be read.
    """
    found = state.read(job.folder)
    if found is not None and found.hash != job.hash and not job.blocked:
        return Standing(job, None, is_outdated=True)
    if found is not None and found.status == "done" and job.trial is None:
        path = evaluation_path(job.folder, found)
        try:
            if path is not None:
                read_evaluation(path)
        except UserError as error:
            found = replace(found, status="failed", stage="test", error=str(error))
    return Standing(job, found)


def evaluation_path(folder: Path, known: JobState) -> Path | None:
    """Where `test` wrote its report; None where the state names none within the job's folder."""
    if not known.checkpoint:
        return None
    path = folder / known.checkpoint.replace("\\", "/")  # it may have been written on Windows
    if ".." in path.parts or not path.is_relative_to(folder):
        return None
    return path.with_name(path.stem + REPORT_ENDING)


def everything(study: Study) -> list[Job]:
    """All trials and runs, in the order in which they run: a data set's trials, then its runs, then the next one's.

    Raises:
        UserError: the state of a trial can't be read.
    """
    order = list(study.data)
    return sorted([*plan.trials(study), *plan.jobs(study)], key=lambda job: (order.index(job.data), job.trial is None))


def keep_copy(study: Study) -> None:
    """Keep the study's file in its folder, for the report.

    Raises:
        UserError: it can't be written.
    """
    with written_whole(study.folder / COPY) as file:
        file.write(study.path.read_bytes())


def prepare(study: Study, job: Job) -> bool:
    """Make a job's folder ready for a worker, and set aside what other settings have left there.

    Returns:
        Whether there is anything to do.

    Raises:
        UserError: its state can't be read or written, or another process works on it.
    """
    found = standing(job)
    if found.is_done:
        return False
    if found.is_outdated:
        before = state.read(job.folder)
        other = "" if before is None else before.versions.get("encdec", "")
        why = (
            f"encdec is {__version__} instead of {other}" if other not in ("", __version__) else "settings have changed"
        )
        place = set_aside(study, job.folder)
        say(f"{job.name}: {why}, so it runs again; the old result is in {place.as_posix()}.")
    current = found.state or JobState(job.paradigm, job.data, job.seed, job.hash)
    if current.status in ("pending", "running"):
        current = replace(current, status="pending" if current.attempts == 0 else "stopped")
    test = current.test or job.test  # a worker knows better in which folder the run is
    current = replace(current, fit=job.fit, test=test, command=job.command, settings=dict(job.settings), by=job.by)
    state.write(job.folder, current)
    return True


def set_aside(study: Study, folder: Path) -> Path:
    """Move the folder of a job out of the way, and give its new place.

    Raises:
        UserError: another process works on it.
    """
    with locks.of_job(folder):
        pass
    place = study.folder / "replaced" / folder.relative_to(study.folder)
    number = 1
    while (target := place.with_name(f"{place.name}.{number}")).exists():
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, target)
    return target


def ended(job: Job, code: int | None, asked: bool) -> JobState:
    """Bring the state of a job up to date whose process has ended, as far as that could not do so itself.

    Args:
        job: of the study.
        code: its exit code, negative for a signal; None where it is not known.
        asked: whether it was asked to stop.

    Raises:
        UserError: the state can't be read or written.
    """
    found = state.read(job.folder)
    assert found is not None, "its worker had a state to read"
    if found.status not in ("pending", "running"):
        return found
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if asked:
        found = replace(found, status="stopped", ended=now)
    else:
        how = f"ended with code {code}" if code is None or code >= 0 else f"was killed by signal {-code}"
        hint = ", as a system does that has no memory left" if code == -9 else ""
        found = replace(found, status="failed", ended=now, error=f"Its process {how}{hint}.")
    state.write(job.folder, found)
    return found


def keep_winner(study: Study, paradigm: str, data: str) -> plan.Tuning:
    """What came out of the trials of a paradigm on a data set, which is kept beside them.

    Raises:
        UserError: the state of a trial can't be read, or the file can't be written.
    """
    found = plan.tuning(study, paradigm, data)
    if study.tune is not None and found.trial is not None:
        path = study.folder / "tuning" / paradigm / data / WINNER
        content = {"trial": f"trial_{found.trial}", "by": study.tune.by, "values": found.settings, "score": found.score}
        with written_whole(path) as file:
            file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return found
