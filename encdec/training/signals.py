"""Signals end a training between two steps, with a checkpoint; and the processes of a run end together.

Lightning saves inside the handler of a signal, in the middle of a step, and its processes wait for each other there:
a SIGTERM to all of them hangs. Here a handler only takes a note. Between two steps the processes agree on whether
one of them was asked to stop, and then all save and stop at the same step.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.trainer.states import TrainerFn

from encdec import private
from encdec.messages import say

REQUEUE: signal.Signals | None = getattr(signal, "SIGUSR1", None)  # Windows has neither it nor Slurm
"""What Slurm is asked to send when a job's time is nearly up: `#SBATCH --signal=USR1@120`."""
_ASK_EVERY = 0.5  # seconds between two questions to the other processes, which cost a round of messages
_GRACE = 10.0  # seconds in which a process may find out by itself that another one is gone


class Stopped(SystemExit):
    """The end of a run that a signal asked for; the exit code is the shell's, 128 + the signal's number.

    Args:
        number: of the signal.
        together: whether all processes stop now, between two steps.
    """

    def __init__(self, number: int, together: bool = False) -> None:
        super().__init__(128 + number)
        self.signal, self.together = signal.Signals(number), together


class Signals(pl.Callback):
    """Takes a note of SIGINT, SIGTERM and, under Slurm, SIGUSR1 while a trainer trains; ends what is not training.

    A second signal ends a training at once. Outside the loops of a trainer signals do what they did before.

    Args:
        save: writes the checkpoint to go on from.
    """

    def __init__(self, save: Callable[[pl.Trainer], None]) -> None:
        self._save = save
        self._trainer: pl.Trainer | None = None
        self._before: dict[int, Any] = {}  # the handlers, by signal
        self._noted = 0  # number of the signal
        self._steps_left = self._interval = 1
        self._asked = time.perf_counter()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep the handlers to restore; Lightning sets its own before the loops begin."""
        self._trainer, self._noted, self._before = trainer, 0, {}
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if REQUEUE is not None and SLURMEnvironment.detect():
                numbers.append(REQUEUE)
            self._before = {number: signal.getsignal(number) for number in numbers}

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning's handlers."""
        self._take_over(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning's handlers."""
        self._take_over(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning's handlers."""
        self._take_over(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning's handlers."""
        self._take_over(trainer)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning's handlers."""
        self._take_over(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the handlers."""
        self._restore()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the handlers."""
        self._restore()

    def _take_over(self, trainer: pl.Trainer) -> None:
        for number in self._before:
            signal.signal(number, self._handle)
        if REQUEUE is not None and REQUEUE in self._before:  # it was held back while the process began
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {REQUEUE})
        if trainer.received_sigterm and not self._noted:  # by Lightning's handler, just before
            self._handle(signal.SIGTERM, None)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        assert self._trainer is not None
        if self._noted or self._trainer.state.fn != TrainerFn.FITTING:
            raise Stopped(number)
        self._noted = number
        if number == signal.SIGINT and self._trainer.is_global_zero and sys.stderr.isatty():
            # not print(), which may be interrupted by this very handler
            os.write(2, b"\nStops after this step and saves; press Ctrl-C once more to stop without saving.\n")

    def between_steps(self) -> None:
        """Save and stop, if a signal has asked one of the processes to.

        Raises:
            Stopped: it has.
        """
        assert self._trainer is not None, "it must be among the callbacks of the trainer"
        number = self._noted if self._trainer.world_size == 1 else self._noted_by_any(self._trainer)
        if number:
            self._save(self._trainer)
            raise Stopped(number, together=True)

    def _noted_by_any(self, trainer: pl.Trainer) -> int:
        """The signal that any process has noted, known to all of them at the same step."""
        self._steps_left -= 1
        if self._steps_left > 0:
            return 0
        now = time.perf_counter()
        seconds = max((now - self._asked) / self._interval, 1e-6)
        device = trainer.strategy.root_device
        answer = torch.tensor([float(self._noted), seconds], device=device)
        torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
        number, seconds = answer.tolist()
        # the slowest process's time for a step, so that all ask again at the same step
        self._interval = self._steps_left = min(max(round(_ASK_EVERY / seconds), 1), 1000)
        self._asked = now
        return int(number)


def is_one_of_many() -> bool:
    """Whether this process exchanges messages with others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and _world_size() > 1


def is_first_to_fail() -> bool:
    """Whether no other process of the run has asked this before."""
    world = torch.distributed.group.WORLD
    try:
        count: int = world is None or world.get_group_store().add("encdec_failed", 1)
    except RuntimeError:  # the process that counts is the one that is gone
        return True
    return count == 1


def is_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    is_theirs = isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)
    return is_one_of_many() and is_theirs


def _world_size() -> int:
    size: int = torch.distributed.get_world_size()
    return size


@contextmanager
def ending_together(trainer: pl.Trainer) -> Iterator[None]:
    """Within, the processes that Lightning starts on this machine end when one of them fails, and before this one.

    (Those that torchrun or Slurm started are theirs to end; a torchrun that is gone takes its own with it.)
    """
    if _was_launched(trainer) or "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    try:
        with private.observing(_watch_children):
            yield
    except Stopped as stop:
        if stop.together and (_was_launched(trainer) or (SLURMEnvironment.detect() and trainer.global_rank > 0)):
            # it has done what was asked; the first process's exit code says what. Had this one another than 0,
            # `srun --kill-on-bad-exit` would end the first process before it has put the job back into the queue
            raise SystemExit(0) from None
        raise
    finally:
        _end(getattr(trainer.strategy.launcher, "procs", []), sys.exc_info()[1])


def _was_launched(trainer: pl.Trainer) -> bool:
    """Whether Lightning's first process on this machine started this one."""
    launcher = trainer.strategy.launcher
    environment = getattr(launcher, "cluster_environment", None)
    return environment is not None and not environment.creates_processes_externally and trainer.local_rank > 0


def _end(children: list[subprocess.Popen[bytes]], error: BaseException | None) -> None:
    """Wait for processes to end; those that will not do so by themselves are made to."""
    by_themselves = error is None or (isinstance(error, Stopped) and error.together)
    deadline = time.monotonic() + (_GRACE if by_themselves else 1.0)
    for child in children:
        if not by_themselves:
            child.terminate()
    for child in children:
        try:
            child.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _watch_children(children: list[subprocess.Popen[bytes]]) -> None:
    """End this process when one that it started has failed, even if it waits for that one in vain."""

    def watch() -> None:
        while all(child.poll() in (None, 0) for child in children):
            if all(child.poll() == 0 for child in children):
                return
            time.sleep(0.2)
        time.sleep(_GRACE)  # the main thread fails in its next exchange with that process, and says so
        for child in children:
            child.kill()
        say("error: another process of this run has ended, so this one ends too.")
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _watch_parent(parent: int) -> None:
    """End this process when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(2)  # the main thread may be saying why
    os._exit(1)
