"""Averages of weights: they are validated, drawn and saved, and a run with them resumes exactly."""

import copy
import functools
import io
import math
import pickle
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import encdec
from encdec.callbacks.image_grids import fixed_noise
from encdec.data import Digits
from encdec.evaluation.grids import enlarge, grid, sample_labels
from encdec.networks import Encoder
from encdec.paradigms import Paradigm
from encdec.types import Shape
from tests import killing
from tests.conftest import ROOT, RunCLI, events, shipped

FIT = ("fit", "--config=configs/vae.yaml", "--data.batch_size=300", "--trainer.enable_progress_bar=false",
       "--checkpoint.seconds_between=0", "--trainer.max_epochs=4")  # fmt: skip
"""5 steps in an epoch."""
SWA = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01",
       "--trainer.callbacks.swa_epoch_start=2", "--trainer.callbacks.annealing_epochs=2")  # fmt: skip
AVERAGES = {
    "EMA": ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"),
    "EMA by epoch": ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5",
                     "--trainer.callbacks.update_every_n_steps=0", "--trainer.callbacks.update_starting_at_epoch=1"),
    "mean": ("--trainer.callbacks+=WeightAveraging",),
    "SWA": SWA,
    "SWA and a scheduler": (*SWA, "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=1"),
}  # fmt: skip


@pytest.mark.parametrize("paradigm", shipped(Paradigm))
def test_a_paradigm_can_be_copied_and_pickled(paradigm: type[Paradigm]) -> None:
    module = paradigm(image_shape=(1, 8, 8), num_classes=10, num_train=20)
    for made in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        same = zip(made.state_dict().values(), module.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in same)
        assert made.configure_optimizers() is not None


class Copies(pl.Callback):
    """Copies the module at every moment that callbacks may do so, as another run would find it."""

    def __init__(self) -> None:
        self.copies: list[Paradigm] = []

    def _copy(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        made = copy.deepcopy(pl_module)
        assert isinstance(made, Paradigm)
        assert isinstance(pickle.loads(pickle.dumps(pl_module)), type(pl_module))
        made.configure_optimizers()
        self.copies.append(made)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._copy(trainer, pl_module)

    on_fit_start = on_train_start = on_train_epoch_end = on_validation_epoch_end = on_train_end = _copy
    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = _copy  # type: ignore[assignment]


@pytest.mark.parametrize("config", sorted(ROOT.glob("configs/*.yaml")), ids=lambda p: p.stem)
def test_a_paradigm_that_the_command_line_made_can_be_copied_at_any_time(
    config: Path, cli: RunCLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies()
    monkeypatch.setattr(pl.Trainer, "fit", _with(copies, pl.Trainer.fit))
    cli("fit", f"--config={config}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
        "--trainer.enable_progress_bar=false", "--floors.enabled=false", "--model.lr_scheduler=StepLR",
        "--model.lr_scheduler.step_size=1")  # fmt: skip
    assert len(copies.copies) > 8
    assert copies.copies[-1]._trainer is None


def _with(callback: pl.Callback, fit: Any) -> Any:
    @functools.wraps(fit)
    def patched(trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.callbacks.append(callback)  # type: ignore[attr-defined]
        fit(trainer, *args, **kwargs)

    return patched


@pytest.mark.parametrize("average", AVERAGES)
def test_what_is_validated_drawn_and_saved_is_the_average(average: str, cli: RunCLI, project: Path) -> None:
    cli(*FIT, *AVERAGES[average], "--images.every_n_epochs=4")
    run = project / "lightning_logs/vae/version_0"
    (batch,) = Digits(batch_size=1000).val_dataloader()
    for name in ("best", "last"):
        path = run / f"checkpoints/{name}.ckpt"
        saved = torch.load(path, weights_only=True)
        paradigm = encdec.load(path)
        with torch.no_grad():
            averaged = paradigm.measured_losses(batch).loss.mean().item()
            assert averaged == pytest.approx(saved["metrics"]["val/loss"], rel=1e-5)
            samples = paradigm.sample(sample_labels(10)[0], fixed_noise(len(sample_labels(10)[0]), paradigm.noise_dim))
            paradigm.load_state_dict(saved["current_model_state"])
            assert paradigm.measured_losses(batch).loss.mean().item() != pytest.approx(averaged, rel=1e-4)
        if saved["global_step"] == 20:
            drawn = Image.open(io.BytesIO(events(run).Images("images/samples")[-1].encoded_image_string))
            wanted = enlarge(grid(samples, sample_labels(10)[1])).permute(1, 2, 0)
            np.testing.assert_allclose(np.asarray(drawn) / 255, wanted.expand(-1, -1, 3).numpy(), atol=1.1 / 255)
    cli("validate", f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'checkpoints/last.ckpt'}")


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize(("number", "call"), [(signal.SIGKILL, 18), (signal.SIGTERM, 13), (signal.SIGINT, 15)])
def test_a_run_with_averages_resumes_exactly(average: str, number: int, call: int, project: Path) -> None:
    command = (*FIT, *AVERAGES[average], "--resume")
    code, output = killing.run(project, *command, "--name=killed", moment="a step", call=call, number=number)
    assert code in (-number, 128 + number), output
    code, output = killing.run(project, *command, "--name=killed")
    assert code == 0, output
    assert "Warning" not in output
    killed = killing.left(project / "lightning_logs/killed/version_0")
    assert killing.differences(killing.whole(*command), killed) == []


def test_a_finished_run_with_an_average_goes_on_from_the_other_weights(cli: RunCLI, project: Path) -> None:
    cli(*FIT, *AVERAGES["EMA"], "--name=whole")
    for epochs in (2, 4):  # at the end of training the average replaces the weights, but not in its checkpoint
        cli(*FIT, *AVERAGES["EMA"], f"--trainer.max_epochs={epochs}", "--checkpoint.seconds_between=100", "--resume")
    whole, longer = (
        torch.load(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "vae")
    )
    for key in ("state_dict", "current_model_state"):
        for name, weight in whole[key].items():
            assert torch.equal(weight, longer[key][name]), name


class Normalized(Encoder):
    def __init__(self, image_shape: Shape, out_features: int) -> None:
        super().__init__(image_shape, out_features)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(image_shape), out_features), nn.BatchNorm1d(out_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


def test_swa_of_batch_normalization_is_refused(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli(*FIT, *SWA, f"--model.encoder={Normalized.__module__}.Normalized")
    assert ended.value.code == 2
    assert "take EMAWeightAveraging" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "callback"), [("flow_matching", "EMAWeightAveraging"), ("gan", "StochasticWeightAveraging")]
)
def test_an_average_of_an_average_is_refused(
    config: str, callback: str, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    swa = ["--trainer.callbacks.swa_lrs=0.01"] if callback.startswith("Stochastic") else []
    with pytest.raises(SystemExit) as stop:
        cli("fit", f"--config=configs/{config}.yaml", f"--trainer.callbacks+={callback}", *swa)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"has a moving average of its own, which makes its samples, and {callback} would average that again" in err
    assert len(err.strip().splitlines()) == 1
