"""Files from strangers: what is damaged, foreign or hostile is one sentence, and nothing in it is ever run."""

import contextlib
import json
import random
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import safetensors.torch
import torch

import encdec
from encdec.cli import main, quiet
from encdec.data import Digits
from encdec.networks import MLPDecoder
from encdec.paradigms import VAE, EncoderlessVAE
from encdec.runs import checkpoints
from encdec.runs.checkpoints import read_checkpoint, verify
from encdec.types import UserError
from tests import conftest
from tests.conftest import ON_CPU, ROOT, RunCLI

SMALL = (
    "--model=VAE", "--model.latent_dim=2", "--model.encoder=MLPEncoder", "--model.encoder.hidden=[4]",
    "--model.decoder=MLPDecoder", "--model.decoder.hidden=[4]", "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--floors.enabled=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint that `fit` wrote."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(variable, "0")
        patch.chdir(tmp_path_factory.mktemp("trained"))
        main(["fit", *SMALL, *ON_CPU, "--trainer.logger=false", "--checkpoint.dirpath=."])
        return Path("last.ckpt").read_bytes()


@pytest.fixture
def file(trained: bytes, project: Path) -> Path:
    """That checkpoint, in the working directory."""
    path = project / "last.ckpt"
    path.write_bytes(trained)
    return path


def contents(file: Path) -> Any:
    """What it holds, apart from the file, which may then be written anew."""
    return torch.load(file, weights_only=True)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 700
    assert sentence.endswith(".")
    return sentence


def refused_by_cli(args: list[str], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    capsys.readouterr()
    return conftest.refused(capsys, *args, *ON_CPU, code=code)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


# ---------------------------------------------------------------------- damaged


def test_a_truncated_checkpoint_is_refused_at_every_length(file: Path) -> None:
    whole = file.read_bytes()
    for length in [*range(0, len(whole) - 1, len(whole) // 100), *range(1, 12), len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert str(file) in refused(lambda: read_checkpoint(file))


def test_a_flipped_bit_is_found_wherever_it_matters(file: Path) -> None:
    whole, reference = file.read_bytes(), contents(file)
    draw, found = random.Random(0), 0
    for _ in range(250):
        position, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        file.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        try:
            assert same(read_checkpoint(file), reference), f"wrong contents with byte {position} flipped"
        except UserError:
            found += 1
    assert found > 50, "the rest are times, padding and the like"


def test_the_damaged_record_is_named(file: Path) -> None:
    whole = file.read_bytes()
    weights = contents(file)["state_dict"]["encoder.layers.0.weight"].numpy().tobytes()
    position = whole.index(weights) + 17
    file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    sentence = refused(lambda: verify(file))
    assert "damaged (record " in sentence
    assert "data/" in sentence
    assert refused(lambda: encdec.load(file)) == sentence


def test_a_rewritten_pickle_never_raises_anything_else(file: Path, project: Path) -> None:
    """The checksums are right, what they sum is not: what someone can write who wants to do harm."""
    draw = random.Random(0)
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    for _ in range(80):
        pickled = bytearray(records[name])
        for _ in range(draw.choice([1, 1, 1, 4])):
            pickled[draw.randrange(len(pickled))] = draw.randrange(256)
        with zipfile.ZipFile(file, "w") as archive:
            for other, content in records.items():
                archive.writestr(other, bytes(pickled) if other == name else content)
        with contextlib.suppress(UserError):
            read_checkpoint(file)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran", "w"))


WRONG: dict[str, Any] = {
    "state_dict": [None, [], "", 3, {1: torch.zeros(1)}, {"a": 1}, {"a": torch.zeros(1).to_sparse()},
                   {"a": torch.zeros(1).expand(10**12)}, {"a": torch.zeros(1, device="meta")}],
    "hyper_parameters": [None, [], "VAE", {}, {"_class_path": 3}, {"_class_path": "VAE", 3: 4}],
    "global_step": [None, -1, 2.0, "3", True, 10**30],
    "epoch": [None, -1, torch.zeros(1), [1]],
    "pytorch-lightning_version": [None, 2, "", "x.y", "0.0.1", "2.6.6; x", "1" * 3000],
    "encdec": [None, 1, {}, {"format": "1"}, {"format": -1}, {"format": 2, "version": "9.0"}, {"format": 3}],
    "loops": [None, 1, [], {}, {"fit_loop": {}}, {"fit_loop": {"epoch_progress": {"current": {"processed": "3"}}}}],
    "callbacks": [None, [], {"a": 1}, {"a": {"best_model_path": "runs/../../../etc/x"}},
                  {"a": {"last_model_path": "s3://x/y"}}, {"a": {"best_k_models": {"a/../..": 1}}},
                  {"a": {"kth_best_model_path": 5}}],
    "metrics": [None, [1], {"val/loss": "low"}, {"val/loss": [1]}],
    "optimizer_states": [None, {}, 3],
    "training_curve": [[], 3, {"logged_step": 1}, {"logged_step": -1, "names": [], "totals": []},
                       {"logged_step": 1, "names": ["a"], "totals": [[1.0]]},
                       {"logged_step": 1, "names": ["a"], "totals": [["1", "2"]]},
                       {"logged_step": 1, "names": 5, "totals": []}],
}  # fmt: skip


@pytest.mark.parametrize("entry", WRONG)
def test_an_entry_of_a_wrong_type_is_one_sentence(entry: str, file: Path) -> None:
    good = contents(file)
    for value in WRONG[entry]:
        torch.save({**good, entry: value}, file)
        sentence = refused(lambda: read_checkpoint(file))
        assert str(file) in sentence
    if entry in ("state_dict", "hyper_parameters", "global_step", "epoch", "pytorch-lightning_version"):
        torch.save({name: value for name, value in good.items() if name != entry}, file)
        refused(lambda: read_checkpoint(file))


def test_methods_hidden_by_what_a_file_says_are_refused(file: Path) -> None:
    state = OrderedDict(contents(file)["state_dict"])
    state.__dict__["copy"] = "no method"
    torch.save({**contents(file), "state_dict": state}, file)
    refused(lambda: read_checkpoint(file))


@pytest.mark.parametrize("kind", ["a list", "text", "empty", "noise", "old torch", "script", "packed", "bomb"])
def test_what_is_no_checkpoint_is_refused(kind: str, file: Path) -> None:
    if kind == "list":
        torch.save([1], file)
    elif kind == "text":
        file.write_text("a text that is long enough")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "noise":
        file.write_bytes(random.Random(0).randbytes(5000))
    elif kind == "old torch":
        torch.save(contents(file), file, _use_new_zipfile_serialization=False)
    elif kind == "script":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/constants.pkl", b"x")
            archive.writestr("x/data.pkl", b"x")
            archive.writestr("x/version", b"3")
    elif kind == "packed":
        with zipfile.ZipFile(file) as archive:
            records = {record.filename: archive.read(record) for record in archive.infolist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in records.items():
                archive.writestr(name, content)
    else:  # ten records that are the same bytes
        with zipfile.ZipFile(file, "w") as archive:
            for i in range(10):
                archive.writestr(f"x/data/{i}", bytes(5000))
            for info in archive.infolist():
                info.header_offset = 0
    sentence = refused(lambda: read_checkpoint(file))
    assert {"old torch": "format that PyTorch used until 2020", "packed": "packed"}.get(kind, "") in sentence


def test_weights_that_are_not_finite_are_refused(file: Path) -> None:
    state = contents(file)
    state["state_dict"]["encoder.layers.0.bias"][1] = float("nan")
    torch.save(state, file)
    assert "not finite (encoder.layers.0.bias)" in refused(lambda: encdec.load(file))


# ---------------------------------------------------------------------- hostile


@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_code_in_a_checkpoint_is_not_run(variable: str | None, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    torch.save({**contents(file), "metrics": _Code()}, file)
    assert "holds code" in refused(lambda: encdec.load(file))
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_no_command_runs_code_in_a_checkpoint(command: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**contents(file), "metrics": _Code()}, file)
    assert "holds code" in refused_by_cli([command, "--model=VAE", f"--ckpt_path={file}"], capsys)
    assert not Path("ran").exists()


def test_the_trainer_reads_with_the_same_care(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is asked to read anything: the variable makes torch trust files where nothing is said."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({**contents(file), "metrics": _Code()}, file)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.checkpoint_io = checkpoints.CheckpointIO()
    refused(lambda: trainer.strategy.load_checkpoint(file, weights_only=False))
    assert not Path("ran").exists()


EVIL = """
from pathlib import Path
Path("ran").touch()
class Evil:
    def __init__(self, *args, **kwargs): pass
"""
NAMES: dict[str, dict[str, Any]] = {
    "paradigm": {"_class_path": "evil.Evil"},
    "paradigm with a known name": {"_class_path": "evil.VAE"},
    "encoder": {"encoder": {"class_path": "evil.Evil", "init_args": {"hidden": [4]}}},
    "encoder as text": {"encoder": "evil.Evil"},
    "encoder in YAML": {"encoder": "{class_path: evil.Evil}"},
    "encoder in YAML in YAML": {"encoder": "'{class_path: \"evil\\x2eEvil\"}'"},
    "observation": {"observation": {"class_path": "evil.Evil"}},
    "optimizer": {"optimizer": {"class_path": "evil.Evil", "init_args": {"lr": 1.0}}},
    "scheduler": {"lr_scheduler": {"class_path": "evil.Evil"}},
    "nested": {"decoder": {"class_path": "encdec.networks.MLPDecoder", "init_args": {"hidden": "evil.Evil"}}},
    "deep": {"beta": [{"x": ({"y": "evil.Evil"},)}]},
    "submodule": {"encoder": "evil.sub.Evil"},
    "known module, no class": {"encoder": "os.system"},
    "known module, foreign class": {"encoder": {"class_path": "subprocess.Popen", "init_args": {"args": "touch ran"}}},
    "function of encdec": {"encoder": "encdec.cli.main"},
    "module of encdec": {"encoder": "encdec.cli.command_line.os.system"},
    "instantiator": {"_instantiator": "evil.Evil"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_can_not_import_anything(name: str, file: Path, project: Path) -> None:
    (project / "evil.py").write_text(EVIL)
    state = contents(file)
    state["hyper_parameters"].update(NAMES[name])
    torch.save(state, file)
    sys.path.insert(0, str(project))
    try:
        sentence = refused(lambda: encdec.load(file))
    finally:
        sys.path.remove(str(project))
    assert any(word in sentence for word in ("vil", "os.system", "subprocess.Popen", "encdec.cli")), sentence
    assert not (project / "ran").exists()
    assert "evil" not in sys.modules


def test_the_module_would_have_written_a_file(project: Path) -> None:
    (project / "evil.py").write_text(EVIL)
    subprocess.run([sys.executable, "-c", "import evil"], cwd=project, check=True)
    assert (project / "ran").exists(), "or the tests above mean nothing"


def test_settings_without_end_are_refused(file: Path) -> None:
    laughs: Any = ["ha.ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    circle: list[Any] = []
    circle.append(circle)
    for value in (laughs, circle, "x" * 1_000_000):
        state = contents(file)
        state["hyper_parameters"]["beta"] = value
        torch.save(state, file)
        assert "too deep, or too many" in refused(lambda: encdec.load(file))


@pytest.mark.parametrize(
    "hparams", [{"latent_dim": 10**14}, {"latent_dim": -1}, {"image_shape": (0, 8, 8)}, {"beta": "much"}, {"new": 1}]
)
def test_settings_that_do_not_work_are_a_sentence(hparams: dict[str, Any], file: Path) -> None:
    state = contents(file)
    state["hyper_parameters"].update(hparams)
    torch.save(state, file)
    with pytest.raises(UserError) as caught:
        encdec.load(file)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("address", ["http://localhost/x.ckpt", "https://localhost/x", "s3://b/x", "hf://a/b",
                                     "file:///x.ckpt", "memory://x", "simplecache::http://localhost/x"])  # fmt: skip
def test_addresses_are_refused(address: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is an address" in refused(lambda: encdec.load(address))
    assert "is an address" in refused_by_cli(["test", f"--ckpt_path={address}"], capsys, code=2)
    assert "is an address" in refused_by_cli(["test", "--model=VAE", f"--ckpt_path={address}"], capsys, code=2)


@pytest.mark.parametrize("word", ["best", "registry:model"])
def test_the_words_of_lightning_are_names_of_files(
    word: str, file: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"There is no checkpoint '{word}'" in refused_by_cli(["fit", "--model=VAE", "--ckpt_path", word], capsys, 2)
    file.rename(word)
    cli("validate", *SMALL[:6], "--ckpt_path", word)
    assert "val/loss" in capsys.readouterr().out


def test_lightning_deletes_nothing_but_checkpoints(file: Path, project: Path) -> None:
    (project / "folder.ckpt").mkdir()
    (project / "notes.txt").touch()
    for name in ("folder.ckpt", "notes.txt", "missing.ckpt", "last.ckpt"):
        checkpoints.CheckpointIO().remove_checkpoint(project / name)
    assert [(project / name).exists() for name in ("folder.ckpt", "notes.txt", "last.ckpt")] == [True, True, False]


# ---------------------------------------------------------------------- another version, another model


def test_a_newer_format_names_both_versions_and_no_format_is_an_older_one(file: Path) -> None:
    state = contents(file)
    depends = {"torch": torch.__version__.partition("+")[0], "threads": torch.get_num_threads()}
    assert state["encdec"] == {"format": 1, "version": encdec.__version__, **depends}
    torch.save({**state, "encdec": {"format": 2, "version": "7.5"}, "state_dict": "of a new kind"}, file)
    sentence = refused(lambda: encdec.load(file))
    assert "'7.5' in format 2" in sentence
    assert encdec.__version__ in sentence
    assert "update encdec" in sentence
    del state["encdec"]
    torch.save(state, file)
    assert isinstance(encdec.load(file), VAE)


def test_weights_of_another_kind_of_number_do_not_fit(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = contents(file)
    state["state_dict"]["encoder.layers.0.bias"] = torch.zeros(4, dtype=torch.int64)
    torch.save(state, file)
    assert "'encoder.layers.0.bias' is (4,) of torch.int64" in refused(lambda: encdec.load(file))
    assert "'encoder.layers.0.bias' is (4,)" in refused_by_cli(["test", *SMALL[:6], f"--ckpt_path={file}"], capsys)


# ---------------------------------------------------------------------- the config beside a checkpoint

CONFIGS = {
    "callback": "trainer: {callbacks: [{class_path: evil.Evil}]}",
    "callback as text": "trainer: {callbacks: [evil.Evil]}",
    "function": "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {on_fit_start: os.system}}]}",
    "logger": "trainer: {logger: {class_path: evil.Evil}}",
    "strategy": "trainer: {strategy: evil.Evil}",
    "model": "model: {class_path: evil.Evil}",
    "data": "data: evil.Evil",
    "dotted key": "data.class_path: evil.Evil",
    "optimizer": "model: {class_path: VAE, init_args: {optimizer: {class_path: evil.Evil}}}",
    "another file": "model: more.yaml",
    "another file beside it": "data: beside.yaml",
    "config": "config: more.yaml",
    "address": "model: http://localhost/more.yaml",
    "tag": "model: !!python/object/apply:os.system ['touch ran']",
    "no YAML": "model: {",
}


def run_folder(file: Path, config: str) -> Path:
    """A run as a stranger may send it."""
    run = file.parent / "theirs"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(config)
    return file.rename(run / "checkpoints" / file.name)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_beside_a_checkpoint_can_not_import_anything(
    name: str, file: Path, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "evil.py").write_text(EVIL)
    (project / "more.yaml").write_text("class_path: evil.Evil")
    path = run_folder(file, CONFIGS[name])
    (path.parent.parent / "beside.yaml").write_text("class_path: evil.Evil")
    monkeypatch.syspath_prepend(project)
    for call in (["test", f"--ckpt_path={path}"], ["fit", f"--resume={path.parent.parent}"]):
        err = refused_by_cli(call, capsys)
        assert "config.yaml" in err
        assert name in ("tag", "no YAML") or "if you trust this file, say so by --config" in err
    assert not (project / "ran").exists()
    assert "evil" not in sys.modules


def test_a_config_that_the_user_names_may_name_any_class(file: Path, project: Path, cli: RunCLI) -> None:
    (project / "mine.py").write_text(
        "import lightning.pytorch as pl\nfrom pathlib import Path\n"
        "class Mine(pl.Callback):\n    def on_validation_end(self, *args):\n        Path('ran').touch()\n"
    )
    (project / "mine.yaml").write_text("trainer: {callbacks: [{class_path: mine.Mine}]}")
    sys.path.insert(0, str(project))
    try:
        cli("validate", *SMALL[:6], "--config=mine.yaml", f"--ckpt_path={file}")
    finally:
        sys.path.remove(str(project))
    assert (project / "ran").exists()


def test_the_config_of_a_run_with_classes_of_lightning_and_plugins_is_taken(cli: RunCLI, project: Path) -> None:
    (project / "layer.yaml").write_text(
        "trainer:\n  callbacks: [{class_path: ModelSummary, init_args: {max_depth: 1}}]\n"
        "  logger: {class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: logs, name: a}}\n"
        "model: {class_path: AutoDecoder, init_args: {code_steps: 2, lr_scheduler: {class_path: StepLR, "
        "init_args: {step_size: 1}}}}\n"
    )
    cli("fit", "--config=layer.yaml", *SMALL[-4:])
    run = "lightning_logs/autodecoder/version_0"
    cli("validate", f"--ckpt_path={run}/checkpoints/last.ckpt")
    cli("fit", f"--resume={run}", "--trainer.max_epochs=2")
    cli("validate", f"--ckpt_path={run}/checkpoints/best.ckpt")
    assert [path.name for path in Path(run).parent.iterdir()] == ["version_0"], "all of it went on in that run"


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
    assert (held["format"], held["version"], held["step"], held["epoch"]) == (1, encdec.__version__, 2, 0)
    assert held["paradigm"] == "encdec.paradigms.VAE"
    assert held["hyper_parameters"]["decoder"]["init_args"] == {"hidden": [4]}
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


def test_the_tests_that_the_security_page_names_exist() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in named if f"def {name}(" not in written] == []
