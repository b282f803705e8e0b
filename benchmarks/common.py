"""What the benchmarks share: processes that take turns, statistics of rounds, and a record of what was measured where.

Nothing here imports torch, so that the process that hands out the turns stays small and quiet.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import pty
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ENDPOINT = "ENCDEC_BENCHMARK_FD"
"""Environment variable with the file descriptor on which a worker is told that it is its turn."""
CONFIGS = {"AE": "ae", "ConditionalDecoder": "decoder", "VAE": "vae", "EncoderlessVAE": "vae_noenc"}
"""Name of each core paradigm's config."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What is trained, the same for all ways of training it.

    Attributes:
        folder: the data, as torchvision's FashionMNIST wants them; see `ways.prepare`.
        data: encdec's data module, FashionMNIST or Digits.
        total: images in `folder` for training, validation included.
        paradigm: one of CONFIGS.
        networks: `mlp` or `conv`.
        batch: images of a batch, on each process.
        codes: K of the encoderless VAE.
        precision: as Lightning's Trainer calls it; the scripts and pythae train in 32-true in any case.
        accelerator: `cpu` or `gpu`.
        compilation: mode of torch.compile, for the ways that are called compiled.
        epochs: how long; None is until the worker is stopped, without validation.
    """

    folder: str
    data: str
    total: int
    paradigm: str = "VAE"
    networks: str = "mlp"
    batch: int = 128
    codes: int = 1
    precision: str = "32-true"
    accelerator: str = "cpu"
    compilation: str = "default"
    epochs: int | None = None

    @property
    def images(self) -> int:
        """Training images: nine tenths, less a few, so that all batches are full."""
        return self.total * 9 // 10 // self.batch * self.batch

    @property
    def val_fraction(self) -> float:
        """The share of images that is held out for validation."""
        return 1 - self.images / self.total

    @property
    def epochs_or_endless(self) -> int:
        """The number of epochs, a large one if there is no end."""
        return 1_000_000 if self.epochs is None else self.epochs

    def described(self) -> Json:
        """What tells it from other tasks, for the record."""
        return {name: value for name, value in asdict(self).items() if name not in ("folder", "total")} | {
            "images": self.images
        }

    def entrant(self, way: str, threads: int) -> "Entrant":
        """Who takes turns for this way."""
        return Entrant(self.command(way), threads, ramp=max(1280 // self.batch, 1))

    def command(self, way: str) -> list[str]:
        """The command that trains in a way: the real command line for `encdec`, a function of `ways` for the others."""
        if way in ("encdec", "encdec_compiled"):
            compiled = [f"--compile={self.compilation}"] * (way == "encdec_compiled")
            return self.encdec() + compiled + ["--trainer.callbacks+=benchmarks.hooks.Turns"] * (self.epochs is None)
        return [sys.executable, "-m", "benchmarks.ways", way, json.dumps(asdict(self))]

    def encdec(self) -> list[str]:
        """`python -m encdec fit` with everything on that is on by default; an endless run has no validation."""
        fashion = self.data == "FashionMNIST"
        layers = [CONFIGS[self.paradigm], *["data/fashion_mnist"] * fashion]
        command = [sys.executable, "-m", "encdec", "fit"]
        command += [arg for layer in layers for arg in ("--config", str(ROOT / "configs" / f"{layer}.yaml"))]
        command += [f"--data.data_dir={self.folder}"] * fashion
        command += [f"--data.batch_size={self.batch}", f"--data.val_fraction={self.val_fraction}"]
        if self.networks == "conv":
            command += ["--model.decoder=ConvDecoder"]
            command += ["--model.encoder=ConvEncoder"] * (self.paradigm in ("AE", "VAE"))
        command += [f"--model.num_prior_samples={self.codes}"] * (self.codes > 1)
        command += [f"--trainer.max_epochs={self.epochs_or_endless}", f"--trainer.precision={self.precision}"]
        command += ["--trainer.check_val_every_n_epoch=1000000"] * (self.epochs is None)
        return [*command, f"--trainer.accelerator={self.accelerator}", "--trainer.devices=1"]


@dataclass(frozen=True)
class Entrant:
    """A process that will take turns with others.

    Attributes:
        command: makes it; it passes a `Gate` at each step.
        threads: of OpenMP.
        ramp: steps at the start of each turn that are not timed, in which caches warm up and loaders use up what they
            had prefetched.
        variables: of its environment, beside those that all have.
    """

    command: Sequence[str]
    threads: int
    ramp: int
    variables: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------- inside a worker


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


# ---------------------------------------------------------------------- outside


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
            env=environment(entrant.threads) | {**entrant.variables, ENDPOINT: str(theirs.fileno())},
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


# ---------------------------------------------------------------------- whole processes


@dataclass(frozen=True)
class Usage:
    """What a process took from its start to its end: seconds of wall time, and MB (10⁶ bytes) of resident memory."""

    seconds: float
    megabytes: float


def run(command: Sequence[str], threads: int, exit_code: int = 0) -> Usage:
    """Run a command on a terminal, in a folder that is deleted afterwards.

    The memory is right only as long as this process is smaller than the one that it starts.

    Raises:
        RuntimeError: it ends with another exit code; with the end of what it wrote.
    """
    terminal = Terminal()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        since = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            stdout=terminal.inside,
            stderr=terminal.inside,
        )
        os.close(terminal.inside)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - since
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != exit_code:
        raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}:\n{terminal.text()}")
    return Usage(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)


# ---------------------------------------------------------------------- statistics and records


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """`of` relative to `to`, round by round."""
    return [a / b for a, b in zip(of, to, strict=True)]


def summary(values: Sequence[float]) -> Json:
    """The values, their median and how far they spread."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def shown(entry: Json, digits: int = 3) -> str:
    """`median (min–max)`."""
    return f"{number(entry['median'], digits)} ({number(entry['min'], digits)}–{number(entry['max'], digits)})"


