"""Noise as a function of its keys."""

import torch
from scipy.stats import kstest

from encdec.objectives.noise import normal, step_seed


def test_numbers_are_standard_normal() -> None:
    numbers = normal(0, 0, torch.arange(20_000), 5)
    assert kstest(numbers.flatten().double().numpy(), "norm").pvalue > 1e-3
    correlations = torch.corrcoef(numbers.T).fill_diagonal_(0).abs()
    assert correlations.max() < 0.04
    neighbours = torch.corrcoef(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.02


def test_every_key_matters_and_nothing_else() -> None:
    index = torch.tensor([3, 1, 40_000])
    numbers = normal(1, 2, index, 4)
    assert torch.equal(numbers[1], normal(1, 2, torch.tensor([1]), 4)[0])
    for other in (normal(2, 2, index, 4), normal(1, 3, index, 4), normal(1, 2, index + 1, 4), normal(1, -2, index, 4)):
        assert not torch.isclose(numbers, other).any()


def test_odd_dimensions_and_large_indices_are_finite() -> None:
    numbers = normal(2**62, 2**40, torch.tensor([0, 2**62]), 7)
    assert numbers.shape == (2, 7)
    assert torch.isfinite(numbers).all()


def test_step_seeds_differ() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(50) for rank in range(4)}
    assert len(seeds) == 5 * 50 * 4
    assert step_seed(1, 2) == step_seed(1, 2) != step_seed(2, 1)
