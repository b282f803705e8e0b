"""A wheel is enough: what it holds, and what it does in an environment and a folder that hold nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
SOURCES = ("encdec", "configs", "plugins", "setup.py", "pyproject.toml", "README.md", "LICENSE")
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1",
         "--trainer.accelerator=cpu", "--images.every_n_epochs=9", "--floors.enabled=false")  # fmt: skip
Call = Callable[..., subprocess.CompletedProcess[str]]


def pip(*args: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "-q", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this repository, built from a copy of it."""
    pytest.importorskip("setuptools", minversion="77", reason="it builds the wheel, without a network")
    pytest.importorskip("pip", reason="it builds the wheel")
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(source / "dist"), str(source))
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def call(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """The command of an environment into which only the wheel was installed, beside what encdec depends on."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    pip("--python", str(scripts / "python"), "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = environment.rglob("site-packages")
    # a path in a .pth file brings packages, but not what they do at start, such as an editable install of encdec
    (packages / "dependencies.pth").write_text(str(Path(torch.__file__).parent.parent))

    def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        kept = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [scripts / "encdec", *args], cwd=folder, env=kept, capture_output=True, text=True, check=False, timeout=200
        )

    return run


def test_it_holds_every_config_and_plugin_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    files = [path for kind in ("configs/**/*.yaml", "configs/**/*.sbatch", "plugins/*.py") for path in ROOT.glob(kind)]
    assert len(files) > 50
    held = {f"encdec/shipped/{path.relative_to(ROOT).as_posix()}" for path in files}
    assert held == {name for name in names if name.startswith("encdec/shipped/")} - {"encdec/shipped/__init__.py"}
    assert len(names) == len(set(names))
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"encdec"}, "nothing beside the package"


def test_configs_and_plugins_are_found_in_an_empty_folder(call: Call, tmp_path: Path) -> None:
    listed = call(tmp_path, "configs")
    assert "  vae_noenc.yaml " in listed.stdout, listed.stderr
    for args in (["--config", "vae_noenc.yaml"], ["--model=GLO"]):
        done = call(tmp_path, "fit", *args, *SHORT)
        assert done.returncode == 0, done.stderr
    runs = tmp_path / "lightning_logs"
    (config,) = runs.glob("vae_noenc/version_0/config.yaml")
    assert "shipped" not in config.read_text(), "no place of this machine"
    checkpoint = runs / "glo" / "version_0" / "checkpoints" / "last.ckpt"
    done = call(tmp_path, "validate", "--ckpt_path", str(checkpoint))
    assert done.returncode == 0, done.stderr
    assert "val/loss" in done.stdout


def test_a_file_of_the_folder_wins_over_the_one_that_is_shipped(call: Call, tmp_path: Path) -> None:
    copied = call(tmp_path, "configs", "vae.yaml")
    assert copied.stdout == "vae.yaml\n", copied.stderr
    mine = tmp_path / "vae.yaml"
    mine.write_text(f"{mine.read_text()}seed_everything: 41\n")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "glo.py").write_text("raise RuntimeError('this one is mine')\n")
    printed = call(tmp_path, "fit", "--config=vae.yaml", "--print_config")
    assert yaml.safe_load(printed.stdout)["seed_everything"] == 41
    assert "plugins/glo.py can't be imported and is left out: RuntimeError: this one is mine" in printed.stderr
    assert "is no file" not in printed.stderr


def test_a_study_that_is_shipped_finds_its_configs(call: Call, tmp_path: Path) -> None:
    status = call(tmp_path, "study", "status", "quick.yaml")
    assert status.returncode == 0, status.stderr
    assert "svi" in status.stdout
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, seeds: [0], data: {digits: []}, paradigms: {glo: [--config, configs/glo.yaml]},"
        f" common: {list(SHORT)}}}"
    )
    done = call(tmp_path, "study", "mine.yaml")
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "lightning_logs" / "studies" / "mine" / "report.html").is_file()
