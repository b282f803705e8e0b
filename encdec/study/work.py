"""One job in this process: `fit --resume`, then `test`, with its state in a file from beginning to end."""

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from encdec.evaluation.report import versions
from encdec.formats import REPORT_ENDING
from encdec.runs.folders import CHECKPOINTS, RUNS
from encdec.study import curves, locks, state
from encdec.study.plan import hash_of
from encdec.study.score import Score
from encdec.study.state import JobState
from encdec.training.finite import NotFiniteError
from encdec.types import UserError

Run = Callable[[Sequence[str], Sequence[pl.Callback]], None]
"""Runs encdec's command line on some arguments, with callbacks beyond those of its config."""
_NOTE_EVERY = 1.0  # seconds between two notes of how far a training is


def work(folder: Path, run: Run) -> int:
    """Do what is left of the job in a folder.

    Args:
        folder: with the state of the job, as the study has planned it.
        run: the command line.

    Returns:
        0 if the job is done, 128 + the number of the signal that stopped it, and 1 or 2 if it failed.

    Raises:
        UserError: there is no job in the folder, or another process works on it.
    """
    found = state.read(folder)
    if found is None:
        raise UserError(f"{folder} holds no {state.FILE}, so it is not the folder of a job of a study.", 2)
    with locks.of_job(folder):
        job = _Job(folder, found, run)
        try:
            job.run_all()
        except SystemExit as end:
            return job.ended(end)
        except KeyboardInterrupt as interrupt:
            return job.ended(SystemExit(130), interrupt)
        except UserError as error:
            print(f"encdec: error: {error}", flush=True)
            return job.ended(SystemExit(error.exit_code), error)
    return 0


class _Job:
    """What a process knows about the job that it does."""

    def __init__(self, folder: Path, found: JobState, run: Run) -> None:
        self._folder, self._run = folder, run
        self._state = replace(
            found,
            status="running",
            attempts=found.attempts + 1,
            pid=os.getpid(),
            host=socket.gethostname(),
            begun=found.begun or _now(),
            ended=None,
            threads=torch.get_num_threads(),
            error="",
            versions=versions(),
        )
        self.note()

    def note(self, **changes: Any) -> None:
        """Write what has changed."""
        self._state = replace(self._state, **changes)
        state.write(self._folder, self._state)

    def run_all(self) -> None:
        """Train and evaluate, as far as that is not done yet.

        Raises:
            SystemExit: one of the commands failed, or a signal stopped it.
            UserError: a config is not the one that the study has read, or the training has left no checkpoint.
        """
        is_trial = bool(self._state.by)
        if hash_of(self._state.fit, self._folder, self._state.by or "test") != self._state.hash:
            raise UserError("A config or plugin has changed since the study began: run the study again.")
        print(f"encdec study: attempt {self._state.attempts}, {_now()}", flush=True)
        if self._state.stage == "fit" or not self._checkpoint().is_file():
            self.note(stage="fit")
            with self._timed("fit_seconds"):
                self._run(["fit", *self._state.fit], [_Notes(self)])
            checkpoint = self._checkpoint()
            if not checkpoint.is_file():
                raise UserError(
                    f"The training left no {checkpoint.name} in {checkpoint.parent}: let it keep checkpoints."
                )
            curves.write(checkpoint.parents[1], self._folder / curves.FILE)
            self.note(stage="test", epoch=self._state.epochs or self._state.epoch)
        self.note(test=("--ckpt_path", self._checkpoint().as_posix()))
        score = Score(self._state.by) if is_trial else None
        with self._timed("test_seconds"):
            command = ["test"] if score is None else ["validate"]
            self._run([*command, *self._state.test], [] if score is None else [score])
        if score is not None and score.value is not None and not math.isfinite(score.value):
            self.note(score=None, error=f"{self._state.by} is not finite")
        elif score is not None:
            self.note(score=score.value)
        elif not self._checkpoint().with_name(f"last{REPORT_ENDING}").is_file():
            raise UserError("The evaluation wrote no report: leave `--evaluation.parts []` out.")
        self.note(status="done", ended=_now())

    def ended(self, end: SystemExit, cause: BaseException | None = None) -> int:
        """Note how it ended, and give the exit code."""
        code = end.code if isinstance(end.code, int) else 1
        error = "" if code > 128 else last_line(self._folder)
        if self._state.by and _is_not_finite(cause or end):
            self.note(status="done", score=None, error=error, ended=_now())
            return 0
        self.note(status="stopped" if code > 128 else "failed", error=error, ended=_now())
        return code

    def take_run(self, trainer: pl.Trainer) -> None:
        """Note the run that the training writes into."""
        run = Path(trainer.log_dir or trainer.default_root_dir)
        checkpoint = run / CHECKPOINTS / "last.ckpt"
        device = trainer.strategy.root_device.type
        path = os.path.relpath(checkpoint, self._folder)
        self.note(checkpoint=Path(path).as_posix(), device=device, epochs=_epochs(trainer))

    def _checkpoint(self) -> Path:
        """The last checkpoint of the run."""
        if self._state.checkpoint:
            return self._folder / self._state.checkpoint
        versions = sorted((self._folder / RUNS / self._state.paradigm).glob(f"version_*/{CHECKPOINTS}/last.ckpt"))
        if versions:
            self.note(checkpoint=versions[-1].relative_to(self._folder).as_posix())
            return versions[-1]
        return self._folder / RUNS / self._state.paradigm / "version_0" / CHECKPOINTS / "last.ckpt"

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Within, seconds are counted, also where it ends by an error."""
        began, before = time.monotonic(), getattr(self._state, name)
        try:
            yield
        finally:
            self._state = replace(self._state, **{name: round(before + time.monotonic() - began, 2)})


class _Notes(pl.Callback):
    """Notes how far a training is, once a second at most, and the last time at its end."""

    takes_several_batches = True

    def __init__(self, job: _Job) -> None:
        self._job, self._due = job, 0.0
        self._last_loss: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the run."""
        self._job.take_run(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, for a note."""
        self._last_loss = outputs["loss"] if outputs else None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _NOTE_EVERY
            self._note(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the last epoch."""
        self._note(trainer)

    def _note(self, trainer: pl.Trainer) -> None:
        loss = math.nan if self._last_loss is None else self._last_loss.item()
        epoch, epochs = trainer.current_epoch + 1, _epochs(trainer)
        epoch = epoch if epochs is None else min(epoch, epochs)  # at the end, Lightning counts the next one
        self._job.note(epoch=epoch, loss=loss if math.isfinite(loss) else None)


def last_line(folder: Path) -> str:
    """The last error among what a job has printed, or else the last line; empty where it has printed nothing."""
    try:
        text = (folder / state.LOG).read_bytes()[-20_000:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("encdec: error: ")]
    return (errors or lines or [""])[-1].removeprefix("encdec: error: ")[:500]


def _is_not_finite(error: BaseException | None) -> bool:
    """Whether a loss that was not finite ended a command."""
    while error is not None:
        if isinstance(error, NotFiniteError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _epochs(trainer: pl.Trainer) -> int | None:
    return None if trainer.max_epochs in (None, -1) else trainer.max_epochs


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
