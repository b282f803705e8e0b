"""Variances of samples, and memorisation, against numpy and brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from encdec.data import Images
from encdec.evaluation.view import View
from encdec.paradigms import VAE, ConditionalDecoder

from .helpers import Gallery, evaluate_drawn, floats, some


def drawn(paradigm: VAE | ConditionalDecoder, test: Images, count: int) -> tuple[Any, Any]:
    """The samples of an evaluation and their labels: as many as test images, so in any order of the labels."""
    view, seen = View(paradigm), []
    inside = view.images

    def images(e: Tensor, y: Tensor) -> Tensor:
        seen.append((inside(e, y), y))
        return seen[-1][0]

    view.images = images  # type: ignore[method-assign]
    evaluate_drawn(view, test, test, count)
    x, y = (torch.cat(parts)[:count] for parts in zip(*seen, strict=True))
    return x.flatten(1).double().numpy(), y.numpy()


@pytest.mark.parametrize("labelled", [True, False])
def test_variances_against_numpy(labelled: bool, splits: dict[str, Images]) -> None:
    train, test, count = splits["train"], splits["test"], 400
    kind = ConditionalDecoder if labelled else VAE
    paradigm = kind(image_shape=(1, 8, 8), num_classes=10, latent_dim=3, seed=1).eval()
    for p in paradigm.parameters():
        p.data *= 2  # labels and latents that matter
    x, y = drawn(paradigm, test, count)
    values = evaluate_drawn(View(paradigm), train, test, count).values
    a, b = (floats(images).flatten(1).double().numpy() for images in (train, test))
    total = b.var(0).sum()
    assert values["sample_variance"].value == pytest.approx(x.var(0).sum() / total, rel=1e-6)
    assert values["sample_variance"].reference == pytest.approx(a.var(0).sum() / total, rel=1e-6)
    within = sum((y == k).mean() * x[y == k].var(0).sum() for k in range(10)) if labelled else x.var(0).sum()
    assert values["sample_variance_z"].value == pytest.approx(within / total, rel=1e-6)
    labels = train.labels.numpy()
    real = sum((labels == k).mean() * a[labels == k].var(0).sum() for k in range(10))
    if not labelled:  # a decoder that does not read labels is compared with images of all classes
        real = a.var(0).sum()
    assert values["sample_variance_z"].reference == pytest.approx(real / total, rel=1e-6)
    metric = values["sample_mean_distance"]
    assert metric.value == pytest.approx(((x.mean(0) - a.mean(0)) ** 2).mean(), rel=1e-6)
    assert metric.reference == pytest.approx(((b.mean(0) - a.mean(0)) ** 2).mean(), rel=1e-6)


def test_labels_of_few_samples_are_not_those_of_the_first_test_images() -> None:
    """A test split may be sorted by class."""
    test = some(200)
    test = test.subset(test.labels.argsort())
    paradigm = ConditionalDecoder(image_shape=(1, 8, 8), num_classes=2, latent_dim=3).eval()
    _, y = drawn(paradigm, test, 60)
    assert 15 < y.sum() < 45


def test_memorized_against_brute_force(splits: dict[str, Images]) -> None:
    train, test = splits["train"].subset(torch.arange(300)), splits["test"].subset(torch.arange(100))
    a, b = (floats(images).flatten(1).double().numpy() for images in (train, test))
    noisy = (floats(train)[:80] + 0.15 * torch.randn(80, 1, 8, 8)).clamp(0, 1)

    def share(queries: Any) -> float:
        d = ((queries[:, None] - a[None]) ** 2).sum(2)
        own = ((a[:, None] - a[None]) ** 2).sum(2)
        np.fill_diagonal(own, np.inf)
        return float((d.min(1) < own.min(1)[d.argmin(1)]).mean())

    metric = evaluate_drawn(Gallery(noisy), train, test, 80).values["memorised"]
    expected = share(noisy.flatten(1).double().numpy())
    assert 0.05 < expected < 0.95
    assert metric.value == pytest.approx(expected)
    assert metric.reference == pytest.approx(share(b))


def test_training_images_are_memorized() -> None:
    train, test = some(90), some(70, seed=1)
    assert evaluate_drawn(Gallery(floats(train)), train, test, 90).values["memorised"].value == 1


def test_memorized_when_queries_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = some(90), some(70, seed=1)
    view = Gallery(torch.rand(50, 1, 8, 8))
    once = evaluate_drawn(view, train, test, 50)
    monkeypatch.setattr("encdec.evaluation.memorization._QUERIES", 64 * 7)
    assert evaluate_drawn(view, train, test, 50) == once
