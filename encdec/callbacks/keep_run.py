"""The folder of the run that is trained."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from filelock import FileLock, Timeout

from encdec import plugins, syntax
from encdec.callbacks.best_and_last import best_and_last
from encdec.files import written_whole
from encdec.formats import CODE_KEY, WRITTEN_BY_KEY
from encdec.messages import say
from encdec.runs.folders import CHECKPOINTS, CONFIG, RunFolder, short
from encdec.training.provenance import digits_depend_on
from encdec.types import UserError


class KeepRun(pl.Callback):
    """Gives a training its folder, keeps others out of it, and saves the settings there.

    Args:
        folder: of the run.
        checkpoint: from which it goes on, or starts; None from nothing.
        step: of that checkpoint.
        config: the settings, as YAML.
        kept: what its checkpoints hold beside the weights: which images it trains on, what it began from, ….

    Attributes:
        resumed_at: the step at which a run that was there goes on; None for a new run.
    """

    def __init__(
        self, folder: RunFolder, checkpoint: Path | None, step: int, config: str, kept: dict[str, Any]
    ) -> None:
        self.folder, self._checkpoint, self._config, self._kept = folder, checkpoint, config, kept
        self.resumed_at = None if folder.existing is None else step
        self._lock: FileLock | None = None
        self._code: dict[str, str] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the folder.

        Raises:
            UserError: another process trains in it, or the processes of this run see different files.
        """
        self._code = _code_of(pl_module)
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):
            return
        found = [None if path is None else str(path) for path in (self.folder.existing, self._checkpoint)]
        of_first = trainer.strategy.broadcast(found)
        if of_first != found:
            raise UserError(
                f"Process {trainer.global_rank} would go on from {found[1] or 'the start'}, but the first one from "
                f"{of_first[1] or 'the start'}: all processes of a run need the same files."
            )
        self.folder.path = Path(trainer.strategy.broadcast(str(self.folder.path)))
        if trainer.is_global_zero:
            self.lock()
            with written_whole(self.folder.path / CONFIG) as file:
                file.write(self._config.encode())
        kept = best_and_last(trainer)
        if kept is not None:
            kept.place(self.folder.path / CHECKPOINTS, self.folder.existing is not None, self._checkpoint)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what is kept with each checkpoint."""
        checkpoint.update(self._kept)
        checkpoint[CODE_KEY] = self._code

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the settings to loggers other than the run's own, as `enable_autolog_hparams` of the trainer says."""
        if getattr(trainer, "enable_autolog_hparams", False):
            for logger in trainer.loggers:
                logger.log_hyperparams(yaml.safe_load(self._config))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what keeps the run from going on with the same digits."""
        before, now = checkpoint.get(WRITTEN_BY_KEY, {}), digits_depend_on()
        changed = [
            f"{name} {value} instead of {before[name]}"
            for name, value in now.items()
            if before.get(name, value) != value
        ]
        if changed and trainer.is_global_zero:
            say(f"resumes with {' and '.join(changed)}: the last digits may differ from those of a run in one go.")
        written = checkpoint.get(CODE_KEY)
        if isinstance(written, dict) and trainer.is_global_zero:
            for module in [name for name, code in self._code.items() if written.get(name, code) != code]:
                say(
                    f"{_file_of(module)} has changed since this checkpoint was written: what follows is trained by its "
                    "new code."
                )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def lock(self) -> None:
        """Keep others out of the folder, until the training or this process ends.

        Raises:
            UserError: another process trains in it.
        """
        if self._lock is not None:
            return
        lock = FileLock(self.folder.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"Another process is training in {short(self.folder.path)}: wait for its end, or leave --resume out "
                "to begin a new run."
            ) from None
        except (OSError, NotImplementedError):  # a file system without locks
            return
        self._lock = lock


def resumed_at(trainer: pl.Trainer) -> int | None:
    """The step at which a run that was there goes on; None for a new run."""
    kept = _kept(trainer)
    return None if kept is None else kept.resumed_at


def run_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of the run that is trained; None without one."""
    kept = _kept(trainer)
    return None if kept is None else kept.folder.path


def _kept(trainer: pl.Trainer) -> KeepRun | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, KeepRun)), None)  # type: ignore[attr-defined]


def _code_of(model: pl.LightningModule) -> dict[str, str]:
    """What the plugins' files that a model and its networks are of do, as a digest by module."""
    modules = {type(part).__module__ for part in model.modules()}
    return {
        name: syntax.digest(Path(_file_of(name)))
        for name in sorted(modules)
        if name.startswith(f"{plugins.PACKAGE}.") and name in sys.modules
    }


def _file_of(module: str) -> str:
    return short(sys.modules[module].__file__ or module)
