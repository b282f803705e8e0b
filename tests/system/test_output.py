"""What is printed where: pipes, files, closed streams, narrow terminals and few characters."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ENVIRONMENT, RunCLI

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="shells and pseudo-terminals")
FIT = ("fit --config=configs/vae.yaml --data.batch_size=300 --trainer.max_epochs=2 --trainer.accelerator=cpu "
       "--trainer.devices=1")  # fmt: skip


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of bash, in which `encdec` is the command line; the exit code is encdec's, also in a pipe."""
    script = f'encdec() {{ "{sys.executable}" -m encdec "$@"; }}; {command}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", script], env=ENVIRONMENT | environment, capture_output=True, check=False, timeout=200
    )


def steps() -> int:
    path = Path("lightning_logs/vae/version_0/checkpoints/last.ckpt")
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.parametrize("command", ["--help", "--version", "compare --help"])
@pytest.mark.parametrize(
    ("where", "code"), [("| true", 0), (">&-", 0), ("> /dev/full", 1), ("2>&-", 0), ("2> /dev/full", 0), ("<&-", 0)]
)
def test_what_is_only_printed(command: str, where: str, code: int, project: Path) -> None:
    done = shell(f"encdec {command} {where}")
    assert done.returncode == code, done
    error = done.stderr.decode()
    if code:
        assert error == "encdec: standard output can't be written (No space left on device).\n"
    else:
        assert error == ""


@pytest.mark.parametrize("where", ["2>&-", "2> /dev/full"])
def test_a_wrong_call_keeps_its_code_where_nobody_reads_why(where: str, project: Path) -> None:
    assert shell(f"encdec fitt {where}").returncode == 2
    assert shell(f"encdec {where}").returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("where", ["| head -1", ">&-", "2>&-", ">&- 2>&-", "> /dev/full", "2> /dev/full"])
def test_a_training_ends_well_wherever_its_output_goes(where: str, project: Path) -> None:
    done = shell(f"encdec {FIT} {where}")
    assert done.returncode == 0, done
    assert steps() == 10
    assert b"Traceback" not in done.stdout + done.stderr
    lost = b"encdec: standard output can't be written (No space left on device).\n"
    assert done.stderr == (lost if where == "> /dev/full" else b"")


CHARACTERS = [
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.slow
@pytest.mark.parametrize("environment", CHARACTERS)
def test_a_training_and_a_test_print_what_the_encoding_has(environment: dict[str, str], project: Path) -> None:
    done = shell(f"encdec {FIT}", **environment)
    assert done.returncode == 0, done
    assert done.stderr == b""
    text = done.stdout.decode("latin-1")
    assert ("1×8×8" if "latin-1" in environment.values() else "1x8x8") in text
    assert "val/mse - " in text, "a dash for the long one"
    checkpoint = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    small = "--evaluation.num_images=20 --evaluation.parts=[reconstruction]"
    for command in (f"test --ckpt_path={checkpoint} {small}", f"predict --ckpt_path={checkpoint}",
                    f"export {checkpoint}", "compare lightning_logs"):  # fmt: skip
        done = shell(f"encdec {command}", **environment)
        assert (done.returncode, done.stderr) == (0, b""), done


@pytest.mark.slow
def test_what_prints_a_result_fails_where_it_is_lost(project: Path, cli: RunCLI) -> None:
    cli(*FIT.split()[:-2])
    checkpoint = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    cli("test", f"--ckpt_path={checkpoint}", "--evaluation.num_images=20", "--evaluation.parts=[reconstruction]")
    for command, code in [
        ("compare lightning_logs", 1),
        ("fit --config=configs/vae.yaml --print_config", 1),
        (f"export {checkpoint}", 0),
    ]:
        assert shell(f"encdec {command} > /dev/full").returncode == code, command
        assert shell(f"encdec {command} | true").returncode == 0, command


def test_a_file_gets_a_line_for_each_validation_and_no_escape_codes(
    project: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT.split()[:-2], "--trainer.val_check_interval=3")
    captured = capsys.readouterr()
    number = r"[-\d.e+]+"
    lines = [line for line in captured.out.splitlines() if line.startswith("epoch ")]
    assert [line.partition(", loss")[0] for line in lines] == [f"epoch {i}/2, step {s}" for i, s in [(1, 3), (2, 8)]]
    for line in lines:
        assert re.fullmatch(rf"epoch ./2, step \d+, loss {number}, val/loss {number}, \d:\d\d:\d\d left", line), line
        assert len(line) < 80
    assert "\x1b" not in captured.out + captured.err
    checkpoint = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    cli("test", f"--ckpt_path={checkpoint}", "--evaluation.num_images=20", "--evaluation.parts=[reconstruction,latent]")
    captured = capsys.readouterr()
    for stage in ("latents and posteriors of images", "latent space", "evaluated"):
        assert re.search(rf"^\d:\d\d:\d\d {stage}$", captured.out, re.MULTILINE), captured.out
    assert "\x1b" not in captured.out + captured.err


def test_a_long_epoch_gets_a_line_now_and_then(
    project: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encdec.callbacks.plain_progress.SECONDS", 0.0)
    cli(*FIT.split()[:-2], "--data.batch_size=20", "--trainer.check_val_every_n_epoch=2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 10 + 1, "after every 16 of 65 batches at most, after each epoch and after the validation"
    assert re.fullmatch(r"epoch 1/2, step 16, loss [\d.]+, \d:\d\d:\d\d left", lines[0])


def test_no_lines_where_progress_is_switched_off(
    project: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT.split()[:-2], "--trainer.enable_progress_bar=false")
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]


def test_in_a_narrow_terminal_nothing_is_broken_into_lines(project: Path) -> None:
    import fcntl
    import pty
    import termios

    child, terminal = pty.fork()
    if child == 0:
        command = [sys.executable, "-m", "encdec", *FIT.split(), "--trainer.max_epochs=101"]
        os.execve(sys.executable, command, ENVIRONMENT | {"TERM": "xterm"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, written.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    bars = [line for line in lines if line.startswith("Epoch")]
    assert any("loss: " in line and "val/loss: " in line for line in bars)
    assert {line.split()[1] for line in bars} <= {f"{epoch}/101" for epoch in range(1, 102)}
    assert "Epoch 101/101" in text, "as the table says: epoch 101"
    assert "5 steps an epoch, of up to 300 images each; 505 steps in 101 epochs." in text
    assert "--data.batch_size 128 makes 11 an epoch" in " ".join(text.split())
    metrics = [line for line in lines if re.match(r"\s+(loss|val/\w+:|[-\d.]+$)", line)]
    assert metrics == [], "a metric on a line of its own"
    commands = ("scores on", "samples as", "best:", "last:")  # which one copies, so that they stay as they are
    assert [line for line in lines if len(line) > 80 and not line.startswith(commands)] == []
