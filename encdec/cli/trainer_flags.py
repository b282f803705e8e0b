"""The settings of Lightning's trainer that it takes silently, stumbles over later, or that can't be honored here."""

import os
import re
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
)

from encdec.types import UserError

_LAUNCHED = (
    "MASTER_ADDR",
    "SLURM_NTASKS",
    "TORCHELASTIC_RUN_ID",
    "LSB_JOBID",
    "KUBERNETES_PORT",
    "OMPI_COMM_WORLD_SIZE",
)
"""What the environment of a process has that was started as one of many."""
_UNITS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")
_PROFILERS = ("simple", "advanced", "pytorch", "xla")
_TIME = "a time DD:HH:MM:SS, or one such as {hours: 2, minutes: 30}"
NOT_HONORED: dict[str, tuple[Any, str]] = {
    "use_distributed_sampler": (
        True,
        "the loaders share images between processes themselves, and Lightning's samplers are never used: leave it out.",
    ),
    "barebones": (
        False,
        "without checkpoints, curves and measurements there is no run; to leave some out, set enable_checkpointing, "
        "logger or enable_progress_bar to false.",
    ),
    "model_registry": (None, "checkpoints stay in the run's folder and are not uploaded: leave it out."),
}
"""Settings that can have one value only, and why."""
UNFIT_CALLBACKS: dict[type, str] = {
    BatchSizeFinder: "the data module makes its loaders itself; set data.batch_size",
    LearningRateFinder: "the rate belongs to the optimizer's settings; set model.optimizer.lr",
    GradientAccumulationScheduler: "training takes its batches together as they are set at the start; set "
    "trainer.accumulate_grad_batches",
    BaseFinetuning: "it unfreezes a `backbone`, which no paradigm has",
}
"""Callbacks that can't be used, and why."""


def check(config: Any) -> None:
    """Refuse what can't be, before any work is done.

    Args:
        config: the trainer's settings.

    Raises:
        UserError: one can't be; the sentence names it.
    """
    for key, (only, why) in NOT_HONORED.items():
        if config[key] != only:
            raise UserError(f"trainer.{key} is {_shown(config[key])}, but {why}", 2)
    for key in ("log_every_n_steps", "accumulate_grad_batches", "check_val_every_n_epoch"):
        _require_at_least(config, key, 1)
    for key in ("min_epochs", "min_steps", "gradient_clip_val", "reload_dataloaders_every_n_epochs", "overfit_batches"):
        _require_at_least(config, key, 0)
    for key in ("max_epochs", "max_steps", "num_sanity_val_steps"):
        _require_at_least(config, key, -1)
    _check_length(config)
    _check_intervals(config)
    _check_devices(config)
    _check_nodes(config)
    profiler = config.profiler
    if isinstance(profiler, str) and (
        profiler.lower() not in _PROFILERS or (profiler.lower() == "xla" and find_spec("torch_xla") is None)
    ):
        raise UserError(
            f"trainer.profiler is {profiler!r}, but it must be one of {', '.join(_PROFILERS)} (which needs the package "
            "torch_xla), or the name of a class.",
            2,
        )
    if config.gradient_clip_algorithm is not None and config.gradient_clip_val is None:
        raise UserError(
            f"trainer.gradient_clip_algorithm is {config.gradient_clip_algorithm}, but gradients are clipped only with "
            "trainer.gradient_clip_val: set it too.",
            2,
        )


def check_callbacks(callbacks: list[Any]) -> None:
    """Refuse callbacks of Lightning that look for what no paradigm or data module of encdec has.

    Raises:
        UserError: there is one.
    """
    for callback in callbacks:
        for kind, why in UNFIT_CALLBACKS.items():
            if isinstance(callback, kind):
                raise UserError(f"{type(callback).__name__} does not work here: {why}.", 2)


def _require_at_least(config: Any, key: str, least: int) -> None:
    value = config[key]
    if value is not None and not value >= least:
        raise UserError(f"trainer.{key} is {value}, but it must be at least {least}.", 2)


