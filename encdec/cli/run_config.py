"""The config of a run, which a checkpoint brings along: what it may say where the user has not named it."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import yaml
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from encdec import plugins
from encdec.callbacks import BestAndLast, Evaluate, ImageGrids, LogFloors, WritePredictions
from encdec.data import DataModule
from encdec.paradigms import Paradigm
from encdec.runs import build, trust, version_0_1
from encdec.text import word
from encdec.types import UserError

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
"""Modes of torch.compile."""
CALLBACKS: dict[str, type[pl.Callback]] = {
    "checkpoint": BestAndLast,
    "images": ImageGrids,
    "floors": LogFloors,
    "evaluation": Evaluate,
    "predictions": WritePredictions,
}
"""The callbacks that have a key of their own in a config."""
_VALUES: dict[str, Any] = {
    "seed_everything": bool | int,
    "name": str | None,
    "compile": CompileMode | None,
    "weights": str | None,
    "weights_sha256": str | None,
}
_OF_LIGHTNING: dict[type, tuple[type, ...]] = {
    Logger: (TensorBoardLogger, CSVLogger),
    Profiler: (SimpleProfiler, AdvancedProfiler, PyTorchProfiler),
    Strategy: (DDPStrategy, SingleDeviceStrategy),
    Precision: (MixedPrecision, DoublePrecision, HalfPrecision),
    ClusterEnvironment: (SLURMEnvironment, LightningEnvironment),
    Accelerator: (),
}
"""The classes of Lightning that write nothing but local files, ask no other program, and read no checkpoint."""
_NAMES: dict[type, frozenset[str]] = {
    Accelerator: frozenset({"auto", "gpu", *AcceleratorRegistry.available_accelerators()}),
    Strategy: frozenset({"auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"}),
    Profiler: frozenset({"simple", "advanced", "pytorch"}),
}


def checked(path: Path) -> str:
    """The settings in the config of a run, as YAML in which there is nothing else than what was checked.

    Every value must be one that its place takes, as signatures say, and every class one that encdec, a plugin or
    PyTorch has defined already, or one of Lightning's that work on this machine alone. Nothing is imported or opened.

    Raises:
        UserError: it says something else, or is not YAML.
    """
    node, settings = trust.read_yaml(path)
    trust.refuse_duplicates(node, str(path))
    settings = version_0_1.config(settings)
    try:
        if type(settings) is not dict:
            raise build.UnfitError("it does not hold settings by their names")
        rules = _rules()
        settings = version_0_1.evaluation(settings)
        plain = {name: build.as_plain(_fitted(name, value, rules)) for name, value in settings.items()}
    except build.UnfitError as error:
        raise UserError(f"{path}: {error}; if you trust this file, say so by --config {word(path)}.") from error
    for text in _texts(plain):
        if trust.is_address(text):
            raise UserError(
                f"{path} names the address {trust.shown(text)}: if you trust this file, say so by "
                f"--config {word(path)}."
            )
    as_yaml: str = yaml.safe_dump(plain, allow_unicode=True)
    return as_yaml


def _fitted(name: Any, value: Any, rules: build.Rules) -> Any:
    if name in ("model", "data"):
        return build.fit(value, Paradigm if name == "model" else DataModule, rules, name)
    if name in _VALUES:
        return build.fit(value, _VALUES[name], rules, name)
    if name != "trainer" and name not in CALLBACKS:
        raise build.UnfitError(f"it sets {trust.shown(name)}, which is no setting of a run")
    if type(value) is not dict:
        raise build.UnfitError(f"{name} is {trust.shown(value)}, but it must hold settings by their names")
    return build.fitted(pl.Trainer if name == "trainer" else CALLBACKS[name], value, rules, name)


def _rules() -> build.Rules:
    ours = plugins.packages()

    def classes(hint: type) -> list[type] | None:
        if hint is not pl.Callback and hint not in _OF_LIGHTNING:
            return build.known_classes(hint)
        found: list[type] = plugins.subclasses(hint)
        of_plugins = [cls for cls in found if cls.__module__.partition(".")[0] in ours]
        if hint in _OF_LIGHTNING:
            return [*_OF_LIGHTNING[hint], *of_plugins]
        theirs = "lightning.pytorch.callbacks"
        return of_plugins + [cls for cls in found if cls.__module__.startswith(theirs)]

    # a registry of models is a server, if a package for it is installed
    return build.Rules(classes, _NAMES, never=frozenset({"model_registry"}))


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for inner in pair for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []
