"""What stands in a file from a stranger opens nothing, imports nothing, connects to nothing and starts nothing."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import encdec
from encdec.cli import main, run_config
from encdec.paradigms import VAE
from encdec.runs import build, trust
from encdec.types import UserError
from tests.audit import Seen, watched
from tests.conftest import ON_CPU, ROOT, RunCLI, new_project
from tests.runs.test_trust import EVIL, SMALL, contents, refused, refused_by_cli

PLACES = ["decoder", "encoder", "observation", "optimizer", "lr_scheduler", "image_shape", "beta", "seed"]
"""Settings of a VAE."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a run, in which a file's path would lead to a module that is not imported."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(variable, "0")
        project = new_project(tmp_path_factory.mktemp("strangers"), patch)
        patch.chdir(project)
        patch.setenv("HOME", str(project))
        patch.syspath_prepend(project)
        (project / "evil.py").write_text(EVIL)
        (project / "m.yaml").write_text("class_path: evil.Evil\n")
        (project / "t.yaml").write_text("max_epochs: 1\n")
        (project / "with space.yaml").write_text("class_path: evil.Evil\n")
        os.mkfifo(project / "pipe")
        main(["fit", *SMALL, *ON_CPU])
        checkpoint = project / "lightning_logs" / "vae" / "version_0" / "checkpoints" / "last.ckpt"
        encdec.load(encdec.export(checkpoint, "good.safetensors"))  # what is imported when it is first used now is
        with pytest.raises(UserError):
            encdec.load("m.yaml")
        yield project


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that may be changed; the working directory is the project's."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.syspath_prepend(folder)
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / name).write_bytes((folder / "lightning_logs" / "vae" / "version_0" / name).read_bytes())
    return tmp_path / "theirs"


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


def config_of(run: Path) -> Any:
    return yaml.safe_load((run / "config.yaml").read_text())


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


# ---------------------------------------------------------------------- without end


