"""Runs that end at a chosen moment, each in a process of its own, and what they leave.

Processes are forked from one that has imported encdec and done nothing else, so that they start at once.
"""

import contextlib
import functools
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from .conftest import ENVIRONMENT, events, new_project
from .small_data import write_cifar10

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["encdec.cli.command_line", "sklearn.datasets", "tests.killing"])

MOMENTS: dict[str, tuple[str, str]] = {
    "a step": ("encdec.objectives.noise.Noise", "begin_step"),
    "a validation": ("encdec.paradigms.base.Paradigm", "validation_step"),
    "the end of a validation": ("encdec.callbacks.best_and_last.BestAndLast", "on_validation_end"),
    "a checkpoint's writing": ("encdec.runs.checkpoints", "torch.save"),
    "a checkpoint's replacement": ("encdec.files", "os.replace"),
    "after a checkpoint's replacement": ("encdec.files", "_fsync"),
    "the report": ("encdec.cli.command_line", "report_fit"),
    "a prediction's file": ("encdec.callbacks.predictions", "torch.save"),
    "a prediction's place": ("encdec.callbacks.predictions", "os.replace"),
    "loading data": ("encdec.data.digits.Digits", "load"),
}
"""What a process can be killed in: where the function is, and its name. It is killed when the function is called."""


def run(
    folder: Path,
    *args: str,
    moment: str | None = None,
    call: int = 1,
    number: int = signal.SIGKILL,
    largest_file: int | None = None,
) -> tuple[int, str]:
    """Run the command line in `folder`, and send it a signal at a moment.

    Args:
        folder: the working directory.
        args: of the command line.
        moment: one of `MOMENTS`; None for never.
        call: at which call of the moment's function.
        number: the signal.
        largest_file: how many bytes a file may have, as if the disk were full then.

    Returns:
        The exit code (negative for a signal) and what it printed.
    """
    child, output = _start(folder, args, moment=moment, call=call, number=number, largest_file=largest_file)
    child.join(120)
    if child.is_alive():
        child.kill()
        raise TimeoutError(output.read_text())
    assert child.exitcode is not None
    return child.exitcode, output.read_text()


