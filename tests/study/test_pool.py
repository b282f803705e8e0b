"""The pool of this machine, for real: what it runs, repeats, resumes and stops."""

import multiprocessing
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from encdec.cli.study import child
from encdec.study import plan, pool, spec, state
from encdec.study.board import Board
from encdec.study.pool import Slots
from encdec.study.spec import Local
from tests.conftest import ENVIRONMENT
from tests.study.running import (
    AE,
    COMMON,
    VAE,
    command,
    folder,
    is_alive,
    job,
    left,
    run,
    started,
    trains,
    wait_for,
    write,
)

LONG = [*COMMON, "--trainer.max_epochs", 40, "--checkpoint.seconds_between", 0, "--data.batch_size", 50]

pytestmark = pytest.mark.slow


def test_it_runs_every_combination_once_and_then_nothing(project: Path) -> None:
    file = write(project / "grid.yaml", seeds=[0, 1], paradigms={"vae": VAE, "ae": AE})
    first = run(str(file))
    jobs = {f"{paradigm}/digits/seed_{seed}" for paradigm in ("vae", "ae") for seed in (0, 1)}
    for name in jobs:
        found = job("grid", name)
        assert (found.status, found.stage, found.epoch, found.epochs, found.attempts) == ("done", "test", 2, 2, 1)
        assert found.threads == 1
        assert found.device == "cpu"
        assert found.loss is not None
        assert (folder("grid", name) / found.checkpoint).is_file()
        assert f"{name} done" in first.stdout
        heading, *rows = (folder("grid", name) / "curves.csv").read_text().splitlines()
        assert heading == "step,tag,value"
        assert {row.split(",")[1] for row in rows} >= {"train/loss", "val/loss", "val/mse"}
        assert "test split" in (folder("grid", name) / state.LOG).read_text()
    assert len(left("grid")) == 4 * len(jobs)
    jobs_files = (path for name in jobs for path in folder("grid", name).rglob("*"))  # the report is written again
    before = {path: path.stat().st_mtime_ns for path in jobs_files}
    again = run(str(file))
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [path for path in before if before[path] != after[path] and path.is_file() and path.name != ".lock"] == []
    assert "begins" not in again.stdout
    # a seed more runs that seed alone
    write(file, seeds=[0, 1, 2], paradigms={"vae": VAE})
    more = run(str(file))
    assert [line for line in more.stdout.splitlines() if "begins" in line] == ["vae/digits/seed_2 begins"]
    assert run("status", str(file)).stdout.count("3 of 3") == 1


def test_a_job_gives_what_its_two_commands_give(project: Path) -> None:
    run(str(write(project / "whole.yaml")))
    found = job("whole", "vae/digits/seed_0")
    for words in found.command.split(" && "):
        args = [word.replace("studies/whole", "studies/commands") for word in shlex.split(words)[1:]]
        subprocess.run([sys.executable, "-m", "encdec", *args], env=ENVIRONMENT, check=True, capture_output=True)
    ours = {name: value for name, value in left("whole").items() if "checkpoints" in name}
    theirs = left("commands")
    assert len(ours) == 2
    assert ours == {name: theirs[name] for name in ours}


def test_processes_that_are_not_forked_give_the_same(project: Path) -> None:
    run(str(write(project / "forked.yaml")))
    run(str(write(project / "spawned.yaml")), ENCDEC_STUDY_FORK="0")
    assert left("forked") == left("spawned")


