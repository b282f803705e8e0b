"""The floors that stand beside a mean are those of the images that the mean is of, or there are none."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from encdec.callbacks import LogFloors
from encdec.cli import quiet
from encdec.data import Digits
from encdec.paradigms import EncoderlessVAE
from tests import killing
from tests.conftest import RunCLI, events

SHORT = ("--trainer.max_epochs=1", "--images.every_n_epochs=100", "--trainer.log_every_n_steps=5")
CONFIG = ("--config", "configs/vae_noenc.yaml")
LAST = "lightning_logs/vae_noenc/version_0/checkpoints/last.ckpt"


def floor(split: str, count: int | None = None) -> float:
    """MSE per pixel of the training split's mean image on the first images of a split."""
    splits = Digits().splits
    train, images = (
        next(splits[name].stream([torch.arange(len(splits[name].labels))])).double() / 255 for name in ("train", split)
    )
    return ((images[:count] - train.mean(0)) ** 2).mean().item()


def scalars(name: str = "vae_noenc") -> dict[str, list[float]]:
    run = events(f"lightning_logs/{name}/version_0")
    return {tag: [event.value for event in run.Scalars(tag)] for tag in run.Tags()["scalars"]}


@pytest.mark.parametrize(
    ("flags", "measured"),
    [
        (("--trainer.limit_val_batches=1", "--data.batch_size=4"), 32),
        (("--trainer.limit_val_batches=2", "--data.batch_size=4"), 64),
        (("--trainer.limit_val_batches=0.5", "--data.batch_size=5"), 80),
        (("--trainer.overfit_batches=1", "--data.batch_size=10"), 10),
        (("--trainer.limit_val_batches=1000",), 144),
    ],
)
def test_a_limited_validation_has_the_floors_of_what_is_left(
    flags: tuple[str, ...], measured: int, cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", *CONFIG, *SHORT, *flags, "--trainer.max_epochs=2")
    found, expected = scalars(), floor("val", measured)
    assert found["val/mse_floor"] == pytest.approx([expected, expected], rel=1e-5)
    for mse, gap, explained in zip(
        found["val/mse"], found["val/mse_gap"], found["val/explained_variance"], strict=True
    ):
        assert gap == pytest.approx(mse - expected, abs=1e-6)
        assert explained == pytest.approx(1 - mse / expected, abs=1e-5)
    out = capfd.readouterr().out
    assert (f"cuts the validation split: {measured} of its 144 images are measured" in out) == (measured < 144)
    assert f"{expected:.5g}" in out, "the table shows it"


def test_the_best_output_of_some_images_stands_on_their_floor(cli: RunCLI, project: Path) -> None:
    """A model that gives the mean image is 0 above its floor, whichever images are measured: never below."""
    cli("fit", "--config", "configs/ae_zeros.yaml", *SHORT, "--trainer.limit_val_batches=1", "--data.batch_size=4",
        "--trainer.max_epochs=6", "--trainer.check_val_every_n_epoch=6")  # fmt: skip
    found = scalars("ae_zeros")
    assert found["val/mse_zeros"][-1] == pytest.approx(found["val/mse_floor"][-1], rel=0.02)
    assert abs(floor("val", 32) - floor("val")) > 0.02 * floor("val"), "the whole split's is another"


def test_validate_and_test_have_the_floors_of_what_they_measure(
    cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", *CONFIG, *SHORT)
    capfd.readouterr()
    few = ("--data.batch_size=5", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=2")
    cli("validate", *CONFIG, "--ckpt_path", LAST, *few)
    out = capfd.readouterr().out
    assert "40 of its 144 images are measured" in out
    assert f"{floor('val', 40):.5g}" in out
    cli("test", *CONFIG, "--ckpt_path", LAST, *few, "--evaluation.parts=[reconstruction]",
        "--evaluation.posterior_steps=2",
        "--evaluation.num_images=8")  # fmt: skip
    out = capfd.readouterr().out
    assert "80 of its 359 images are measured" in out
    metrics = json.loads(Path(LAST).with_suffix(".evaluation.json").read_text())["metrics"]
    expected = pytest.approx(floor("test", 80), rel=1e-5)
    assert metrics["mse"]["reference"] == metrics["mse_floor"]["value"] == expected
    assert metrics["mse"]["reference_name"] == "floor (mean image)"


@pytest.mark.parametrize("flag", ["--trainer.limit_train_batches=3", "--trainer.limit_train_batches=0.3"])
def test_a_limited_training_has_no_floors(
    flag: str, cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", *CONFIG, *SHORT, flag)
    found = scalars()
    assert not [name for name in found if name.startswith("train/") and ("floor" in name or "gap" in name)]
    assert "train/explained_variance" not in found
    assert "train/mse" in found
    assert found["val/mse_floor"] == pytest.approx([floor("val")], rel=1e-5)
    assert "cuts the training epochs to 3 of their batches" in capfd.readouterr().out


def test_fast_dev_run_says_what_it_measures(cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli("fit", *CONFIG, "--trainer.fast_dev_run=1", "--data.batch_size=4")
    assert "32 of its 144 images are measured" in capfd.readouterr().out


def test_floors_are_not_those_of_the_run_before() -> None:
    """One model, trained under a limit and validated without one, by Lightning's Trainer; and the sanity check."""
    quiet.install()
    data = Digits(batch_size=4)
    model = EncoderlessVAE(image_shape=data.image_shape, num_train=data.num_train, latent_dim=2)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    plain: dict[str, Any] = dict.fromkeys(off, False) | {"accelerator": "cpu", "callbacks": [LogFloors()]}
    first = pl.Trainer(max_steps=1, limit_val_batches=1, num_sanity_val_steps=2, val_check_interval=1, **plain)
    first.fit(model, data)
    assert first.callback_metrics["val/mse_floor"] == pytest.approx(floor("val", 32), rel=1e-5)
    for limit, count in ((1.0, None), (2, 64)):
        (found,) = pl.Trainer(limit_val_batches=limit, **plain).validate(model, data, verbose=False)
        assert found["val/mse_floor"] == pytest.approx(floor("val", count), rel=1e-5)


@pytest.mark.slow
def test_two_processes_under_a_limit(project: Path) -> None:
    """Each measures 40 images, the first one every other image from the first."""
    flags = (*CONFIG, *SHORT, "--trainer.limit_val_batches=1", "--data.batch_size=5", "--trainer.limit_train_batches=4")
    code, output = killing.on_two(project, "fit", *flags)
    assert code == 0, output
    assert scalars()["val/mse_floor"] == pytest.approx([floor("val", 80)], rel=1e-5)
    assert output.count("80 of its 144 images are measured") == 1
