"""What a study asks of Slurm for each of its jobs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encdec.study.values import integer, mapping, refuse_unknown, text, wrong

GRACE = 120
"""Seconds before its time is over in which a job saves and goes back into the queue."""
_KEYS = ("parallel", "time", "cpus", "gpus", "memory", "partition", "account", "options", "setup")
_SHORTEST = 300  # seconds; a job of less would be told to save as soon as it begins
_TIME = re.compile(r"(?:(\d+)-)?(\d{1,2}):([0-5]\d):([0-5]\d)")
_NAME = re.compile(r"[\w.,@-]+")
_OPTION = re.compile(r"--([a-z][a-z-]*)(=\S+)?")
_SET_BY_STUDY = {
    "time": "slurm.time",
    "cpus-per-task": "slurm.cpus",
    "mem": "slurm.memory",
    "partition": "slurm.partition",
    "account": "slurm.account",
} | dict.fromkeys(
    ("array", "chdir", "dependency", "error", "input", "job-name", "no-requeue", "nodes", "ntasks", "open-mode",
     "output", "parsable", "requeue", "signal", "test-only", "wait", "wrap"),
    "the study",
)  # fmt: skip
"""Options of `sbatch` that are set otherwise, and by what."""


@dataclass(frozen=True)
class Slurm:
    """What each job asks for; what is None or empty is left to the cluster.

    Attributes:
        parallel: jobs of an array that run at a time.
        time: limit of each start of a job, as HH:MM:SS or D-HH:MM:SS; a longer job goes on in another start.
        cpus: cores of each job, and its threads.
        gpus: 1, or 0 for the CPU.
        memory: of each job, with its unit, such as 16G.
        partition: which to take.
        account: which pays.
        options: more of `sbatch`, such as --qos=long.
        setup: lines of shell before each job, such as `module load python`.
    """

    parallel: int | None = None
    time: str = ""
    cpus: int = 1
    gpus: int = 0
    memory: str = ""
    partition: str = ""
    account: str = ""
    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()

    @property
    def asks(self) -> list[str]:
        """The options of `sbatch` for a job."""
        return [
            *self.limits,
            *([f"--time={self.time}"] if self.time else []),
            f"--cpus-per-task={self.cpus}",
            *([f"--gres=gpu:{self.gpus}"] if self.gpus else []),
            *([f"--mem={self.memory}"] if self.memory else []),
            *self.options,
        ]

    @property
    def limits(self) -> list[str]:
        """The options of `sbatch` that say where a job may run and who pays."""
        given = {"partition": self.partition, "account": self.account}
        return [f"--{name}={value}" for name, value in given.items() if value]


def read(path: Path, value: Any) -> Slurm:
    """What the key `slurm` of a study's file asks for.

    Args:
        path: of the file.
        value: of the key.

    Raises:
        UserError: it is not right; the sentence names the key and what is expected.
    """
    given = mapping(path, "slurm", value)
    refuse_unknown(given, _KEYS, "slurm has no key", path)
    gpus = given.get("gpus", 0)
    if gpus not in (0, 1) or isinstance(gpus, bool):
        raise wrong(path, "slurm.gpus", f"is {text(gpus)!r}, but it must be 1, or 0 for the CPU: a job runs on one "
                    "device; for one type of GPU write gpus: 0 and options: [--gres=gpu:a100:1]")  # fmt: skip
    return Slurm(
        integer(path, "slurm.parallel", given.get("parallel")),
        _time(path, given.get("time")),
        integer(path, "slurm.cpus", given.get("cpus")) or 1,
        gpus,
        _memory(path, given.get("memory")),
        _named(path, given, "partition"),
        _named(path, given, "account"),
        tuple(_option(path, each) for each in _lines(path, given, "options", "[--qos=long, --constraint=a100]")),
        _lines(path, given, "setup", "[module load python]"),
    )


def _time(path: Path, value: Any) -> str:
    if value is None:
        return ""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        # YAML reads 12:00:00 as a number to the base of 60
        hint = ", in quotes" if isinstance(value, int) else ""
        raise wrong(path, "slurm.time", f"is {text(value)!r}, but it must be hours, minutes and seconds{hint}, as in "
                    '"04:00:00", or with days before them, as in "1-12:00:00"')  # fmt: skip
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    if ((days * 24 + hours) * 60 + minutes) * 60 + seconds < _SHORTEST:
        raise wrong(path, "slurm.time", f"is {value!r}, but it must be at least 00:05:00: {GRACE} seconds before its "
                    "time is over a job saves and goes back into the queue")  # fmt: skip
    return str(value)


def _memory(path: Path, value: Any) -> str:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[1-9]\d*[KMGT]", value)):
        raise wrong(path, "slurm.memory", f"is {text(value)!r}, but it must be an integer with its unit, as in 16G")
    return value or ""


def _named(path: Path, given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    name = text(value)  # some accounts are numbers
    if not isinstance(value, str | int) or isinstance(value, bool) or not _NAME.fullmatch(name):
        raise wrong(path, f"slurm.{key}", f"is {name!r}, but it must be a name that the cluster knows")
    return name


def _lines(path: Path, given: Mapping[str, Any], key: str, example: str) -> tuple[str, ...]:
    value = given.get(key)
    if value is None:
        return ()
    right = isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value)
    if not right or any("\n" in each or "\r" in each or "\0" in each for each in value):
        raise wrong(path, f"slurm.{key}", f"is {text(value)!r}, but it must be a list of lines, such as {example}")
    return tuple(value)


def _option(path: Path, option: str) -> str:
    found = _OPTION.fullmatch(option)
    if found is None:
        raise wrong(path, "slurm.options", f"has {option!r}, but it must be an option of sbatch in one word, such as "
                    "--qos=long")  # fmt: skip
    if found[1] in _SET_BY_STUDY:
        raise wrong(path, "slurm.options", f"has --{found[1]}, which is set by {_SET_BY_STUDY[found[1]]}: leave it out")
    return option
