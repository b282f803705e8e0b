"""What encdec 0.1 left is measured, sampled and exported as by 0.1; its trainings are not gone on with.

`version_0_1.json` was written by it: checkpoints of tiny models, an export, a config, and what the models made there.
Tensors are {"tensor": type, "shape": …, "base64": bytes}. Left out are the state of the training, of all but one
checkpoint, where it is the optimizer's alone, and the config's null settings.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import encdec
from encdec import plugins
from encdec.evaluation.view import View
from encdec.paradigms import LatentVariable, has_codes, infers
from encdec.runs.checkpoints import read_checkpoint
from encdec.types import Batch
from tests.conftest import ON_CPU, RunCLI, refused

LEFT: dict[str, Any] = json.loads(Path(__file__).with_name("version_0_1.json").read_text())
MODELS = ["vae", "ae", "fixed", "autodecoder"]
Y = torch.arange(4) % 2
RUN = Path("lightning_logs/fixed/version_0")


def unpacked(value: Any) -> Any:
    """JSON as the values that it stands for."""
    if isinstance(value, list):
        return [unpacked(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        raw = bytearray(base64.b64decode(value["base64"]))
        return torch.frombuffer(raw, dtype=getattr(torch, value["tensor"])).reshape(value["shape"]).clone()
    if "tuple" in value:
        return tuple(unpacked(value["tuple"]))
    if "items" in value:
        return {key: unpacked(one) for key, one in value["items"].items()}
    return {unpacked(key): unpacked(one) for key, one in value["dict"]}


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, project: Path) -> tuple[str, Path]:
    """A model's name, and its checkpoint."""
    path = project / f"{request.param}.ckpt"
    torch.save(unpacked(LEFT[request.param]["checkpoint"]), path)
    return request.param, path


@pytest.fixture
def run(project: Path) -> Path:
    """The folder of a run of 0.1."""
    (RUN / "checkpoints").mkdir(parents=True)
    (RUN / "config.yaml").write_text(yaml.safe_dump(LEFT["fixed"]["config"]))
    state = {**unpacked(LEFT["fixed"]["checkpoint"]), "optimizer_states": [{"state": {}, "param_groups": []}]}
    torch.save(state, RUN / "checkpoints" / "last.ckpt")
    return RUN


def assert_makes(model: Any, made: dict[str, Tensor]) -> None:
    """A model makes what 0.1 wrote of it."""
    assert isinstance(model, LatentVariable)
    close = torch.testing.assert_close
    close(model.sample(Y, made["noise"]).mean(3), made["sample"], rtol=1e-5, atol=1e-6)
    x = torch.linspace(0, 1, 4 * torch.Size(model.image_shape).numel()).reshape(4, *model.image_shape)
    batch = Batch(x, Y, torch.arange(4), "train")
    if "reconstruction" in made:
        close(model.reconstruct(batch).mean(3), made["reconstruction"], rtol=1e-5, atol=1e-6)
    if "codes" in made:
        assert has_codes(model)
        close(model.codes(batch), made["codes"], rtol=0, atol=0)
    if "mean" in made:
        assert infers(model)
        q = model.posterior(batch)
        close((q.mean.detach(), q.log_var.detach()), (made["mean"], made["log_var"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("checkpoint", MODELS, indirect=True)
def test_a_checkpoint_makes_what_it_made(checkpoint: tuple[str, Path]) -> None:
    name, path = checkpoint
    written = torch.load(path, weights_only=True)["encdec"]
    assert (written["format"], written["version"]) == (1, "0.1.0")
    made = unpacked(LEFT[name]["made"])
    assert_makes(encdec.load(path), made)
    again = encdec.export(path)
    assert_makes(encdec.load(again), made)
    assert View(encdec.load(path)).dim == 2


def test_an_export_makes_what_it_made(project: Path) -> None:
    Path("vae.safetensors").write_bytes(base64.b64decode(LEFT["export"]))
    assert_makes(encdec.load("vae.safetensors"), unpacked(LEFT["vae"]["made"]))


@pytest.mark.parametrize("checkpoint", ["fixed", "vae"], indirect=True)
def test_settings_have_the_names_of_today(checkpoint: tuple[str, Path]) -> None:
    name, path = checkpoint
    found = read_checkpoint(path)
    if name == "fixed":
        assert encdec.load(path).hparams["latents"] == "fixed"
        assert "codes" not in found["hyper_parameters"]
    else:
        assert found["hyper_parameters"]["observation"]["class_path"] == "encdec.objectives.observations.Gaussian"
        assert found["datamodule_hyper_parameters"]["mode"] == "color"


def test_the_moments_of_an_autodecoders_table_are_zero(project: Path) -> None:
    """They were an optimizer's, so that a training would begin anew."""
    plugins.load()
    torch.save(unpacked(LEFT["autodecoder"]["checkpoint"]), "last.ckpt")
    state = encdec.load("last.ckpt").state_dict()
    assert state["table.values"].shape == (18, 2)
    assert not state["table.first_moment"].any()
    assert not state["table.steps"].any()


def test_a_run_is_measured_with_its_config(run: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    expected = unpacked(LEFT["fixed"]["checkpoint"])["metrics"]
    cli("validate", f"--ckpt_path={run}/checkpoints/last.ckpt")
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "val/" in line and "│" in line]
    found = {line[1].strip(): float(line[2]) for line in lines}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    cli("test", f"--ckpt_path={run}/checkpoints/last.ckpt", "--evaluation.parts=[]")
    cli("predict", f"--ckpt_path={run}/checkpoints/last.ckpt")
    assert (run / "predictions" / "samples.png").is_file()


@pytest.mark.parametrize(
    "args",
    [
        (f"--resume={RUN}",),
        (f"--resume={RUN}", "--trainer.max_epochs=5"),
        (f"--ckpt_path={RUN}/checkpoints/last.ckpt",),
    ],
    ids=["resume", "a longer run", "ckpt_path"],
)
def test_a_training_is_not_gone_on_with(args: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    err = refused(capsys, "fit", *args, *ON_CPU)
    assert f"{RUN}/checkpoints/last.ckpt was written by encdec 0.1" in err
    assert "version 0.1 resumes its training" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert [path.name for path in Path("lightning_logs").glob("*/*")] == ["version_0"], "no empty run"
