"""Neighbours among images and latents, against scikit-learn and closed forms."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from encdec.data import Images, InMemoryImages
from encdec.evaluation.neighbours import add_neighbours
from encdec.evaluation.results import Metrics
from encdec.evaluation.view import View

from .helpers import SHAPE, Linear, context_of, pixels_of, random_images

pytestmark = pytest.mark.usefixtures("no_grad")


def neighbours(images: Images, positions: Tensor, latents: dict[str, Tensor]) -> Metrics:
    context = context_of(View(Linear()), images)
    add_neighbours(context, "train", positions, latents)
    return context.metrics


def test_neighbours_against_scikit_learn() -> None:
    images, latents = random_images(60), torch.randn(60, 3)
    latents[:, 0] += 8 * pixels_of(images)[:, 0]
    metrics = neighbours(images, torch.arange(60), {"encoder": latents})

    def nearest(points: Tensor) -> Any:
        model = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(points.numpy())
        return model.kneighbors(return_distance=False)

    of_images, of_latents = nearest(pixels_of(images)), nearest(latents.double())
    kept = np.array([len(set(a) & set(b)) / 10 for a, b in zip(of_images, of_latents, strict=True)])
    metric = metrics.values["neighbours_encoder"]
    assert metric.value == pytest.approx(kept.mean())
    assert metric.standard_error == pytest.approx(kept.std(ddof=1) / np.sqrt(60))
    assert metric.reference == pytest.approx(10 / 59)


def test_pixels_as_latents_keep_all_neighbours_and_random_latents_keep_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(400)
    latents = {"encoder": pixels_of(images), "posterior": torch.randn(300, 4)}
    whole = neighbours(images, torch.arange(400), latents)
    assert whole.values["neighbours_encoder"].value == 1
    random = whole.values["neighbours_posterior"]
    assert random.standard_error is not None
    assert random.reference is not None
    assert abs(random.value - random.reference) < 4 * random.standard_error
    monkeypatch.setattr("encdec.evaluation.context.BLOCK", 12 * 7)
    assert whole == neighbours(images, torch.arange(400), latents), "blocks change nothing"


@pytest.mark.parametrize(
    ("images", "latents", "sentence"),
    [
        (random_images(11), torch.randn(11, 2), "at least 12 images"),
        (InMemoryImages(torch.full((20, *SHAPE), 7, dtype=torch.uint8), torch.zeros(20).long()), None, "are the same"),
        (random_images(20), torch.ones(20, 2), "same latent"),
    ],
)
def test_neighbours_are_undefined_for_few_or_constant_images(
    images: Images, latents: Tensor | None, sentence: str
) -> None:
    latents = torch.randn(20, 2) if latents is None else latents
    metrics = neighbours(images, torch.arange(len(latents)), {"encoder": latents})
    assert not metrics.values
    assert sentence in metrics.undefined["neighbours_encoder"]
