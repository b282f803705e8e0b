"""A process of a study that does one job."""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from encdec.cli import process, streams
from encdec.messages import say
from encdec.study import state
from encdec.types import UserError

PRELOAD = "encdec.cli.study.preload"
"""The module that imports what a job needs."""


def work(folder: str, until: Connection, environment: Mapping[str, str]) -> None:
    """Do a job until the connection is closed, for example because the process at its other end is gone.

    Args:
        folder: of the job.
        until: nothing comes through it; when it is closed, the job stops as by SIGTERM.
        environment: variables to set before anything is imported.

    Raises:
        SystemExit: with what `do` gives.
    """
    with suppress(AttributeError, OSError):  # so that Ctrl-C in the terminal is the study's alone; not on Windows
        os.setsid()
    os.environ.update(environment)
    threading.Thread(target=_stop_when_closed, args=(until,), daemon=True).start()
    raise SystemExit(do(folder))


def do(folder: str) -> int:
    """Do a job in this process, whose output goes to a file of the job's folder from now on.

    Returns:
        0 if the job is done, 128 + the number of the signal that stopped it, and 1 or 2 if it failed.
    """
    if not (Path(folder) / state.FILE).is_file():
        say(f"error: {folder} holds no {state.FILE}, so it is not the folder of a job of a study.")
        return 2
    descriptor = os.open(Path(folder, state.LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    streams.prepare()
    with process.importing():
        from encdec.cli.command_line import main as run
        from encdec.study.work import work as do_job
    process.prepare()
    try:
        return do_job(Path(folder), run)
    except UserError as error:
        say(f"error: {error}")
        return error.exit_code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _stop_when_closed(until: Connection) -> None:
    with suppress(EOFError, OSError):
        until.recv_bytes()
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
