"""Distances of all pairs against loops over them."""

import math

import pytest
import torch

from encdec.objectives.pairs import distances, mean_of_others, product, squared_distances


def test_distances_are_those_of_single_pairs() -> None:
    x, y = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    squares = squared_distances(x, y)
    assert squares.shape == (5, 4)
    for i in range(5):
        for j in range(4):
            expected = sum((a - b) ** 2 for a, b in zip(x[i].flatten().tolist(), y[j].flatten().tolist(), strict=True))
            assert squares[i, j].item() == pytest.approx(expected, abs=1e-12)
            assert distances(x, y)[i, j].item() == pytest.approx(math.sqrt(expected), abs=1e-12)


def test_points_that_meet_have_no_gradient_and_none_that_is_infinite() -> None:
    x = torch.zeros(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(distances(x, torch.zeros(2, 4)).sum(), x)
    assert torch.equal(gradient, torch.zeros(3, 4))


def test_the_mean_of_others_leaves_the_diagonal_out() -> None:
    matrix = torch.tensor([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, 6.0, 9.0]])
    assert mean_of_others(matrix).item() == pytest.approx(21 / 6)
    assert mean_of_others(torch.ones(1, 1)) == 0


def test_autocast_rounds_neither_distances_nor_products() -> None:
    x, y = torch.randn(5, 300) + 10, torch.randn(4, 300) + 10
    expected = squared_distances(x, y), product(x, y.T)
    with torch.autocast("cpu", torch.bfloat16):
        found = squared_distances(x, y), product(x, y.T)
        assert not torch.equal(x @ y.T, expected[1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=0)
