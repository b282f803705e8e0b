"""What a terminal of 80 columns shows: bars on one line each, and how many steps a run makes."""

import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import rich
import rich.progress
from rich.console import Console

from encdec.callbacks import evaluate, progress_bar
from tests.conftest import RunCLI

FIT = ("fit", "--config=configs/vae.yaml", "--floors.enabled=false", "--images.every_n_epochs=100",
       "--trainer.limit_val_batches=1")  # fmt: skip


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("width", [60, 80, 109, 160])
@pytest.mark.parametrize(
    ("epoch", "total", "metrics"),
    [
        ("Epoch 0/9", 2.0, ""),
        ("Epoch 999/999", 46875.0, "loss: 1.234e+05  val/loss: 1.234e+05"),
        ("Validation", 8.0, ""),
    ],
)
def test_a_bar_has_one_line(
    width: int, epoch: str, total: float, metrics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "is_narrow", lambda: width < progress_bar.NARROW)
    bar: Any = progress_bar.Progress()
    shown = rich.progress.Progress(
        *bar.configure_columns(None), console=Console(width=width, file=io.StringIO(), force_terminal=True)
    )
    bar.train_progress_bar_id = shown.add_task(epoch, total=total, completed=1)
    bar._metrics = metrics
    with shown.console.capture() as written:
        shown.console.print(shown.get_renderable())
    (line,) = plain(written.get()).splitlines()
    assert len(line) <= width
    assert line.startswith(progress_bar.from_one(epoch)[:6])
    if width >= 80:
        assert f"1/{total:.0f} " in line
        assert metrics in line


@pytest.mark.parametrize(
    ("description", "shown"),
    [("Epoch 59/59 ", "Epoch 60/60"), ("Epoch 0/9", "Epoch 1/10"), ("Epoch 7/-2", "Epoch 8"), ("Epoch 7", "Epoch 8"),
     ("Testing", "Testing")],
)  # fmt: skip
def test_epochs_count_from_one(description: str, shown: str) -> None:
    assert progress_bar.from_one(description) == shown


def test_a_stage_that_had_nothing_to_do_is_done() -> None:
    """A cached classifier says nothing of how far it is."""
    written = io.StringIO()
    before = vars(rich.get_console()).copy()
    rich.reconfigure(width=80, file=written, force_terminal=True)
    try:
        with evaluate.shown_stages(True) as stage:
            stage("feature space")
            stage("latents and posteriors of images")(0.5)
            stage("costs")
    finally:
        vars(rich.get_console()).update(before)
    last = plain(written.getvalue()).splitlines()[-3:]
    assert [line.split("  ")[0] for line in last] == ["feature space", "latents and posteriors of images", "costs"]
    for line in last:
        assert re.search(r" 100% 0:00:0\d$", line), line
        assert len(line) <= 80


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trainer.max_epochs=2"], r"11 steps an epoch, of up to 128 images each; 22 steps in 2 epochs\.$"),
        (["--trainer.max_epochs=1", "--data.batch_size=700"],
         r"2 steps an epoch, of up to 700 images each; 2 steps in 1 epoch\. "
         r"These are few: --data\.batch_size 128 makes 11 an epoch, and --trainer\.max_epochs sets how many epochs\.$"),
        (["--trainer.max_steps=3", "--trainer.accumulate_grad_batches=2"],
         r"6 steps an epoch, of up to 256 images each; 3 steps in 1 epoch\. These are few: --data\.batch_size 64 "),
        (["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:01"],
         r"11 steps an epoch, of up to 128 images each\.$"),
    ],
)  # fmt: skip
def test_the_header_counts_the_steps(
    flags: list[str], said: str, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT, *flags)
    assert re.search(said, capsys.readouterr().out, re.MULTILINE)


def test_the_commands_that_a_run_names_can_be_copied(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    cli(*FIT, "--trainer.max_steps=1", "--name", "lauf ü $1")
    lines = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines() if "--ckpt_path" in line]
    assert len(lines) == 2
    for line in lines:
        *_, flag, path = shlex.split(line)
        assert flag == "--ckpt_path"
        assert path.startswith("lightning_logs/lauf ü $1/version_0/")
        assert Path(path).is_file()


def test_the_loss_of_a_plain_line_is_as_new_as_the_line(
    cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=4", "--trainer.log_every_n_steps=1000")
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("epoch ")]
    losses = [line.partition(", loss ")[2].partition(",")[0] for line in lines]
    assert len(losses) == len(set(losses)) == 4