def _check_length(config: Any) -> None:
    """Check how long and on how much it trains."""
    if config.limit_train_batches == 0:
        raise UserError("trainer.limit_train_batches is 0, so there would be nothing to train on.", 2)
    for noun in ("epochs", "steps"):
        most, least = config[f"max_{noun}"], config[f"min_{noun}"]
        if most == 0:
            raise UserError(f"trainer.max_{noun} is 0, so there would be nothing to do: give a number, or -1.", 2)
        if least is not None and most is not None and -1 != most < least:
            raise UserError(f"trainer.min_{noun} is {least}, but trainer.max_{noun} is {most}: it can't be less.", 2)
    if config.overfit_batches > 0:
        for key in ("limit_train_batches", "limit_val_batches"):
            if config[key] is not None:
                raise UserError(
                    f"trainer.overfit_batches and trainer.{key} both say how many batches there are: give one.", 2
                )
    if config.max_time is not None:
        _check_time("max_time", config.max_time)


def _check_intervals(config: Any) -> None:
    """Check when it validates."""
    value = config.val_check_interval
    if value is None:
        return
    if not isinstance(value, int | float):
        _check_time("val_check_interval", value)
    elif not value > 0 or (value > 1 and value != int(value)):
        raise UserError(
            f"trainer.val_check_interval is {value}, but it must be a number of batches, at least 1, or a share of the "
            "epoch, more than 0 and at most 1.0.",
            2,
        )


def _check_time(key: str, value: Any) -> None:
    """Check a time in one of the forms that Lightning takes; more than none of it."""
    length = timedelta()
    if isinstance(value, timedelta):
        length = value
    elif isinstance(value, str):
        match = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", value.strip())
        days, hours, minutes, seconds = map(int, match.groups() if match else (0, 0, 0, 0))
        length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    elif all(unit in _UNITS and isinstance(count, int | float) for unit, count in value.items()):
        length = timedelta(**value)
    if length <= timedelta():
        raise UserError(f"trainer.{key} is {_shown(value)}, but it must be {_TIME}, and more than 0.", 2)


def _check_nodes(config: Any) -> None:
    """Refuse to wait for other machines that nobody has started."""
    if config.num_nodes > 1 and not any(name in os.environ for name in _LAUNCHED):
        raise UserError(
            f"trainer.num_nodes is {config.num_nodes}, but this process was started alone and would wait for the other "
            "machines: start one on each by Slurm or torchrun, or set MASTER_ADDR and NODE_RANK.",
            2,
        )


def _check_devices(config: Any) -> None:
    """Check on what it trains."""
    accelerator = config.accelerator
    has_mps = torch.backends.mps.is_available()
    available = {"cuda": torch.cuda.is_available(), "mps": has_mps, "gpu": torch.cuda.is_available() or has_mps}
    if isinstance(accelerator, str) and not available.get(accelerator, True):
        raise UserError(
            f"trainer.accelerator is {accelerator}, but torch finds no GPU of this kind here: take auto or cpu.", 1
        )
    if str(config.devices) == "0":
        raise UserError("trainer.devices is 0, but it must be at least 1, or auto.", 2)
    cores = os.cpu_count() or 1
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and str(config.devices).isdecimal() and int(config.devices) > 4 * cores:
        raise UserError(
            f"trainer.devices is {config.devices}: so many processes on {cores} cores would stand still.", 2
        )
    strategy = config.strategy
    is_class = not isinstance(strategy, str)
    name = str(strategy.get("class_path")).rpartition(".")[2] if is_class else strategy
    starts = (strategy.get("init_args") or {}).get("start_method", "popen") if is_class else name
    if any(word in str(starts) for word in ("spawn", "fork", "notebook")):
        raise UserError(f"trainer.strategy is {starts}, which does not work from the command line: take ddp.", 2)
    if any(word in name.lower() for word in ("fsdp", "deepspeed", "modelparallel", "model_parallel")):
        raise UserError(
            f"trainer.strategy is {name}, which splits a model between devices; a model here is whole on each of them: "
            "take auto or ddp.",
            2,
        )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def environment(own: list[Any]) -> list[Any]:
    """The plugins of a trainer; under Slurm Lightning would save and requeue by itself, in the middle of a step."""
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in own)
    if chosen or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return own
    return [*own, SLURMEnvironment(auto_requeue=False)]
