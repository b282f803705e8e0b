"""What is shown of a study: counts, the time that is left, the table after it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from encdec.study import schedule, state
from encdec.study.board import Board, print_summary
from encdec.study.plan import Job
from encdec.study.state import JobState


def job(folder: Path, name: str, trial: int | None = None, blocked: str = "", **about: Any) -> Job:
    """A job, with its state unless there is nothing about it."""
    paradigm, data, seed = name.split("/")
    made = Job(paradigm, data, int(seed), folder / name, hash="h", trial=trial, blocked=blocked)
    if about:
        state.write(made.folder, replace(JobState(paradigm, data, made.seed, "h"), **about))
    return made


def done(seconds: float) -> dict[str, Any]:
    return {"status": "done", "fit_seconds": seconds - 1, "test_seconds": 1.0}


def test_the_time_left_is_that_of_jobs_alike_divided_by_the_slots(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "vae/a/0", **done(10.0)),
        job(tmp_path, "vae/a/1", **done(20.0)),
        job(tmp_path, "vae/a/2"),  # 15, as the two above
        job(tmp_path, "svi/a/0", status="stopped", fit_seconds=5.0),  # 15 as all on these data, of which 5 are over
        job(tmp_path, "svi/b/0"),  # 15, as all that there are
    ]
    assert Board(jobs, slots=2).seconds_left() == pytest.approx((15 + 10 + 15) / 2)
    assert Board(jobs[2:], slots=2).seconds_left() is None


def test_lines_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    one, two = job(tmp_path, "vae/a/0"), job(tmp_path, "vae/a/1")
    shown = Board([one, two], slots=1)
    with shown.shown():
        shown.began(one)
        clock[0] += 61
        job(tmp_path, "vae/a/0", **done(60.0))
        shown.ended(one)
        shown.began(two)
        job(tmp_path, "vae/a/1", status="failed", error="no\x1b[31m memory")
        shown.ended(two)
    assert capsys.readouterr().out.splitlines() == [
        "vae/a/seed_0 begins",
        "vae/a/seed_0 done after 0:01:01; 1 of 2 done, about 0:01:00 left",
        "vae/a/seed_1 begins",
        "vae/a/seed_1 failed: no\\x1b[31m memory after 0:00:00; 1 of 2 done, 1 failed, about 0:00:00 left",
    ]


def test_the_summary_counts_by_data_and_paradigm_and_names_what_is_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [
        job(tmp_path, "vae/a/0", trial=0, **done(4.0)),
        job(tmp_path, "vae/a/1", **done(10.0)),
        job(tmp_path, "vae/a/2", **done(20.0)),
        job(tmp_path, "vae/a/3", status="failed", error="it broke"),
        job(tmp_path, "vae/a/4", status="running", stage="fit", epoch=2, epochs=9),
        job(tmp_path, "ae/a/0", blocked="tuning/ae/a/trial_1 has not ended"),
        job(tmp_path, "ae/a/1", blocked="tuning/ae/a/trial_1 has not ended"),
        job(tmp_path, "iwae/b/0", trial=0, status="stopped"),
        job(tmp_path, "iwae/b/0", blocked="tuning/iwae/b/trial_0 has not ended"),
        replace(job(tmp_path, "ae/b/0", **done(1.0)), hash="other"),
        job(tmp_path, "svi/b/0"),
    ]
    assert not print_summary(map(schedule.standing, jobs))
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["a", "vae", "trials", "1 of 1", "", "4.0"],
        ["a", "vae", "runs", "2 of 4", "1 failed, 1 in fit, epoch 2/9", "15.0"],
        ["a", "ae", "runs", "0 of 2", "2 waiting for trials", ""],
        ["b", "iwae", "trials", "0 of 1", "1 stopped", ""],
        ["b", "iwae", "runs", "0 of 1", "1 waiting for trials", ""],
        ["b", "ae", "runs", "0 of 1", "1 to run again, settings have changed", ""],
        ["b", "svi", "runs", "0 of 1", "1 to run", ""],
    ]
    assert f"vae/a/seed_3 failed: it broke ({(tmp_path / 'vae/a/3/output.log').as_posix()})" in out
    blocked = [line for line in out.splitlines() if "can't run" in line]
    assert blocked == ["ae/a/seed_0 and 1 other seed can't run: tuning/ae/a/trial_1 has not ended"], "not while it may"
    assert print_summary([schedule.standing(jobs[1])])
