"""Exports: the same paradigm, readable by others, and damaged ones refused."""

import json
import random
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import safetensors.torch
import torch

import encdec
from encdec.cli import main, quiet
from encdec.data import Digits
from encdec.networks import MLPDecoder
from encdec.paradigms import EncoderlessVAE
from encdec.runs.checkpoints import read_checkpoint
from encdec.types import UserError
from tests.conftest import RunCLI
from tests.runs.strangers import SMALL, contents, refused, refused_by_cli, same

# ---------------------------------------------------------------------- export


def test_an_export_is_the_same_paradigm(file: Path) -> None:
    exported = encdec.export(file)
    assert exported == file.with_suffix(".safetensors")
    ours, theirs = encdec.load(file), encdec.load(exported)
    assert type(ours) is type(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in ours.state_dict().items())
    y, noise = torch.zeros(5, dtype=torch.int64), torch.randn(5, 2)
    assert torch.equal(ours.sample(y, noise), theirs.sample(y, noise))
    assert (theirs.image_shape, theirs.loaded_step) == (ours.image_shape, 2)


def test_others_can_read_an_export_without_encdec(file: Path) -> None:
    """The format as it is published: 8 bytes of length, JSON, then the numbers."""
    raw = encdec.export(file, "a.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    held = json.loads(header["__metadata__"]["encdec"])
    state = contents(file)
    assert (held["format"], held["version"], held["step"], held["epoch"]) == (2, encdec.__version__, 2, 0)
    assert held["paradigm"] == "encdec.paradigms.VAE"
    assert held["hyper_parameters"]["decoder"]["init_args"] == {"hidden": [4], "activation": "relu"}
    assert held["metrics"] == state["metrics"]
    name = "decoder.layers.2.weight"
    start, end = header[name]["data_offsets"]
    weights = torch.frombuffer(bytearray(raw[8 + length + start : 8 + length + end]), dtype=torch.float32)
    assert torch.equal(weights.view(header[name]["shape"]), state["state_dict"][name])


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_export_is_measured_like_its_checkpoint(
    command: str, file: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--evaluation.parts=[]"] if command == "test" else []
    printed = []
    for path in (file, encdec.export(file)):
        capsys.readouterr()
        cli(command, *SMALL[:6], *options, f"--ckpt_path={path}", f"--name={path.suffix[1:]}")
        lines = capsys.readouterr().out.splitlines()
        printed.append([line for line in lines if "val/" in line or "test/" in line])
    assert printed[0] == printed[1]
    assert printed[0] or command == "predict"
    if command == "predict":
        written = [Path(f"lightning_logs/{name}/version_0/predictions/samples.png") for name in ("ckpt", "safetensors")]
        assert written[0].read_bytes() == written[1].read_bytes()


def test_training_does_not_go_on_from_an_export(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = encdec.export(file)
    err = refused_by_cli(["fit", *SMALL, f"--ckpt_path={exported}"], capsys, code=2)
    assert "not the state of the training" in err


def test_the_command_exports_and_overwrites_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(file)])
    assert capsys.readouterr().out.strip() == str(file.with_suffix(".safetensors"))
    before = file.with_suffix(".safetensors").read_bytes()
    main(["export", str(file)])  # the same again
    state = contents(file)
    state["state_dict"]["encoder.layers.0.bias"] += 1
    torch.save(state, "other.ckpt")
    capsys.readouterr()
    for args, words in {
        ("other.ckpt", "last.safetensors"): "is there already and differs",
        ("other.ckpt", "x.ckpt"): "give it a name that ends with .safetensors",
        ("missing.ckpt",): "There is no checkpoint",
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(["export", *args])
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert words in err
        assert len(err.strip().splitlines()) == 1
    assert file.with_suffix(".safetensors").read_bytes() == before
    assert not Path("x.ckpt").exists()


def test_a_damaged_export_is_refused_wherever_it_is_damaged(file: Path) -> None:
    exported = encdec.export(file)
    whole, reference = exported.read_bytes(), read_checkpoint(exported)
    reference = {**reference, "state_dict": {name: weight.clone() for name, weight in reference["state_dict"].items()}}
    for length in range(0, len(whole) - 1, len(whole) // 60):
        exported.write_bytes(whole[:length])
        refused(lambda: read_checkpoint(exported))
    draw, found = random.Random(0), 0
    for _ in range(150):
        position, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        exported.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        try:
            assert same(read_checkpoint(exported), reference)
        except UserError:
            found += 1
    assert found > 140


def test_a_foreign_or_newer_safetensors_file_is_refused(project: Path) -> None:
    weights = {"a": torch.zeros(2)}
    safetensors.torch.save_file(weights, "foreign.safetensors")
    assert "not an export of encdec" in refused(lambda: encdec.load("foreign.safetensors"))
    for text in ("{", "[]", "3", '{"format": 1}', '{"format": 1, "hyper_parameters": []}', "[" * 100_000):
        safetensors.torch.save_file(weights, "bad.safetensors", {"encdec": text})
        refused(lambda: encdec.load("bad.safetensors"))
    safetensors.torch.save_file(weights, "new.safetensors", {"encdec": '{"format": 5, "version": "9.1"}'})
    assert "'9.1' in format 5" in refused(lambda: encdec.load("new.safetensors"))


def test_shared_strided_and_scalar_weights_are_exported(file: Path) -> None:
    state = contents(file)
    weights = state["state_dict"]
    weights["encoder.layers.0.bias"] = weights["decoder.layers.0.bias"]
    weights["decoder.layers.0.weight"] = weights["decoder.layers.0.weight"].t().contiguous().t()
    weights |= {"a": torch.tensor(2.5, dtype=torch.bfloat16), "b": torch.zeros(0, 3), "c": torch.tensor([True, False])}
    weights["d"] = torch.arange(12.0)[::5]
    torch.save(state, file)
    assert not contents(file)["state_dict"]["decoder.layers.0.weight"].is_contiguous()
    assert same(read_checkpoint(encdec.export(file))["state_dict"], weights)


def test_settings_that_json_can_not_hold_are_not_exported(file: Path) -> None:
    for value in ({1: 2}, torch.zeros(1)):
        state = contents(file)
        state["hyper_parameters"]["beta"] = value
        torch.save(state, file)
        assert "holds what safetensors with JSON can't" in refused(lambda: encdec.export(file))


def test_a_run_in_pure_python_is_exported_too(project: Path) -> None:
    quiet.install()
    vae = EncoderlessVAE(decoder=MLPDecoder, latent_dim=3, image_shape=(1, 8, 8))
    trainer = pl.Trainer(accelerator="cpu", logger=False, max_steps=1, enable_progress_bar=False,
                         enable_model_summary=False, num_sanity_val_steps=0, enable_checkpointing=False)  # fmt: skip
    trainer.fit(vae, Digits())
    trainer.save_checkpoint("a.ckpt", weights_only=False)
    assert encdec.load(encdec.export("a.ckpt")).hparams == {**vae.hparams, "image_shape": [1, 8, 8]}


def test_what_a_plugin_defines_is_exported_before_plugins_are_loaded(file: Path) -> None:
    """Those that come with encdec are known to Python as to the command line, in a process that only exports."""
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "encdec_plugins.mmd.MMD"
    torch.save(checkpoint, file)
    subprocess.run([sys.executable, "-c", f"import encdec; encdec.export({str(file)!r}, 'a.safetensors')"], check=True)
    assert Path("a.safetensors").is_file()
