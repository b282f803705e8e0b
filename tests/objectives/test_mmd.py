"""The maximum mean discrepancy against loops over pairs, and against its value for Gaussians, which is known."""

import math

import pytest
import torch
from torch import Tensor

from encdec.objectives.mmd import biased_mmd, gaussian_mixture, inverse_multiquadratic, unbiased_mmd
from encdec.objectives.pairs import squared_distances


def points(count: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_it_is_the_formula_of_single_pairs() -> None:
    """Σ_s C s / (C s + ‖x − y‖²), C = 2 d, over pairs of different points of one set, and over all pairs of both."""
    x, y, dim = points(5, 3, 0).tolist(), points(7, 3, 1, 0.5).tolist(), 3

    def k(a: list[float], b: list[float]) -> float:
        square = sum((one - other) ** 2 for one, other in zip(a, b, strict=True))
        return sum(2 * dim * s / (2 * dim * s + square) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))

    within = [
        sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    between = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    found = unbiased_mmd(points(5, 3, 0), points(7, 3, 1, 0.5), inverse_multiquadratic(2 * dim))
    assert found.shape == ()
    assert found.item() == pytest.approx(sum(within) - 2 * between, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_it_is_right_on_average_also_of_few_points(shift: float) -> None:
    """For N(0, I), N(a, I) and exp(−‖·‖²/2): E k(x, y) = 3^(−d/2) exp(−‖a‖²/6)."""
    dim, repeats = 2, 20_000
    exact = 2 * 3 ** (-dim / 2) * (1 - math.exp(-dim * shift**2 / 6))
    x, y = points(repeats * 4, dim, 0).chunk(repeats), points(repeats * 3, dim, 1, shift).chunk(repeats)

    def kernel(squares: Tensor) -> Tensor:
        return (-squares / 2).exp()

    found = torch.stack([unbiased_mmd(a, b, kernel) for a, b in zip(x, y, strict=True)])
    error = found.std().item() / math.sqrt(repeats)
    assert found.mean().item() == pytest.approx(exact, abs=4 * error)
    assert exact == 0 or exact > 10 * error, "the sets can be told apart by so many draws"
    assert (found < 0).any(), "an estimate that is never negative would be biased where the sets are equal"


def test_its_gradient_moves_points_towards_the_other_set() -> None:
    x, y = points(40, 2, 0, 2.0).requires_grad_(), points(50, 2, 1)
    kernel = inverse_multiquadratic(4.0)
    (gradient,) = torch.autograd.grad(unbiased_mmd(x, y, kernel), x)
    assert (gradient.mean(0) > 0).all()
    with torch.no_grad():
        assert unbiased_mmd(x - 20 * gradient, y, kernel) < unbiased_mmd(x, y, kernel)


def test_of_a_single_point_there_is_none() -> None:
    one, many = points(1, 2, 0), points(9, 2, 1)
    for x, y in ((one, many), (many, one)):
        assert unbiased_mmd(x, y, inverse_multiquadratic(4.0)) == 0


def test_equal_points_are_at_no_distance_below_zero_also_in_reduced_precision() -> None:
    x = 100 + points(30, 5, 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        squares = squared_distances(x, x)
    assert squares.dtype == torch.float32
    assert squares.min() >= 0
    assert squares.diagonal().max() < 0.1
    far = squares + torch.eye(30) * squares.max()
    torch.testing.assert_close(far, torch.cdist(x, x).square() + torch.eye(30) * squares.max(), rtol=0, atol=0.1)


def test_the_biased_estimate_is_the_formula_with_the_pairs_of_a_point_with_itself() -> None:
    """k = Σ_s exp(−‖x − y‖² / 2s), in loops over all pairs."""
    x, y, variances = points(5, 3, 0), points(7, 3, 1, 0.5), (0.5, 2.0)

    def mean(one: Tensor, other: Tensor) -> float:
        squares = [sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for a in one.tolist() for b in other.tolist()]
        return sum(math.exp(-square / (2 * s)) for square in squares for s in variances) / len(squares)

    found = biased_mmd(x, y, gaussian_mixture(variances))
    assert found.item() == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), abs=1e-12)
    assert biased_mmd(x, x.flip(0), gaussian_mixture(variances)).item() == pytest.approx(0, abs=1e-12)
