"""Entropic transport against a linear program, permutations and moments, and its gradient against differences."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from encdec.objectives.pairs import distances, mean_of_others, squared_distances
from encdec.objectives.sinkhorn import costs, couple, entropic_cost, sinkhorn_divergence


def points(count: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def linear_program(cost: Tensor) -> float:
    """The least Σ P_ij C_ij over plans of uniform marginals."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return float(linprog(cost.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=marginals).fun)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 8)])
@pytest.mark.parametrize("power", [2.0, 1.0])
def test_at_small_epsilon_it_is_the_linear_program(n: int, m: int, power: float) -> None:
    cost = costs(points(n, 3, 0), points(m, 3, 1, 0.5), power)
    exact = linear_program(cost)
    plan, value = couple(cost, 0.01, 5000)
    torch.testing.assert_close(plan.sum(0), torch.full((m,), 1 / m, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n, dtype=torch.float64), atol=1e-4, rtol=0)
    assert (plan * cost).sum().item() == pytest.approx(exact, rel=2e-3)
    # ε KL(P ‖ 1/nm) is between 0 and ε log(n m)
    assert exact - 1e-9 <= value.item() <= exact + 0.01 * np.log(n * m)


def test_at_small_epsilon_the_divergence_is_the_squared_wasserstein_distance() -> None:
    x, y = points(20, 2, 0), points(20, 2, 1, 1.0)
    cost = squared_distances(x, y)
    rows, columns = linear_sum_assignment(cost.numpy())
    exact = cost[rows, columns].mean().item()
    found = sinkhorn_divergence(x, y, 5e-3, 3000).item()
    assert found == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("power", [2.0, 1.0])
def test_at_large_epsilon_it_is_half_the_energy_distance(power: float) -> None:
    """Of ‖·‖² that is the squared distance of the means, the MMD of a linear kernel."""
    x, y = points(20, 3, 0), points(30, 3, 1, 0.7)
    found = sinkhorn_divergence(x, y, 1e6, 20, power).item()
    energy = costs(x, y, power).mean() - (costs(x, x, power).mean() + costs(y, y, power).mean()) / 2
    assert found == pytest.approx(energy.item(), rel=1e-4)
    if power == 2:
        assert found == pytest.approx((x.mean(0) - y.mean(0)).square().sum().item(), rel=1e-4)
    else:
        assert found == pytest.approx(distances(x, y).mean().item() - (_others(x) + _others(y)) / 2, rel=1e-2)


def _others(x: Tensor) -> float:
    n = len(x)
    return mean_of_others(distances(x, x)).item() * (n - 1) / n


def test_it_is_zero_of_equal_sets_and_positive_of_others() -> None:
    x = points(30, 3, 0)
    order = torch.randperm(30)
    epsilon = 0.1 * squared_distances(x, x).mean()
    assert sinkhorn_divergence(x, x[order], epsilon, 200).item() == pytest.approx(0, abs=1e-5)
    for other in (x + 0.1, 0.9 * x, points(30, 3, 1)):
        assert sinkhorn_divergence(x, other, epsilon, 200) > 1e-3


def test_without_its_own_terms_samples_would_shrink() -> None:
    """At the minimum of OT(x, s · x) over a scale s, s is below 1; that of the divergence is at 1."""
    x = points(40, 2, 0)
    epsilon, scales = 0.5 * squared_distances(x, x).mean(), torch.linspace(0.5, 1.2, 15).tolist()
    plain = [entropic_cost(squared_distances(x, s * x), epsilon, 50).item() for s in scales]
    divergence = [sinkhorn_divergence(x, s * x, epsilon, 50).item() for s in scales]
    assert scales[int(np.argmin(plain))] < 0.85
    assert scales[int(np.argmin(divergence))] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("power", [2.0, 1.0])
def test_its_gradient_is_that_of_the_value(power: float) -> None:
    """The plan is fixed in the gradient, so it must be right where the iterations converged: central differences."""
    x, y = points(7, 2, 0), points(9, 2, 1, 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn_divergence(x, y, 0.5, 500, power), y)
    with torch.no_grad():
        for i, k in ((0, 0), (3, 1), (8, 0)):
            step = torch.zeros_like(y)
            step[i, k] = 1e-5
            up, down = (sinkhorn_divergence(x, y + sign * step, 0.5, 500, power) for sign in (1, -1))
            assert gradient[i, k].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-4, abs=1e-8)


def test_small_epsilons_neither_overflow_nor_vanish_in_float32() -> None:
    x, y = points(50, 100, 0).float(), points(50, 100, 1, 3.0).float().requires_grad_()
    value = sinkhorn_divergence(x, y, 1e-2, 100)
    (gradient,) = torch.autograd.grad(value, y)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