def on_two(folder: Path, *args: str) -> tuple[int, str]:
    """Run the command line as two processes with gloo between them, as if something outside had started both.

    Returns:
        The larger exit code and what both printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [_start(folder, args, rank=rank, port=port) for rank in range(2)]
    for child, _ in started:
        child.join(150)
    printed = "".join(output.read_text() for _, output in started)
    if any(child.is_alive() for child, _ in started):
        for child, _ in started:
            child.kill()
        raise TimeoutError(printed)
    return max(abs(child.exitcode or 0) for child, _ in started), printed


def together(folder: Path, function: Callable[..., None], *args: Any, seconds: float = 100) -> None:
    """Call a function of a module in two processes at a time, with their rank, 0 or 1, before its arguments.

    Raises:
        AssertionError: one failed, or took longer than `seconds`; with what it printed.
    """
    outputs = [folder / f"called-{rank}.txt" for rank in range(2)]
    children = [_fork(target=_printing_to, args=(outputs[rank], function, (rank, *args))) for rank in range(2)]
    for child in children:
        child.join(seconds)
        child.kill()
        child.join()
    for child, output in zip(children, outputs, strict=True):
        assert child.exitcode == 0, f"{child.exitcode}: {output.read_text()[-5000:]}"


def call(folder: Path, function: Callable[..., None], *args: Any, seconds: float) -> None:
    """Call a function of a module in a process of its own, for what must not be left behind in this one.

    Raises:
        AssertionError: it failed, or took longer than `seconds`; with what it printed, in `folder`/output.txt.
    """
    output = folder / "called.txt"
    child = _fork(target=_printing_to, args=(output, function, args))
    child.join(seconds)
    child.kill()
    child.join()
    assert child.exitcode == 0, f"{child.exitcode}: {output.read_text()[-5000:]}"


def _printing_to(output: Path, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)
    function(*args)


@contextlib.contextmanager
def background(folder: Path, *args: str) -> Iterator[None]:
    """A training that goes on meanwhile, from its first checkpoint on, and is killed in the end."""
    child, output = _start(folder, args)
    try:
        deadline = time.monotonic() + 60
        while not list(folder.rglob("last.ckpt")) and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(folder.rglob("last.ckpt")), output.read_text()
        yield
        assert child.is_alive(), output.read_text()
    finally:
        child.kill()
        child.join()


@contextlib.contextmanager
def gone_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that leads a session of its own, of which nothing is left in the end."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _start(folder: Path, args: tuple[str, ...], **rest: Any) -> tuple[BaseProcess, Path]:
    output = folder / f"output-{time.monotonic_ns()}.txt"
    output.touch()
    return _fork(target=_child, args=(folder, [*args], output), kwargs=rest), output


def _fork(**process: Any) -> BaseProcess:
    with pytest.MonkeyPatch.context() as patch:  # the server that forks must find these tests, wherever it is started
        patch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
        forkserver.ensure_running()
    child = _FORKS.Process(**process)
    child.start()
    return child


def _child(
    folder: Path,
    args: list[str],
    output: Path,
    moment: str | None = None,
    call: int = 1,
    number: int = signal.SIGKILL,
    largest_file: int | None = None,
    rank: int | None = None,
    port: int = 0,
) -> None:
    from encdec.cli import main, process

    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C, as its children
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.environ.update(ENVIRONMENT)
    args += ["--trainer.accelerator=cpu", f"--trainer.devices={1 if rank is None else 2}"]
    if rank is not None:
        os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning read the environment when it was imported
    torch.set_num_threads(1)
    process.prepare()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if "--data=CIFAR10" in args:
        shutil.rmtree(folder / "data" / "cifar-10-batches-py")
        write_cifar10(folder / "data", pytest.MonkeyPatch())  # so that this process knows the small files' check sums
    if moment is not None:
        _arm(moment, call, number)
    main(args)


def _arm(moment: str, call: int, number: int) -> None:
    path, name = MOMENTS[moment]
    owner: Any = _resolve(path)
    *parents, name = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def armed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            if name == "save" and number == signal.SIGKILL:  # in the middle of it: half of a file is there
                args[1].write(b"PK\x03\x04 half of a checkpoint")
                args[1].flush()
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    setattr(owner, name, armed)


def _resolve(path: str) -> Any:
    import importlib

    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module(path)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def left(run_folder: Path) -> dict[str, Any]:
    """All that a training left which must not depend on how often it was killed, by name."""
    found: dict[str, Any] = {}
    for path in sorted((run_folder / "checkpoints").iterdir()):
        contents = torch.load(path, weights_only=True)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "metrics", "global_step", "training_curve"):
            found |= _flat(f"{path.name} {key}", contents[key])
        best = next(value for key, value in contents["callbacks"].items() if "BestAndLast" in key)
        found |= _flat(f"{path.name} best", best)
    log = events(run_folder)
    for tag in log.Tags()["scalars"]:
        points = [(event.step, event.value) for event in log.Scalars(tag)]
        if tag == "images_per_second":  # how fast it was does depend
            points = [(step, 0.0) for step, _ in points]
        found[tag] = points
    for tag in log.Tags()["images"]:
        found[tag] = [(event.step, event.encoded_image_string) for event in log.Images(tag)]
    return found


@functools.cache
def whole(*command: str) -> dict[str, Any]:
    """What a training leaves to which nothing happens, with the small data sets; made once for all who compare."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = new_project(Path(name), patch)
        code, output = run(folder, *command, "--name=whole")
        assert code == 0, output
        return left(folder / "lightning_logs/whole/version_0")


def differences(whole: dict[str, Any], killed: dict[str, Any]) -> list[str]:
    """The names of what is not the same, bit by bit."""
    return [
        name
        for name in sorted(whole.keys() | killed.keys())
        if name not in whole or name not in killed or not _same(whole[name], killed[name])
    ]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return bool(a == b)


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(f"{name}.{key}", inner).items()}
    if isinstance(value, list):
        return {k: v for i, inner in enumerate(value) for k, v in _flat(f"{name}.{i}", inner).items()}
    return {name: value}
