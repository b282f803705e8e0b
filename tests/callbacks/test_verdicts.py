"""The sentences about what was measured: beside which floor, for what there is none, and when it is too early."""

import math
import re
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

from encdec.data import Digits
from encdec.objectives.floors import Floors
from encdec.objectives.losses import pixel_means, squared_error_matrix
from encdec.paradigms import LatentVariable, Paradigm
from encdec.testing import check_paradigm
from encdec.types import Batch, Conditioning, Losses
from tests.conftest import RunCLI, events


@pytest.mark.parametrize(
    ("mse", "conditioning", "words"),
    [
        (1.003, Conditioning.NONE, "collapsed to the mean image: 0.3 % above the mean image's floor"),
        (0.998, Conditioning.NONE, "collapsed to the mean image: 0.2 % below the mean image's floor"),
        (0.5, Conditioning.NONE, "50.0 % below the mean image's floor: "
         "does the decoder see more than it is conditioned on (none)?"),
        (1.2, Conditioning.NONE, "no better than the mean image: 20.0 % above the mean image's floor"),
        (0.606, Conditioning.LABEL, "collapsed to the class means: 1.0 % above the class means' floor"),
        (0.8, Conditioning.LABEL, "not at the class means yet: 33.3 % above the class means' floor"),
        (1.1, Conditioning.LABEL, "no better than the mean image: 10.0 % above the mean image's MSE"),
        (1.01, Conditioning.IMAGE, "no better than the mean image: 1.0 % above the mean image's MSE"),
        (0.97, Conditioning.IMAGE, "hardly better than the mean image: explains 3.0 % of the variance"),
        (0.15, Conditioning.IMAGE, "tells images apart: explains 85.0 % of the variance (the mean image: 0 %); "
         "its MSE is 0.75 times that of PCA with 8 components"),
    ],
)  # fmt: skip
def test_verdicts_in_plain_words(mse: float, conditioning: Conditioning, words: str) -> None:
    units: dict[str, float] = {Conditioning.NONE: 1.0, Conditioning.LABEL: 0.6, Conditioning.IMAGE: 0.0}
    assert Floors(units, units, pca_mse=0.2, components=8).verdict(mse, conditioning) == words


def test_a_decoder_that_is_told_the_image_has_a_baseline_in_place_of_a_floor_of_zero() -> None:
    units: dict[str, float] = {Conditioning.NONE: 1.0, Conditioning.LABEL: 0.6, Conditioning.IMAGE: 0.0}
    nats: dict[str, float] = {Conditioning.NONE: 40.0, Conditioning.LABEL: 30.0, Conditioning.IMAGE: 20.0}
    found = Floors(units, nats, 0.2, 8)
    beside = found.beside({"mse": 0.15, "bce": 25.0}, {"": Conditioning.IMAGE})
    assert beside == pytest.approx(
        {"mse_mean_image": 1.0, "explained_variance": 0.85, "bce_floor": 20.0, "bce_gap": 5.0, "mse_pca": 0.2}
    )
    assert found.beside({"mse": 0.15, "bce": 25.0}, {"": None}) == {}
    assert found.beside({"mse": 0.7}, {"": Conditioning.LABEL})["mse_mean_image"] == 1.0


class Drawn(Paradigm):
    """A perfect generator: a training image, drawn at random, whatever it is compared with."""

    conditioning: Conditioning | None = None
    noise_dim = 4
    same = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = nn.Parameter(torch.zeros(()))
        images = next(Digits().splits["train"].stream([torch.arange(1294)])).float() / 255
        self.register_buffer("images", images.clamp(1e-4, 1 - 1e-4).logit(), persistent=False)

    def losses(self, batch: Batch) -> Losses:
        logits = self._logits(self.noise(batch.index, self.noise_dim))
        return Losses((self.weight - 1).square().expand(len(batch.x)), logits=logits)

    def generate(self, noise: Tensor, y: Tensor) -> Tensor:
        return pixel_means(self._logits(noise))

    def _logits(self, noise: Tensor) -> Tensor:
        which = (noise.float().sum(1) * 1e4).long() % 1294
        images = self.images
        assert isinstance(images, Tensor)
        return images[torch.zeros_like(which) if self.same else which]


