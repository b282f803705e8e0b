"""`python -m encdec study`: a grid of runs, from one file to one report."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from encdec.cli.commands import COMMANDS
from encdec.cli.study import child, cluster
from encdec.messages import fail, say, suggestion
from encdec.study import board, locks, pool, schedule, slurm, slurm_task, spec
from encdec.study.plan import Job
from encdec.study.spec import Study
from encdec.text import printable
from encdec.types import UserError

ACTIONS = {
    "run": "Run what is left of it, and write its report; also without this word.",
    "status": "Show what is done, running, failed and left.",
    "stop": "Stop the jobs that run, after their step; `run` resumes them.",
    "report": "Write the report of what is done.",
}
HELP = f"""\
usage: encdec study [ACTION] STUDY.yaml

{COMMANDS["study"]}

actions:
{chr(10).join(f"  {action:<10}{line}" for action, line in ACTIONS.items())}

options:
  --slurm     For run: submit its jobs to a Slurm cluster, and return.
  -h, --help  Show this page.

The file names seeds, data sets and paradigms; each combination is a job, `fit --resume` and then `test`, in a folder of
its own below lightning_logs/studies. The same command resumes what was stopped, repeats nothing that is done, and runs
again what has other settings than before. docs/study.md describes the file.

examples:
  encdec study configs/study/quick.yaml
  encdec study status configs/study/quick.yaml"""


def main(args: Sequence[str]) -> None:
    """Run the command; PyTorch is loaded by the processes of its jobs alone.

    Args:
        args: what follows `encdec study`.

    Raises:
        SystemExit: with code 2 for a wrong call and 1 where a job failed or is not done, after a sentence on stderr;
            with 128 + its number for a signal.
    """
    try:
        _main(list(args))
    except UserError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        fail(f"{error.filename or 'a file of the study'} can't be used: {error.strerror or error}.", 1)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _main(args: list[str]) -> None:
    if not {"-h", "--help"}.isdisjoint(args):
        print(HELP)
        raise SystemExit(0)
    action = args.pop(0) if args and args[0] in (*ACTIONS, "job", "slurm-task") else "run"
    if action == "slurm-task" and len(args) == 2:
        raise SystemExit(slurm_task.main(*args))
    if action == "run" and "--slurm" in args:
        args.remove("--slurm")
        action = "submit"
    for arg in args:
        if arg.startswith("-"):
            fail(f"study has no option {printable(arg)}; what it does stands in its file.", 2)
    if len(args) > 1 and action in ("run", "submit") and not args[0].endswith((".yaml", ".yml")):
        names = ", ".join(ACTIONS)
        fail(f"{args[0]!r} is not an action of study{suggestion(args[0], list(ACTIONS))}; they are {names}.", 2)
    if len(args) != 1:
        fail("study takes one file, such as: encdec study configs/study/quick.yaml", 2)
    if action == "job":
        raise SystemExit(child.do(args[0]))
    study = spec.load(args[0])
    {"run": _run, "submit": _submit, "status": _status, "stop": _stop, "report": _report_again}[action](study)


@contextmanager
def _before_jobs() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the study with a sentence; later, the pool stops its jobs.

    Raises:
        SystemExit: with 128 + the number of the signal.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    except SystemExit as error:
        if isinstance(error.code, int) and error.code - 128 in numbers:
            say("stopped before it began a job; the same command begins.")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(study: Study) -> None:
    with locks.of_study(study.folder):
        with _before_jobs():
            cluster.before_local(study)
            jobs = schedule.everything(study)
            running = _pool(study, jobs)
            _check(study, running, jobs)
            schedule.keep_copy(study)
        number = running.run(jobs)
        is_complete = board.print_summary(map(schedule.standing, schedule.everything(study)))
    if number:
        raise SystemExit(128 + number)
    _finish(study, is_complete)


def _submit(study: Study) -> None:
    with locks.of_study(study.folder):
        with _before_jobs():
            waiting = slurm.queue(study)
            jobs = schedule.everything(study)
            _check(study, _pool(study, jobs), jobs)
            schedule.keep_copy(study)
        submitted = slurm.submit(study, waiting, jobs)
        if cluster.print_submitted(study, submitted):
            return
        is_complete = board.print_summary(map(schedule.standing, jobs))
    _finish(study, is_complete)


def _pool(study: Study, jobs: Sequence[Job]) -> pool.Pool:
    slots = pool.Slots.of(study.local)
    return pool.Pool(study, child.work, child.PRELOAD, board.Board(jobs, len(slots.environments)))


def _finish(study: Study, is_complete: bool) -> None:
    _report(study)
    if not is_complete:
        say("error: not all jobs are done; the same command runs those again that failed.")
        raise SystemExit(1)


def _check(study: Study, running: pool.Pool, jobs: Sequence[Job]) -> None:
    """Refuse arguments that `fit` does not take before any job runs: one of each paradigm and data set tells.

    Raises:
        UserError: there are some.
    """
    calls: dict[tuple[str, str], tuple[str, Sequence[str]]] = {}
    for job in jobs:
        found = schedule.standing(job)
        if not job.blocked and (found.state is None or found.state.attempts == 0):
            calls.setdefault((job.paradigm, job.data), (f"{job.paradigm} on {job.data}", job.fit))
    if not calls:
        return
    waits = sys.stderr.isatty()
    if waits:
        print("Loading PyTorch and Lightning, and reading the arguments of jobs …", end="", file=sys.stderr, flush=True)
    try:
        wrong = running.ask(child.check, list(calls.values()))
    except EOFError:  # the jobs meet the same, and say so
        return
    finally:
        if waits:
            print("\r\033[K", end="", file=sys.stderr, flush=True)  # back to the start of the line, and erase it
    if wrong:
        raise UserError(f"{study.path}: {wrong}", 2)


def _status(study: Study) -> None:
    is_running = locks.is_running(study.folder)
    waiting = cluster.queue_if_known(study)  # before the states, see there
    standings = list(map(schedule.standing, schedule.everything(study)))
    board.print_summary(standings, cluster.words(waiting, standings, is_running))
    cluster.print_queue(study, waiting, standings)
    if is_running or not waiting:
        who = "a process runs it" if is_running else "no process of this machine runs it"
        print(f"{study.folder.as_posix()}: {who}.")


def _stop(study: Study) -> None:
    if cluster.stop(study):
        return
    if not locks.is_running(study.folder):
        fail(f"No process of this machine runs the study in {study.folder.as_posix()}.", 1)
    pool.request_stop(study.folder)
    print(f"{study.folder.as_posix()}: its jobs stop after their step.", file=sys.stdout, flush=True)


def _report_again(study: Study) -> None:
    """Write the report, for the study's file as it is now.

    Raises:
        UserError: nothing of it has run.
    """
    if not study.folder.is_dir():
        raise UserError(f"{study.folder.as_posix()} is not there: run the study first.")
    schedule.keep_copy(study)
    outdated = [found for found in map(schedule.standing, schedule.everything(study)) if found.is_outdated]
    if outdated:
        how_many = "One result has" if len(outdated) == 1 else f"{len(outdated)} results have"
        say(f"{how_many} other settings than the file, {outdated[0].job.name} for one: run the study again.")
    _report(study)


def _report(study: Study) -> None:
    """Write the report of what is done, and say where it is."""
    from encdec.study.report import write_report  # matplotlib and jinja2, which take a while to import

    page, *others = write_report(study.folder)
    print(f"{page.as_posix()}: the report; beside it {' and '.join(path.name for path in others)}.", flush=True)