def test_what_has_changed_runs_again_and_its_old_result_is_set_aside(project: Path) -> None:
    file = write(project / "changed.yaml", paradigms={"vae": VAE, "ae": AE})
    run(str(file))
    config = Path("vae.yaml")
    config.write_text("# only a comment and another place\n" + Path("configs/vae.yaml").read_text())
    write(file, paradigms={"vae": ["--config", "vae.yaml"], "ae": AE})
    assert "begins" not in run(str(file)).stdout
    config.write_text(re.sub(r"latent_dim: \d+", "latent_dim: 4", config.read_text()))
    assert "settings have changed" in run("status", str(file)).stdout
    assert "One result has other settings than the file, vae/digits/seed_0 for one" in run("report", str(file)).stderr
    changed = run(str(file))
    assert "vae/digits/seed_0: settings have changed, so it runs again" in changed.stderr
    assert "ae/digits/seed_0 begins" not in changed.stdout.replace("vae/", "")
    assert "vae/digits/seed_0 begins" in changed.stdout
    old = state.read(folder("changed", "replaced/vae/digits/seed_0.1"))
    assert old is not None
    assert old.status == "done"
    assert job("changed", "vae/digits/seed_0").attempts == 1


def test_an_evaluation_that_is_damaged_or_gone_is_made_again_without_training(project: Path) -> None:
    file = write(project / "damaged.yaml", paradigms={"vae": VAE, "ae": AE})
    run(str(file))
    before = left("damaged")
    paths = [folder("damaged", f"{name}/digits/seed_0") for name in ("vae", "ae")]
    damaged, gone = (next(path.glob("**/last.evaluation.json")) for path in paths)
    trained = [path.stat().st_mtime_ns for path in folder("damaged", ".").glob("**/last.ckpt")]
    damaged.write_bytes(damaged.read_bytes()[:300])
    gone.unlink()
    assert "can't be read as an evaluation" in run("status", str(file)).stdout
    run(str(file))
    assert left("damaged") == before
    assert [path.stat().st_mtime_ns for path in folder("damaged", ".").glob("**/last.ckpt")] == trained


def test_a_failure_stops_nothing_else_and_is_told_in_its_words(project: Path) -> None:
    diverges = [*VAE, "--model.optimizer.lr", "1e30"]
    file = write(project / "fails.yaml", paradigms={"bad": diverges, "vae": VAE})
    done = run(str(file), code=1)
    found = job("fails", "bad/digits/seed_0")
    assert found.status == "failed"
    assert "so the run is stopped" in found.error
    assert found.error in done.stdout
    assert job("fails", "vae/digits/seed_0").status == "done"
    assert done.stderr.count("encdec: error: ") == 1
    again = run(str(file), code=1)
    assert [line for line in again.stdout.splitlines() if "begins" in line] == ["bad/digits/seed_0 begins"]
    assert job("fails", "bad/digits/seed_0").attempts == 2


def test_killed_anywhere_the_same_command_gives_the_same_result(project: Path) -> None:
    paradigms = {"vae": VAE, "ae": AE}
    run(str(write(project / "whole.yaml", common=LONG, paradigms=paradigms)))
    file = write(project / "killed.yaml", common=LONG, paradigms=paradigms)
    with started(str(file)) as process:
        found = wait_for(trains("killed", "vae/digits/seed_0", 3), "the first job trains")
        os.kill(found.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=170)
        assert process.returncode == 1, out + err
    assert "was killed by signal 9" in job("killed", "vae/digits/seed_0").error
    assert job("killed", "ae/digits/seed_0").status == "done"
    with started(str(file)) as process:
        found = wait_for(trains("killed", "vae/digits/seed_0", 10), "it trains again")
        process.kill()
        process.wait()
        wait_for(lambda: not is_alive(found.pid), "a job without its study ends")
    # it says so where it has the time; where it had not, the next run sees that nobody runs it
    assert job("killed", "vae/digits/seed_0").status in ("stopped", "running")
    run(str(file))
    assert job("killed", "vae/digits/seed_0").attempts == 3
    assert left("killed") == left("whole")


def test_ctrl_c_stops_all_jobs_between_two_steps(project: Path) -> None:
    file = write(project / "stops.yaml", common=[*LONG, "--trainer.max_epochs", 1000], paradigms={"vae": VAE, "ae": AE})
    with started(str(file)) as process:
        pids = [wait_for(trains("stops", f"{name}/digits/seed_0"), name).pid for name in ("vae", "ae")]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    for name, pid in zip(("vae", "ae"), pids, strict=True):
        found = job("stops", f"{name}/digits/seed_0")
        assert (found.status, found.stage) == ("stopped", "fit")
        assert not is_alive(pid)
        assert (folder("stops", f"{name}/digits/seed_0") / found.checkpoint).is_file()
    assert "stopped" in run("status", str(file)).stdout


