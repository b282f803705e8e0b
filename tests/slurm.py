"""A real Slurm on this machine for tests, whose daemons .ci/local-slurm starts and ends."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

_NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
_SECONDS = 90
"""After which a Slurm hangs that was told to end."""


@contextmanager
def running(nodes: int = 1) -> Iterator[Path]:
    """The configuration of a Slurm that is there until the end of the block; nothing of it is left then.

    The command that it runs beside waits for the end of its input, so the daemons end with this process, too.
    """
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in _NEEDED if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} here: apt-get install slurm-wlm munge, as root")
    script = [str(ROOT / ".ci" / "local-slurm"), "bash", "-c", "echo $SLURM_CONF; read -r"]
    environment = os.environ | {"NODES": str(nodes)}
    process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        configuration = process.stdout.readline().strip()
        assert configuration, f"a Slurm of {nodes} nodes did not start: its log is above"
        yield Path(configuration)
    finally:
        process.communicate(timeout=_SECONDS)  # closes its input


def pids(configuration: Path, command: str = "") -> list[int]:
    """What runs of a Slurm: its daemons, what watches its jobs, and the jobs' processes.

    Args:
        configuration: the Slurm's.
        command: how the command line begins; its words end with a zero byte.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # it has ended
            continue
        if str(configuration.parent).encode() in line + environment and line.startswith(command.encode()):
            found.append(int(folder.name))
    return found
