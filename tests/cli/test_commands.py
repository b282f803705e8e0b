"""What is answered at once: help, version, a wrong command; and that it is true of the real command line."""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

import encdec
from encdec.cli import main
from encdec.cli.commands import COMMANDS, HELP
from tests.conftest import ENVIRONMENT, ROOT

ONE_SENTENCE = "encdec: error: "
AT_ONCE = {
    "help": (["--help"], 0),
    "short help": (["-h"], 0),
    "help as a command": (["help"], 0),
    "version": (["--version"], 0),
    "nothing": ([], 2),
    "wrong command": (["fitt"], 2),
    "empty command": ([""], 2),
    "option before the command": (["--config=configs/vae.yaml", "fit"], 2),
    "list of configs": (["configs"], 0),
    "config that is not there": (["configs", "vea.yaml"], 2),
}


@pytest.fixture
def poisoned(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing what takes long ends the process."""
    for name in ("torch", "lightning", "numpy", "rich", "yaml", "jsonargparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('too slow')\n")
    return ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


def call(args: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "encdec", *args]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", AT_ONCE)
def test_it_is_answered_without_slow_imports_and_in_the_same_words_everywhere(
    name: str, poisoned: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    args, code = AT_ONCE[name]
    result = call(args, poisoned)
    assert result.returncode == code, result.stderr
    if code == 0:
        main(args)
    else:
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == code
    assert capsys.readouterr() == (result.stdout, result.stderr)
    assert (result.stdout == "") == (code != 0), "answers go to stdout, errors to stderr"
    if code and args:
        assert result.stderr.startswith(ONE_SENTENCE)
        assert len(result.stderr.splitlines()) == 1


def test_a_real_command_does_import_them(poisoned: dict[str, str]) -> None:
    result = call(["fit", "--help"], poisoned)
    assert (result.returncode, result.stderr) == (1, "too slow\n"), "or the test above means nothing"


def test_compare_needs_no_torch(poisoned: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rich.py").unlink()
    result = call(["compare", "--help"], poisoned)
    assert result.returncode == 0, result.stderr
    assert "--metrics" in result.stdout


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["study", "--help"], 0),
        (["study", "nothing.yaml"], 2),
        (["study", "status", "configs/vae.yaml"], 2),
    ],
)
def test_study_needs_no_torch_to_answer(args: list[str], code: int, poisoned: dict[str, str], tmp_path: Path) -> None:
    for name in ("rich", "yaml"):
        (tmp_path / f"{name}.py").unlink()
    result = call(args, poisoned)
    assert result.returncode == code, result.stderr
    assert result.stdout.startswith("usage: encdec study") == (code == 0)


def test_who_waits_at_a_terminal_is_told_for_what(poisoned: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-m", "encdec", "fit"], env=poisoned, cwd=ROOT, stderr=theirs, check=False)
    os.close(theirs)
    assert os.read(ours, 1000).decode().startswith("Loading PyTorch and Lightning …")
    os.close(ours)


def test_ctrl_c_while_it_loads_ends_it_whatever_the_import_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "lightning.py").write_text("""
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    raise RecursionError("as numpy does")
""")
    result = subprocess.run(
        [sys.executable, "-m", "encdec", "fit"], env=ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores Ctrl-C
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


def test_garbage_is_collected_again_after_the_imports() -> None:
    code = """
import gc, sys, types
sys.modules["encdec.cli.command_line"] = types.SimpleNamespace(main=lambda: print(gc.isenabled()))
sys.argv = ["encdec", "fit"]
from encdec.__main__ import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout == "True\n", result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["fitt"],
            "'fitt' is not a command; did you mean fit?; the commands are fit, validate, test, predict, export, "
            "compare, study, configs.",
        ),
        (["compere"], "did you mean compare?"),
        (["--config=configs/vae.yaml", "fit"], "as in `python -m encdec fit --config …`"),
    ],
)
def test_a_wrong_call_is_told_what_was_meant(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(args)
    assert words in capsys.readouterr().err


def test_one_process_of_a_machine_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as stop:
        main(["fitt"])
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "")


def test_help_without_a_command_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert capsys.readouterr().out == f"{HELP}\n"
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err == f"{HELP}\n"
    main(["--version"])
    assert capsys.readouterr().out == f"encdec {encdec.__version__}\n"


def test_the_commands_are_those_of_lightning_and_ours() -> None:
    assert list(COMMANDS) == [*LightningCLI.subcommands(), "export", "compare", "study", "configs"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_in_its_own_help_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert COMMANDS[command] in " ".join(capsys.readouterr().out.split())
    assert f"  {command} " in HELP


def test_the_help_is_true(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "test"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known = capsys.readouterr().out  # of both: some options are of one of them
    section = HELP.partition("among others:")[2].partition("examples:")[0]
    flags = re.findall(r"^  (--\w+)", section, re.MULTILINE)
    assert len(flags) >= 5
    assert [flag for flag in flags if f"{flag} " not in known] == []
    examples = re.findall(r"^  encdec (fit .*)$", HELP, re.MULTILINE)
    assert examples
    for example in examples:
        with pytest.raises(SystemExit) as stop:  # after a help, or instead of training
            main(shlex.split(example) + ["--print_config"] * (".help" not in example))
        assert stop.value.code in (0, None), example
