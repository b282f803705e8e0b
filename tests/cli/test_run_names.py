"""What a run is called."""

from pathlib import Path

import pytest

from tests.conftest import RunCLI

Capture = pytest.CaptureFixture[str]
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--images.every_n_epochs=100")
VAE = ("fit", "--config=configs/vae.yaml", *SHORT)


def names() -> list[str]:
    return sorted(path.name for path in Path("lightning_logs").iterdir())


def test_a_config_names_runs_of_its_own_model_alone(cli: RunCLI, project: Path, capsys: Capture) -> None:
    cli(*VAE, "--model=AE")
    assert "the run is called ae, not vae, which is configs/vae.yaml's name for a VAE." in capsys.readouterr().err
    cli(*VAE, "--model=AE", "--name=vae")  # what a call says itself is meant
    cli(*VAE, "--model=VAE")
    cli(*VAE, "--config=configs/data/fashion_mnist.yaml", "--data=Digits", "--name=mine")
    assert names() == ["ae", "mine", "vae"]
    assert "the run is called" not in capsys.readouterr().err
    assert len(list(Path("lightning_logs/vae").iterdir())) == 2


def test_a_config_that_names_no_model_names_all(cli: RunCLI, project: Path) -> None:
    Path("name.yaml").write_text("name: ours\n")
    cli(*VAE, "--config=name.yaml", "--model=AE")
    assert names() == ["ours"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb", "a\x1b[31m"])
def test_a_name_is_that_of_one_folder_on_one_line(cli: RunCLI, project: Path, capsys: Capture, name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(*VAE, f"--name={name}")
    assert stop.value.code == 2
    assert "it must be the name of one folder" in capsys.readouterr().err
    assert not Path("lightning_logs").exists()
