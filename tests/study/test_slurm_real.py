"""A study on a real Slurm of one node, whose daemons .ci/local-slurm starts: killed, requeued, canceled, done."""

import csv
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from encdec.study import schedule, slurm, spec, state
from encdec.study.spec import Study
from tests.slurm import running
from tests.study.running import AE, COMMON, VAE, job, run, trains, wait_for, write

JOBS = ("vae/digits/seed_0", "ae/digits/seed_0", "vae/digits/seed_1", "ae/digits/seed_1")
LONG = [*COMMON, "--trainer.max_epochs", 150, "--checkpoint.seconds_between", 1]

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm that is there until the end of a test."""
    with running() as configuration:
        monkeypatch.setenv("SLURM_CONF", str(configuration))
        yield


def encdec(*args: str, code: int = 0) -> str:
    done = run(*args, code=code, SLURM_CONF=os.environ["SLURM_CONF"])
    return done.stdout + done.stderr


def report(study: Study) -> set[tuple[str, ...]]:
    """The paradigm, data set and seed of all runs that the report has numbers of."""
    assert (study.folder / "report.html").is_file()
    with (study.folder / "results.csv").open(newline="") as file:
        return {(row["paradigm"], row["data"], row["seed"]) for row in csv.DictReader(file)}


def call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def is_stopped(name: str) -> bool:
    return job("real", name).status == "stopped"


def is_gone(study: Study, name: str) -> bool:
    return name not in slurm.queue(study).jobs


def test_an_array_of_four_of_which_one_is_killed_one_requeued_and_one_canceled(project: Path, cluster: None) -> None:
    file = write(project / "real.yaml", seeds=[0, 1], paradigms={"vae": VAE, "ae": AE}, common=LONG,
                 slurm={"parallel": 4, "time": "00:10:00", "cpus": 1, "setup": ["export FROM_SETUP=yes"]})  # fmt: skip
    study = spec.load(file)
    assert "4 runs submitted.\nThe report is written when all of them have ended." in encdec("--slurm", str(file))
    killed, over, requeued, canceled = JOBS
    found = slurm.queue(study).jobs
    assert list(found) == list(JOBS)
    pids = {}
    for name in JOBS:
        pids[name] = wait_for(trains("real", name, 2), f"{name} trains").pid
        os.kill(pids[name], signal.SIGSTOP)  # so that none has come to its end when the last one begins

    # the whole job is killed, so that nobody can say so: its state stays as it was
    variables = Path(f"/proc/{pids[killed]}/environ").read_text()
    assert "FROM_SETUP=yes" in variables
    assert "SLURM_" not in variables
    parent = int(Path(f"/proc/{pids[killed]}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (parent, pids[killed]):
        os.kill(pid, signal.SIGKILL)
    # its time is over, as Slurm would say two minutes before that
    os.kill(pids[over], signal.SIGCONT)
    call("scancel", "--batch", "--signal=USR1", found[over].id)
    # the next one's node is wanted by others, and the last one is no longer wanted; Slurm sends SIGCONT by itself
    call("scontrol", "requeue", found[requeued].id)
    call("scancel", found[canceled].id)
    wait_for(lambda: is_gone(study, killed), "what was killed leaves the queue")
    wait_for(lambda: is_gone(study, canceled), "what was canceled leaves the queue")
    assert job("real", killed).status == "running"
    for name in (over, requeued, canceled):
        wait_for(partial(is_stopped, name), f"{name} saves")
        assert job("real", name).stage == "fit"
    wait_for(lambda: slurm.queue(study).jobs[over].reason == "BeginTime", "its wait of two minutes")
    wait_for(lambda: slurm.queue(study).jobs[requeued].reason == "BeginTime", "its wait of two minutes")
    shown = encdec("status", str(file))
    assert "1 stopped, its process is gone" in shown
    assert shown.count("queued (BeginTime)") == 2
    assert "Slurm: 0 running, 2 waiting, and the report" in shown

    # the same command submits those two alone that are not in the queue
    assert "2 runs submitted.\n2 jobs are in the queue already." in encdec("--slurm", str(file))
    again = slurm.queue(study).jobs
    assert again[over].id == found[over].id
    assert again[killed].array != found[killed].array
    for name in (over, requeued):  # not to wait for two minutes
        call("scontrol", "update", f"JobId={found[name].id}", "StartTime=now+2")
    wait_for(lambda: all(job("real", name).status == "done" for name in JOBS), "all are done", 300)
    assert [job("real", name).attempts for name in JOBS] == [2, 2, 2, 2]
    wait_for(lambda: not slurm.queue(study), "the report is written", 60)
    assert all(schedule.standing(each).is_done for each in schedule.everything(study))
    assert report(study) == {(*name.split("/")[:2], name.rpartition("_")[2]) for name in JOBS}
    for name in JOBS:
        assert (study.folder / name / state.LOG).read_text().count("encdec: resumes ") == 1


def test_runs_take_what_their_trials_found(project: Path, cluster: None) -> None:
    file = write(project / "tuned.yaml", tune={"model.optimizer.lr": [1e-9, 0.003], "by": "val/loss"})
    study = spec.load(file)
    assert "2 trials and 1 run submitted; the trials run first." in encdec("--slurm", str(file))
    assert slurm.queue(study).jobs["vae/digits/seed_0"].reason in ("Dependency", "None")
    wait_for(lambda: not slurm.queue(study), "all have ended")
    found = job("tuned", "vae/digits/seed_0")
    assert (found.status, dict(found.settings)) == ("done", {"model.optimizer.lr": "0.003"})
    assert report(study) == {("vae", "digits", "0")}
    # with nothing left to submit the command writes the report itself, as it does without a cluster
    (study.folder / "report.html").unlink()
    assert "report.html" in encdec("--slurm", str(file))
    assert report(study) == {("vae", "digits", "0")}
