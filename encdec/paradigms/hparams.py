"""Hyper-parameters: of the types that they must be, and as plain values, from which a checkpoint rebuilds its model."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from encdec import signatures


def make_loadable(module: pl.LightningModule) -> list[str]:
    """Check the hyper-parameters, and turn classes among them into the plain values that the command line would store.

    Returns:
        The names of those that have no such values, because they are functions; a checkpoint could not rebuild them.

    Raises:
        UserError: one is of another type than the signature of the module's class says.
    """
    if "_instantiator" in module.hparams:
        return []  # the command line did it
    signatures.check(type(module), module.hparams)
    given = _given(module)
    unknown = []
    for name in [name for name in module.hparams if name not in given]:
        del module.hparams[name]  # what a class passes on to its base is no setting of its own
    for name, value in list(module.hparams.items()):
        module.hparams[name] = signatures.as_plain(value)
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


def _given(module: pl.LightningModule) -> set[str]:
    """The names of the arguments that a module is being made with: those of its own class, its keywords included."""
    frame, names = inspect.currentframe(), set[str]()
    while frame is not None:
        if frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is module:
            arguments = inspect.getargvalues(frame)
            names = {*arguments.args} | set(arguments.locals.get(arguments.keywords or "", {}))
        frame = frame.f_back
    return names - {"self"}


def _class_spec(value: object) -> dict[str, Any] | None:
    """A class, or a partial of one, as a config writes it; None for anything else."""
    arguments: Mapping[str, Any] = {}
    if isinstance(value, functools.partial) and not value.args:
        arguments, value = value.keywords, value.func
    if not isinstance(value, type):
        return None
    spec: dict[str, Any] = {"class_path": f"{value.__module__}.{value.__qualname__}"}
    return {**spec, "init_args": dict(arguments)} if arguments else spec
