"""Metrics of samples do not depend on processes and blocks; what is not defined is a sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from encdec.data import InMemoryImages
from encdec.evaluation import context
from encdec.evaluation.results import Metrics
from encdec.evaluation.view import View
from encdec.paradigms import VAE, ConditionalDecoder

from .helpers import PIXELS, Gallery, evaluate_drawn, in_turns, some


def same(a: Metrics, b: Metrics) -> None:
    assert a.undefined == b.undefined
    assert a.values.keys() == b.values.keys()
    for name, metric in a.values.items():
        other = b.values[name]
        assert (metric.unit, metric.reference_name) == (other.unit, other.reference_name)
        assert (metric.value, metric.reference) == pytest.approx((other.value, other.reference), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_what_one_gives(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = some(90), some(71, seed=1)
    paradigm = ConditionalDecoder(image_shape=(1, 8, 8), num_classes=2, latent_dim=3).eval()
    one = evaluate_drawn(View(paradigm), train, test, 65)
    assert len(one.values) == 10
    monkeypatch.setattr(context, "BLOCK", 64 * 8)  # 65 samples in blocks of 8 leave the last block to one process
    results = in_turns(count, lambda processes: evaluate_drawn(View(paradigm), train, test, 65, PIXELS, processes))
    for result in results:
        same(result, one)
        assert result == results[0]


def test_processes_without_a_share_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, view = some(90), some(71, seed=1), Gallery(torch.rand(2, 1, 8, 8))
    one, stream = evaluate_drawn(view, train, test, 2), InMemoryImages.stream

    def checked(self: InMemoryImages, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        assert all(len(batch) for batch in batches)
        return stream(self, batches)

    monkeypatch.setattr(InMemoryImages, "stream", checked)
    for result in in_turns(3, lambda processes: evaluate_drawn(view, train, test, 2, PIXELS, processes)):
        same(result, one)


def test_the_size_of_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = some(90), some(71, seed=1)
    paradigm = VAE(image_shape=(1, 8, 8), num_classes=2, latent_dim=3).eval()
    one = evaluate_drawn(View(paradigm), train, test, 65)
    monkeypatch.setattr(context, "BLOCK", 1)
    same(evaluate_drawn(View(paradigm), train, test, 65, replace(PIXELS, block=1)), one)


def test_too_few_images_are_said_in_sentences() -> None:
    train, test = some(3), some(4, seed=1)
    metrics = evaluate_drawn(Gallery(torch.rand(9, 1, 8, 8)), train, test, 9)
    assert "at least 6 samples and 6 test images" in metrics.undefined["precision_pixels"]
    assert set(metrics.undefined) == {f"{name}_pixels" for name in ("precision", "recall", "density", "coverage")}
    metrics = evaluate_drawn(Gallery(torch.rand(9, 1, 8, 8)), train.subset(torch.tensor([0])), test, 1)
    assert "at least 2 samples" in metrics.undefined["frechet_pixels"]
    assert "at least 2 training images" in metrics.undefined["memorised"]
    assert "no label has more than one sample" in metrics.undefined["sample_variance_z"]
    assert metrics.values["sample_variance"].value == 0


def test_constant_test_images_have_no_variance_to_compare_with() -> None:
    test = InMemoryImages(torch.full((20, 1, 8, 8), 77, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    metrics = evaluate_drawn(Gallery(torch.rand(9, 1, 8, 8)), some(20), test, 9)
    for name in ("sample_variance", "sample_variance_z"):
        assert "all test images are the same" in metrics.undefined[name]
    assert len(metrics.values) == 8


def test_samples_that_are_not_finite_are_said_in_a_sentence() -> None:
    metrics = evaluate_drawn(Gallery(torch.full((9, 1, 8, 8), torch.nan)), some(20), some(20, seed=1), 9)
    assert metrics.values == {}
    assert len(metrics.undefined) == 10
    assert "not finite" in metrics.undefined["frechet_pixels"]
