"""Settings from a file are built where they fit the signature, and only there."""

from pathlib import Path
from typing import Any

import pytest

import encdec
from encdec.paradigms import VAE
from encdec.runs import build
from tests.conftest import RunCLI
from tests.runs.strangers import SMALL

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
    (group,) = vae.configure_optimizers()["optimizer"].param_groups
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