def test_stop_asks_from_elsewhere_and_a_second_study_is_refused(project: Path) -> None:
    file = write(project / "one.yaml", common=[*LONG, "--trainer.max_epochs", 1000])
    assert "No process" in run("stop", str(file), code=1).stderr
    with started(str(file)) as process:
        wait_for(trains("one", "vae/digits/seed_0"), "it trains")
        refused = run(str(file), code=1)
        assert refused.stderr.startswith("encdec: error: Another process runs the study in lightning_logs/studies/one")
        assert "in fit, epoch" in run("status", str(file)).stdout
        run("stop", str(file))
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, out + err
    assert job("one", "vae/digits/seed_0").status == "stopped"
    assert not folder("one", pool.STOP).exists()


def test_stop_counts_before_the_first_job_begins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the arguments are read, which takes seconds, the study is said to run already."""
    monkeypatch.setenv("ENCDEC_STUDY_FORK", "0")  # the process of the tests is not to have a fork server
    study = spec.load(write(project / "early.yaml"))
    jobs = plan.jobs(study)
    running = pool.Pool(study, child.work, child.PRELOAD, Board(jobs, 1))
    study.folder.mkdir(parents=True)
    pool.request_stop(study.folder)
    assert running.run(jobs) == signal.SIGTERM
    assert not jobs[0].folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_its_first_job_it_says_so(number: signal.Signals, project: Path) -> None:
    file = write(project / "early.yaml")
    with started(str(file)) as process:
        wait_for(lambda: (project / "lightning_logs" / "studies" / "early").is_dir(), "the study's folder")
        time.sleep(1)  # its arguments are being read, which takes several seconds
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == "encdec: stopped before it began a job; the same command begins.\n", out


def test_the_check_of_a_study_that_is_gone_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_leave_terminal", lambda: None)
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    child.check([], theirs)


def test_a_second_ctrl_c_ends_jobs_at_once(project: Path) -> None:
    file = write(project / "now.yaml", common=[*LONG, "--trainer.max_epochs", 1000])
    with started(str(file)) as process:
        found = wait_for(trains("now", "vae/digits/seed_0"), "it trains")
        os.kill(found.pid, signal.SIGSTOP)  # it can't stop by itself
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Ctrl-C once more" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert not is_alive(found.pid)
    assert job("now", "vae/digits/seed_0").status == "stopped"


def test_a_terminal_sees_a_live_table(project: Path) -> None:
    file = write(project / "shown.yaml")
    ours, theirs = pty.openpty()
    terminal = {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(command(str(file)), env=ENVIRONMENT | terminal, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the end, on Linux
        pass
    os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    assert b"running" in shown
    assert b"2/2" in shown
    assert b"1 of 1 done" in shown


@pytest.mark.parametrize(
    ("local", "cores", "visible", "expected"),
    [
        (Local(), 4, "", (["", "", "", ""], 1)),
        (Local(threads=2), 5, "", (["", ""], 2)),
        (Local(slots=3), 4, "", (["", "", ""], 1)),
        (Local(gpus=(0, 1)), 8, "", (["0", "1"], 4)),
        (Local(slots=4, gpus=(0, 1)), 8, "", (["0", "1", "0", "1"], 2)),
        (Local(), 8, "5,7", (["5", "7"], 4)),
        (Local(gpus=()), 2, "5,7", (["", ""], 1)),
    ],
)
def test_slots(
    local: Local,
    cores: int,
    visible: str,
    expected: tuple[list[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "cores", lambda: cores)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    slots = Slots.of(local)
    assert ([each["CUDA_VISIBLE_DEVICES"] for each in slots.environments], slots.threads) == expected
