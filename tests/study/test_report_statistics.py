"""The report's statistics against scipy's and by their definitions."""

import math

import numpy as np
import pytest
from scipy import stats

from encdec.study.report.statistics import difference, mean, pareto, ranks


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_interval_of_a_mean_is_students(count: int) -> None:
    values = np.random.default_rng(count).normal(10, 2, count)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    found = mean(list(values))
    assert found.half_width is not None
    assert found.value == pytest.approx(values.mean())
    assert found.seeds == count
    assert (found.value - found.half_width, found.value + found.half_width) == pytest.approx((low, high))


def test_one_seed_has_no_interval() -> None:
    assert mean([3.0]).half_width is None
    found = difference({0: 3.0}, {0: 2.0}, "lower")
    assert found is not None
    assert (found.value, found.half_width, found.correlation, found.is_separated) == (1.0, None, None, False)


def test_no_values_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_seeds_that_move_together_are_paired() -> None:
    first, second = {0: 1.0, 1: 2.1, 2: 2.9, 3: 4.2}, {0: 2.0, 1: 3.0, 2: 4.1, 3: 5.0}
    found = difference(first, second, "lower")
    of_scipy = stats.ttest_rel(list(first.values()), list(second.values())).confidence_interval(0.95)
    assert found is not None
    assert found.is_paired
    assert found.half_width == pytest.approx((of_scipy.high - of_scipy.low) / 2)
    assert found.value == pytest.approx((of_scipy.high + of_scipy.low) / 2)
    assert found.correlation == pytest.approx(stats.pearsonr(list(first.values()), list(second.values())).statistic)
    assert (found.better, found.worse, found.seeds) == (4, 0, 4)


def test_seeds_that_do_not_are_not_paired() -> None:
    first, second = {0: 1.0, 1: 3.0, 2: 2.0}, {0: 30.0, 1: 10.0, 2: 20.5}
    found = difference(first, second, "higher")
    of_scipy = stats.ttest_ind(list(first.values()), list(second.values()), equal_var=False).confidence_interval(0.95)
    assert found is not None
    assert not found.is_paired
    assert found.half_width == pytest.approx((of_scipy.high - of_scipy.low) / 2)
    assert (found.better, found.worse) == (0, 3)


def test_only_seeds_of_both_count() -> None:
    found = difference({0: 1.0, 1: 2.0, 5: 9.0}, {0: 2.0, 1: 3.0, 2: 0.0}, "lower")
    assert found is not None
    assert (found.value, found.seeds) == (-1.0, 2)
    assert difference({0: 1.0}, {1: 2.0}, "lower") is None


def test_what_is_the_same_in_all_seeds_has_no_correlation() -> None:
    found = difference({0: 0.1, 1: 0.1, 2: 0.1}, {0: 1.0, 1: 2.0, 2: 3.0}, "lower")
    assert found is not None
    assert found.correlation is None
    assert found.half_width == pytest.approx(mean([1.0, 2.0, 3.0]).half_width)


def test_an_interval_separates_where_it_leaves_out_zero() -> None:
    near = difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.5, 1: 1.5, 2: 3.1}, "lower")
    far = difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.0, 1: 3.01, 2: 4.0}, "lower")
    assert near is not None
    assert far is not None
    assert (near.is_separated, far.is_separated) == (False, True)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_choice_of_pairing_covers_what_it_says(correlation: float) -> None:
    draws, covered = 3000, 0
    generator = np.random.default_rng(0)
    for _ in range(draws):
        common = math.sqrt(correlation) * generator.normal(size=3)
        a, b = common + math.sqrt(1 - correlation) * generator.normal(size=(2, 3))
        found = difference(dict(enumerate(a)), dict(enumerate(b)), "lower")
        assert found is not None
        assert found.half_width is not None
        covered += abs(found.value) <= found.half_width
    assert 0.925 < covered / draws < 0.965


def test_ranks_are_scipys() -> None:
    values = {"a": 3.0, "b": 1.0, "c": 3.0, "d": 0.5}
    assert list(ranks(values, "lower").values()) == list(stats.rankdata(list(values.values())))
    assert list(ranks(values, "higher").values()) == list(stats.rankdata([-value for value in values.values()]))


def test_the_pareto_front_is_what_nothing_beats_in_both() -> None:
    points = {"cheap": (1.0, 9.0), "good": (5.0, 1.0), "middle": (2.0, 4.0), "beaten": (3.0, 4.0), "worst": (9.0, 9.5)}
    assert pareto(points, "lower") == ["cheap", "middle", "good"]
    assert pareto({name: (cost, -value) for name, (cost, value) in points.items()}, "higher") == [
        "cheap",
        "middle",
        "good",
    ]
