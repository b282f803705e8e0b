"""Distances of samples in a feature space, against closed forms and independent implementations."""

from typing import Any

import numpy as np
import prdc  # type: ignore[import-untyped]
import pytest
import torch

from encdec.data import Images
from encdec.evaluation.distances import kernel_distance, neighbour_scores
from encdec.evaluation.processes import Processes

from .helpers import Gallery, evaluate_drawn, floats


def test_equal_sets_are_at_distance_zero_and_cover_each_other(splits: dict[str, Images]) -> None:
    test = splits["test"]
    values = evaluate_drawn(Gallery(floats(test)), splits["train"], test, len(test.labels)).values
    assert values["frechet_pixels"].value == pytest.approx(0, abs=1e-5)
    for name in ("precision", "recall", "coverage"):
        assert values[f"{name}_pixels"].value == 1


def test_frechet_distance_of_a_shifted_and_scaled_set(splits: dict[str, Images]) -> None:
    """With features s·a + c: ‖(s − 1) μ + c‖² + (s − 1)² Tr Σ, although constant pixels make Σ singular."""
    test, scale, shift = splits["test"], 0.5, 0.2
    x = floats(test)
    metric = evaluate_drawn(Gallery(scale * x + shift), splits["train"], test, len(x)).values["frechet_pixels"]
    a = x.flatten(1).double().numpy()
    expected = (((scale - 1) * a.mean(0) + shift) ** 2).sum() + (scale - 1) ** 2 * a.var(0, ddof=1).sum()
    assert metric.value == pytest.approx(expected, rel=1e-5)
    assert "359 samples vs 359 test images" in metric.unit
    assert metric.reference_name == "359 real training images"


def test_frechet_distance_of_fewer_images_than_dimensions(splits: dict[str, Images]) -> None:
    """Against the symmetric form Tr (Σ_1^½ Σ_2 Σ_1^½)^½, with both covariances far from full rank."""
    train, test = splits["train"], splits["test"].subset(torch.arange(20))
    x = floats(train)[:25]

    def root(matrix: Any) -> Any:
        values, axes = np.linalg.eigh(matrix)
        return (axes * np.sqrt(values.clip(0))) @ axes.T

    a, b = (t.flatten(1).double().numpy() for t in (x, floats(test)))
    s1, s2 = np.cov(a.T), np.cov(b.T)
    cross = np.trace(root(root(s1) @ s2 @ root(s1)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross
    value = evaluate_drawn(Gallery(x), train, test, len(x)).values["frechet_pixels"].value
    assert value == pytest.approx(expected, rel=1e-4)


def test_a_collapsed_decoder_has_finite_metrics(splits: dict[str, Images]) -> None:
    train, test = splits["train"], splits["test"]
    x, mean = floats(test), floats(train).mean(0, keepdim=True)
    metrics = evaluate_drawn(Gallery(mean), train, test, 300)
    assert metrics.undefined == {}
    value = {name: metric.value for name, metric in metrics.values.items()}
    a = x.flatten(1).double().numpy()
    expected = ((a.mean(0) - mean.double().numpy().ravel()) ** 2).sum() + a.var(0, ddof=1).sum()
    assert value["frechet_pixels"] == pytest.approx(expected, rel=1e-5)
    assert value["sample_variance"] == value["sample_variance_z"] == value["recall_pixels"] == 0
    assert value["sample_mean_distance"] == pytest.approx(0, abs=1e-12)


def test_kernel_distance_of_one_full_subset_against_numpy() -> None:
    a, b = torch.randn(150, 7), 0.5 + torch.randn(150, 7)

    def kernel(x: Any, y: Any) -> Any:
        return (x @ y.T / 7 + 1) ** 3

    x, y, n = a.double().numpy(), b.double().numpy(), 150
    within = sum((kernel(u, u).sum() - np.trace(kernel(u, u))) / (n * (n - 1)) for u in (x, y))
    mean, spread = kernel_distance(a, b)
    assert float(mean) == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-4)
    assert spread == 0


def test_kernel_distance_over_subsets_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    a, b = torch.randn(300, 5), torch.randn(120, 5)
    state = torch.get_rng_state()
    first = kernel_distance(a, b)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert kernel_distance(a, b) == first
    assert first[1] > 0


def test_precision_recall_density_and_coverage_against_the_authors_package() -> None:
    a, b = torch.randn(120, 6).double(), (0.7 * torch.randn(150, 6) + 0.4).double()
    expected = prdc.compute_prdc(real_features=b.numpy(), fake_features=a.numpy(), nearest_k=5)
    scores = neighbour_scores(a, b, Processes())
    assert {name: len(values) for name, values in scores.items()} == {
        "precision": 120,
        "density": 120,
        "recall": 150,
        "coverage": 150,
    }
    for name, value in expected.items():
        assert value > 0
        assert float(scores[name].mean()) == pytest.approx(value, abs=1e-9)
