"""Files that are there whole or not at all, and the paths that lead to them."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from encdec.types import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` in one step when the block ends.

    Until then, and after an error or a kill, `path` is what it was. The folder is made if it is missing.

    Args:
        path: the file; processes that write it at once do so one after the other.
        check: looks at the file that was written before it takes its place, and raises if it is not good.

    Raises:
        UserError: it can't be written, for example because the disk is full.
    """
    # the same name each time, so that what a kill leaves behind does not pile up; beside its place, because a move
    # between file systems is a copy
    temporary = path.with_name(f".{path.name}.tmp")
    with fault_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(temporary):
            try:
                with temporary.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                if check is not None:
                    check(temporary)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    _fsync(path.parent)


def disk_is_full(error: OSError) -> bool:
    """Whether an error says that there is no room for more, on the disk or within a quota."""
    names = ("ENOSPC", "EDQUOT", "EFBIG")  # Windows lacks some
    return error.errno in {getattr(errno, name, None) for name in names} - {None}


@contextmanager
def fault_of(path: Path) -> Iterator[None]:
    """Within, an error of the disk becomes a sentence about `path`, which is still what it was.

    Raises:
        UserError: it can't be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch makes a RuntimeError of an error of the disk
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path} can't be written ({cause.strerror or cause}); what was there before is still there. "
            "Make room, or choose a folder that can be written."
        ) from error


@contextmanager
def claimed(path: Path, wait: bool = True) -> Iterator[None]:
    """A file that no other process has claimed until the block ends, where the system can tell; made if missing.

    Raises:
        BlockingIOError: another process has, and this one shall not wait for it.
    """
    descriptor = None
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        path.unlink()  # a link leads elsewhere, and a pipe nowhere: neither is of a run
    while fcntl is not None and descriptor is None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # a file system without locks
            break
        if not _is_at(descriptor, path):  # who had claimed it has put the file in its place, or deleted it
            os.close(descriptor)
            descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def expanded(path: str | os.PathLike[str]) -> str:
    """A path in which a leading `~` is the home folder, as a shell would have it.

    Raises:
        UserError: it is no path, or names a home folder that there is none of; a folder called `~` would be made
            otherwise.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(
            f"The path of a file or a folder must be text or a pathlib.Path, but it is of type {type(path).__name__}.",
            2,
        )
    given = os.fspath(path)
    full = os.path.expanduser(given)
    if full.startswith("~"):
        raise UserError(
            f"{given!r} begins with a home folder that this machine does not know: give the path in full, or "
            f"'./{given}' for a file of that name.",
            2,
        )
    return full


def _fsync(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows has no such thing
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor have some network file systems
        pass
    finally:
        os.close(descriptor)
