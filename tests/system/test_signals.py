"""Real processes that are stopped or killed: what they save, how they end, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from tests import killing
from tests.conftest import ENVIRONMENT

BASE = ("--config=configs/vae.yaml", "--trainer.max_epochs=30", "--images.every_n_epochs=10", "--data.batch_size=30",
        "--trainer.accelerator=cpu", "--checkpoint.seconds_between=0")  # fmt: skip
TWO = ("--trainer.devices=2",)


@contextmanager
def started(*command: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, all of which is gone at the end."""
    process = subprocess.Popen(
        command, env=ENVIRONMENT | (environment or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with killing.gone_at_the_end(process):
        yield process


def fit(name: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "encdec", "fit", "--resume", *BASE, *args, f"--name={name}")


def last(name: str) -> Path:
    return Path(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt")


def written_since(path: Path, moment: float) -> bool:
    return path.exists() and path.stat().st_mtime > moment


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition(), process.communicate()


def group(process: subprocess.Popen[str]) -> list[int]:
    """The processes of a group that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == process.pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def running(argument: str) -> list[str]:
    """The processes that were started with an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


def train_whole(project: Path, *args: str) -> None:
    """A run that nothing happens to."""
    code, output = killing.on_two(project, *fit("whole", *args)[3:])
    assert code == 0, output


def assert_like_whole(name: str) -> None:
    whole, other = (killing.left(Path(f"lightning_logs/{n}/version_0")) for n in ("whole", name))
    assert killing.differences(whole, other) == []


@pytest.mark.slow
def test_two_processes_stop_and_go_on_together(project: Path) -> None:
    """SIGTERM to all, Ctrl-C to all, SIGTERM to one: a checkpoint and no hang; in the end the bits of a whole run."""
    train_whole(project)

    def to_all(process: subprocess.Popen[str], number: int) -> None:
        os.killpg(process.pid, number)

    def to_the_second(process: subprocess.Popen[str], number: int) -> None:
        os.kill(group(process)[-1], number)

    step = 0
    for send, number, code in (
        (to_all, signal.SIGTERM, 143), (to_all, signal.SIGINT, 130), (to_the_second, signal.SIGTERM, 143)
    ):  # fmt: skip
        with started(*fit("stopped", *TWO)) as process:
            wait_for(partial(written_since, last("stopped"), time.time()), process)
            send(process, number)
            out, err = process.communicate(timeout=60)
            assert process.returncode == code, (out, err)
            assert group(process) == [], "no process is left"
        assert "encdec fit --resume lightning_logs/stopped/version_0" in out
        assert "Traceback" not in err
        before, step = step, torch.load(last("stopped"), weights_only=True)["global_step"]
        assert before < step < 30 * 22
    code, output = killing.on_two(project, *fit("stopped")[3:])
    assert code == 0, output
    assert_like_whole("stopped")


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_one_process_that_dies_ends_the_other_with_a_sentence(which: int, project: Path) -> None:
    with started(*fit("dying", *TWO, "--trainer.max_epochs=3000", "--images.every_n_epochs=10000")) as process:
        wait_for(last("dying").exists, process)
        os.kill(group(process)[which], signal.SIGKILL)
        began = time.monotonic()
        while group(process) and time.monotonic() < began + 60:
            time.sleep(0.1)
        assert group(process) == []
        assert time.monotonic() - began < 30
        _, err = process.communicate(timeout=10)
    assert process.returncode == (1 if which else -signal.SIGKILL), err
    assert "another process of this run has ended" in err
    assert len(err.strip().splitlines()) <= 3, err


@pytest.mark.slow
def test_two_machines_train_like_one_and_go_on_after_a_kill(project: Path) -> None:
    """torchrun on two `nodes` of this machine, one process on each."""
    train_whole(project)
    port = str(29500 + os.getpid() % 2000)
    where = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}")
    args = ("--resume", *BASE, "--trainer.num_nodes=2", "--trainer.devices=1", "--name=nodes")
    command = (sys.executable, "-m", "torch.distributed.run", *where, "-m", "encdec", "fit", *args)
    longer = (*command, "--trainer.max_epochs=3000")
    with started(*longer) as one, started(*longer) as two:
        wait_for(last("nodes").exists, one)
        for node in (one, two):
            os.killpg(node.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while running("--name=nodes") and time.monotonic() < deadline:
            time.sleep(0.1)
    assert running("--name=nodes") == [], "torchrun's processes, which are in groups of their own, end with it"
    assert torch.load(last("nodes"), weights_only=True)["global_step"] < 30 * 22
    with started(*command) as one, started(*command) as two:
        for node in (one, two):
            node.wait(150)
        assert one.returncode == two.returncode == 0, (one.communicate(), two.communicate())
    assert_like_whole("nodes")


SRUN = """\
#!{python}
import os, signal, subprocess, sys
tasks = []
for rank in range(2):
    env = os.environ | {{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"}}
    tasks.append(subprocess.Popen([arg for arg in sys.argv[1:] if not arg.startswith("--kill")], env=env))
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
sys.exit(max(abs(task.wait()) for task in tasks))
"""


@pytest.mark.slow
def test_a_slurm_job_saves_queues_itself_again_and_goes_on(project: Path) -> None:
    train_whole(project, "--trainer.precision=bf16-mixed")
    tools = project / "bin"
    tools.mkdir()
    (tools / "srun").write_text(SRUN.format(python=sys.executable))
    (tools / "scontrol").write_text('#!/bin/bash\necho "$@" >> requeued.txt\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "encdec", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
             "SLURM_NNODES": "2", "PYTHON": sys.executable, "PATH": f"{tools}:{ENVIRONMENT['PATH']}"}  # fmt: skip
    (project / "hpc_ckpt_1.ckpt").write_bytes(b"of another program")
    on_two = ("--trainer.num_nodes=2", "--trainer.devices=1", "--name=job")
    command = ("bash", "configs/cluster/slurm.sbatch", *BASE, *on_two)
    with started(*command, environment=slurm) as job:
        _, err = job.communicate(timeout=100)
        assert job.returncode != 0
        assert "hpc_ckpt_1.ckpt was left by another program" in err
    (project / "hpc_ckpt_1.ckpt").unlink()
    with started(*command, environment=slurm) as job:
        wait_for(last("job").exists, job)
        # Slurm signals the tasks; here srun passes the signal on
        srun = next(pid for pid in group(job) if b"bin/srun" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(srun, signal.SIGUSR1)
        out, err = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGUSR1, (out, err)
    assert (project / "requeued.txt").read_text() == "requeue 4711\n"
    assert "Slurm job 4711 goes back into the queue." in err
    assert not list(project.glob("hpc_ckpt*"))
    with started(*command, environment=slurm) as job:
        out, err = job.communicate(timeout=150)
    assert job.returncode == 0, err
    assert "resumes lightning_logs/job/version_0" in err
    assert_like_whole("job")
