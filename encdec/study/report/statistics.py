"""Statistics of 3 to 5 seeds: means with t intervals, and differences that are paired by seed where that helps.

With so few values a percentile bootstrap covers too little (75 % at n = 3), so the intervals are Student's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: the mean.
        half_width: of its 95 % t interval over seeds; None with one seed.
        seeds: how many values it is of.
    """

    value: float
    half_width: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """How far a paradigm lies from another, over the seeds that both have.

    Attributes:
        value: mean of the first minus mean of the second.
        half_width: of its 95 % t interval over seeds; None with one seed.
        is_paired: whether the interval is that of the differences by seed, and not Welch's of two samples.
        correlation: of the two over seeds (Pearson); None with fewer than three seeds, or where one does not vary.
        better: in how many seeds the first is strictly better.
        worse: in how many seeds it is strictly worse.
        seeds: how many seeds both have.
    """

    value: float
    half_width: float | None
    is_paired: bool
    correlation: float | None
    better: int
    worse: int
    seeds: int

    @property
    def is_separated(self) -> bool:
        """Whether the interval leaves out 0; never with one seed."""
        return self.half_width is not None and abs(self.value) > self.half_width


def quantile(degrees_of_freedom: float) -> float:
    """Of Student's t, such that `CONFIDENCE` lies within ± it."""
    return float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))


def mean(values: Sequence[float]) -> Mean:
    """The mean of one value for each seed, with its t interval.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("the mean of no values")
    middle = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(middle, None, 1)
    half_width = quantile(len(values) - 1) * math.sqrt(_variance(values) / len(values))
    return Mean(middle, half_width, len(values))


def difference(first: Mapping[int, float], second: Mapping[int, float], better: str) -> Difference | None:
    """The difference of two paradigms by seed; None where they share no seed.

    Where the two rise and fall together over seeds, the differences vary less than either, and their interval is
    taken. Where the correlation is not positive, pairing does not help, and Welch's interval for unequal variances is.
    Choosing so costs little of the coverage: 93 to 95 % in simulations of 3 and 5 seeds at correlations 0 to 0.9.

    Args:
        first: values by seed.
        second: of the one that it is compared with.
        better: `lower` or `higher`.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    a, b = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    sign = -1 if better == "lower" else 1
    wins, losses = sum(sign * d > 0 for d in differences), sum(sign * d < 0 for d in differences)
    of_pairs = mean(differences)
    correlation = _correlation(a, b)
    is_paired = len(seeds) == 2 or correlation is None or correlation > 0
    half_width = of_pairs.half_width if is_paired else _welch(a, b)
    return Difference(of_pairs.value, half_width, is_paired, correlation, wins, losses, len(seeds))


def ranks(values: Mapping[str, float], better: str) -> dict[str, float]:
    """Rank of each name, 1 is the best; those that are equal share the mean of their ranks."""
    sign = 1 if better == "lower" else -1
    return {
        name: 1
        + sum(sign * other < sign * value for other in values.values())
        + (sum(other == value for other in values.values()) - 1) / 2
        for name, value in values.items()
    }


def pareto(points: Mapping[str, tuple[float, float]], better: str) -> list[str]:
    """The names whose (cost, metric) no other undercuts in one without being worse in the other, cheapest first."""
    sign = 1 if better == "lower" else -1
    scored = {name: (cost, sign * value) for name, (cost, value) in points.items()}

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    front = [name for name, of in scored.items() if not any(dominates(other, of) for other in scored.values())]
    return sorted(front, key=lambda name: scored[name])


def _variance(values: Sequence[float]) -> float:
    if min(values) == max(values):
        return 0.0  # exactly, where the mean is rounded
    middle = math.fsum(values) / len(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    if len(a) < 3 or not (_variance(a) > 0 and _variance(b) > 0):
        return None
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    covariance = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / (len(a) - 1)
    return max(-1.0, min(1.0, covariance / math.sqrt(_variance(a) * _variance(b))))


def _welch(a: Sequence[float], b: Sequence[float]) -> float:
    of_a, of_b = _variance(a) / len(a), _variance(b) / len(b)
    degrees_of_freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    return quantile(degrees_of_freedom) * math.sqrt(of_a + of_b)
