"""Every shipped config runs for a moment through the real command line."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, RunCLI

STUDIES = sorted((ROOT / "configs" / "study").glob("*.yaml"))
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml") if path not in STUDIES)
MOMENT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2")


def is_layer(path: Path) -> bool:
    return "model" not in yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_config_trains_and_its_saved_config_trains_again(config: Path, cli: RunCLI, project: Path) -> None:
    layers = ["--config", "configs/vae.yaml"] if is_layer(config) else []
    on_cpu = ["--trainer.num_nodes=1", "--trainer.strategy=auto"]
    quick = ["--model.steps=1"] if config.stem == "flow_matching" else []  # its samples take half a minute otherwise
    cli("fit", *layers, "--config", str(config), *MOMENT, *on_cpu, *quick)
    (saved,) = project.glob("lightning_logs/*/version_0/config.yaml")
    has_best = config.stem not in ("gan", "drifting", "mean_flow")  # no loss of which measures progress
    assert (saved.parent / "checkpoints" / "best.ckpt").is_file() == has_best
    assert (saved.parent / "checkpoints" / "last.ckpt").is_file()
    cli("fit", "--config", str(saved), *MOMENT)
    assert len(list(project.glob("lightning_logs/*/version_1/checkpoints/last.ckpt"))) == 1


@pytest.mark.parametrize("config", ["ae", "ae_zeros", "decoder", "vae", "vae_noenc"])
def test_reproductions_have_the_missions_settings(config: str) -> None:
    name = {"vae": "mnist_vae", "vae_noenc": "mnist_vae_noenc"}.get(config, f"cifar10_{config}")
    settings = yaml.safe_load((ROOT / "configs" / "reproduce" / f"{name}.yaml").read_text())
    plain = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())
    assert settings["model"]["class_path"] == plain["model"]["class_path"]
    init_args = settings["model"]["init_args"]
    if name.startswith("mnist"):
        assert settings["trainer"]["max_epochs"] == 10
        assert settings["data"] == {"class_path": "MNIST", "init_args": {"batch_size": 128, "data_dir": "data"}}
        assert init_args["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": "1e-5"}}
        assert init_args["latent_dim"] == 32
        assert init_args["decoder"] == {"class_path": "MLPDecoder", "init_args": {"hidden": [512]}}
    else:
        assert settings["trainer"]["max_epochs"] == 30
        assert settings["data"]["class_path"] == "CIFAR10"
