"""Modules that can be copied and pickled whatever made them."""

import functools
from typing import Any

from torch import nn


class Copyable(nn.Module):
    """A module whose copies, also pickled ones, hold the plain classes that a config named.

    jsonargparse gives `Callable` arguments, such as the one that makes the optimizer, as partials that hold its parser,
    which can't be copied. What they make is said by the class and its arguments alone.
    """

    def __getstate__(self) -> dict[str, Any]:
        """The attributes, for `copy` and `pickle`."""
        parent = getattr(super(), "__getstate__", None)  # LightningModule's leaves the trainer out
        assert parent is not None
        return {name: _plain(value) for name, value in parent().items()}


def _plain(value: Any) -> Any:
    if type(value) is tuple:
        return tuple(map(_plain, value))
    if isinstance(value, functools.partial) and value.args:
        *before, cls = value.args
        if isinstance(cls, type) and all(callable(one) and not isinstance(one, type) for one in (value.func, *before)):
            return functools.partial(cls, **{name: _plain(argument) for name, argument in value.keywords.items()})
    return value
