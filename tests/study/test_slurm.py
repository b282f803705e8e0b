"""What a study puts into Slurm's queue, finds there and takes out of it: the commands are fakes on PATH."""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from encdec.cli import main
from encdec.cli.study import cluster
from encdec.study import schedule, slurm, spec, state
from encdec.study.plan import Job
from encdec.study.slurm import Submitted
from encdec.study.spec import Study
from encdec.types import UserError
from tests.study.fake_slurm import FakeSlurm
from tests.study.running import AE, VAE, write

SLURM = {"parallel": 2, "time": "04:00:00", "cpus": 4, "gpus": 1}
TUNE = {"model.optimizer.lr": [0.001, 0.003], "by": "val/loss"}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    fake.install()
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


def study(path: Path = Path("four.yaml"), **changes: Any) -> Study:
    """Two paradigms with two seeds."""
    return spec.load(write(path, **{"seeds": [0, 1], "paradigms": {"vae": VAE, "ae": AE}, "slurm": SLURM, **changes}))


def submit(of: Study) -> Submitted:
    waiting = slurm.queue(of)
    return slurm.submit(of, waiting, schedule.everything(of))


def finish(of: Study, jobs: Iterable[Job] | None = None, **changes: Any) -> None:
    """Leave the states that jobs leave which were done."""
    for job in schedule.everything(of) if jobs is None else jobs:
        assert schedule.prepare(of, job)
        found = state.read(job.folder)
        assert found is not None
        state.write(job.folder, replace(found, **{"status": "done", "stage": "test", "attempts": 1, **changes}))


def listed(of: Study, kind: str) -> list[str]:
    """The jobs of the newest array of a kind."""
    return sorted((of.folder / "slurm").glob(f"*-{kind}.txt"))[-1].read_text().splitlines()


def test_an_array_has_all_runs_and_asks_for_what_the_file_says(project: Path, queue: FakeSlurm) -> None:
    four = study(slurm={**SLURM, "memory": "16G", "partition": "gpu", "account": 1234, "options": ["--qos=long"],
                        "setup": ["module load python", "export A='b c'"]})  # fmt: skip
    assert submit(four) == Submitted(trials=0, runs=4, left=0, queued=0, has_report=True)
    array, report = queue.jobs
    options = array["options"]
    assert re.fullmatch(r"encdec-four-\d{8}-\d{6}-\d{6}-runs", options.pop("job-name"))
    assert re.fullmatch(r"lightning_logs/studies/four/slurm/.*-runs_%a\.log", options.pop("output"))
    assert options == {
        "array": "0-3%2", "partition": "gpu", "account": "1234", "time": "04:00:00", "cpus-per-task": "4",
        "gres": "gpu:1", "mem": "16G", "qos": "long", "signal": "B:USR1@120", "requeue": "", "open-mode": "append",
    }  # fmt: skip
    assert listed(four, "runs") == [job.name for job in schedule.everything(four)]
    lines = array["script"].splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[-4:-1] == ["set -e", "module load python", "export A='b c'"]
    assert re.fullmatch(r"exec \S+ -m encdec study slurm-task four.yaml \S+-runs.txt", lines[-1])
    assert report["options"]["dependency"] == f"afterany:{array['id']}"
    assert report["options"]["partition"] == "gpu"
    assert not {"array", "gres", "time", "requeue"} & report["options"].keys()
    assert report["script"].splitlines()[-1].endswith("-m encdec study report four.yaml")


def test_nothing_is_asked_where_the_file_says_nothing(project: Path, queue: FakeSlurm) -> None:
    submit(study(slurm=None))
    assert queue.jobs[0]["options"].keys() == {
        "job-name", "array", "cpus-per-task", "signal", "requeue", "open-mode", "output"
    }  # fmt: skip
    assert queue.jobs[0]["options"]["array"] == "0-3"


def test_only_what_is_neither_done_nor_queued_is_submitted(project: Path, queue: FakeSlurm) -> None:
    four = study()
    jobs = schedule.everything(four)
    finish(four, jobs[:1])
    assert submit(four).runs == 3
    assert submit(four) == Submitted(trials=0, runs=0, left=0, queued=3, has_report=True)
    assert len(queue.jobs) == 2
    first, old_report = (job["id"] for job in queue.jobs)
    # one of them ends, one fails, and one runs, whose process is killed later
    finish(four, jobs[1:2])
    finish(four, jobs[2:3], status="failed", error="bad")
    finish(four, jobs[3:4], status="running")
    queue.set(first, 0, None)
    queue.set(first, 1, None)
    queue.set(first, 2, "RUNNING")
    assert submit(four) == Submitted(trials=0, runs=1, left=0, queued=1, has_report=True)
    assert listed(four, "runs") == [jobs[2].name]
    # the report waits for both arrays, and the one before is gone
    second, new_report = queue.jobs[-2:]
    assert new_report["options"]["dependency"] == f"afterany:{first}:{second['id']}"
    assert old_report not in [job["id"] for job in queue.jobs]
    queue.set(first, 2, None)
    queue.set(second["id"], 0, None)
    assert submit(four).runs == 2, "the killed and the failed one"