def number(value: float, digits: int = 3) -> str:
    """With so many significant digits, and no exponent."""
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


def parser(module: str, description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    arguments = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    arguments.add_argument("--data", choices=["FashionMNIST", "Digits"], help="default: FashionMNIST if it is there")
    arguments.add_argument("--rounds", type=int, default=rounds, help="turns of each (%(default)s)")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process (%(default)s)")
    arguments.add_argument("--quick", action="store_true", help="digits and short turns, to see that it runs")
    arguments.add_argument("--out", type=Path, help=f"JSON file (benchmarks/results/{module}.json; none if --quick)")
    return arguments


def add_tasks(arguments: argparse.ArgumentParser) -> None:
    """The options that choose what is trained; see `chosen`."""
    arguments.add_argument("--paradigms", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    arguments.add_argument("--networks", nargs="+", choices=["mlp", "conv"], default=["mlp", "conv"])
    arguments.add_argument("--batch", nargs="+", type=int, default=[128, 1024])


def chosen(arguments: argparse.Namespace, task: Task) -> Iterator[Task]:
    """A task with each of the chosen paradigms, networks and batches."""
    for paradigm, networks, batch in itertools.product(arguments.paradigms, arguments.networks, arguments.batch):
        yield replace(task, paradigm=paradigm, networks=networks, batch=batch)


@contextmanager
def prepared(data: str | None, quick: bool) -> Iterator[Task]:
    """The data as files in a temporary folder, in a task."""
    with tempfile.TemporaryDirectory() as folder:
        name = data or ("Digits" if quick else "")
        yield Task(folder, **json.loads(from_ways("prepare", [folder, name, str(ROOT / "data")], threads=1)))


def from_ways(function: str, argument: Any, threads: int) -> str:
    """What a function of `benchmarks.ways` prints, in a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "benchmarks.ways", function, json.dumps(argument)]
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def record(arguments: argparse.Namespace, benchmark: str, results: Any) -> None:
    """Write results, with all that is needed to repeat them, as JSON."""
    path = arguments.out or (None if arguments.quick else RESULTS / f"{benchmark}.json")
    if path is None:
        return
    names = ("torch", "torchvision", "lightning", "pythae")
    found = [name for name in names if importlib.util.find_spec(name)]
    options = {key: value for key, value in vars(arguments).items() if key != "out"}
    contents = {
        "benchmark": f"python -m benchmarks.{benchmark}",
        "options": options,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": _gpu(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            "encdec": _commit(),
        }
        | {name: importlib.metadata.version(name) for name in found},
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or None


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
