"""Faults that were found by trying, after those of the tables in the other files."""

import os
from pathlib import Path

import pytest
import torch

from encdec.runs import trust
from tests import killing
from tests.conftest import ON_CPU, RunCLI, refused

MODEL = ("fit", "--model=VAE", "--model.latent_dim=2", "--trainer.limit_train_batches=2")
SENTENCES: dict[str, tuple[list[str], int, str]] = {
    "a setting of another class": ([*MODEL, "--data.num_workers=1"], 2, "Digits has no setting 'num_workers'."),
    "an alias that holds itself": (["fit", "--config=circle.yaml"], 2, "hold themselves"),
    "more than there is memory": ([*MODEL, "--model.latent_dim=99999999999"], 1, "not enough memory"),
    "a search for the batch size": ([*MODEL, "--trainer.callbacks+=BatchSizeFinder"], 2, "set data.batch_size"),
    "a search for the rate": ([*MODEL, "--trainer.callbacks+=LearningRateFinder"], 2, "set model.optimizer.lr"),
    "fine-tuning of a backbone": ([*MODEL, "--trainer.callbacks+=BackboneFinetuning"], 2, "no paradigm has"),
    "validate without anything": (["validate"], 2, "validate needs a trained model: give --ckpt_path FILE"),
    "test without anything": (["test"], 2, "test needs a trained model: give --ckpt_path FILE"),
    "a run that is not there": (["fit", "--resume", "nowhere"], 2, "'nowhere' is not the folder of a run"),
    "a plateau without validations": (
        [*MODEL, "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
         "--model.lr_scheduler.monitor=val/loss", "--trainer.limit_val_batches=0"], 2, "never validates"),
    "machines that nobody started": ([*MODEL, "--trainer.num_nodes=2"], 2, "this process was started alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", SENTENCES)
def test_what_is_wrong_is_one_sentence(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("circle.yaml").write_text("model: VAE\ntrainer: &a {max_epochs: 1, callbacks: *a}\n")
    args, code, expected = SENTENCES[name]
    assert expected in refused(capsys, *args, *ON_CPU, code=code)


def test_a_file_that_a_plugin_lacks_is_said_with_the_plugins_line(project: Path) -> None:
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    (project / "plugins" / "mine.py").write_text(
        "from encdec.data import DataModule\n\n\nclass Mine(DataModule):\n    def load(self):\n"
        "        return open('nowhere.npy'), None\n"
    )
    code, output = killing.run(project, "fit", "--model=VAE", "--data=Mine")
    assert code == 1, output
    (error,) = [line for line in output.splitlines() if "error" in line]
    assert "No such file or directory: 'nowhere.npy'" in error
    assert f"({Path('plugins', 'mine.py')}, line 6)" in error


def test_double_precision_is_evaluated(cli: RunCLI, project: Path) -> None:
    cli(*MODEL, "--trainer.max_epochs=1", "--trainer.precision=64")
    path = "lightning_logs/vae/version_0/checkpoints/last"
    cli("test", f"--ckpt_path={path}.ckpt", "--evaluation.num_images=8", "--evaluation.num_samples=40",
        "--evaluation.prior_samples=8", "--evaluation.posterior_samples=2", "--evaluation.posterior_steps=2",
        "--evaluation.feature_space=pca")  # fmt: skip
    assert Path(f"{path}.evaluation.json").is_file()


def test_a_progress_bar_of_the_user_takes_the_place_of_ours(cli: RunCLI, project: Path) -> None:
    cli(*MODEL, "--trainer.max_epochs=1", "--trainer.callbacks+=RichProgressBar")
    assert Path("lightning_logs/vae/version_0/checkpoints/last.ckpt").is_file()


def test_a_sanity_check_has_a_clock_of_its_own(cli: RunCLI, capsys: pytest.CaptureFixture[str], project: Path) -> None:
    cli(*MODEL, "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=1")
    assert "so far" not in capsys.readouterr().out, "it took less than 30 seconds"


def test_no_table_is_printed_where_nothing_was_validated(
    cli: RunCLI, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    cli(*MODEL, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0")
    assert "unit" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_files_are_not_written_through_links(kind: str, cli: RunCLI, project: Path) -> None:
    """Names that can be guessed, in a run's folder that somebody else made."""
    cli(*MODEL, "--trainer.max_epochs=1")
    folder, outside = project / "lightning_logs/vae/version_0/checkpoints", project / "thesis.txt"
    outside.write_text("years of work")
    for name in ("best.ckpt", "last.ckpt", "last.evaluation.json", "last.safetensors"):
        place = folder / f".{name}.tmp"
        place.symlink_to(outside) if kind == "link" else os.mkfifo(place)
    cli("fit", "--resume", str(folder.parent), "--trainer.max_epochs=2")
    cli("test", f"--ckpt_path={folder}/last.ckpt", "--evaluation.parts=[reconstruction]", "--evaluation.num_images=8")
    cli("export", f"{folder}/last.ckpt")
    assert outside.read_text() == "years of work"
    for name in ("best.ckpt", "last.ckpt", "last.evaluation.json", "last.safetensors"):
        assert (folder / name).is_file()
        assert not (folder / name).is_symlink()


def test_a_pipe_among_the_files_of_a_run_is_not_waited_for(cli: RunCLI, project: Path) -> None:
    cli(*MODEL, "--trainer.max_epochs=1")
    run = project / "lightning_logs/vae/version_0"
    (run / "hparams.yaml").unlink(missing_ok=True)
    os.mkfifo(run / "hparams.yaml")
    cli("validate", f"--ckpt_path={run}/checkpoints/last.ckpt")
    cli("fit", "--resume", str(run), "--trainer.max_epochs=2")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert (run / "hparams.yaml").is_fifo(), "it is left alone"


@pytest.mark.parametrize("address", ["arrow_hdfs://h/x", "async_wrapper://x", "x\n::http://127.0.0.1:9/", "a-b+c.d:/x"])
def test_an_address_is_known_as_one(address: str) -> None:
    assert trust.is_address(address)


def test_a_run_in_place_of_its_checkpoint_is_answered_by_the_checkpoint(
    cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=1", "--name=a run", "--floors.enabled=false")
    capsys.readouterr()
    run = "lightning_logs/a run/version_0"
    best = f"{run}/checkpoints/best.ckpt"
    assert f"'{run}': it is a folder; give {best}." in refused(capsys, "test", f"--ckpt_path={run}")
    for given in (run, best):
        said = refused(capsys, "test", given)
        assert f"test takes options alone, and '{given}' belongs to none: give --ckpt_path '{best}'." in said


def test_images_of_another_shape_than_the_checkpoints_are_named(
    cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_steps=1", "--floors.enabled=false")
    capsys.readouterr()
    path = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    said = refused(capsys, "test", f"--ckpt_path={path}", "--data=FashionMNIST")
    assert "was trained on images of 1×8×8, but those of FashionMNIST are 1×28×28" in said
