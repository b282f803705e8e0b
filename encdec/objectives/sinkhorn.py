"""Entropic optimal transport between sets of points, and the Sinkhorn divergence.

Sources: Cuturi 2013, https://arxiv.org/abs/1306.0895; the divergence: Genevay, Peyré & Cuturi 2018,
https://arxiv.org/abs/1706.00292, in the form of Feydy et al. 2019, https://arxiv.org/abs/1810.08278.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from encdec.objectives.pairs import distances, squared_distances


class Coupling(NamedTuple):
    """How much of each point of a set goes to each of another.

    Attributes:
        plan: (N, M), its sum 1; each column sums to 1/M, each row to 1/N as far as the iterations got.
        value: (), the dual of min_P Σ P_ij C_ij + ε KL(P ‖ 1/NM), which the minimum is not below.
    """

    plan: Tensor
    value: Tensor


@torch.no_grad()
def couple(cost: Tensor, epsilon: Tensor | float, iterations: int, of_itself: bool = False) -> Coupling:
    """The plan P of the least Σ P_ij C_ij + ε KL(P ‖ 1/NM), of uniform marginals: costs (N, M).

    Sinkhorn's iterations in logarithms, which neither overflow nor lose small entries at small ε.

    Args:
        cost: C.
        epsilon: ε, in units of C.
        iterations: how often both potentials are fitted to each other.
        of_itself: whether C is symmetric. Then both potentials are one, and half steps, which are faster, find it.
    """
    scaled = -cost / epsilon
    log_n, log_m = (math.log(size) for size in cost.shape)
    f, g = cost.new_zeros(len(cost), 1), cost.new_zeros(1, cost.shape[1])  # the potentials, over ε
    for _ in range(iterations):
        fitted = log_m - (scaled + g).logsumexp(1, keepdim=True)
        f = (f + fitted) / 2 if of_itself else fitted
        g = f.T if of_itself else log_n - (scaled + f).logsumexp(0, keepdim=True)
    if of_itself:
        g = log_n - (scaled + f).logsumexp(0, keepdim=True)
    return Coupling((scaled + f + g - log_n - log_m).exp(), (f.mean() + g.mean()) * epsilon)


def entropic_cost(cost: Tensor, epsilon: Tensor | float, iterations: int, of_itself: bool = False) -> Tensor:
    """min_P Σ P_ij C_ij + ε KL(P ‖ 1/NM) with the gradient Σ P_ij ∇C_ij at the plan, which is fixed: (N, M) -> ().

    It is the gradient of the minimum where the iterations converged, by the envelope theorem, and takes no memory for
    them.
    """
    plan, value = couple(cost.detach(), epsilon, iterations, of_itself)
    transported = (plan * cost).sum()
    return value + transported - transported.detach()


def sinkhorn_divergence(
    x: Tensor, y: Tensor, epsilon: Tensor | float, iterations: int = 50, power: float = 2.0
) -> Tensor:
    """OT(x, y) − ½ OT(x, x) − ½ OT(y, y), the entropic costs of ‖·‖^`power`: (N, …), (M, …) -> (), full precision.

    Between W, the transport cost, at ε → 0 and, at ε → ∞, half the energy distance of ‖·‖^`power`: for 2 this is the
    squared distance of the means. Without the last two terms it would be least where y is shrunk towards means.
    """

    own = [entropic_cost(costs(points, points, power), epsilon, iterations, of_itself=True) for points in (x, y)]
    return entropic_cost(costs(x, y, power), epsilon, iterations) - (own[0] + own[1]) / 2


def costs(x: Tensor, y: Tensor, power: float) -> Tensor:
    """‖x_i − y_j‖^`power` of all pairs: (N, …), (M, …) -> (N, M)."""
    return squared_distances(x, y) if power == 2 else distances(x, y).pow(power)
