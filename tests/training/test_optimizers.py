"""Optimizers make a step by one kernel where they have one, and where their settings don't say otherwise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from encdec.training.optimizers import fused


def _trained(make: Callable[..., Optimizer], change: Callable[[Optimizer], Optimizer]) -> list[Tensor]:
    """Weights after steps with two groups, gradients that are missing at times, and a restored state."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(7, 5, generator=generator)) for _ in range(3)]
    groups = [{"params": weights[:2]}, {"params": weights[2:], "lr": 0.03, "weight_decay": 0.2}]
    optimizer = change(make(groups))
    for number in range(12):
        for weight in weights:
            weight.grad = torch.randn(7, 5, generator=generator)
        if number == 5:
            weights[1].grad = None
        if number == 8:
            optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize("make", [partial(Adam, lr=0.1), partial(AdamW, lr=0.1), partial(SGD, lr=0.1, momentum=0.9),
                                  partial(RMSprop, lr=0.1)])  # fmt: skip
def test_one_kernel_makes_the_same_steps(make: Callable[..., Optimizer]) -> None:
    for ours, torchs in zip(_trained(make, fused), _trained(make, lambda optimizer: optimizer), strict=True):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize(
    ("make", "expected"),
    [(Adam, True), (partial(Adam, fused=False), False), (partial(Adam, foreach=True), None),
     (partial(Adam, differentiable=True), None), (RMSprop, None)],
)  # fmt: skip
def test_settings_decide_and_then_the_device(make: Callable[..., Any], expected: bool | None) -> None:
    optimizer = fused(make([torch.nn.Parameter(torch.ones(3))]))
    assert optimizer.param_groups[0].get("fused") is expected
    if expected:
        whole = fused(make([torch.nn.Parameter(torch.ones(3)), torch.ones(3, dtype=torch.complex64)]))
        assert not whole.param_groups[0]["fused"], "there is no kernel for complex weights"
