"""`~` in a path is the home folder, wherever a path is given; nothing is ever made in a folder called `~`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import encdec
from encdec.callbacks import BestAndLast
from encdec.data import CIFAR10, MNIST, FashionMNIST, ImageFolder
from encdec.files import expanded
from encdec.types import UserError
from tests.conftest import RunCLI

FIT = ("fit", "--model=EncoderlessVAE", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")


@pytest.fixture(autouse=True)
def home(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder of its own, and a look at what was made where."""
    folder = project / "home" / "me"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    yield folder
    assert not [path for path in project.rglob("~*") if "lightning_logs" not in path.parts[:-1]]


def test_the_home_folder(home: Path) -> None:
    assert expanded("~/x/y") == str(home / "x" / "y")
    assert expanded("~") == str(home)
    assert expanded(Path("~/x")) == str(home / "x")
    for path in ("x/~/y", "./~", "", "a~"):
        assert expanded(path) == path
    with pytest.raises(UserError, match="'~no-such-user/x' begins with a home folder that this machine does not know"):
        expanded("~no-such-user/x")


def test_data_are_read_from_the_home_folder(home: Path, project: Path) -> None:
    (home / "sets").symlink_to(project / "data")
    for cls in (MNIST, FashionMNIST, CIFAR10):
        data = cls(data_dir="~/sets")
        assert data.num_train > 0
        assert data.hparams["data_dir"] == "~/sets"
    assert ImageFolder("~/sets/pictures", size=8).num_train > 0
    with pytest.raises(UserError, match="begins with a home folder"):
        MNIST(data_dir="~no-such-user/sets")


def test_runs_and_checkpoints_in_the_home_folder(
    home: Path, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*FIT, "--trainer.default_root_dir=~/runs", "--checkpoint.dirpath", "~/kept")
    run = home / "runs" / "lightning_logs" / "encoderlessvae" / "version_0"
    assert (run / "config.yaml").is_file()
    assert {path.name for path in (home / "kept").iterdir()} >= {"best.ckpt", "last.ckpt"}
    cli(*FIT, "--trainer.default_root_dir=~/runs")
    capsys.readouterr()
    cli("fit", "--resume=~/runs/lightning_logs/encoderlessvae/version_1", "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=2")  # fmt: skip
    assert "version_1" in capsys.readouterr().err
    checkpoint = "~/runs/lightning_logs/encoderlessvae/version_1/checkpoints/last.ckpt"
    cli("predict", f"--ckpt_path={checkpoint}", "--predictions.output_dir=~/made")
    assert (home / "made" / "samples.png").is_file()
    assert encdec.load(checkpoint).noise_dim > 0
    cli("export", checkpoint, "~/weights.safetensors")
    cli("export", checkpoint)
    assert (home / "weights.safetensors").is_file()
    assert encdec.load("~/weights.safetensors").noise_dim > 0
    assert (run.parent / "version_1" / "checkpoints" / "last.safetensors").is_file()
    with pytest.raises(SystemExit):
        cli("compare", "~/runs")
    assert f"{home}/runs holds no last.evaluation.json" in " ".join(capsys.readouterr().err.split())


def test_paths_in_a_config_lead_to_the_home_folder(home: Path, cli: RunCLI, project: Path) -> None:
    (home / "sets").symlink_to(project / "data")
    config = {
        "trainer": {
            "default_root_dir": "~/runs",
            "max_epochs": 1,
            "logger": [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "~/logs"}}],
        },
        "data": {"class_path": "ImageFolder", "init_args": {"path": "~/sets/pictures", "size": 8}},
        "checkpoint": {"dirpath": "~/kept"},
        "evaluation": {"cache_dir": "~/cache"},
        "predictions": {"output_dir": "~/made"},
    }
    (home / "mine.yaml").write_text(yaml.safe_dump(config))
    cli("fit", "--config=~/mine.yaml", "--model=AE")
    assert (home / "kept" / "last.ckpt").is_file()
    assert list((home / "logs").rglob("metrics.csv"))
    cli("predict", "--config", "~/mine.yaml", "--model=AE", "--ckpt_path", "~/kept/last.ckpt")
    assert (home / "made" / "samples.png").is_file()


def test_callbacks_of_ones_own_trainer_keep_checkpoints_at_home(home: Path) -> None:
    assert BestAndLast(dirpath="~/kept").dirpath == str(home / "kept")


def test_a_user_that_is_not_known_is_named(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--data=ImageFolder", "--data.path=~no-such-user/x", "--model=AE")
    assert stop.value.code == 2
    assert "'~no-such-user/x' begins with a home folder that this machine does not know" in capsys.readouterr().err
