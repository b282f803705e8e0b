"""Derivatives along a direction, in forward mode."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor


def along(
    function: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value of a function at a point and its derivative along a direction there, both of the value's shape.

    Both can be differentiated again, by the function's parameters too. They are computed without autocast, which does
    not see through a derivative in forward mode.

    Args:
        function: of as many tensors as `point` has; it must be made of operations with a forward derivative.
        point: where.
        direction: of the shapes of `point`.
    """
    _prepare()
    if torch.is_inference_mode_enabled():  # in it, torch 2.10 gives derivatives of 0
        with torch.inference_mode(False), torch.no_grad():
            point, direction = (tuple(one.clone() for one in many) for many in (point, direction))
            return along(function, point, direction)
    with torch.autocast(point[0].device.type, enabled=False):
        found = torch.func.jvp(function, point, direction)
    return found[0], found[1]


@functools.cache
def _prepare() -> None:
    """At its first use torch's forward mode compiles some operations by what torch itself deprecates, and warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
