"""Contradictions between pairs of image and latent, against numpy and closed forms."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from encdec.data import Images, InMemoryImages
from encdec.evaluation.gradients import add_gradients, add_targets
from encdec.evaluation.results import Metrics
from encdec.evaluation.view import View
from encdec.paradigms import VAE, Paradigm

from .helpers import SHAPE, Linear, context_of, evaluate_latents, pixels_of, random_images

pytestmark = pytest.mark.usefixtures("no_grad")
VIEW = View(Linear())


def gradients(paradigm: Paradigm, images: Images, positions: Tensor, latents: Tensor) -> Metrics:
    context = context_of(View(paradigm), images)
    add_gradients(context, "train", positions, "random", latents)
    return context.metrics


def test_targets_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    images, latents = random_images(50), torch.randn(40, 3)
    positions = torch.arange(40) + 10
    whole, blocks = context_of(VIEW, images), context_of(VIEW, images)
    add_targets(whole, "train", positions, {"encoder": latents, "paired": None})
    x = pixels_of(images)[10:].numpy()
    u = x - x.mean(0)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=1).fit(latents.numpy()).kneighbors(return_distance=False)[:, 0]
    (metric,) = whole.metrics.values.values()
    assert metric.value == pytest.approx((u * u[nearest]).sum(1).mean(), rel=1e-5)
    assert metric.reference == pytest.approx((u @ u.T)[~np.eye(40, dtype=bool)].mean(), rel=1e-4)
    monkeypatch.setattr("encdec.evaluation.context.BLOCK", 12 * 7)
    add_targets(blocks, "train", positions, {"encoder": latents})
    assert blocks.metrics.values["target_near_encoder"].value == pytest.approx(metric.value, rel=1e-5)


def test_near_latents_of_equal_images_agree_and_of_opposite_images_contradict() -> None:
    pixels = torch.zeros(40, *SHAPE, dtype=torch.uint8)
    pixels[1::2] = 255
    context = context_of(VIEW, InMemoryImages(pixels, torch.zeros(40).long()))
    metrics = context.metrics
    alike, opposite = torch.randn(40, 2), torch.randn(40, 2)
    alike[:, 0] += 1000.0 * (torch.arange(40) % 2)
    opposite[1::2] = opposite[::2] + 1e-6
    add_targets(context, "train", torch.arange(40), {"alike": alike, "opposite": opposite})
    assert metrics.values["target_near_alike"].value == pytest.approx(1)
    assert metrics.values["target_near_opposite"].value == pytest.approx(-1)


def test_targets_of_constant_images_are_undefined() -> None:
    images = InMemoryImages(torch.full((20, *SHAPE), 91, dtype=torch.uint8), torch.zeros(20).long())
    context = context_of(VIEW, images)
    metrics = context.metrics
    add_targets(context, "train", torch.arange(20), {"random": torch.randn(20, 2)})
    add_targets(context, "train", torch.arange(1), {"alone": torch.randn(1, 2)})
    assert metrics.undefined.keys() == {"target_near_random", "target_near_alone"}
    assert not metrics.values


def test_gradients_of_a_linear_model_against_outer_products() -> None:
    paradigm = Linear(3, own_codes=True, num_train=50)
    images, latents = random_images(50), torch.randn(50, 3)
    metrics = gradients(paradigm, images, torch.arange(50), latents)
    x, z, y = pixels_of(images).numpy(), latents.double().numpy(), np.eye(3)[images.labels.numpy()]
    p = 1 / (1 + np.exp(-z @ paradigm.decoder.weight.double().numpy().T))
    of_logits = 2 * (p - x) * p * (1 - p)
    inputs = np.concatenate([z, y], axis=1)
    u = np.stack([np.outer(a, b).ravel() for a, b in zip(of_logits, inputs, strict=True)])
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=1).fit(z).kneighbors(return_distance=False)[:, 0]
    near = (u * u[nearest]).sum(1)
    assert metrics.values["gradient_near_random"].value == pytest.approx(near.mean(), rel=1e-4)
    assert metrics.values["gradient_conflict_random"].value == pytest.approx((near < 0).mean())
    everything = (u @ u.T)[~np.eye(50, dtype=bool)].mean()
    assert metrics.values["gradient_near_random"].reference == pytest.approx(everything, rel=1e-3)


@pytest.mark.parametrize(("first", "second", "cosine", "conflict"), [(80, 80, 1, 0), (0, 255, -1, 1)])
def test_equal_targets_agree_and_opposite_targets_contradict(
    first: int, second: int, cosine: float, conflict: float
) -> None:
    pixels = torch.full((2, *SHAPE), first, dtype=torch.uint8)
    pixels[1] = second
    images = InMemoryImages(pixels, torch.zeros(2).long())
    paradigm = Linear()
    paradigm.decoder.weight.zero_()  # pixel means of 1/2, halfway between both targets
    metrics = gradients(paradigm, images, torch.arange(2), torch.ones(2, 2))
    assert metrics.values["gradient_near_random"].value == pytest.approx(cosine, abs=1e-5)
    assert metrics.values["gradient_near_random"].reference == pytest.approx(cosine, abs=1e-5)
    assert metrics.values["gradient_conflict_random"].value == conflict


def test_gradients_without_a_direction_are_undefined() -> None:
    images = random_images(20)
    silent, frozen = Linear(), Linear().requires_grad_(False)
    silent.decoder.weight.fill_(1e9)  # the sigmoid's derivative is zero
    few = torch.arange(20)
    for metrics in (
        gradients(silent, images, few, torch.randn(20, 2).abs() + 1),
        gradients(frozen, images, few, torch.randn(20, 2)),
        gradients(Linear(), images, torch.arange(1), torch.randn(1, 2)),
    ):
        assert not metrics.values
        assert len(metrics.undefined) == 2


def test_gradients_leave_no_trace_on_the_paradigm() -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=2)
    evaluate_latents(paradigm, random_images(20), random_images(20))
    assert all(parameter.grad is None for parameter in paradigm.parameters())