@final
class WithoutLogits(LatentVariable):
    """A generator that is compared with images as a set, and so has no output to show beside one."""

    conditioning = None

    def losses(self, batch: Batch) -> Losses:
        samples = pixel_means(self.decoder(self.shared_noise(16, self.latent_dim)))
        return Losses(squared_error_matrix(samples, batch.x).mean(1))


@final
class AllAlike(Drawn):
    """One that always draws the same image."""

    same = True


@final
class Paired(Drawn):
    """The same, as if its outputs were paired with images."""

    conditioning = Conditioning.NONE


def fit(cli: RunCLI, name: str, *flags: str) -> set[str]:
    """Train for two epochs of 130 steps; the names of the validation's scalars."""
    cli(
        "fit", f"--model=tests.callbacks.test_verdicts.{name}", "--data.batch_size=10", "--trainer.max_epochs=2", *flags
    )
    scalars = events(f"lightning_logs/{name.lower()}/version_0").Tags()["scalars"]
    return {scalar for scalar in scalars if scalar.startswith("val/")}


def test_what_is_not_paired_with_an_image_has_no_floor_and_no_verdict_on_its_mse(
    cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Independent samples have an MSE of twice the data's variance: 101 % above a floor that is not theirs."""
    assert fit(cli, "Drawn") == {"val/loss", "val/mse", "val/bce", "val/sample_variance"}
    out, _ = capfd.readouterr()
    run = events("lightning_logs/drawn/version_0")
    share, mse = (run.Scalars(f"val/{name}")[-1].value for name in ("sample_variance", "mse"))
    assert share == pytest.approx(1, abs=0.1)
    assert mse == pytest.approx(2 * 0.0751, rel=0.1)
    assert (
        f"best: val/sample_variance – 1,000 samples have {100 * share:.1f} % of the data's variance; no output" in out
    )
    for word in ("floor (", "no better", "val/mse – "):
        assert word not in out
    assert "share of the data's variance" in out, "its unit"
    paired = fit(cli, "Paired")
    assert {"val/mse_floor", "val/explained_variance"} <= paired
    assert "val/sample_variance" not in paired
    assert "no better than the mean image" in capfd.readouterr().out


def test_the_variance_of_samples_is_that_of_a_thousand(cli: RunCLI, project: Path) -> None:
    fit(cli, "AllAlike")
    run = events("lightning_logs/allalike/version_0")
    assert run.Scalars("val/sample_variance")[-1].value == pytest.approx(0, abs=1e-9)


def test_samples_that_are_all_alike_are_called_collapsed(
    cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(cli, "AllAlike")
    assert "val/sample_variance – collapsed: 1,000 samples have 0.0 % of the data's variance" in capfd.readouterr().out


def test_an_unpaired_paradigm_needs_no_logits(
    cli: RunCLI, project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fit(cli, "WithoutLogits", "--images.every_n_epochs=1") == {"val/loss", "val/sample_variance"}
    assert "val/sample_variance – collapsed: 1,000 samples" in capfd.readouterr().out, "its loss asks for one image"
    check_paradigm(WithoutLogits, tmp_path, latent_dim=4)


def test_a_paired_one_must_give_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WithoutLogits, "conditioning", Conditioning.NONE)
    with pytest.raises(AssertionError, match=r"losses gives no logits, whose conditioning it names"):
        check_paradigm(WithoutLogits, tmp_path, latent_dim=4)


def test_the_energy_score_has_no_verdict_on_its_mse(
    cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/energy_score.yaml", "--trainer.max_epochs=10", "--images.every_n_epochs=100")
    out, _ = capfd.readouterr()
    assert "val/mse – " not in out
    assert "floor (" not in out
    assert "best: val/sample_variance – 1,000 samples have" in out
    checkpoint = "lightning_logs/energy_score/version_0/checkpoints/last.ckpt"
    few = ("--evaluation.parts=[samples]", "--evaluation.num_samples=60", "--evaluation.feature_space=pca")
    cli("test", "--config", "configs/energy_score.yaml", "--ckpt_path", checkpoint, *few)
    out, _ = capfd.readouterr()
    assert "test/sample_variance – 60 samples have" in out
    assert "test/mse – " not in out


@pytest.mark.parametrize(
    ("config", "floors", "baselines", "words"),
    [
        ("vae_noenc", "floor (mean image)", set(), "the mean image's floor"),
        ("decoder", "floor (class means)", {"val/mse_mean_image"}, "the class means' floor"),
        ("vae", "floor (pixels' entropy)", {"val/mse_mean_image", "val/mse_pca"}, "the mean image: 0 %"),
    ],
)
def test_the_table_and_the_verdict_name_the_same_floor(
    config: str, floors: str, baselines: set[str], words: str,
    cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cli("fit", "--config", f"configs/{config}.yaml", "--trainer.max_epochs=12", "--images.every_n_epochs=100")
    out, _ = capfd.readouterr()
    assert floors in out
    rows = {line.split()[1]: line.split("│") for line in out.splitlines() if line.startswith("│ val/")}
    assert {name for name in rows if name in ("val/mse_mean_image", "val/mse_pca")} == baselines
    assert all(float(row[4]) > 0 for row in rows.values() if row[4].strip()), "no floor of 0"
    assert (rows["val/mse"][4].strip() == "") == (config == "vae")
    (verdict,) = (line for line in out.splitlines() if line.startswith("best: val/mse – "))
    assert words in verdict
    assert "hardly trained" not in verdict


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (("--trainer.max_steps=1", "--trainer.val_check_interval=1"), "1 step"),
        (("--trainer.max_epochs=9",), "99 steps"),
        (
            ("--data.batch_size=4", "--trainer.max_steps=150", "--trainer.val_check_interval=75"),
            "150 steps",
        ),  # of 324 in an epoch
    ],
)
@pytest.mark.parametrize("config", ["vae_noenc", "vae"])
def test_it_says_when_training_has_hardly_begun(
    config: str, flags: tuple[str, ...], steps: str, cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", f"configs/{config}.yaml", *flags, "--images.every_n_epochs=100")
    out, _ = capfd.readouterr()
    assert f"val/mse – hardly trained yet ({steps}): " in out
    assert "collapsed" not in out
    cli("validate", "--config", f"configs/{config}.yaml", *(flag for flag in flags if "batch_size" in flag),
        "--ckpt_path", f"lightning_logs/{config}/version_0/checkpoints/last.ckpt")  # fmt: skip
    assert f"val/mse – hardly trained yet ({steps}): " in capfd.readouterr().out


@pytest.mark.parametrize(("config", "rate"), [("vae", "0.1"), ("vae_noenc", "30")])
def test_it_says_when_training_has_diverged(
    config: str, rate: str, cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--config", f"configs/{config}.yaml", "--images.every_n_epochs=100")
    cli("fit", *flags, f"--model.optimizer.lr={rate}", "--trainer.max_epochs=2")
    out, _ = capfd.readouterr()
    verdict = [line for line in out.splitlines() if ": val/mse – " in line][-1]
    measured = "val/loss" if config == "vae" else "val/bce"  # a diverged encoder shows in the KL alone
    row = next(line.split("│") for line in out.splitlines() if line.startswith(f"│ {measured} "))
    assert "% above the mean image's " in verdict
    assert ": it diverged, or overfitted if the training loss is low; train with a smaller --model.opt" in verdict
    nats = float(row[3])
    said = re.search(r", and ([\d,.e+]+) nats per image, where plain grey has 44\.36: ", verdict)
    assert said
    assert float(said[1].replace(",", "")) == pytest.approx(nats, rel=1e-3)
    assert nats > 1.1 * 64 * math.log(2)
    cli("test", *flags, "--ckpt_path", f"lightning_logs/{config}/version_0/checkpoints/last.ckpt")
    assert ": it diverged, or overfitted if " in " ".join(capfd.readouterr().out.split())
