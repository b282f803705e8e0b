"""Real trainings on the embedded digits: what is told nothing ends on the mean image's floor, and so on.

The floors are computed here with numpy, from the training split, and evaluated on the validation split.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from encdec.data import Digits
from encdec.types import Batch
from tests.conftest import RunCLI, events

Array = np.ndarray[Any, np.dtype[np.float64]]
pytestmark = pytest.mark.slow


def floors() -> dict[str, float]:
    """MSE per pixel of the mean image and of the class means, BCE of the mean image in nats per image."""

    def arrays(loader: Iterable[Batch]) -> tuple[Array, Array]:
        batches = list(loader)
        x = torch.cat([batch.x for batch in batches]).double().numpy()
        y = torch.cat([batch.y for batch in batches]).double().numpy()
        return x.reshape(len(x), -1), y

    data = Digits()
    (x, y), (held_out, labels) = arrays(data.train_dataloader()), arrays(data.val_dataloader())
    mean = x.mean(0)
    class_means = np.stack([x[y == label].mean(0) for label in range(10)])
    p = mean.clip(1e-4, 1 - 1e-4)  # pixels that are always black in training have no finite optimum
    return {
        "mse": float(((held_out - mean) ** 2).mean()),
        "class_mse": float(((held_out - class_means[labels.astype(int)]) ** 2).mean()),
        "bce": float(-(held_out * np.log(p) + (1 - held_out) * np.log(1 - p)).sum(1).mean()),
    }


def last_metrics(name: str) -> dict[str, float]:
    checkpoint = torch.load(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
    metrics: dict[str, float] = checkpoint["metrics"]
    return metrics


def test_the_encoderless_vae_ends_on_the_floor_of_the_mean_image(cli: RunCLI) -> None:
    cli("fit", "--config", "configs/vae_noenc.yaml", "--images.every_n_epochs=100")
    metrics, floor = last_metrics("vae_noenc"), floors()
    assert metrics["val/bce"] == pytest.approx(floor["bce"], rel=0.01)
    assert metrics["val/mse"] == pytest.approx(floor["mse"], rel=0.01)


def test_the_zero_fed_autoencoder_ends_on_the_floor_of_the_mean_image(cli: RunCLI) -> None:
    cli("fit", "--config", "configs/ae_zeros.yaml", "--images.every_n_epochs=100")
    metrics, floor = last_metrics("ae_zeros"), floors()
    assert metrics["val/mse_zeros"] == pytest.approx(floor["mse"], rel=0.01)
    assert metrics["val/mse"] > 0.95 * floor["mse"], "what it makes of real images is no better"


def test_the_conditional_decoder_ends_on_the_floor_of_the_class_means(cli: RunCLI) -> None:
    """The digits are few, so the noise is partly learned by heart; Fashion-MNIST is within 2 % (see the README)."""
    cli("fit", "--config", "configs/decoder.yaml", "--images.every_n_epochs=100")
    metrics, floor = last_metrics("decoder"), floors()
    assert metrics["val/mse"] == pytest.approx(floor["class_mse"], rel=0.05)
    assert metrics["val/mse"] < 0.65 * floor["mse"]


@pytest.mark.parametrize(("name", "share"), [("ae", 0.15), ("vae", 0.75), ("autodecoder", 0.15)])
def test_what_is_told_the_image_ends_far_below(name: str, share: float, cli: RunCLI) -> None:
    rarely = ["--images.every_n_epochs=100", "--trainer.check_val_every_n_epoch=20"]
    cli("fit", "--config", f"configs/{name}.yaml", *rarely)
    assert last_metrics(name)["val/mse"] < share * floors()["mse"]


def test_many_prior_samples_are_a_way_out_of_the_collapse(cli: RunCLI) -> None:
    """L_K with K = 128: a better likelihood than the mean image, and samples that differ from each other."""
    cli("fit", "--config", "configs/vae_noenc.yaml", "--model.num_prior_samples=128", "--images.every_n_epochs=100")
    metrics, floor = last_metrics("vae_noenc"), floors()
    assert metrics["val/nll"] < 0.97 * floor["bce"]
    assert metrics["val/mse"] < 0.8 * floor["mse"]


def test_fixed_codes_are_learned_by_heart_and_worth_nothing_for_held_out_images(cli: RunCLI) -> None:
    """One random code for each training image: training sinks below the floor, held-out images stay above it."""
    cli("fit", "--config", "configs/vae_noenc.yaml", "--model.latents=fixed", "--trainer.max_epochs=150",
        "--model.decoder.hidden=[1024]", "--trainer.check_val_every_n_epoch=50", "--name=fixed",
        "--images.every_n_epochs=1000")  # fmt: skip
    training = events("lightning_logs/fixed/version_0").Scalars("train/mse")
    floor = floors()
    assert training[-1].value < 0.8 * floor["mse"]
    assert last_metrics("fixed")["val/mse"] > floor["mse"]
