"""Steps without what torch does around them are the same steps."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import OneCycleLR

from encdec.training.optimizers import fused, plain_step


def _train(make: Callable[..., Any], plain: bool, steps: int = 12) -> list[Tensor]:
    """Weights after steps with two groups, a schedule, gradients that are missing at times, and a restored state."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(7, 5, generator=generator)) for _ in range(3)]
    groups = [{"params": weights[:2]}, {"params": weights[2:], "lr": 0.03, "weight_decay": 0.2}]
    optimizer = fused(make(groups))
    rates = [group["lr"] for group in optimizer.param_groups]
    floats = not any(isinstance(rate, Tensor) for rate in rates)
    scheduler = OneCycleLR(optimizer, rates, total_steps=steps + 1, cycle_momentum=floats) if floats else None
    step = plain_step(optimizer) if plain else optimizer.step
    missing = () if isinstance(optimizer, SGD) else (0, 5)  # torch's fused SGD fails without one of its first gradients
    for number in range(steps):
        for weight in weights:
            weight.grad = torch.randn(7, 5, generator=generator)
        if number in missing:
            weights[1].grad = None
        if number == 8:
            optimizer.load_state_dict(optimizer.state_dict())
        step()
        if scheduler is not None:
            scheduler.step()
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize(
    "make",
    [
        partial(Adam, lr=0.1),
        partial(Adam, lr=0.1, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-3),
        partial(Adam, lr=0.1, maximize=True),
        partial(Adam, lr=0.1, amsgrad=True),
        partial(Adam, lr=0.1, foreach=True),
        partial(Adam, lr=0.1, fused=False),
        partial(Adam, lr=torch.tensor(0.1)),
        partial(AdamW, lr=0.1, weight_decay=0.1),
        partial(SGD, lr=0.1, momentum=0.9),
        partial(RMSprop, lr=0.1, momentum=0.9),
    ],
)
def test_plain_steps_give_the_same_weights(make: Callable[..., Any]) -> None:
    expected, weights = _train(make, plain=False), _train(make, plain=True)
    assert all(torch.equal(*pair) for pair in zip(expected, weights, strict=True))


@pytest.mark.parametrize("cls", [Adam, AdamW])
def test_adams_kernel_is_called_without_what_is_around_it(cls: type[Adam], monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = fused(cls([weight]))
    step = plain_step(optimizer)
    weight.grad = torch.ones(3)
    step()  # makes the moments

    def around(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    for name in ("adam", "adamw"):
        monkeypatch.setattr(import_module(f"torch.optim.{name}"), name, around)
    step()
    assert optimizer.state[weight]["step"] == 2
    with pytest.raises(AssertionError):
        optimizer.step()


def test_hooks_and_replacements_of_an_optimizers_step_are_called() -> None:
    calls = []

    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            calls.append("own")

    own = Own([torch.nn.Parameter(torch.ones(1))])
    hooked = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    hooked.register_step_post_hook(lambda *_: calls.append("hook"))
    replaced = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    replaced.step = lambda: calls.append("replaced")  # type: ignore[method-assign, assignment, misc]
    for optimizer in (own, hooked, replaced):
        plain_step(optimizer)()
    assert calls == ["own", "hook", "replaced"]
