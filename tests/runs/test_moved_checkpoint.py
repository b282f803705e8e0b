"""A checkpoint without its run."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encdec.cli import main
from tests.runs.measuring import (
    BEST,
    ON_CPU,
    PICTURES,
    Call,
    refused,
    write_pictures,
)

# ---------------------------------------------------------------------- a checkpoint without its run


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_moved_checkpoint_brings_its_model(
    command: str, ending: str, place: Callable[[str], Path], call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    project = place("digits")
    main(["export", BEST])
    more = {"predict": "--predictions.output_dir=out", "test": "--evaluation.parts=[]", "validate": "--name=measured"}
    for file in (BEST, "moved/away" + ending):
        if file != BEST:
            (project / "moved").mkdir()
            Path(BEST).with_suffix(ending).rename(file)
            shutil.rmtree("lightning_logs")
            assert (
                "give --data NAME; it was trained on Digits" in refused(call(command, f"--ckpt_path={file}"), 2)
                or ending == ".safetensors"
            )
        capsys.readouterr()
        main([command, *ON_CPU, more[command], "--floors.enabled=false", f"--ckpt_path={file}", "--data=Digits"])
        out, err = capsys.readouterr()
        assert err == ""
        figures = [line for line in out.splitlines() if "val/" in line or "test/" in line]
        pictures = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
        if file == BEST:
            before = figures, pictures
    assert (figures, pictures) == before
    assert figures or pictures


def test_a_moved_checkpoint_keeps_to_its_settings(place: Callable[[str], Path], call: Call) -> None:
    project = place("digits")
    Path(BEST).rename("away.ckpt")
    shutil.rmtree("lightning_logs")
    measure = ("validate", "--ckpt_path=away.ckpt")
    assert "beta is 100.0 instead of 1.0" in refused(call(*measure, "--data=Digits", "--model.beta=100"))
    assert call(*measure, "--data=Digits", "--model.latent_dim=2") == (0, "")
    assert "the data must be named" in refused(call(*measure, "--data.batch_size=9"), 2)
    (project / "data.yaml").write_text("data: {class_path: Digits, init_args: {batch_size: 9}}")
    assert call(*measure, "--config=data.yaml") == (0, "")
    (project / "data.yaml").write_text("data: {init_args: {batch_size: 9}}")
    assert "the data must be named" in refused(call(*measure, "--config=data.yaml"), 2)
    assert "holds a VAE, but the config asks for an AE" in refused(call(*measure, "--data=Digits", "--model=AE"))


def test_a_moved_checkpoint_is_measured_with_its_seed_and_its_plugin(project: Path, call: Call) -> None:
    assert call("fit", "--model=AutoDecoder", "--model.code_steps=1", "--seed_everything=7") == (0, "")
    (project / "lightning_logs/autodecoder/version_0/checkpoints/last.ckpt").rename("away.ckpt")
    shutil.rmtree("lightning_logs")
    assert call("validate", "--ckpt_path=away.ckpt", "--data=Digits") == (0, "")


def test_a_moved_checkpoint_and_a_folder_that_has_grown(place: Callable[[str], Path], call: Call) -> None:
    project = place("pictures")
    Path(BEST).rename("away.ckpt")
    shutil.rmtree("lightning_logs")
    assert call("test", "--ckpt_path=away.ckpt", *PICTURES) == (0, "")
    (project / "pictures").rename("elsewhere")
    assert call("test", "--ckpt_path=away.ckpt", *PICTURES, "--data.path=elsewhere") == (0, "")
    write_pictures(project / "elsewhere", *range(100, 120))
    assert "20 more" in refused(call("test", "--ckpt_path=away.ckpt", *PICTURES, "--data.path=elsewhere"))


@pytest.mark.parametrize("value", ["m.yaml", "./m.yaml", "evil.Evil", {"class_path": "evil.Evil"}])
@pytest.mark.parametrize("name", ["decoder", "observation", "optimizer", "latent_dim", "beta"])
def test_a_moved_checkpoint_names_no_file_and_no_module(
    name: str, value: Any, place: Callable[[str], Path], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = place("digits")
    monkeypatch.syspath_prepend(project)
    (project / "evil.py").write_text("raise SystemExit('evil')")
    (project / "m.yaml").write_text("class_path: evil.Evil")
    contents = torch.load(BEST, weights_only=True)
    contents["hyper_parameters"][name] = value
    torch.save(contents, "away.ckpt")
    assert "away.ckpt" in refused(call("validate", "--ckpt_path=away.ckpt", "--data=Digits"))
    assert "evil" not in sys.modules


def test_a_layer_that_names_no_model_lies_over_the_config_of_the_run(place: Callable[[str], Path], call: Call) -> None:
    project = place("digits")
    (project / "layer.yaml").write_text("data: {init_args: {batch_size: 9}}\nmodel: {init_args: {beta: 1.0}}")
    assert call("validate", f"--ckpt_path={BEST}", "--config=layer.yaml") == (0, "")
