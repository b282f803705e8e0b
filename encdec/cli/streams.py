"""Standard output and error that never end a run: closed, full, without a reader, or of few characters."""

import codecs
import errno
import io
import os
import sys
from typing import Any, TextIO

_PLAIN = {"…": "...", "×": "x", "–": "-", "−": "-", "•": "-", "━": "-", "·": ".", "±": "+-", "→": "->", "’": "'"}
_WORDS = "encdec"  # the name of the error handler


class _Unfailing(io.FileIO):
    """A file whose writes go nowhere once one of them has failed.

    Attributes:
        failure: of the first write that failed.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or drop what can't be written."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


_files: dict[str, _Unfailing] = {}


def prepare() -> None:
    """Replace `sys.stdout` and `sys.stderr` of this process by streams that no write to them fails on.

    A reader that leaves, as `| head` does, is not an error. Descriptors that are closed are opened to nowhere, or
    the next file that is opened would get their numbers, and what libraries print with it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
    codecs.register_error(_WORDS, _spell)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        before: TextIO | None = getattr(sys, name)
        _files[name] = _Unfailing(descriptor, "w", closefd=False)
        encoding = getattr(before, "encoding", None) or "utf-8"
        by_line = name == "stderr" or os.isatty(descriptor)
        stream = io.TextIOWrapper(io.BufferedWriter(_files[name]), encoding, _WORDS, line_buffering=by_line)
        setattr(sys, name, stream)


def output_failure() -> str:
    """Why standard output could not be written, in the system's words; empty if it could, or nobody reads it."""
    file = _files.get("stdout")
    if file is None:
        return ""
    sys.stdout.flush()
    failure = file.failure
    return "" if failure is None or failure.errno == errno.EPIPE else failure.strerror or str(failure)


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for characters that an encoding lacks; bytes of file names that are no text stay as they are."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in missing):
        return missing.encode("utf-8", "surrogateescape"), error.end
    return "".join(_PLAIN.get(character, "?") for character in missing), error.end
