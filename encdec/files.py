"""Files that are there whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from encdec.types import UserError


@contextmanager
def written_whole(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` in one step when the block ends.

    Until then, and after an error or a kill, `path` is what it was. The folder is made if it is missing.

    Args:
        path: the file; one process at a time may write it.
        check: looks at the file that was written before it takes its place, and raises if it is not good.

    Raises:
        UserError: it can't be written, for example because the disk is full.
    """
    # the same name each time, so that what a kill leaves behind does not pile up; beside its place, because a move
    # between file systems is a copy
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}); what was there before is still there. "
            "Make room, or choose a folder that can be written."
        ) from error
    _fsync(path.parent)


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
