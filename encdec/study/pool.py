"""Runs jobs on this machine, in a few processes at a time."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from encdec.messages import say
from encdec.study import plan, schedule
from encdec.study.board import Board
from encdec.study.plan import Job
from encdec.study.spec import Local, Study

STOP = "stop"
"""A file in a study's folder that asks the process which runs it to stop; the process deletes it."""
Worker = Callable[[str, Connection, Mapping[str, str]], None]
"""Does the job in a folder, in a process of its own, until the connection is closed; with variables to set first."""
_EVERY = 0.25  # seconds between two looks at states, signals and the request to stop


@dataclass(frozen=True)
class Slots:
    """How many jobs run at a time, and on what.

    Attributes:
        environments: variables of each slot's process.
        threads: of each.
    """

    environments: tuple[Mapping[str, str], ...]
    threads: int

    @property
    def have_gpus(self) -> bool:
        """Whether jobs run on GPUs."""
        return any(each["CUDA_VISIBLE_DEVICES"] for each in self.environments)

    @staticmethod
    def of(local: Local) -> "Slots":
        """The slots that a study asks for: one for each GPU, or as many as the cores give at so many threads each."""
        gpus = _gpus() if local.gpus is None else local.gpus
        count = local.slots or (len(gpus) if gpus else max(cores() // (local.threads or 1), 1))
        threads = local.threads or (max(cores() // count, 1) if gpus else 1)
        # an empty list hides all GPUs, which would otherwise be taken by every job
        devices = [str(gpus[slot % len(gpus)]) if gpus else "" for slot in range(count)]
        return Slots(tuple({"CUDA_VISIBLE_DEVICES": device} for device in devices), threads)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> Sequence[int | str]:
    """The GPUs that are there, as CUDA_VISIBLE_DEVICES names them; PyTorch, which would know, takes seconds to load."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return range(sum(line.startswith("GPU ") for line in listed.splitlines()))


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    until: Connection  # the job stops when it is closed
    slot: int


class Pool:
    """Runs the jobs of a study, and stops them when it is asked to.

    Args:
        study: whose jobs they are.
        worker: does one; it must be importable, because processes that are not forked look it up.
        preload: the module that processes are forked from, where they are.
        board: shows how far they are.
    """

    def __init__(self, study: Study, worker: Worker, preload: str, board: Board) -> None:
        self._study, self._worker, self._board = study, worker, board
        (study.folder / STOP).unlink(missing_ok=True)  # meant for a process that is gone
        self._slots = Slots.of(study.local)
        self._context = _context(preload, self._slots)
        self._running: list[_Running] = []
        self._signal = 0  # the first that asked to stop
        self._asked = 0  # how many times
        self._is_stopping = False

    def run(self, jobs: list[Job]) -> int:
        """Run jobs in their order, as far as they are not blocked by others that failed.

        Returns:
            The number of the signal that stopped it; 0 if none did.

        Raises:
            UserError: a state can't be read or written.
        """
        waiting = list(jobs)
        with self._noting_signals(), self._threads(), self._board.shown():
            try:
                while self._running or (not self._is_stopping and any(not job.blocked for job in waiting)):
                    self._stop_if_asked()
                    if not self._is_stopping:
                        self._start_some(waiting)
                    connection.wait([each.process.sentinel for each in self._running], _EVERY)
                    self._collect(waiting)
                    self._board.refresh()
            finally:
                self._kill()
        return self._signal

    def ask(self, function: Callable[..., None], *args: Any) -> Any:
        """What a function of a module sends to a connection, its last argument, in a process like that of a job.

        Raises:
            EOFError: it ended without sending anything.
        """
        ours, theirs = self._context.Pipe()
        with self._threads():
            process = self._context.Process(target=function, args=(*args, theirs), daemon=True)  # type: ignore[attr-defined]
            process.start()
        theirs.close()
        try:
            return ours.recv()
        finally:
            process.kill()
            process.join()

    def _start_some(self, waiting: list[Job]) -> None:
        """Start jobs while there is a slot for them."""
        taken = {each.slot for each in self._running}
        free = [slot for slot in range(len(self._slots.environments)) if slot not in taken]
        while free and (job := next((job for job in waiting if not job.blocked), None)) is not None:
            waiting.remove(job)
            if schedule.prepare(self._study, job):
                self._start(job, free.pop(0))
                self._board.began(job)
            else:
                self._board.ended(job)
                self._unblock(job, waiting)

    def _start(self, job: Job, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined]
            target=self._worker, args=(str(job.folder), theirs, self._slots.environments[slot])
        )
        process.start()
        theirs.close()
        self._running.append(_Running(job, process, ours, slot))

    def _collect(self, waiting: list[Job]) -> None:
        """Take note of jobs that have ended."""
        for each in [each for each in self._running if not each.process.is_alive()]:
            each.process.join()
            self._running.remove(each)
            each.until.close()
            schedule.ended(each.job, each.process.exitcode, self._is_stopping)
            self._board.ended(each.job)
            self._unblock(each.job, waiting)

    def _unblock(self, job: Job, waiting: list[Job]) -> None:
        """Let the runs begin that a trial which has ended was the last to keep waiting."""
        if job.trial is None:
            return
        found = schedule.keep_winner(self._study, job.paradigm, job.data)
        for i, other in enumerate(waiting):
            if other.blocked and (other.paradigm, other.data) == (job.paradigm, job.data):
                waiting[i] = plan.run_of(self._study, job.paradigm, job.data, other.seed, found)
                self._board.planned(waiting[i])

    def _stop_if_asked(self) -> None:
        """Ask the jobs to stop, or end them at the second time that this process is asked."""
        file = self._study.folder / STOP
        if file.exists():
            file.unlink(missing_ok=True)
            self._note(signal.SIGTERM, None)
        if self._asked and not self._is_stopping:
            self._is_stopping = True
            if self._running:
                say("stops its jobs after their step; Ctrl-C once more ends them without saving.")
            # a console of Windows has sent Ctrl-C to them as well, and a second one would end them without saving
            if sys.platform != "win32" or self._signal != signal.SIGINT:
                for each in self._running:
                    each.until.close()
        elif self._asked > 1:
            self._kill()

    def _kill(self) -> None:
        for each in self._running:
            each.process.kill()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number
        self._asked += 1

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        """Within, signals that end processes are noted, and end this one when its jobs have ended."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Within, processes start that compute with so many threads each: libraries look when they are loaded."""
        name, threads = "OMP_NUM_THREADS", str(self._slots.threads)
        before = os.environ.get(name)
        os.environ[name] = threads
        try:
            if self._context.get_start_method() == "forkserver":
                _ensure_fork_server()
            yield
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


def _context(preload: str, slots: Slots) -> BaseContext:
    """How processes start: forked from one that has imported encdec, where forks are safe, or else anew.

    They are not on macOS and with CUDA; on Windows there are none. ENCDEC_STUDY_FORK=0 starts anew on Linux, too.
    """
    if sys.platform != "linux" or slots.have_gpus or os.environ.get("ENCDEC_STUDY_FORK") == "0":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context


def _ensure_fork_server() -> None:
    """Start the process that others are forked from; Ctrl-C in the terminal is not for it."""
    from multiprocessing import forkserver  # not on Windows

    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)


def request_stop(folder: Path) -> None:
    """Ask the process that runs the study in a folder to stop."""
    with suppress(FileExistsError):
        (folder / STOP).touch(exist_ok=False)
