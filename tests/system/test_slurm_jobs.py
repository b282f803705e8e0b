"""The shipped sbatch script on a real Slurm of two nodes: time limit, requeue, scancel, job array, several nodes."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests import slurm
from tests.conftest import ENVIRONMENT
from tests.study.running import wait_for

pytestmark = pytest.mark.slow

# the node's names are known to this Slurm alone, and Lightning would ask the network for the first one's address
ENV = ENVIRONMENT | {"PYTHON": sys.executable, "MASTER_ADDR": "127.0.0.1", "PATH": os.environ["PATH"]}
FIT = ("--config=configs/vae.yaml", "--trainer.accelerator=cpu", "--trainer.precision=32-true",
       "--images.every_n_epochs=1000", "--checkpoint.seconds_between=0")  # fmt: skip
TWO_TASKS = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
ON_TWO_TASKS = ("--trainer.num_nodes=1", "--trainer.devices=2")
ON_TWO_NODES = ("--trainer.num_nodes=2", "--trainer.devices=1")
USR1 = 1 << 9  # in a mask of signals


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    with slurm.running(nodes=2) as configuration:
        yield configuration


class Jobs:
    """What can be done with the jobs of a Slurm."""

    def __init__(self, configuration: Path) -> None:
        self._environment = ENV | {"SLURM_CONF": str(configuration)}
        self._configuration = configuration

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def submit(self, options: tuple[str, ...], *fit: str) -> str:
        return self.call("sbatch", "--parsable", *options, "configs/cluster/slurm.sbatch", *FIT, *fit)

    def show(self, job: str, name: str) -> str:
        """A field of a job, as Slurm knows it."""
        found = re.search(rf"\b{name}=(\S+)", self.call("scontrol", "show", "job", job))
        return found.group(1) if found else ""

    def is_over(self, job: str) -> bool:
        return self.show(job, "JobState") in ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT")

    def begin_again(self, job: str) -> None:
        """Not to wait for the two minutes that Slurm gives a job that was queued again.

        A node refuses a job that starts in the second in which it was killed there: its credential was revoked.
        """
        wait_for(lambda: self.show(job, "JobState") == "PENDING", f"{job} has ended on its nodes")
        wait_for(lambda: self.show(job, "Reason") == "BeginTime", f"{job} waits for its new start")
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def told(self, job: str) -> str:
        """What a job printed, and what the Slurm's daemons logged meanwhile."""
        daemons = [f"{path.name}:\n{path.read_text()}" for path in sorted(self._configuration.parent.glob("*.log"))]
        return "\n".join((log(job), *daemons))

    def loads(self, count: int) -> Callable[[], bool]:
        """Whether so many processes of jobs have held back the signal, and so are about to import PyTorch."""

        def ask() -> bool:
            return (
                sum(_holds_back(pid) for pid in slurm.pids(self._configuration, f"{sys.executable}\0-m\0encdec"))
                >= count
            )

        return ask


def _holds_back(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return bool(int(status.partition("SigBlk:")[2].split()[0], 16) & USR1)


def steps(run: str) -> int:
    """Steps that a run's checkpoint has; 0 without one."""
    path = Path("lightning_logs", run, "checkpoints", "last.ckpt")
    return torch.load(path, weights_only=True)["global_step"] if path.is_file() else 0


def log(job: str) -> str:
    path = Path(f"slurm-{job}.out")
    return path.read_text() if path.is_file() else ""


def test_a_job_saves_before_its_time_is_over_and_goes_on_and_so_it_does_after_scancel(
    cluster: Path, project: Path
) -> None:
    jobs = Jobs(cluster)
    command = (*TWO_TASKS, "--time=2", "--signal=USR1@60"), *ON_TWO_TASKS, "--trainer.max_epochs=100000", "--name=job"
    job = jobs.submit(*command)
    wait_for(lambda: steps("job/version_0") > 0, f"{job} trains")
    jobs.begin_again(job)
    told, saved = log(job), steps("job/version_0")
    assert "2 processes on cpu" in told
    assert "Stopped; lightning_logs/job/version_0/checkpoints/last.ckpt holds it." in told
    assert f"encdec: Slurm job {job} goes back into the queue." in told
    assert "User defined signal" not in told, "the signal ended no process"

    wait_for(lambda: f"resumes lightning_logs/job/version_0 from step {saved}." in log(job), "it goes on")
    assert jobs.show(job, "Restarts") == "1"
    wait_for(lambda: steps("job/version_0") > saved, "it trains on")
    jobs.call("scancel", job)
    wait_for(lambda: jobs.is_over(job), "it ends")
    assert jobs.show(job, "JobState") == "CANCELLED"
    wait_for(lambda: log(job).count("Stopped; ") == 2, "it says what it saved")

    saved = steps("job/version_0")
    again = jobs.submit(*command)
    wait_for(lambda: f"resumes lightning_logs/job/version_0 from step {saved}." in log(again), "it goes on")
    jobs.call("scancel", again)
    assert [path.name for path in Path("lightning_logs/job").iterdir()] == ["version_0"]


def test_an_array_on_two_nodes_whose_numbers_are_the_seeds(cluster: Path, project: Path) -> None:
    jobs = Jobs(cluster)
    array = jobs.submit((*TWO_NODES, "--array=4-5"), *ON_TWO_NODES, "--trainer.max_epochs=2", "--name=array")
    first, second = (f"{array}_{number}" for number in (4, 5))
    wait_for(jobs.loads(4), "both jobs load")
    jobs.call("scancel", "--signal=USR1", second)  # it is kept until the processes can save
    jobs.begin_again(second)
    wait_for(lambda: jobs.is_over(first) and jobs.is_over(second), "both end")
    for job, restarts in ((first, "0"), (second, "1")):
        told = log(jobs.show(job, "JobId"))
        assert jobs.show(job, "JobState") == "COMPLETED", jobs.told(jobs.show(job, "JobId"))
        assert jobs.show(job, "NodeList") == "node[1-2]"
        assert jobs.show(job, "Restarts") == restarts
        assert "2 processes on cpu" in told
        assert told.count("goes back into the queue.") == int(restarts)
        assert "User defined signal" not in told, "the signal ended no process"
    configs = [path.read_text() for path in sorted(Path("lightning_logs/array").glob("version_*/config.yaml"))]
    assert sorted(config.splitlines()[0] for config in configs) == ["seed_everything: 4", "seed_everything: 5"]
    ends = {steps(f"array/{path.name}") for path in Path("lightning_logs/array").iterdir()}
    assert ends == {2 * 6}, "1,294 images in batches of 2 × 128"


def test_nothing_is_left_of_a_slurm_whose_test_fails() -> None:
    found = []

    def fail() -> None:
        with slurm.running() as configuration:
            found.append(configuration)
            stubborn = "trap '' TERM USR1; sleep 1000 & sleep 1000; sleep 1000"
            job = Jobs(configuration).call("sbatch", "--parsable", "--output=/dev/null", f"--wrap={stubborn}")
            wait_for(lambda: slurm.pids(configuration, "sleep\0001000"), f"{job} sleeps")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert slurm.pids(found[0]) == []
    assert not found[0].parent.exists()
