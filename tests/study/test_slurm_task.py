"""What a job of an array does on its node, with real trainings: the signals of Slurm, and what it puts back."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from encdec.study import schedule, slurm, spec, state
from encdec.study.spec import Study
from tests import killing
from tests.conftest import ENVIRONMENT
from tests.study.fake_slurm import FakeSlurm
from tests.study.running import COMMON, SECONDS, command, is_alive, job, trains, wait_for, write

JOB = "vae/digits/seed_0"
ENDLESS = [*COMMON, "--trainer.max_epochs", 10000]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    fake.install()
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


def submitted(path: Path, **changes: object) -> Study:
    study = spec.load(write(path, slurm={"time": "00:10:00", "cpus": 1}, **changes))
    slurm.submit(study, slurm.queue(study), schedule.everything(study))
    return study


@contextmanager
def task(study: Study, number: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A job of the newest array, in a session of its own, as Slurm would start it."""
    listed = sorted((study.folder / "slurm").glob("*-runs.txt"))[-1]
    variables = {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": str(number), "SLURM_NTASKS": "1",
                 "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "encdec", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
                 "PATH": os.environ["PATH"]}  # fmt: skip
    process = subprocess.Popen(
        command("slurm-task", str(study.path), str(listed)), env=ENVIRONMENT | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    with killing.gone_at_the_end(process):
        yield process


def end(process: subprocess.Popen[str], code: int) -> str:
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == code, out
    return out


@pytest.mark.slow
def test_a_job_whose_time_is_over_saves_goes_back_into_the_queue_and_goes_on(project: Path, queue: FakeSlurm) -> None:
    study = submitted(project / "over.yaml", common=ENDLESS)
    with task(study) as process:
        running = wait_for(trains("over", JOB, 2), "it trains")
        variables = Path(f"/proc/{running.pid}/environ").read_text().split("\0")
        assert not [variable for variable in variables if variable.startswith("SLURM_")]
        assert {"OMP_NUM_THREADS=1", "CUDA_VISIBLE_DEVICES="} <= set(variables)
        process.send_signal(signal.SIGUSR1)  # to it alone, as --signal=B: does
        out = end(process, 143)
    stopped = job("over", JOB)
    assert (stopped.status, stopped.stage, stopped.attempts) == ("stopped", "fit", 1)
    assert queue.calls("scontrol") == ["requeue 11_0"]
    assert "Slurm job 11_0 goes back into the queue." in out
    assert not is_alive(running.pid)
    # it goes on where it was
    with task(study) as process:
        again = wait_for(trains("over", JOB, stopped.epoch + 1), "it goes on")
        assert again.attempts == 2
        os.killpg(process.pid, signal.SIGTERM)  # to all, as scancel and requeue do
        out = end(process, 143)
    after = job("over", JOB)
    assert (after.status, after.stage) == ("stopped", "fit")
    assert after.epoch >= again.epoch
    assert len(queue.calls("scontrol")) == 1, "who ends it decides whether it comes back"
    assert "encdec: resumes " in (study.folder / JOB / state.LOG).read_text()


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_failure(project: Path, queue: FakeSlurm) -> None:
    study = submitted(project / "killed.yaml", common=ENDLESS)
    with task(study) as process:
        running = wait_for(trains("killed", JOB), "it trains")
        assert running.pid is not None
        os.kill(running.pid, signal.SIGKILL)
        end(process, 137)
    found = job("killed", JOB)
    assert found.status == "failed"
    assert "killed by signal 9" in found.error


@pytest.mark.slow
def test_a_job_that_is_done_is_not_done_twice_and_an_evaluation_that_is_too_long_ends(
    project: Path, queue: FakeSlurm
) -> None:
    study = submitted(project / "long.yaml")
    with task(study) as process:
        end(process, 0)
    done = job("long", JOB)
    assert done.status == "done"
    with task(study) as process:
        assert f"{JOB} is done." in end(process, 0)
    assert job("long", JOB) == done
    # Slurm says that the time is over while it evaluates, once more
    state.write(study.folder / JOB, replace(done, status="stopped"))
    with task(study) as process:
        wait_for(lambda: job("long", JOB).status == "running", "it evaluates")
        process.send_signal(signal.SIGUSR1)
        end(process, 143)
    found = job("long", JOB)
    assert (found.status, found.error) == ("failed", "Its evaluation takes longer than slurm.time, 00:10:00.")
    assert queue.calls("scontrol") == []


def test_a_job_that_has_left_the_study_says_so(project: Path, queue: FakeSlurm) -> None:
    study = submitted(project / "left.yaml")
    write(study.path, seeds=[7])
    with task(study) as process:
        assert f"left.yaml has changed: it has no {JOB} any more." in end(process, 1)


def test_a_run_whose_trials_failed_says_so(project: Path, queue: FakeSlurm) -> None:
    study = submitted(project / "tuned.yaml", tune={"model.optimizer.lr": [0.001], "by": "val/loss"})
    with task(study) as process:
        assert f"{JOB} can't run: tuning/vae/digits/trial_0 has not ended." in end(process, 1)
    assert not (study.folder / JOB / state.FILE).exists()


def test_it_is_for_slurm_alone(project: Path) -> None:
    done = subprocess.run(
        command("slurm-task", "a", "b"), env=ENVIRONMENT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("encdec: error: `study slurm-task` is for the jobs of a Slurm array")
