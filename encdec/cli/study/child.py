"""A process of a study that does one job."""

import io
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

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
    _leave_terminal()
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


def check(calls: Sequence[tuple[str, Sequence[str]]], answer: Connection) -> None:
    """Look for what `fit` would refuse, or what a study can't evaluate, and answer with a sentence about the first.

    Args:
        calls: the name of a job and the arguments of `fit`, for each that is looked at.
        answer: takes the sentence; an empty one where nothing is wrong. A study that was stopped takes none.
    """
    _leave_terminal()
    with suppress(OSError):  # it is closed where the study has ended meanwhile
        answer.send(_first_fault(calls))


def _first_fault(calls: Sequence[tuple[str, Sequence[str]]]) -> str:
    with process.importing():
        from encdec.cli.command_line import main as run
    for name, args in calls:
        printed, said = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(printed), redirect_stderr(said):
                run(["fit", *args, "--print_config"])
        except SystemExit as end:
            wrong = said.getvalue().strip().rpartition("encdec: error: ")[2] if end.code else ""
            wrong = wrong or _unfit(yaml.safe_load(printed.getvalue()))
            if wrong:
                return f"{name}: {wrong}"
    return ""


def _unfit(config: Any) -> str:
    """What in the settings of a run keeps a study from evaluating it, as a sentence; empty if nothing does."""
    trainer, checkpoint = config.get("trainer") or {}, config.get("checkpoint") or {}
    if not config.get("model"):
        return "no paradigm is named: give [--config, configs/vae.yaml] or [--model, VAE]."
    devices = trainer.get("devices")
    if (devices not in ("auto", 1, "1", None) and not (isinstance(devices, list) and len(devices) == 1)) or (
        trainer.get("num_nodes") not in (1, None)
    ):
        return "trainer.devices must be 1: a study runs its jobs side by side, each on one device."
    if trainer.get("enable_checkpointing") is False or trainer.get("fast_dev_run"):
        return "a study evaluates checkpoints: leave trainer.enable_checkpointing and trainer.fast_dev_run out."
    if checkpoint.get("dirpath") is not None:
        return "checkpoint.dirpath would be the same for all jobs: leave it out."
    return ""


def _leave_terminal() -> None:
    """Leave Ctrl-C in the terminal to the study alone; on Windows it reaches all processes of the console."""
    with suppress(AttributeError, OSError):
        os.setsid()


def _stop_when_closed(until: Connection) -> None:
    with suppress(EOFError, OSError):
        until.recv_bytes()
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
