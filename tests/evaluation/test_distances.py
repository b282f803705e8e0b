"""Distances of samples in a feature space, against closed forms and independent implementations."""

from typing import Any

import numpy as np
import prdc  # type: ignore[import-untyped]
import pytest
import torch

from encdec.data import Images
from encdec.evaluation.distances import feature_scores, neighbour_radii, neighbour_scores
from encdec.evaluation.frechet import Frechet, frechet_influence
from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.kernel import kernel_distance, means_within
from encdec.evaluation.processes import Processes
from encdec.evaluation.references import References

from .helpers import Gallery, evaluate_drawn, floats, in_turns


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


def kernel(x: Any, y: Any) -> Any:
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd(x: Any, y: Any) -> float:
    """The unbiased estimate, by NumPy."""
    within = sum((kernel(u, u).sum() - np.trace(kernel(u, u))) / (len(u) * (len(u) - 1)) for u in (x, y))
    return float(within - 2 * kernel(x, y).mean())


def test_kernel_distance_over_all_pairs_against_numpy() -> None:
    a, b = torch.randn(150, 7), 0.5 + torch.randn(130, 7)
    found = kernel_distance(a, b, Processes(), means_within(b, Processes()))
    assert float(found.value) == pytest.approx(mmd(a.double().numpy(), b.double().numpy()), rel=1e-4)
    assert float(found.influence.mean()) == pytest.approx(0, abs=1e-6)
    in_two = in_turns(2, lambda processes: kernel_distance(a, b, processes, means_within(b, processes)))
    for result in in_two:
        torch.testing.assert_close(result.test_influence, found.test_influence, rtol=1e-4, atol=1e-5)


def frechet_distance(x: Any, y: Any) -> float:
    """The Fréchet distance, by NumPy."""
    s1, s2 = np.cov(x.T), np.cov(y.T)
    roots = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * roots)


def test_the_influence_of_an_image_on_the_frechet_distance_is_the_derivative_by_its_weight() -> None:
    """A set in which one image is there 3 % more often is at a distance that the influence predicts."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)), 0.3 + rng.normal(size=(70, 4))
    influence = frechet_influence(torch.from_numpy(x), torch.from_numpy(y))
    often = np.repeat(x, 30, axis=0)
    for i in (0, 17, 41):
        change = frechet_distance(np.concatenate([often, x[i : i + 1]]), y) - frechet_distance(often, y)
        assert change * (len(often) + 1) == pytest.approx(float(influence[i]), rel=0.1, abs=0.1)


@pytest.mark.parametrize("name", ["kernel", "frechet"])
def test_standard_errors_are_the_spread_over_other_sets(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(60):
        a = torch.randn(200, 3, generator=generator).double() * 1.3
        b = 0.4 + torch.randn(200, 3, generator=generator).double()
        frechet = Frechet(3, torch.device("cpu"))
        frechet.update(b)
        frechet.next_set()
        frechet.update(a)
        references = References(neighbour_radii(b, Processes()), means_within(b, Processes()), {}, None)
        score = feature_scores(frechet, a, b, Processes(), references)[name]
        assert isinstance(score, ImageValues)
        values.append(score.mean)
        errors.append(score.standard_error or 0.0)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_a_collapsed_set_has_a_finite_influence() -> None:
    test = torch.randn(50, 5).double()
    assert frechet_influence(torch.ones(30, 5).double(), test).abs().max() < 1e-9, "equal images move it alike"
    assert frechet_influence(test, torch.ones(30, 5).double()).isfinite().all()


def test_precision_recall_density_and_coverage_against_the_authors_package() -> None:
    a, b = torch.randn(120, 6).double(), (0.7 * torch.randn(150, 6) + 0.4).double()
    expected = prdc.compute_prdc(real_features=b.numpy(), fake_features=a.numpy(), nearest_k=5)
    scores = neighbour_scores(a, b, Processes(), neighbour_radii(b, Processes()))
    assert {
        name: len(values.values if isinstance(values, ImageValues) else values) for name, values in scores.items()
    } == {
        "precision": 120,
        "density": 120,
        "recall": 150,
        "coverage": 150,
    }
    for name, value in expected.items():
        assert value > 0
        of_images = scores[name]
        mean = of_images.mean if isinstance(of_images, ImageValues) else float(of_images.mean())
        assert mean == pytest.approx(value, abs=1e-9)
