"""Who works in the folder of a study or of a job."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from encdec.types import UserError

_WAIT = 60.0  # seconds for a process that was asked to end, and is still saving


@contextmanager
def of_study(folder: Path) -> Iterator[None]:
    """A study that no other process runs.

    Raises:
        UserError: one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / ".lock", 0, f"Another process runs the study in {folder}: wait for its end, or stop it by "
               "`encdec study stop`."):  # fmt: skip
        yield


def is_running(folder: Path) -> bool:
    """Whether a process runs the study in a folder."""
    if not folder.is_dir():
        return False
    try:
        with of_study(folder):
            return False
    except UserError:
        return True


@contextmanager
def of_job(folder: Path) -> Iterator[None]:
    """A job that no other process works on; one that is about to end is waited for.

    Raises:
        UserError: one does for a minute.
    """
    with _held(folder / ".lock", _WAIT, f"Another process works on {folder}: wait for its end, or stop it."):
        yield


@contextmanager
def _held(path: Path, seconds: float, taken: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise UserError(taken) from None
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()
