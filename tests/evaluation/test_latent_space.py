"""Active units, and all metrics of the latent space together."""

import numpy as np
import pytest
import torch
from torch import Tensor

from encdec.evaluation.context import random_order
from encdec.evaluation.inference import infer
from encdec.evaluation.latent_space import add_active_units, evaluate_latent
from encdec.evaluation.processes import Processes
from encdec.evaluation.results import Metrics
from encdec.evaluation.view import View
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm
from encdec.types import Batch

from .helpers import SHAPE, Linear, context_of, evaluate_latents, pixels_of, random_images

pytestmark = pytest.mark.usefixtures("no_grad")


def test_active_units_are_the_dimensions_that_vary_with_the_image() -> None:
    metrics = Metrics()
    means = torch.randn(500, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + 3
    add_active_units(metrics, "active_units", means)
    assert metrics.values["active_units"].value == 2
    assert metrics.values["active_units"].unit == "of 4 dimensions"
    add_active_units(metrics, "alone", means[:1])
    assert "at least 2" in metrics.undefined["alone"]


def test_active_units_of_a_vae_against_its_encoder() -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=6)
    test = random_images(50)
    means = paradigm.posterior(Batch(pixels_of(test).float().unflatten(1, SHAPE), test.labels, test.labels)).mean
    metrics = evaluate_latents(paradigm, random_images(30), test, torch.zeros(50, 6))
    expected = int((means.double().numpy().var(0) > 0.01).sum())
    assert metrics.values["active_units"].value == expected
    assert metrics.values["active_units_posterior"].value == 0


COMMON = {"path_length", "path_ratio", "lipschitz_mean"}


def pairing(name: str) -> set[str]:
    return {f"{kind}_{name}" for kind in ("target_near", "gradient_near", "gradient_conflict")}


@pytest.mark.parametrize(
    ("paradigm", "names"),
    [
        (EncoderlessVAE(image_shape=SHAPE, latent_dim=3), set()),
        (ConditionalDecoder(image_shape=SHAPE, num_classes=3, latent_dim=3), set()),
        (AE(image_shape=SHAPE, latent_dim=3), {"neighbours_encoder", *pairing("encoder")}),
        (VAE(image_shape=SHAPE, latent_dim=3), {"neighbours_encoder", "active_units", *pairing("encoder")}),
        (
            EncoderlessVAE(image_shape=SHAPE, latent_dim=3, num_prior_samples=8),
            {"neighbours_encoder", *pairing("encoder")},
        ),
        (
            EncoderlessVAE(image_shape=SHAPE, latent_dim=3, latents="fixed"),
            {"neighbours_paired", "mse_paired", *pairing("paired")},
        ),
        (Linear(own_codes=True, num_train=70), {"neighbours_paired", "mse_paired", *pairing("paired")}),
    ],
    ids=["resampled", "decoder", "ae", "vae", "best of 8", "fixed", "table"],
)
def test_a_paradigm_has_the_metrics_of_its_pairings(paradigm: Paradigm, names: set[str]) -> None:
    metrics = evaluate_latents(paradigm, random_images(70), random_images(60, seed=1))
    assert metrics.values.keys() == COMMON | pairing("random") | names
    assert not metrics.undefined


def test_fitted_latents_are_those_of_the_first_images_in_the_random_order() -> None:
    test = random_images(60)
    fitted = pixels_of(test)[random_order(60)[:40]].float()
    metrics = evaluate_latents(Linear(), random_images(30), test, fitted, num_images=40)
    metric = metrics.values["neighbours_posterior"]
    assert metric.value == 1
    assert metric.reference == pytest.approx(10 / 39)


def test_paired_error_against_numpy() -> None:
    paradigm, train = Linear(own_codes=True, num_train=45), random_images(45)
    metric = evaluate_latents(paradigm, train, random_images(20)).values["mse_paired"]
    logits = paradigm.table.double().numpy() @ paradigm.decoder.weight.double().numpy().T
    errors = ((1 / (1 + np.exp(-logits)) - pixels_of(train).numpy()) ** 2).mean(1)
    assert metric.value == pytest.approx(errors.mean(), rel=1e-5)
    assert metric.standard_error == pytest.approx(errors.std(ddof=1) / np.sqrt(45), rel=1e-4)


def test_two_processes_and_small_blocks_give_the_same_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=3).eval()
    train, test = random_images(41), random_images(33, seed=1)
    alone = evaluate_latents(paradigm, train, test)
    monkeypatch.setattr("encdec.evaluation.context.BLOCK", 12 * 5)
    calls: list[Tensor] = []

    # both processes take the same steps: the first only leaves its parts, the second finds them
    def leave(part: Tensor) -> list[Tensor]:
        calls.append(part)
        return [part, part]

    view = View(paradigm)
    inferred = infer(context_of(view, train, test), fit=False)
    evaluate_latent(context_of(view, train, test, processes=Processes(0, 2, leave)), inferred)
    second = context_of(view, train, test, processes=Processes(1, 2, lambda part: [calls.pop(0), part]))
    evaluate_latent(second, inferred)
    metrics = second.metrics
    assert metrics.values.keys() == alone.values.keys()
    for name, metric in metrics.values.items():
        assert metric.value == pytest.approx(alone.values[name].value, rel=1e-4, abs=1e-5), name


def test_a_split_of_one_image_gives_sentences() -> None:
    metrics = evaluate_latents(VAE(image_shape=SHAPE, latent_dim=3), random_images(1), random_images(1))
    assert {"neighbours_encoder", "active_units", *pairing("random"), *pairing("encoder")} == set(metrics.undefined)
    assert metrics.values["path_length"].reference is None
