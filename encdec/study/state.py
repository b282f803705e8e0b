"""The state of a job, in one file of its folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from encdec.files import written_whole
from encdec.types import UserError

FORMAT = 1
"""Of the file; raised when an older encdec would misread it."""
FILE = "state.json"
"""The file's name in the folder of a job."""
LOG = "output.log"
"""What both commands of a job printed, beside it."""
Status = Literal["pending", "running", "stopped", "failed", "done"]
"""`stopped` is what a signal ended, or a process that vanished: it goes on where it was, as `failed` does."""
Stage = Literal["fit", "test"]


@dataclass(frozen=True)
class JobState:
    """All that is known about a job.

    Attributes:
        paradigm: its name in the study.
        data: the data set's name in the study.
        seed: of the run.
        hash: SHA-256, in hexadecimal, of what determines the result; see `encdec.study.plan`.
        status: where it is.
        stage: what is done next or now: `test` once the training is complete.
        fit: the arguments of `encdec fit`.
        test: the arguments of `encdec test`, or of a tuning trial those of `encdec validate`.
        command: the same as one line for a shell.
        attempts: how often it was begun.
        pid: process of the last attempt.
        host: machine of the last attempt.
        begun: when the first attempt began, ISO 8601 in UTC.
        ended: when the last one ended, likewise.
        fit_seconds: wall-clock seconds of training, over all attempts.
        test_seconds: wall-clock seconds of evaluation, over all attempts.
        threads: CPU threads of the last attempt.
        device: type of its device, such as `cpu` or `cuda`.
        epoch: epochs that are complete.
        epochs: epochs that there will be; None where only steps are limited.
        loss: mean training loss of the newest epoch, as `train/loss` is.
        error: the last line of what it said, if it failed.
        checkpoint: path of the run's last.ckpt, relative to the job's folder; empty until there is a run.
        versions: of encdec, Python and packages.
        settings: what was tuned, or of a tuning trial what it tries: texts by setting.
        by: of a tuning trial, how it is scored; empty for a run.
        score: of a tuning trial, lower is better; None until it is known, and for one whose loss is not finite.
    """

    paradigm: str
    data: str
    seed: int
    hash: str
    status: Status = "pending"
    stage: Stage = "fit"
    fit: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    command: str = ""
    attempts: int = 0
    pid: int | None = None
    host: str = ""
    begun: str | None = None
    ended: str | None = None
    fit_seconds: float = 0.0
    test_seconds: float = 0.0
    threads: int | None = None
    device: str = ""
    epoch: int = 0
    epochs: int | None = None
    loss: float | None = None
    error: str = ""
    checkpoint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    by: str = ""
    score: float | None = None


def read(folder: Path) -> JobState | None:
    """The state of the job in a folder; None where there is none.

    Raises:
        UserError: its file is damaged, or a newer encdec has written it.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} can't be read ({reason}): delete {folder} to run this job again.") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{path} has format {found!r}, but this encdec reads {FORMAT}: use the encdec that wrote it, or delete "
            f"{folder} to run this job again."
        )
    names = {each.name for each in fields(JobState)}
    values: dict[str, Any] = {name: value for name, value in content.items() if name in names}
    try:
        state = JobState(**values | {name: tuple(values.get(name, ())) for name in ("fit", "test")})
    except TypeError as error:
        raise UserError(f"{path} is not complete: delete {folder} to run this job again.") from error
    if state.status not in get_args(Status) or state.stage not in get_args(Stage):
        raise UserError(f"{path} holds the status {state.status!r}: delete {folder} to run this job again.")
    return state


def write(folder: Path, state: JobState) -> None:
    """Write the state of the job in a folder; a reader finds the old one or the new one.

    Raises:
        UserError: it can't be written.
    """
    content = {"format": FORMAT, **asdict(state)}
    with written_whole(folder / FILE) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n").encode())
