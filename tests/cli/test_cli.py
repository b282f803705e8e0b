"""The command line: overrides, short names, errors that are one sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import encdec
from encdec.cli import main
from encdec.paradigms import LatentVariable
from encdec.types import UserError
from tests.conftest import RunCLI

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")
VAE = ("fit", "--config", "configs/vae.yaml")


def printed(cli: RunCLI, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    with pytest.raises(SystemExit) as stop:
        cli("fit", *args, "--print_config")
    assert stop.value.code in (0, None)
    config: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return config


def test_short_names_alone_train(cli: RunCLI, project: Path) -> None:
    cli("fit", "--model", "VAE", "--data", "Digits", "--model.encoder", "ConvEncoder", *SHORT)
    assert (project / "lightning_logs/vae/version_0/checkpoints/best.ckpt").is_file()


def test_a_plugins_class_goes_by_its_short_name(cli: RunCLI, project: Path) -> None:
    cli("fit", "--model", "AutoDecoder", "--model.code_steps=2", *SHORT)
    saved = yaml.safe_load((project / "lightning_logs/autodecoder/version_0/config.yaml").read_text())
    assert saved["model"]["class_path"] == "encdec_plugins.autodecoder.AutoDecoder"
    loaded = encdec.load("lightning_logs/autodecoder/version_0/checkpoints/last.ckpt")
    assert loaded.sample(torch.zeros(2).long()).shape == (2, 1, 8, 8)


def test_later_configs_and_flags_win(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "layer.yaml").write_text("model: {init_args: {beta: 4.0, latent_dim: 5}}\n")
    config = printed(cli, capsys, "--config", "configs/vae.yaml", "--config", "layer.yaml", "--model.latent_dim=7")
    init_args = config["model"]["init_args"]  # type: ignore[index]
    assert (init_args["beta"], init_args["latent_dim"]) == (4.0, 7)
    assert init_args["decoder"]["init_args"] == {"hidden": [512], "activation": "relu"}, (
        "what a layer does not name stays"
    )


def test_optimizer_and_scheduler_are_injected(cli: RunCLI, project: Path) -> None:
    cli(*VAE, "--model.optimizer=SGD", "--model.optimizer.lr=0.25", "--model.lr_scheduler=StepLR",
        "--model.lr_scheduler.step_size=1", "--model.lr_scheduler.gamma=0.5", *SHORT)  # fmt: skip
    state = torch.load(project / "lightning_logs/vae/version_0/checkpoints/last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.25
    assert state["lr_schedulers"][0]["gamma"] == 0.5


def test_data_is_linked_to_the_model_and_the_seed_to_both(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/decoder.yaml", "--data", "MNIST", "--seed_everything=5", *SHORT)
    loaded = encdec.load("lightning_logs/decoder/version_0/checkpoints/last.ckpt")
    assert loaded.image_shape == (1, 28, 28)
    assert (loaded.num_classes, loaded.num_train, loaded.seed) == (10, 54, 5)


def test_a_checkpoint_brings_its_config(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(*VAE, "--model.latent_dim=3", "--name=mine", *SHORT)
    checkpoint = "lightning_logs/mine/version_0/checkpoints/best.ckpt"
    for command in ("validate", "test", "predict"):
        cli(command, "--ckpt_path", checkpoint, *(["--evaluation.parts=[]"] if command == "test" else []))
    out = capsys.readouterr().out
    assert "val/mse" in out
    assert "test/mse" in out
    assert len(list(project.glob("lightning_logs/*/*"))) == 1, "all belongs to the run that made the checkpoint"


def test_predict_writes_pictures_and_tensors(cli: RunCLI, project: Path) -> None:
    cli(*VAE, *SHORT)
    cli("predict", "--ckpt_path=lightning_logs/vae/version_0/checkpoints/best.ckpt")
    folder = project / "lightning_logs/vae/version_0/predictions"
    content = {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}
    assert set(content) == {"samples", "reconstructions", "interpolations", "traversals"}
    paradigm = encdec.load(project / "lightning_logs/vae/version_0/checkpoints/best.ckpt")
    samples, reconstructions, interpolations = (content[k] for k in ("samples", "reconstructions", "interpolations"))
    torch.testing.assert_close(samples["images"], paradigm.sample(samples["y"], samples["noise"]))
    assert torch.equal(reconstructions["index"], torch.arange(359)), "the whole test split, in its order"
    assert isinstance(paradigm, LatentVariable)
    decoded = paradigm.decode(reconstructions["z"], reconstructions["y"]).sigmoid()
    torch.testing.assert_close(reconstructions["reconstruction"], decoded.detach())
    torch.testing.assert_close(interpolations["images"][:, 0], reconstructions["reconstruction"][:8])
    for name in content:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_predict_of_a_paradigm_without_codes_writes_no_reconstructions(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/vae_noenc.yaml", *SHORT)
    cli(
        "predict",
        "--ckpt_path=lightning_logs/vae_noenc/version_0/checkpoints/last.ckpt",
        "--predictions.output_dir=out",
    )
    names = {path.name for path in (project / "out").iterdir()}
    assert names == {f"{stem}.{kind}" for stem in ("samples", "interpolations", "traversals") for kind in ("png", "pt")}


def test_max_steps_within_an_epoch_still_leaves_a_checkpoint(cli: RunCLI, project: Path) -> None:
    cli(*VAE, "--trainer.max_steps=3")
    state = torch.load(project / "lightning_logs/vae/version_0/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 3


def test_last_is_the_last_even_when_it_is_not_the_best(cli: RunCLI, project: Path) -> None:
    cli(*VAE, "--checkpoint.monitor=val/kl", "--checkpoint.mode=min", "--trainer.max_epochs=3")
    folder = project / "lightning_logs/vae/version_0/checkpoints"
    best, last = (torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert last["global_step"] == 33
    assert best["metrics"]["val/kl"] <= last["metrics"]["val/kl"]


@pytest.mark.parametrize(
    ("config", "flags", "words"),
    [("vae", [], "holds a ConditionalDecoder"), ("decoder", ["--model.latent_dim=3"], "does not fit the model")],
)
def test_a_checkpoint_of_another_model_is_one_sentence_and_exit_code_1(
    config: str, flags: list[str], words: str, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/decoder.yaml", *SHORT)
    capsys.readouterr()
    path = "lightning_logs/decoder/version_0/checkpoints/last.ckpt"
    with pytest.raises(SystemExit) as stop:
        cli("test", "--config", f"configs/{config}.yaml", "--ckpt_path", path, *flags)
    err = capsys.readouterr().err
    assert stop.value.code == 1, err
    assert words in err
    assert len(err.strip().splitlines()) == 1, err


def test_a_missing_gpu_is_a_sentence(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit) as stop:
        main([*VAE, "--trainer.accelerator=gpu", "--trainer.devices=1"])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert "gpu" in err.lower()
    assert len(err.strip().splitlines()) == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_good_checkpoint(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*VAE, *SHORT)
    last = project / "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    before = last.read_bytes()
    capsys.readouterr()
    resumed = ["fit", "--ckpt_path", str(last.relative_to(project)), "--trainer.max_epochs=3"]
    state = torch.load(last, weights_only=True)
    state["optimizer_states"][0]["param_groups"][0]["lr"] = 1e30
    torch.save(state, project / "lightning_logs/vae/version_0/checkpoints/wild.ckpt")
    resumed[2] = "lightning_logs/vae/version_0/checkpoints/wild.ckpt"
    with pytest.raises(SystemExit) as stop:
        cli(*resumed)
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert "so the run is stopped; what it has saved, if anything, is from before" in err
    assert len(err.strip().splitlines()) == 1
    assert last.read_bytes() == before


def test_a_negative_learning_rate_is_a_sentence(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(*VAE, "--model.optimizer.lr=-1")
    assert stop.value.code == 2
    assert "Invalid learning rate: -1" in capsys.readouterr().err


def test_checkpoints_can_be_switched_off(cli: RunCLI, project: Path) -> None:
    cli(*VAE, *SHORT, "--trainer.enable_checkpointing=false")
    assert not list(project.rglob("*.ckpt"))


def test_debug_shows_the_traceback(cli: RunCLI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCDEC_DEBUG", "1")
    with pytest.raises(UserError):
        cli("test", "--config", "configs/vae.yaml", "--ckpt_path=no.ckpt")


@pytest.mark.parametrize(
    "args",
    [
        ("--model.latent_dim", "5", "--model", "VAE"),
        ("--model.latent_dim=5", "--model=VAE"),
        ("--config=configs/ae.yaml", "--model.latent_dim=5", "--model", "VAE"),
        ("--model.decoder.channels=[4,4]", "--model.latent_dim", "5", "--model.decoder", "ConvDecoder", "--model=VAE"),
    ],
)
def test_a_class_and_its_settings_come_in_any_order(
    args: tuple[str, ...], cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: Any = printed(cli, capsys, *args)["model"]
    assert settings["class_path"] == "encdec.paradigms.VAE"
    assert settings["init_args"]["latent_dim"] == 5
    if "--model.decoder" in args:
        assert settings["init_args"]["decoder"]["class_path"] == "encdec.networks.ConvDecoder"
        assert settings["init_args"]["decoder"]["init_args"]["channels"] == [4, 4]
