"""Steps of torch's optimizers, at what their kernels cost."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

_FUSED_ON = ("cpu", "cuda", "mps", "xpu")
"""Devices whose fused kernels exist in every torch that is supported."""
_UNUSUAL = ("amsgrad", "capturable", "differentiable")


def fused(optimizer: Optimizer) -> Optimizer:
    """The optimizer, with one kernel for a whole step where it has one and its settings don't say otherwise."""
    unset = all(optimizer.defaults.get(name, False) is None for name in ("fused", "foreach"))
    if unset and not optimizer.defaults.get("differentiable"):
        for group in optimizer.param_groups:
            group["fused"] = all(p.is_floating_point() and p.device.type in _FUSED_ON for p in group["params"])
    return optimizer


def plain_step(optimizer: Optimizer) -> Callable[[], Any]:
    """What does the same as `optimizer.step`, sooner.

    If the step is torch's and has no hooks, the wrapper that looks for hooks and profilers is left out. Of Adam with
    its fused kernel, so is all that finds out at each step which kernel that is.
    """
    cls = type(optimizer)
    hooks = (
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
    )
    replaced = "step" in vars(optimizer) and not hasattr(optimizer.step, "_wrapped_by_lr_sched")
    if any(hooks) or replaced or optimizer.defaults.get("differentiable") or not cls.__module__.startswith("torch."):
        return optimizer.step
    inner = inspect.unwrap(cls.step)
    adam = _fused_adam(optimizer) if cls in (Adam, AdamW) else None

    def step() -> None:
        optimizer._opt_called = True  # type: ignore[attr-defined]  # a scheduler looks for it
        with torch.no_grad():
            if adam is None or not adam():
                inner(optimizer)

    return step


def _fused_adam(optimizer: Optimizer) -> Callable[[], bool] | None:
    """A step of Adam or AdamW by its kernel alone, which answers whether it was made; None if it never can be.

    It is not made where something is missing: the moments before the first step, or a gradient.
    """
    for group in optimizer.param_groups:
        kinds = {(p.device.type, p.dtype) for p in group["params"]}
        floats = kinds <= {(device, dtype) for device in ("cpu", "cuda") for dtype in (torch.float32, torch.float64)}
        if len(kinds) != 1 or not floats or not group["fused"] or any(group[name] for name in _UNUSUAL):
            return None
    decoupled = isinstance(optimizer, AdamW)

    def step() -> bool:
        calls = []
        for group in optimizer.param_groups:
            parameters = group["params"]
            gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
            states = [optimizer.state[p] for p in parameters if p in optimizer.state]
            rates = group["lr"], *group["betas"]
            if len(gradients) < len(parameters) or len(states) < len(parameters) or Tensor in map(type, rates):
                return False
            calls.append((group, gradients, states))
        for group, gradients, states in calls:
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            kernel = torch._fused_adamw_ if decoupled or group.get("decoupled_weight_decay") else torch._fused_adam_
            kernel(
                group["params"],
                gradients,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=group["maximize"],
            )
        return True

    return step