def test_a_seed_more_and_changed_settings_are_submitted_alone(project: Path, queue: FakeSlurm) -> None:
    four = study()
    finish(four)
    assert submit(four) == Submitted(0, 0, 0, 0)
    assert queue.calls("sbatch") == []
    submit(more := study(seeds=[0, 1, 2]))
    assert listed(more, "runs") == ["vae/digits/seed_2", "ae/digits/seed_2"]
    other = study(paradigms={"vae": [*VAE, "--model.beta", 4], "ae": AE})
    submit(other)
    assert listed(other, "runs") == ["vae/digits/seed_0", "vae/digits/seed_1"]


def test_runs_wait_for_trials(project: Path, queue: FakeSlurm) -> None:
    tuned = study(tune=TUNE)
    assert submit(tuned) == Submitted(trials=4, runs=4, left=0, queued=0, has_report=True)
    trials, runs, report = queue.jobs
    assert "dependency" not in trials["options"]
    assert runs["options"]["dependency"] == f"afterany:{trials['id']}"
    assert report["options"]["dependency"] == f"afterany:{trials['id']}:{runs['id']}"
    assert all(name.startswith("tuning/") for name in listed(tuned, "trials"))
    # one trial fails: it is tried once more, and what is queued need not be
    of_tuning = [job for job in schedule.everything(tuned) if job.trial is not None]
    finish(tuned, of_tuning[1:], score=1.0)
    finish(tuned, of_tuning[:1], status="failed")
    for task in range(4):
        queue.set(trials["id"], task, None)
        queue.set(runs["id"], task, None if task < 3 else "PENDING")
    assert submit(tuned) == Submitted(trials=1, runs=3, left=0, queued=1, has_report=True)
    again, waiting = queue.jobs[-3:-1]
    assert waiting["options"]["dependency"] == f"afterany:{again['id']}"
    cluster_says = cluster.words(slurm.queue(tuned), list(map(schedule.standing, schedule.everything(tuned))), False)
    assert cluster_says[of_tuning[0].name] == "queued (Priority)"


def test_runs_without_a_trial_that_helps_them_are_not_submitted(project: Path, queue: FakeSlurm) -> None:
    tuned = study(tune=TUNE, paradigms={"vae": VAE, "ae": AE}, seeds=[0])
    of_tuning = [job for job in schedule.everything(tuned) if job.trial is not None]
    finish(tuned, [job for job in of_tuning if job.paradigm == "ae"], score=None)
    finish(tuned, [job for job in of_tuning if job.paradigm == "vae"], score=2.0)
    assert submit(tuned).runs == 1
    assert listed(tuned, "runs") == ["vae/digits/seed_0"]
    assert "dependency" not in queue.jobs[0]["options"]


def test_more_than_an_array_takes_is_left_for_later(
    project: Path, queue: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "LARGEST", 3)
    four = study()
    submitted = submit(four)
    assert submitted == Submitted(trials=0, runs=3, left=1, queued=0, has_report=True)
    cluster.print_submitted(four, submitted)
    assert "1 job more than an array may have" in capsys.readouterr().out
    assert submit(four).runs == 1


def test_two_submissions_have_two_names(project: Path) -> None:
    keys = [slurm._new_key("runs") for _ in range(100)]
    assert keys == sorted(set(keys))


def test_what_slurm_refuses_is_said_and_leaves_nothing(project: Path, queue: FakeSlurm) -> None:
    four = study()
    queue.refuse("sbatch", "runs", "invalid partition specified: gpu")
    with pytest.raises(UserError, match=r"Slurm's sbatch refused: invalid partition specified: gpu$"):
        submit(four)
    assert list((four.folder / "slurm").glob("*.txt")) == []
    assert not slurm.queue(four)