@pytest.fixture
def soon() -> Iterator[None]:
    """Ends a test that takes more than ten seconds, as one that waits for a pipe does."""

    def end(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ENDLESS = {
    "aliases": LAUGHS,
    "a circle": "a: &a [*a]",
    "merged": "a: &a {x: 1}\nb: {<<: *a}",
    "deep": "[" * 90_000,
    "deep mappings": "{a: " * 20_000,
    "deep blocks": "\n".join(" " * depth + "a:" for depth in range(300)),
    "wide": f"[{'x, ' * 30_000}]",
    "long": "a: " + "x" * 90_000,
    "large": "a: 1\n" * 100_000,
    "a number": "a: " + "9" * 9_000,
    "a number to the base 60": "a: 1" + ":59" * 3_000,
    "a tag": "a: !!python/name:os.system",
    "a date": "a: 2001-01-01",
    "no text": "a: \x00",
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.usefixtures("soon")
def test_yaml_without_end_is_a_sentence(kind: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text(ENDLESS[kind])
    refused(lambda: run_config.checked(run / "config.yaml"))
    refused_by_cli(["fit", f"--resume={run}"], capsys)


@pytest.mark.usefixtures("soon")
def test_pipes_are_not_waited_for(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").unlink()
    os.mkfifo(run / "config.yaml")
    refused_by_cli(["fit", f"--resume={run}", "--model=VAE"], capsys, code=2)
    with pytest.raises(UserError):
        trust.read_yaml(run / "config.yaml")
    (run / "checkpoints" / "last.ckpt").unlink()
    os.mkfifo(run / "checkpoints" / "last.ckpt")
    refused(lambda: encdec.load(run / "checkpoints" / "last.ckpt"))


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "change",
    [{"latent_dim": 10**9}, {"image_shape": (1, 10**5, 10**5)},
     {"decoder": {"class_path": "encdec.networks.MLPDecoder", "init_args": {"hidden": [10**7, 10**7]}}},
     {"num_train": 10**15, "_class_path": "encdec_plugins.autodecoder.AutoDecoder"}],
)  # fmt: skip
def test_settings_of_a_huge_model_take_no_memory(change: dict[str, Any], run: Path) -> None:
    """The sizes are compared with those of the weights, of which there are as many as the file has bytes."""
    path = run / "checkpoints" / "last.ckpt"
    good = contents(path)
    good["hyper_parameters"] |= change
    if "_class_path" in change:
        for name in ("encoder", "beta"):
            del good["hyper_parameters"][name]
    torch.save(good, path)
    sentence = refused(lambda: encdec.load(path))
    assert " in the checkpoint and (" in sentence, sentence


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("command", ["fit", "resume", "validate"])
def test_a_config_of_a_huge_model_takes_no_memory(command: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the checkpoint beside it says the same."""
    path, config = run / "checkpoints" / "last.ckpt", config_of(run)
    good = contents(path)
    good["hyper_parameters"]["latent_dim"] = config["model"]["init_args"]["latent_dim"] = 10**9
    torch.save(good, path)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    args = ["fit", f"--resume={run}"] if command == "resume" else [command, f"--ckpt_path={path}"]
    assert " in the checkpoint and (" in refused_by_cli(args, capsys)


class Called:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "called",
    [Called(bytearray, 10**11), Called(set, "ab"), Called(complex, 1), Called(torch.zeros, 10**11), Called(print, "x"),
     torch.zeros(3).to_sparse()],
    ids=["bytearray", "set", "complex", "zeros", "print", "sparse"],
)  # fmt: skip
def test_a_pickle_calls_nothing_but_what_makes_tensors(called: Any, run: Path) -> None:
    path = run / "checkpoints" / "last.ckpt"
    torch.save({**contents(path), "metrics": {"a": called}}, path)
    assert "holds code" in refused(lambda: encdec.load(path))


# ---------------------------------------------------------------------- what fits is built


def test_a_paradigm_is_built_from_what_a_config_says() -> None:
    settings = {
        "image_shape": [1, 8, 8], "latent_dim": 3, "beta": 2, "num_classes": 10, "lr_scheduler": None,
        "encoder": {"class_path": "ConvEncoder", "init_args": {"channels": [4, 8]}},
        "decoder": {"class_path": "encdec.networks.mlp.MLPDecoder", "init_args": None},
        "observation": {"class_path": "Gaussian", "init_args": {"sigma": 0.2}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1, "momentum": 0.5}},
    }  # fmt: skip
    vae = build.build(VAE, settings)
    assert (vae.beta, vae.latent_dim, vae.image_shape) == (2.0, 3, (1, 8, 8))
    assert vae.observation.sigma == 0.2  # type: ignore[attr-defined]
    assert type(vae.encoder).__name__ == "ConvEncoder"
    (group,) = vae._optimizer(vae.parameter_groups()).param_groups
    assert (group["lr"], group["momentum"]) == (1.0, 0.5)


def test_a_run_with_a_scheduler_and_another_optimizer_is_loaded(cli: RunCLI, project: Path) -> None:
    cli(
        "fit", *SMALL, "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1e-3",
        "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=val/mse",
        "--model.observation=Gaussian", "--model.observation.sigma=0.5",
    )  # fmt: skip
    path = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    assert encdec.load(path).hparams["optimizer"]["init_args"]["lr"] == 1e-3
    encdec.load(encdec.export(path))
    cli("validate", f"--ckpt_path={path}")
    cli("fit", "--resume=lightning_logs/vae/version_0", "--trainer.max_epochs=2")


class Open:
    """Has settings of every kind."""

    def __init__(self, anything, text: str = "a", either: int | str | None = None, *more: int, **others: Any) -> None:  # type: ignore[no-untyped-def]
        self.settings = {"anything": anything, "text": text, "either": either, **others}


@pytest.mark.parametrize(
    ("settings", "fits"),
    [({"anything": 3}, True), ({"anything": "word"}, True), ({"anything": "m.yaml"}, False),
     ({"anything": {"class_path": "a"}}, False), ({"anything": [[1, "b"], None]}, True), ({"text": "~/m.yaml"}, True),
     ({"text": 3}, False), ({"either": "x"}, True), ({"either": None}, True), ({"either": 1.5}, False),
     ({"either": True}, False), ({"other": 4}, True), ({"other": "http://a"}, False), ({"either": 10**30}, False)],
)  # fmt: skip
def test_a_value_fits_if_the_signature_says_so(settings: dict[str, Any], fits: bool) -> None:
    settings = {"anything": 0, **settings}
    if fits:
        assert build.build(Open, settings).settings.items() >= settings.items()
    else:
        with pytest.raises(build.UnfitError):
            build.build(Open, settings)
