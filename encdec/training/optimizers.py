"""One kernel for a whole step of an optimizer."""

from torch.optim import Optimizer

_FUSED_ON = ("cpu", "cuda", "mps", "xpu")
"""Devices whose fused kernels exist in every torch that is supported."""


def fused(optimizer: Optimizer) -> Optimizer:
    """The optimizer, with one kernel for a whole step where it has one and its settings don't say otherwise."""
    unset = all(optimizer.defaults.get(name, False) is None for name in ("fused", "foreach"))
    if unset and not optimizer.defaults.get("differentiable"):
        for group in optimizer.param_groups:
            group["fused"] = all(p.is_floating_point() and p.device.type in _FUSED_ON for p in group["params"])
    return optimizer