def test_a_report_that_is_refused_keeps_no_run_from_the_queue(
    project: Path, queue: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    four = study()
    queue.refuse("sbatch", "study report", "Requested GRES option required")
    submitted = submit(four)
    assert (submitted.runs, submitted.has_report) == (4, False)
    assert cluster.print_submitted(four, submitted)
    out, err = capsys.readouterr()
    assert out == "4 runs submitted.\n"
    assert "Requested GRES option required" in err
    assert "`encdec study report four.yaml`" in err


def test_a_queue_that_does_not_answer_keeps_everything_as_it_is(
    project: Path, queue: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    four = study()
    submit(four)
    queue.refuse("squeue", ".", "Unable to contact slurm controller")
    with pytest.raises(SystemExit) as stop:
        main(["study", "--slurm", str(four.path)])
    assert stop.value.code == 1
    assert "Unable to contact slurm controller" in capsys.readouterr().err
    assert len(queue.jobs) == 2
    main(["study", "status", str(four.path)])
    out, err = capsys.readouterr()
    assert "0 of 2" in out
    assert "what is in Slurm's queue is not known" in err


def test_without_slurm_one_sentence_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="There is no sbatch on this machine"):
        submit(study())


def test_a_job_within_a_job_hands_nothing_on(project: Path, queue: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    assert submit(study()).runs == 4


def test_status_tells_what_the_queue_knows(project: Path, queue: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    four = study()
    submit(four)
    jobs = schedule.everything(four)
    array = queue.jobs[0]["id"]
    finish(four, jobs[:1], status="running", stage="fit", epoch=3, epochs=8)
    finish(four, jobs[1:2], status="running")
    queue.set(array, 0, "RUNNING")
    queue.set(array, 1, None)
    finish(four, jobs[2:3], status="failed", error="bad")
    queue.set(array, 2, "PENDING", "BeginTime")
    queue.set(array, 3, None)
    # it ended before encdec began, and what it said is in its log
    log = next((four.folder / "slurm").glob("*-runs.txt")).with_suffix("")
    Path(f"{log}_3.log").write_text("module: command not found\n\n")
    main(["study", "status", str(four.path)])
    out = capsys.readouterr().out
    assert "failed:" not in out, "it has another chance"
    for words in ("1 in fit, epoch 3/8, 1 queued (BeginTime)", "1 stopped, its process is gone, 1 to run"):
        assert words in out
    assert f"ae/digits/seed_1 did not begin: module: command not found ({log}_3.log)\n" in out
    assert f"Slurm: 1 running, 1 waiting, and the report; arrays {array + 1}, {array}.\n" in out


def test_stop_takes_out_those_first_that_wait_for_others(
    project: Path, queue: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = study(tune=TUNE)
    submit(tuned)
    trials, runs, report = (job["id"] for job in queue.jobs)
    queue.set(trials, 0, "RUNNING")
    main(["study", "stop", str(tuned.path)])
    assert queue.calls("scancel") == [str(report), str(runs), str(trials)]
    assert "8 jobs canceled; 1 of them ran, and save first." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["study", "stop", str(tuned.path)])
    assert "No process of this machine runs the study" in capsys.readouterr().err


def test_a_study_in_the_queue_is_not_run_here_as_well(
    project: Path, queue: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    four = study()
    submit(four)
    with pytest.raises(SystemExit) as stop:
        main(["study", str(four.path)])
    assert stop.value.code == 1
    assert "4 jobs of this study are in Slurm's queue" in capsys.readouterr().err


def test_who_has_a_cluster_is_told_of_it(project: Path, queue: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.before_local(study())
    assert "with --slurm it would be submitted to the cluster" in capsys.readouterr().err
    cluster.before_local(study(slurm=None))
    assert capsys.readouterr().err == ""


def test_another_study_of_the_same_queue_is_not_counted(project: Path, queue: FakeSlurm) -> None:
    submit(study())
    assert not slurm.queue(study(Path("other.yaml")))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("tme", "1", "did you mean time"),
        ("parallel", 0, "slurm.parallel is '0', but it must be an integer of at least 1"),
        ("cpus", "four", "slurm.cpus is 'four', but it must be an integer"),
        ("gpus", 2, "a job runs on one device"),
        ("gpus", True, "slurm.gpus is 'true'"),
        ("time", 43200, "hours, minutes and seconds, in quotes"),
        ("time", "90", "hours, minutes and seconds, as in"),
        ("time", "00:04:59", "at least 00:05:00"),
        ("memory", 16, "an integer with its unit, as in 16G"),
        ("memory", "16 GB", "an integer with its unit, as in 16G"),
        ("partition", "a b", "must be a name that the cluster knows"),
        ("account", True, "must be a name that the cluster knows"),
        ("options", "--qos=long", "must be a list of lines, such as [--qos=long"),
        ("options", ["-p gpu"], "an option of sbatch in one word"),
        ("options", ["--array=1-3"], "has --array, which is set by the study"),
        ("options", ["--mem=3G"], "has --mem, which is set by slurm.memory"),
        ("setup", ["a\nb"], "must be a list of lines"),
    ],
)
def test_a_wrong_key_is_one_sentence_on_every_machine(project: Path, key: str, value: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        study(slurm={key: value})
    assert error.value.exit_code == 2
    assert says in str(error.value)
    assert str(error.value).startswith("four.yaml: ")


def test_a_time_may_have_days(project: Path) -> None:
    assert study(slurm={"time": "1-12:00:00"}).slurm.asks[0] == "--time=1-12:00:00"
