"""What `encdec study` says of the jobs of a study in the queue of a Slurm cluster."""

import shutil
from collections.abc import Mapping, Sequence

from encdec.messages import say
from encdec.study import slurm
from encdec.study.schedule import Standing
from encdec.study.slurm import Queue, Submitted
from encdec.study.slurm_settings import Slurm
from encdec.study.spec import Study
from encdec.text import word
from encdec.types import UserError


def before_local(study: Study) -> None:
    """Refuse to run a study here whose jobs are in the queue, and tell who may have forgotten to use it.

    Raises:
        UserError: some are, or Slurm does not answer.
    """
    waiting = slurm.queue(study)
    if waiting.jobs:
        raise UserError(
            f"{_count(len(waiting.jobs), 'job')} of this study {_are(len(waiting.jobs))} in Slurm's queue: wait "
            "until none is, or empty it by `encdec study stop`."
        )
    if study.slurm != Slurm() and shutil.which("sbatch") is not None:
        say("it runs on this machine; with --slurm it would be submitted to the cluster.")


def queue_if_known(study: Study) -> Queue:
    """What of a study is in the queue; where Slurm does not answer, a sentence says so."""
    try:
        return slurm.queue(study)
    except UserError as error:
        say(f"what is in Slurm's queue is not known: {error}")
        return Queue({})


def words(waiting: Queue, standings: Sequence[Standing], is_running: bool) -> Mapping[str, str]:
    """Where jobs stand that are in the queue, or that have lost their process, by name.

    Args:
        waiting: what is in the queue.
        standings: of all jobs, read after that.
        is_running: whether a process of this machine runs the study.
    """
    found = {}
    for each in standings:
        name, queued = each.job.name, waiting.jobs.get(each.job.name)
        runs = each.state is not None and each.state.status == "running"
        if queued is not None and not queued.has_begun:
            found[name] = "queued" if queued.reason in ("", "None") else f"queued ({queued.reason})"
        elif queued is not None and not runs:
            found[name] = "beginning or ending"
        elif queued is None and runs and not is_running:
            found[name] = "stopped, its process is gone"
    return found


def print_submitted(study: Study, submitted: Submitted) -> bool:
    """Print what was put into the queue.

    Returns:
        Whether anything of the study is in the queue.
    """
    counts = {"trial": submitted.trials, "run": submitted.runs}
    new = " and ".join(_count(number, what) for what, number in counts.items() if number)
    if new:
        print(f"{new} submitted{'; the trials run first' if all(counts.values()) else ''}.")
    if submitted.queued:
        print(f"{_count(submitted.queued, 'job')} {_are(submitted.queued)} in the queue already.")
    if submitted.left:
        print(f"{_count(submitted.left, 'job')} more than an array may have: call the same command again for them.")
    if submitted.has_report:
        print("The report is written when all of them have ended.")
    elif new:
        say(
            f"the report is not in the queue ({submitted.refusal}); `encdec study report {word(study.path)}` writes it."
        )
    return bool(new or submitted.queued)


def print_queue(study: Study, waiting: Queue, standings: Sequence[Standing]) -> None:
    """Print how many jobs are in the queue, and why others have ended before they began."""
    said = slurm.reasons(study, waiting)
    for each in standings:
        if each.job.name in said and (each.state is None or each.state.attempts == 0) and not each.is_outdated:
            print(f"{each.job.name} did not begin: {said[each.job.name]}")
    if waiting:
        begun = sum(each.has_begun for each in waiting.jobs.values())
        report = ", and the report" * bool(waiting.reports)
        print(
            f"Slurm: {begun} running, {len(waiting.jobs) - begun} waiting{report}; arrays {', '.join(waiting.arrays)}."
        )


def stop(study: Study) -> bool:
    """Take a study out of the queue.

    Returns:
        Whether there was anything of it.
    """
    waiting = slurm.queue(study)
    if not waiting:
        return False
    slurm.cancel(waiting)
    begun = sum(each.has_begun for each in waiting.jobs.values())
    print(
        f"{study.folder.as_posix()}: {_count(len(waiting.jobs), 'job')} canceled; {begun} of them ran, and save first."
    )
    return True


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _are(number: int) -> str:
    return "are" if number != 1 else "is"
