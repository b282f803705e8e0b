"""Files from strangers: nothing in a checkpoint is ever run, imported or fetched."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import encdec
from encdec.paradigms import VAE
from encdec.runs import checkpoints
from encdec.types import UserError
from tests.conftest import ROOT, RunCLI
from tests.runs.strangers import EVIL, SMALL, Code, contents, refused, refused_by_cli

# ---------------------------------------------------------------------- hostile


@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_code_in_a_checkpoint_is_not_run(variable: str | None, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    torch.save({**contents(file), "metrics": Code()}, file)
    assert "holds code" in refused(lambda: encdec.load(file))
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_no_command_runs_code_in_a_checkpoint(command: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**contents(file), "metrics": Code()}, file)
    assert "holds code" in refused_by_cli([command, "--model=VAE", f"--ckpt_path={file}"], capsys)
    assert not Path("ran").exists()


def test_the_trainer_reads_with_the_same_care(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is asked to read anything: the variable makes torch trust files where nothing is said."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({**contents(file), "metrics": Code()}, file)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.checkpoint_io = checkpoints.CheckpointIO()
    refused(lambda: trainer.strategy.load_checkpoint(file, weights_only=False))
    assert not Path("ran").exists()


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
    assert state["encdec"] == {"format": 2, "version": encdec.__version__, **depends}
    torch.save({**state, "encdec": {"format": 3, "version": "7.5"}, "state_dict": "of a new kind"}, file)
    sentence = refused(lambda: encdec.load(file))
    assert "'7.5' in format 3" in sentence
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


def test_the_tests_that_the_security_page_names_exist() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in named if f"def {name}(" not in written] == []
