"""What is shown of a study while it runs, and after it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from encdec.study import schedule, state
from encdec.study.plan import Job
from encdec.study.schedule import Standing
from encdec.study.state import JobState
from encdec.tables import print_table
from encdec.text import clock, printable

_LONGEST_ERROR = 300


class Board:
    """Shows how far the jobs of a study are: a live table in a terminal, or else a line when one begins or ends.

    Args:
        jobs: all of them.
        slots: how many run at a time.

    Raises:
        UserError: the state of one can't be read.
    """

    def __init__(self, jobs: Sequence[Job], slots: int) -> None:
        self._found = {job.name: schedule.standing(job) for job in jobs}
        self._slots = slots
        self._began: dict[str, float] = {}  # those that run, and since when
        self._ended: set[str] = set()  # those that this process ran to an end
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within, it is shown."""
        console = Console()
        if not console.is_terminal:
            yield
            return
        with Live(console=console, refresh_per_second=2, get_renderable=self._table) as self._live:
            yield
        self._live = None

    def planned(self, job: Job) -> None:
        """A job that waited for others is known in full."""
        self._found[job.name] = schedule.standing(job)

    def began(self, job: Job) -> None:
        """A job has begun."""
        self._began[job.name] = time.monotonic()
        self._say(f"{job.name} begins")

    def ended(self, job: Job) -> None:
        """A job has ended, or there was nothing to do."""
        began = self._began.pop(job.name, None)
        self._found[job.name] = found = schedule.standing(job)
        if began is None or found.state is None:
            return
        self._ended.add(job.name)
        how = {"failed": f"failed: {found.state.error}"}.get(found.state.status, found.state.status)
        self._say(f"{job.name} {printable(how)} after {clock(time.monotonic() - began)}; {self._counts()}")

    def refresh(self) -> None:
        """Read how far the running jobs are, where that is shown."""
        if self._live is not None:
            for name in self._began:
                self._found[name] = schedule.standing(self._found[name].job)

    def seconds_left(self) -> float | None:
        """About how long all that is left takes; None while no job has ended."""
        known: dict[tuple[object, ...], list[float]] = {}
        for each in self._found.values():
            if each.is_done and each.state is not None:
                seconds = each.state.fit_seconds + each.state.test_seconds
                for key in _alike(each.job):
                    known.setdefault(key, []).append(seconds)
        if not known:
            return None
        left = 0.0
        for name, each in self._found.items():
            if each.is_done or (name in self._ended):
                continue
            expected = next((mean(known[key]) for key in _alike(each.job) if key in known), None)
            if expected is None:
                expected = mean(seconds for of_alike in known.values() for seconds in of_alike)
            spent = 0.0 if each.state is None else each.state.fit_seconds + each.state.test_seconds
            if name in self._began:
                spent += time.monotonic() - self._began[name]
            left += max(expected - spent, 0.0)
        return left / self._slots

    def _counts(self) -> str:
        done = sum(each.is_done for each in self._found.values())
        words = [f"{done} of {len(self._found)} done"]
        failed = len(self._failed())
        if failed:
            words.append(f"{failed} failed")
        seconds = self.seconds_left()
        if seconds is not None and done < len(self._found):
            words.append(f"about {clock(seconds)} left")
        return ", ".join(words)

    def _failed(self) -> list[tuple[str, JobState]]:
        return [
            (name, each.state)
            for name, each in self._found.items()
            if each.state is not None and each.state.status == "failed" and name not in self._began
        ]

    def _say(self, text: str) -> None:
        if self._live is None:
            print(text, flush=True)

    def _table(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("running", "", "epoch", "loss", "for"):
            table.add_column(Text(heading), justify="right" if heading in ("epoch", "loss", "for") else "left")
        for name, began in self._began.items():
            found = self._found[name].state
            row = ["", "", ""]
            if found is not None and found.status == "running":
                last = "" if found.epochs is None else f"/{found.epochs}"
                loss = "" if found.loss is None else f"{found.loss:.5g}"
                row = [found.stage, f"{found.epoch}{last}", loss]
            table.add_row(*map(Text, [name, *row, clock(time.monotonic() - began)]))
        lines: list[RenderableType] = [Text(self._counts())]
        if self._began:
            lines.append(table)
        lines += [Text(f"failed: {name}: {printable(found.error, _LONGEST_ERROR)}") for name, found in self._failed()]
        return Group(*lines)


def print_summary(standings: Iterable[Standing], words: Mapping[str, str] | None = None) -> bool:
    """Print how many jobs of each paradigm and data set are done, and what became of the others.

    Args:
        standings: of the jobs.
        words: for where a job stands, by its name, in place of what its state says, which is then not told at all.

    Returns:
        Whether all are done.
    """
    found, words = list(standings), words or {}
    groups: dict[tuple[str, str, str], list[Standing]] = {}
    for each in found:
        kind = "run" if each.job.trial is None else "trial"
        groups.setdefault((each.job.data, each.job.paradigm, kind), []).append(each)
    rows = [["data", "paradigm", "", "done", "other", "seconds each"]]
    for (data, paradigm, kind), of_group in groups.items():
        seconds = [each.state.fit_seconds + each.state.test_seconds for each in of_group if each.is_done and each.state]
        done = f"{len(seconds)} of {len(of_group)}"
        others = [words.get(each.job.name) or status(each) for each in of_group if not each.is_done]
        counts = ", ".join(f"{others.count(other)} {other}" for other in dict.fromkeys(others))
        rows.append([data, paradigm, f"{kind}s", done, counts, f"{mean(seconds):.1f}" if seconds else ""])
    print_table(rows, text=(0, 1, 2, 4))
    told = [each for each in found if each.job.name not in words]
    for each in told:
        if _has_failed(each) and each.state is not None:
            log = (each.job.folder / state.LOG).as_posix()
            print(f"{each.job.name} failed: {printable(each.state.error, _LONGEST_ERROR)} ({log})", flush=True)
    _print_blocked(told)
    return all(each.is_done for each in found)


def _has_failed(found: Standing) -> bool:
    return found.state is not None and found.state.status == "failed"


def _print_blocked(found: Sequence[Standing]) -> None:
    """A line for the runs of each paradigm and data set that wait for trials in vain; not while trials are left."""
    blocked: dict[tuple[str, str], list[Job]] = {}
    for each in found:
        if each.job.blocked and not _has_failed(each):
            blocked.setdefault((each.job.paradigm, each.job.data), []).append(each.job)
    for each in found:
        if each.job.trial is not None and not (each.is_done or _has_failed(each)):
            blocked.pop((each.job.paradigm, each.job.data), None)
    for jobs in blocked.values():
        others = len(jobs) - 1
        more = f" and {others} other seed{'s' * (others > 1)}" if others else ""
        print(f"{jobs[0].name}{more} can't run: {printable(jobs[0].blocked, _LONGEST_ERROR)}", flush=True)


def status(found: Standing) -> str:
    """One word, or a few, for where a job stands."""
    if found.is_outdated:
        return "to run again, settings have changed"
    if found.job.blocked:
        return "waiting for trials"
    if found.state is None or found.state.status == "pending":
        return "to run"
    if found.state.status == "running":
        last = "" if found.state.epochs is None else f"/{found.state.epochs}"
        return f"in {found.state.stage}, epoch {found.state.epoch}{last}"
    return found.state.status


def _alike(job: Job) -> list[tuple[object, ...]]:
    """What jobs that take about as long have in common, the closest first."""
    is_trial = job.trial is not None
    return [(job.paradigm, job.data, is_trial), (job.paradigm, job.data), (job.data, is_trial), (job.data,)]
