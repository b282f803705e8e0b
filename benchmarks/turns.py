"""Processes that train and take turns; without torch, so that the process that hands out the turns stays small."""

import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENDPOINT = "ENCDEC_BENCHMARK_FD"
"""Environment variable with the file descriptor on which a worker is told that it is its turn."""


@dataclass(frozen=True)
class Entrant:
    """A process that will take turns with others.

    Attributes:
        command: makes it; it passes a `Gate` at each step.
        threads: of OpenMP.
        ramp: steps at the start of each turn that are not timed, in which caches warm up and loaders use up what they
            had prefetched.
    """

    command: Sequence[str]
    threads: int
    ramp: int


class Gate:
    """Where a worker stands still until it is its turn, and times the steps of its turn.

    Without a process that hands out turns it is always open.
    """

    def __init__(self) -> None:
        self._step = self._first = 0
        self._since = 0.0
        self._timed = 0  # steps to time after the ramp that is under way
        self._next: float = float("inf")
        if ENDPOINT in os.environ:
            self._stream = socket.socket(fileno=int(os.environ[ENDPOINT])).makefile("rw")
            self._next = 1  # the first answer says that everything is set up

    def step(self) -> None:
        """A step was made."""
        self.reached(self._step + 1)

    def reached(self, step: int) -> None:
        """`step` steps were made since the start."""
        self._step = step
        if step < self._next:
            return
        _synchronize()
        if self._timed:
            self._first, self._next, self._timed = step, step + self._timed, 0
            self._since = time.perf_counter()
            return
        self._stream.write(json.dumps([step - self._first, time.perf_counter() - self._since]) + "\n")
        self._stream.flush()
        line = self._stream.readline()
        if not line:  # whoever handed out the turns is gone
            os._exit(0)
        ramp, self._timed = json.loads(line)
        self._next = step + ramp


def _synchronize() -> None:
    torch = sys.modules.get("torch")  # a worker without it has no device to wait for
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Terminal:
    """A terminal that nobody looks at: what is written to `inside` is read, and only its end is kept."""

    def __init__(self) -> None:
        self._master, self.inside = pty.openpty()
        termios.tcsetwinsize(self.inside, (40, 120))
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """The end of what was written, once all who could write are gone."""
        self._reader.join(timeout=5)
        return self._written.decode(errors="replace")

    def _read(self) -> None:
        try:
            while written := os.read(self._master, 65536):
                self._written = (self._written + written)[-4000:]
        except OSError:  # nobody can write any more
            pass
        os.close(self._master)


class Worker:
    """A process that trains, on a terminal of its own, and stands still except for its turns.

    Between turns its process group is stopped, so that neither loaders that prefetch nor threads that draw take time
    from the others. If this process dies, the kernel continues and hangs up the group, or it finds its gate closed.

    Args:
        entrant: how to start it.
        folder: where it runs and writes.

    Raises:
        RuntimeError: it ended before its first step; with the end of what it wrote.
    """

    def __init__(self, entrant: Entrant, folder: str) -> None:
        ours, theirs = socket.socketpair()
        self._entrant, self._terminal = entrant, Terminal()
        self._process = subprocess.Popen(
            entrant.command,
            cwd=folder,
            env=environment(entrant.threads) | {ENDPOINT: str(theirs.fileno())},
            stdin=subprocess.DEVNULL,
            stdout=self._terminal.inside,
            stderr=self._terminal.inside,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
        theirs.close()
        os.close(self._terminal.inside)
        self._stream = ours.makefile("rw")
        ours.close()  # with the stream
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def turn(self, steps: int) -> tuple[int, float]:
        """Let it make `steps` steps after its ramp: how many these were, and the seconds that they took."""
        self._stream.write(f"[{self._entrant.ramp}, {steps}]\n")
        self._stream.flush()
        os.killpg(self.pid, signal.SIGCONT)
        return self._answer()

    @property
    def pid(self) -> int:
        """Its number, and that of its group."""
        return self._process.pid

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._stream.close()

    def _answer(self) -> tuple[int, float]:
        line = self._stream.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"{shlex.join(self._entrant.command)} ended:\n{self._terminal.text()}")
        os.killpg(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # until it has stopped
        steps, seconds = json.loads(line)
        return steps, seconds


def environment(threads: int) -> dict[str, str]:
    """The environment of the processes that are measured."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths), "TERM": "xterm"}


def in_turns(workers: Mapping[str, Worker], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of each worker in each round.

    A turn has a fixed number of steps, such that it takes about `seconds`. In each round every worker has one turn;
    who begins, and in which direction they follow, changes from round to round.
    """
    steps = {name: _calibrate(worker, seconds) for name, worker in workers.items()}
    speeds: dict[str, list[float]] = {name: [] for name in workers}
    for order in orders(list(workers), rounds):
        for name in order:
            made, took = workers[name].turn(steps[name])
            speeds[name].append(made / took)
    return speeds


def orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    """Who follows whom in each round: everybody begins now and then, and every second round goes backwards."""
    for number in range(rounds):
        first = number % len(names)
        order = names[first:] + names[:first]
        yield order[::-1] if number % 2 else order


def _calibrate(worker: Worker, seconds: float) -> int:
    steps, took = 1, 0.0
    while took < seconds / 4:
        steps *= 2
        made, took = worker.turn(steps)
    return max(round(made * seconds / took), 1)


@contextmanager
def measuring(entrants: Mapping[str, Entrant], say: Callable[[str], None]) -> Iterator[dict[str, Worker]]:
    """The workers of these entrants, each set up while the others stand still."""
    with ExitStack() as stack:
        workers = {}
        for name, entrant in entrants.items():
            say(f"starting {name}")
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            worker = Worker(entrant, folder)
            stack.callback(worker.close)
            workers[name] = worker
        say("taking turns")
        yield workers
