"""Means over images by a control variate, their standard errors, and pairs of runs: closed forms and simulation."""

import io
import math
from pathlib import Path

import numpy as np
import pytest

from encdec.evaluation import image_values
from encdec.evaluation.image_values import ImageValues, mean_of

RNG = np.random.default_rng(0)


def population(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """An expensive and a cheap value of each image: y = 3 + 2 c + noise."""
    c = RNG.normal(size=count) * 5
    return 3 + 2 * c + noise * RNG.normal(size=count), c


def test_of_all_images_it_is_their_mean_and_its_standard_error() -> None:
    y, c = population(200, 1.0)
    plain, controlled = ImageValues(y), ImageValues.controlled(y, c, np.arange(200))
    for one in (plain, controlled):
        assert one.mean == pytest.approx(y.mean())
        assert one.standard_error == pytest.approx(y.std(ddof=1) / math.sqrt(200))


def test_a_value_that_is_a_line_of_the_control_needs_two_images() -> None:
    y, c = population(500, 0.0)
    some = np.array([7, 300])
    found = ImageValues.controlled(y[some], c, some)
    assert found.mean == pytest.approx(y.mean())
    assert found.standard_error == pytest.approx(y.std(ddof=1) / math.sqrt(500))


def test_a_control_that_says_nothing_leaves_the_mean_of_the_few() -> None:
    y, _ = population(50, 1.0)
    for control in (None, np.zeros(50), np.full(50, np.nan)):
        assert ImageValues.controlled(y[:20], control, np.arange(20)).mean == pytest.approx(y[:20].mean())


@pytest.mark.parametrize("noise", [0.5, 10.0])
def test_the_standard_error_is_the_spread_over_other_splits(noise: float) -> None:
    """Var(βc + e) / N + (1/n − 1/N) Var(e), by simulation and in closed form."""
    values, errors = [], []
    for _ in range(400):
        y, c = population(300, noise)
        some = RNG.permutation(300)[:60]
        found = ImageValues.controlled(y[some], c, some)
        values.append(found.mean)
        errors.append(found.standard_error or 0.0)
    closed = math.sqrt((4 * 25 + noise**2) / 300 + (1 / 60 - 1 / 300) * noise**2)
    assert np.mean(errors) == pytest.approx(closed, rel=0.05)
    assert np.std(values) == pytest.approx(closed, rel=0.1)


def test_runs_are_compared_image_by_image() -> None:
    """What is hard in the images is the same for both, so the difference is known far better than either."""
    y, c = population(300, 1.0)
    other = y + 0.25 + 0.1 * RNG.normal(size=300)
    some = RNG.permutation(300)[:60]
    a, b = ImageValues.controlled(y[some], c, some), ImageValues.controlled(other[some], c, some)
    difference = b.minus(a)
    assert difference is not None
    assert difference.mean == pytest.approx(b.mean - a.mean)
    assert difference.mean == pytest.approx(0.25, abs=0.05)
    assert difference.standard_error is not None and a.standard_error is not None  # noqa: PT018
    assert difference.standard_error < a.standard_error / 20
    assert ImageValues(y).minus(ImageValues(other)).mean == pytest.approx((y - other).mean())  # type: ignore[union-attr]


def test_runs_of_other_images_are_not_compared() -> None:
    y, c = population(30, 1.0)
    some, others = np.arange(10), np.arange(5, 15)
    assert ImageValues(y).minus(ImageValues(y[:20])) is None
    assert ImageValues(y).minus(ImageValues.controlled(y[some], c, some)) is None
    assert ImageValues.controlled(y[some], c, some).minus(ImageValues.controlled(y[others], c, others)) is None
    assert mean_of([ImageValues(y), ImageValues(y[:20])]) is None
    assert mean_of([]) is None


def test_a_mean_over_seeds_is_taken_image_by_image() -> None:
    y, _ = population(30, 1.0)
    found = mean_of([ImageValues(y, variance=1.0), ImageValues(y + 2, variance=3.0)])
    assert found is not None
    assert found.mean == pytest.approx(y.mean() + 1)
    assert found.standard_error == pytest.approx(math.sqrt(y.var(ddof=1) / 30 + 1.0)), (
        "the samples' errors are independent"
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    y, c = population(300, 1.0)
    some = RNG.permutation(300)[:60]
    written = {"a": ImageValues(y, variance=0.5), "b": ImageValues.controlled(y[some], c, some)}
    path = tmp_path / "last.evaluation.npz"
    with path.open("wb") as file:
        image_values.write(file, written)
    found = image_values.read(path)
    assert found.keys() == written.keys()
    for name, one in found.items():
        assert one.mean == pytest.approx(written[name].mean, rel=1e-6)
        assert one.standard_error == pytest.approx(written[name].standard_error, rel=1e-5)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    cases = {
        "empty": {"a": np.zeros(0)},
        "a table": {"a": np.zeros((3, 3))},
        "not finite": {"a": np.array([1.0, np.nan])},
        "texts": {"a": np.array(["x"])},
        "positions alone": {"a": np.zeros(5), "a:positions": np.zeros(1, dtype=int)},
        "far positions": {"a": np.zeros(5), "a:positions": np.array([9]), "a:residuals": np.zeros(1)},
        "a negative variance": {"a": np.zeros(5), "a:variance": np.array([-1.0])},
        "an object": {"a": np.array([{}], dtype=object)},
    }
    for arrays in cases.values():
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        path.write_bytes(content.getvalue())
        with pytest.raises(ValueError, match=r"values of|residuals of|allow_pickle"):
            image_values.read(path)
    for content_of in (b"", b"PK", bytes(1000)):
        path.write_bytes(content_of)
        with pytest.raises(ValueError, match="no file of arrays"):
            image_values.read(path)
