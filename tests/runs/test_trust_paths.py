"""What stands in a file from a stranger opens nothing, imports nothing, connects to nothing and starts nothing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import encdec
from encdec.cli import run_config
from tests.audit import Seen, watched
from tests.conftest import ROOT
from tests.runs.strangers import config_of, contents, refused, refused_by_cli

PLACES = ["decoder", "encoder", "observation", "optimizer", "lr_scheduler", "image_shape", "beta", "seed"]
"""Settings of a VAE."""


def places(folder: Path) -> list[str]:
    """Texts that a parser with support for paths of configs opens or fetches."""
    return [
        "m.yaml", "./m.yaml", "~/m.yaml", str(folder / "m.yaml"), f"file://{folder}/m.yaml", f"local://{folder}/m.yaml",
        "http://127.0.0.1:9/m.yaml", "simplecache::http://127.0.0.1:9/m.yaml", f"simplecache::file://{folder}/m.yaml",
        "with space.yaml", "./pipe", "-", "/dev/stdin", "memory://m.yaml", "evil.Evil", "{class_path: evil.Evil}",
        '!!python/object/apply:os.system ["touch ran"]',
    ]  # fmt: skip


def harmless(seen: Seen, *given: Path) -> None:
    """Check that nothing but the given files was opened, and nothing else was done."""
    installed = str(Path(torch.__file__).parent.parent)
    ours = (sys.prefix, sys.base_prefix, installed, str(ROOT / "encdec"), str(ROOT / "plugins"))
    allowed = {str(path) for path in given}
    assert [path for path in seen.opened if path not in allowed and not path.startswith(ours)] == []
    assert [name for name in seen.imported if name.partition(".")[0] in ("evil", "m", "os")] == []
    assert (seen.connected, seen.started) == ([], [])


@pytest.mark.parametrize("place", PLACES)
def test_text_in_a_checkpoint_is_never_a_path(place: str, run: Path, folder: Path) -> None:
    path = run / "checkpoints" / "last.ckpt"
    good = contents(path)
    for text in places(folder):
        good["hyper_parameters"][place] = text
        torch.save(good, path)
        with watched() as seen:
            sentence = refused(lambda: encdec.load(path))
        assert f"{place} is " in sentence, sentence
        harmless(seen, path)


def test_text_within_settings_of_a_class_is_never_a_path(run: Path, folder: Path) -> None:
    path = run / "checkpoints" / "last.ckpt"
    good = contents(path)
    for text in places(folder):
        for spec in (
            {"class_path": text},
            {"class_path": "encdec.networks.MLPDecoder", "init_args": text},
            {"class_path": "encdec.networks.MLPDecoder", "init_args": {"hidden": text}},
            {"class_path": "encdec.networks.MLPDecoder", "init_args": {"hidden": [text]}},
            {"class_path": "encdec.networks.MLPDecoder", "init_args": {text: 4}},
            {"class_path": "encdec.networks.MLPDecoder", "config": text},
            {"class_path": "encdec.networks.MLPDecoder", "dict_kwargs": {"hidden": text}},
            {"__path__": text, "class_path": "encdec.networks.MLPDecoder"},
            [text],
        ):
            good["hyper_parameters"]["decoder"] = spec
            torch.save(good, path)
            with watched() as seen:
                sentence = refused(lambda: encdec.load(path))
            assert str(path) in sentence
            harmless(seen, path)


@pytest.mark.parametrize("place", ["decoder", "optimizer", "beta"])
def test_text_in_an_export_is_never_a_path(place: str, run: Path, folder: Path, tmp_path: Path) -> None:
    path, exported = run / "checkpoints" / "last.ckpt", tmp_path / "theirs.safetensors"
    good = contents(path)
    for text in places(folder):
        good["hyper_parameters"][place] = text
        torch.save(good, path)
        exported.unlink(missing_ok=True)
        encdec.export(path, exported)
        with watched() as seen:
            refused(lambda: encdec.load(exported))
        harmless(seen, exported)


def put(keys: str) -> Callable[[Any, Any], None]:
    """Sets what a dotted path leads to."""

    def change(config: Any, value: Any) -> None:
        *parents, last = keys.split("/")
        for key in parents:
            config = config[int(key) if key.isdecimal() else key]
        config[int(last) if last.isdecimal() else last] = value

    return change


SHORT = """
model: {class_path: VAE, init_args: {decoder: {class_path: MLPDecoder, init_args: {hidden: [4]}}}}
data: {class_path: Digits, init_args: {batch_size: 4}}
trainer: {max_epochs: 1}
checkpoint: {}
evaluation: {}
"""
IN_CONFIG = [
    "model", "data", "trainer", "checkpoint", "images", "evaluation", "config", "optimizer", "class_path",
    "model/class_path", "model/init_args", "model/init_args/decoder", "model/init_args/decoder/class_path",
    "model/init_args/decoder/init_args", "model/init_args/optimizer", "model/init_args/lr_scheduler",
    "model/init_args/observation", "model/config", "data/init_args", "data/init_args/batch_size",
    "trainer/callbacks", "trainer/logger", "trainer/strategy", "trainer/plugins", "trainer/profiler",
    "trainer/accelerator", "trainer/config", "trainer/max_epochs", "trainer/model_registry", "seed_everything",
    "compile", "checkpoint/config", "evaluation/parts",
]  # fmt: skip


@pytest.mark.parametrize("keys", IN_CONFIG)
def test_text_in_the_config_of_a_run_is_never_a_path(keys: str, run: Path, folder: Path) -> None:
    path = run / "config.yaml"
    for text in places(folder):
        for value in (text, [text], [{"class_path": text}], {"class_path": text}, {"config": text}, {"x": text}):
            config = yaml.safe_load(SHORT)
            put(keys)(config, value)
            path.write_text(json.dumps(config))
            with watched() as seen:
                sentence = refused(lambda: run_config.checked(path))
            assert str(path) in sentence
            harmless(seen, path)


@pytest.mark.parametrize("call", ["fit", "resume", "validate", "test", "predict"])
def test_no_command_follows_a_path_in_the_config_of_a_run(
    call: str, run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, checkpoint = run / "config.yaml", run / "checkpoints" / "last.ckpt"
    args = ["fit", f"--resume={run}"] if call == "resume" else [call, f"--ckpt_path={checkpoint}"]
    good = path.read_text()
    for keys in ("model", "trainer", "trainer/callbacks", "config", "model/init_args/optimizer"):
        for text in ("~/m.yaml", "-", "http://127.0.0.1:9/m.yaml", "./pipe"):
            config = yaml.safe_load(good)
            put(keys)(config, text)
            path.write_text(yaml.safe_dump(config))
            with watched() as seen:
                err = refused_by_cli(args, capsys)
            assert str(path) in err
            harmless(seen, path, checkpoint)


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.system"}},
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"name": "a"}},
        {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking_uri": "127.0.0.1"}},
        {"class_path": "lightning.pytorch.plugins.io.AsyncCheckpointIO"},
        {"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"},
        {"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy", "init_args": {"config": "m.yaml"}},
        {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"checkpoint_io": "TorchCheckpointIO"}},
        {"class_path": "lightning.pytorch.Trainer", "init_args": {}},
        {"class_path": "encdec.cli.main"},
        {"class_path": "ImageGrids", "init_args": {"every_n_epochs": "m.yaml"}},
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "s3://x/y"}},
        {"class_path": "ModelCheckpoint", "init_args": {"train_time_interval": "1"}},
    ],
    ids=lambda spec: spec["class_path"].rpartition(".")[2],
)
def test_classes_that_reach_further_than_this_machine_are_refused(spec: dict[str, Any], run: Path) -> None:
    path = run / "config.yaml"
    for key in ("callbacks", "logger", "plugins", "strategy", "profiler"):
        for value in (spec, [spec]):
            path.write_text(json.dumps({"trainer": {key: value}}))
            with watched() as seen:
                refused(lambda: run_config.checked(path))
            harmless(seen, path)


def test_what_was_checked_is_what_is_read(run: Path) -> None:
    """The settings reach the parser as the text that was checked: the file is read once."""
    again = yaml.safe_load(run_config.checked(run / "config.yaml"))
    assert again == config_of(run)


@pytest.mark.parametrize(
    "flag",
    ["--model", "--data", "--trainer", "--checkpoint", "--images", "--floors", "--evaluation", "--predictions",
     "--model.decoder", "--model.encoder", "--model.optimizer", "--model.lr_scheduler", "--model.observation",
     "--trainer.callbacks", "--trainer.callbacks+", "--trainer.logger", "--trainer.plugins"],
)  # fmt: skip
def test_no_flag_but_config_reads_a_file(flag: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("m.yaml", "~/m.yaml", "t.yaml"):
        with watched() as seen:
            err = refused_by_cli(["fit", "--model=VAE", f"{flag}={name}"], capsys, code=2)
        assert [path for path in seen.opened if path.endswith(".yaml")] == []
        assert "--config" in err or "must hold settings by their names" in err


def test_configs_are_not_fetched(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("http://127.0.0.1:9/m.yaml", "simplecache::http://127.0.0.1:9/m.yaml", "memory://m.yaml"):
        with watched() as seen:
            refused_by_cli(["fit", f"--config={address}"], capsys, code=2)
        assert seen.connected == []
