"""The config beside a checkpoint from a stranger."""

import sys
from pathlib import Path

import pytest

from tests.conftest import RunCLI
from tests.runs.strangers import EVIL, SMALL, refused_by_cli

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
