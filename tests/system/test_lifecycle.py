"""How a run begins, ends and goes on, and that what it says of it is true."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import killing
from tests.conftest import ENVIRONMENT, ROOT, RunCLI, encdec_in

FIT = ("fit", "--config=configs/vae.yaml", "--data.batch_size=300", "--trainer.enable_progress_bar=false")
"""5 steps in an epoch."""
OTHERS = {
    "a ModelCheckpoint": ("--trainer.callbacks+=ModelCheckpoint",),
    "two": ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks+=ModelCheckpoint",
            "--trainer.callbacks.every_n_train_steps=2"),
    "one that keeps a last": ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last=true"),
    "one for exceptions": ("--trainer.callbacks+=OnExceptionCheckpoint", "--trainer.callbacks.dirpath=exceptions"),
    "EarlyStopping": ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"),
}  # fmt: skip


def last(name: str = "vae") -> Path:
    return Path(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("others", OTHERS)
def test_a_run_with_other_checkpoint_callbacks_saves_when_it_is_stopped(
    others: str, number: int, project: Path
) -> None:
    code, output = killing.run(project, *FIT, *OTHERS[others], moment="a step", call=8, number=number)
    assert code == 128 + number
    assert f"Stopped; {last()} holds it. Go on: python -m encdec fit --resume lightning_logs/vae/version_0" in output
    assert torch.load(last(), weights_only=True)["global_step"] == 8


@pytest.mark.parametrize("others", OTHERS)
def test_a_run_with_other_checkpoint_callbacks_reports_its_own(
    others: str, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT, *OTHERS[others], "--trainer.max_epochs=1")
    output = capsys.readouterr().out
    assert "best (epoch 1)" in output
    assert f"last: {last()}" in output


def test_a_run_without_checkpoints_says_so_and_still_prints_its_metrics(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("enable_checkpointing=false", "fast_dev_run=2"):
        cli(*FIT, f"--trainer.{flag}", "--trainer.max_epochs=1")
        output = capsys.readouterr().out
        assert "last (epoch 1)" in output
        assert "val/mse" in output
        assert f"nothing was saved: trainer.{flag.partition('=')[0]} is" in output
    assert not list(project.rglob("*.ckpt"))


def test_a_run_without_checkpoints_that_is_stopped_says_that_nothing_was_saved(project: Path) -> None:
    code, output = killing.run(
        project, *FIT, "--trainer.enable_checkpointing=false", moment="a step", call=8, number=signal.SIGTERM
    )
    assert code == 143
    assert "Stopped; nothing was saved: trainer.enable_checkpointing is false." in output


def test_a_new_run_does_not_begin_with_what_another_ones_exception_left(
    project: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = OTHERS["one for exceptions"]
    assert killing.run(project, *FIT, *flags, moment="a step", call=8, number=signal.SIGTERM)[0] == 143
    with pytest.raises(SystemExit) as ended:
        cli(*FIT, *flags, "--name=new")
    assert ended.value.code == 2
    assert "on_exception.ckpt was left by an earlier run" in capsys.readouterr().err
    assert not Path("lightning_logs/new").exists()
    cli(*FIT, *flags, "--resume", "--trainer.max_epochs=2")
    assert torch.load(last(), weights_only=True)["global_step"] == 10


ENDS = {
    "epochs": ("--trainer.max_epochs=2",),
    "validations every 2 epochs": ("--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"),
    "validations within epochs": ("--trainer.max_epochs=2", "--trainer.val_check_interval=2"),
    "at least as many epochs": ("--trainer.max_epochs=2", "--trainer.min_epochs=2"),
    "no validation": ("--trainer.max_epochs=2", "--trainer.limit_val_batches=0"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_finished_run_goes_on_for_one_more_epoch_and_not_for_none(
    end: str, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT, *ENDS[end], "--checkpoint.seconds_between=0")
    epochs = int(ENDS[end][0].rpartition("=")[2])
    run = str(last().parent.parent)
    for fewer in (epochs, epochs - 1):
        capsys.readouterr()
        cli(*FIT, *ENDS[end][1:2], f"--trainer.max_epochs={fewer}", "--trainer.min_epochs=1", "--resume", run)
        captured = capsys.readouterr()
        assert f"is finished: it has made its {5 * epochs} steps. --trainer.max_epochs {epochs + 1}, or" in captured.err
        with pytest.raises(SystemExit) as ended:
            cli(*FIT, f"--trainer.max_epochs={fewer}", f"--ckpt_path={last()}")
        assert ended.value.code == 2
        assert f"there is nothing left to train: set --trainer.max_epochs {epochs + 1}," in capsys.readouterr().err
        assert len(list(Path("lightning_logs/vae").iterdir())) == 1, "no empty folder of a run"
    cli(*FIT, *ENDS[end][1:2], f"--trainer.max_epochs={epochs + 1}", "--resume", run)
    assert torch.load(last(), weights_only=True)["global_step"] == 5 * (epochs + 1)
    cli(*FIT, f"--trainer.max_epochs={epochs + 2}", f"--ckpt_path={last()}", "--name=new")
    assert torch.load(last("new"), weights_only=True)["global_step"] == 5 * (epochs + 2)


def test_a_run_that_made_its_steps_needs_more_steps(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT, "--trainer.max_steps=7")
    cli(*FIT, "--trainer.max_steps=7", "--trainer.max_epochs=20", "--resume")
    assert "is finished: it has made its 7 steps. --trainer.max_steps 8, or more" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli(*FIT, "--trainer.max_steps=5", f"--ckpt_path={last()}")
    assert "nothing left to train: set --trainer.max_steps 8, or more" in capsys.readouterr().err
    cli(*FIT, "--trainer.max_steps=8", "--resume")
    longer = torch.load(last(), weights_only=True)
    assert longer["global_step"] == 8
    cli(*FIT, "--trainer.max_steps=8", "--name=whole")
    for name, weight in torch.load(last("whole"), weights_only=True)["state_dict"].items():
        assert torch.equal(weight, longer["state_dict"][name]), name


def test_a_run_stopped_within_an_epoch_is_not_finished(project: Path) -> None:
    epochs = (*FIT, "--trainer.max_epochs=2", "--resume")
    assert killing.run(project, *epochs, moment="a step", call=8, number=signal.SIGTERM)[0] == 143
    assert killing.run(project, *epochs)[0] == 0
    assert torch.load(last(), weights_only=True)["global_step"] == 10
    assert "is finished" in killing.run(project, *epochs)[1]


STOPPING = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss",
            "--trainer.callbacks.mode=max", "--trainer.callbacks.patience=1")  # fmt: skip


def test_a_run_that_a_callback_ended_goes_on_without_it(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT, *STOPPING)
    steps = torch.load(last(), weights_only=True)["global_step"]
    assert steps < 50
    cli(*FIT, *STOPPING, "--resume")
    assert "A callback of trainer.callbacks ended it" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        cli(*FIT, "--resume", "--trainer.max_epochs=4")
    assert torch.load(last(), weights_only=True)["global_step"] == 20


def test_a_run_that_a_callback_may_not_end_yet_is_not_finished(project: Path) -> None:
    longer = (*FIT, *STOPPING, "--trainer.min_epochs=4", "--trainer.max_epochs=4", "--checkpoint.seconds_between=0")
    code, output = killing.run(project, *longer, "--resume", moment="a step", call=18)
    assert code == -signal.SIGKILL
    code, output = killing.run(project, *longer, "--resume")
    assert code == 0, output
    assert torch.load(last(), weights_only=True)["global_step"] == 20, output


SMALL = (*FIT, "--model.latent_dim=2", "--model.encoder.hidden=[4]", "--model.decoder.hidden=[4]")


def test_a_full_disk_under_tensorboard_costs_a_sentence_and_no_weights(project: Path) -> None:
    """Checkpoints of 30 kB still fit where the curves, which grow by pictures, no longer do."""
    code, output = killing.run(project, *SMALL, "--trainer.max_epochs=200", largest_file=90_000)
    assert code == 1, output
    errors = [line for line in output.splitlines() if "error" in line]
    assert len(errors) == 1, output
    assert "can't be written (File too large); what was saved before is still there. Make room." in output
    assert "Traceback" not in output
    assert "Exception" not in output
    saved = torch.load(last(), weights_only=True)["global_step"]
    assert saved > 5
    code, output = killing.run(project, *SMALL, f"--trainer.max_steps={saved + 5}", "--resume")
    assert code == 0, output
    assert torch.load(last(), weights_only=True)["global_step"] == saved + 5


WITHOUT_POSIX = """
import os
import tempfile
os.environ.update(USERNAME="user", HOME=tempfile.gettempdir())  # which need no pwd; Windows has both
import signal
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGALRM", "SIGCHLD", "SIGPIPE"):
    if hasattr(signal, name):
        delattr(signal, name)
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules[name] = None
import encdec.training.signals, encdec.cli.streams, encdec.callbacks
assert encdec.training.signals.REQUEUE is None
sys.argv = ["encdec", "--version"]
from encdec.__main__ import main
main()
"""


def test_it_is_imported_where_signals_of_posix_are_missing() -> None:
    done = encdec_in(ROOT, launcher=("-c", WITHOUT_POSIX))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("encdec 0")


@pytest.mark.parametrize("job", [False, True])
def test_the_warning_about_srun_comes_in_a_job_only(job: bool, project: Path) -> None:
    srun = project / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    environment = (
        ENVIRONMENT | {"PATH": f"{srun.parent}:{ENVIRONMENT['PATH']}"} | ({"SLURM_JOB_ID": "1"} if job else {})
    )
    command = [sys.executable, "-m", "encdec", *FIT, "--trainer.accelerator=cpu", "--trainer.max_steps=1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert ("The `srun` command is available" in done.stderr) is job
    assert job or done.stderr == ""
