"""Runs and checkpoints that are trained once for all tests of runs, and copied into each test's own project."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import encdec
from encdec.cli import main
from encdec.types import UserError
from tests.conftest import ON_CPU, new_project
from tests.runs.measuring import MODEL, PICTURES, SHORT, STREAMED, Call, write_pictures
from tests.runs.strangers import EVIL, SMALL


@contextmanager
def trained_apart() -> Iterator[pytest.MonkeyPatch]:
    """What is set for a training within, or left by it in the environment, is taken back at its end."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(variable, "0")
        yield patch


# ---------------------------------------------------------------------- runs to be measured, and to be resumed


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one step on the digits, on a folder of 30 pictures, and on the same folder read from the disk."""
    found = {}
    with trained_apart() as patch:
        for name, data in (("digits", ()), ("pictures", PICTURES), ("streamed", (*PICTURES, *STREAMED))):
            folder = new_project(tmp_path_factory.mktemp(name), patch)
            patch.chdir(folder)
            write_pictures(folder / "pictures", *range(30))
            main(["fit", *MODEL, *data, *SHORT])
            found[name] = folder
    return found


@pytest.fixture
def place(project: Path, trained_runs: dict[str, Path]) -> Callable[[str], Path]:
    """Puts a run and its pictures into the test's own project."""

    def put(name: str) -> Path:
        for part in ("lightning_logs", "pictures"):
            shutil.copytree(trained_runs[name] / part, project / part)
        return project

    return put


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line; gives its exit code and what it says on stderr."""

    def run(command: str, *args: str) -> tuple[int, str]:
        capsys.readouterr()
        new = command == "fit" and not any(arg.startswith("--resume=") for arg in args)
        more = [*(SHORT if new else ON_CPU), *(["--evaluation.parts=[]"] if command == "test" else [])]
        try:
            main([command, *more, *args])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return run


# ---------------------------------------------------------------------- files from strangers


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint that `fit` wrote."""
    with trained_apart() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        main(["fit", *SMALL, *ON_CPU, "--trainer.logger=false", "--checkpoint.dirpath=."])
        return Path("last.ckpt").read_bytes()


@pytest.fixture
def file(checkpoint: bytes, project: Path) -> Path:
    """A checkpoint that `fit` wrote, in the working directory."""
    path = project / "last.ckpt"
    path.write_bytes(checkpoint)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run, in which a file's path would lead to a module that is not imported."""
    with trained_apart() as patch:
        project = new_project(tmp_path_factory.mktemp("strangers"), patch)
        patch.chdir(project)
        patch.setenv("HOME", str(project))
        patch.syspath_prepend(project)
        (project / "evil.py").write_text(EVIL)
        (project / "m.yaml").write_text("class_path: evil.Evil\n")
        (project / "t.yaml").write_text("max_epochs: 1\n")
        (project / "with space.yaml").write_text("class_path: evil.Evil\n")
        os.mkfifo(project / "pipe")
        main(["fit", *SMALL, *ON_CPU])
        checkpoint = project / "lightning_logs" / "vae" / "version_0" / "checkpoints" / "last.ckpt"
        encdec.load(encdec.export(checkpoint, "good.safetensors"))  # what is imported when it is first used now is
        with pytest.raises(UserError):
            encdec.load("m.yaml")
    return project


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that may be changed; the working directory is the project's."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.syspath_prepend(folder)
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / name).write_bytes((folder / "lightning_logs" / "vae" / "version_0" / name).read_bytes())
    return tmp_path / "theirs"
