"""Hyper-parameters as plain values, from which a checkpoint rebuilds its model without trusting pickled code."""

import functools
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl


def make_loadable(module: pl.LightningModule) -> list[str]:
    """Turn classes among the hyper-parameters into the plain values that the command line would store.

    Returns:
        The names of those that have no such values, because they are functions; a checkpoint could not rebuild them.
    """
    if "_instantiator" in module.hparams:
        return []  # the command line did it
    unknown = []
    for name, value in list(module.hparams.items()):
        spec = _class_spec(value)
        if spec is not None:
            module.hparams[name] = spec
        elif callable(value):
            del module.hparams[name]
            if name not in ("optimizer", "lr_scheduler"):  # a model is rebuilt without these
                unknown.append(name)
    module.hparams["_class_path"] = f"{type(module).__module__}.{type(module).__qualname__}"
    module.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
    return unknown


def _class_spec(value: object) -> dict[str, Any] | None:
    """A class, or a partial of one, as a config writes it; None for anything else."""
    arguments: Mapping[str, Any] = {}
    if isinstance(value, functools.partial) and not value.args:
        arguments, value = value.keywords, value.func
    if not isinstance(value, type):
        return None
    spec: dict[str, Any] = {"class_path": f"{value.__module__}.{value.__qualname__}"}
    return {**spec, "init_args": dict(arguments)} if arguments else spec
