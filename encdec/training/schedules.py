"""Optimizers and learning-rate schedules: made for a run, tried before it begins, and as long as it is."""

import inspect
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau, SequentialLR

from encdec import private
from encdec.training.optimizers import fused
from encdec.types import UserError

Interval = Literal["step", "epoch"]
"""What a schedule counts: the optimizer's steps, or epochs."""
_MEANT_FOR_STEPS = (torch_schedules.OneCycleLR, torch_schedules.CyclicLR)
_ENDS: dict[type[LRScheduler], str] = {
    torch_schedules.OneCycleLR: "total_steps",
    torch_schedules.CosineAnnealingLR: "T_max",
    torch_schedules.LinearLR: "total_iters",
    torch_schedules.ConstantLR: "total_iters",
    torch_schedules.PolynomialLR: "total_iters",
    torch_schedules.MultiStepLR: "milestones",
}
"""The setting that says how long a schedule is."""
_TRIED = 1000
"""After how many steps a fault of a schedule's settings has shown itself."""


@dataclass(frozen=True)
class RunLength:
    """How long a run is, in the optimizer's steps and in epochs; infinite where only a signal or the clock ends it."""

    steps: float
    epochs: float

    @classmethod
    def of(cls, trainer: pl.Trainer, steps_in_epoch: float) -> Self:
        """The length of a training, by the limits of its trainer."""
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        steps = math.inf if trainer.max_steps == -1 else trainer.max_steps
        steps = min(steps, epochs * steps_in_epoch)
        return cls(steps, min(epochs, math.ceil(steps / steps_in_epoch) if math.isfinite(steps) else math.inf))


class Phases(SequentialLR):
    """Schedules one after the other, such as a warm-up and then a decay: torch's SequentialLR, for configs.

    Args:
        optimizer: whose learning rates are set.
        schedulers: of the phases; each counts from the beginning of its own.
        milestones: the step, or epoch, at which each phase but the first begins.

    Raises:
        ValueError: there is not one milestone between every two phases, or they do not increase.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[int]) -> None:
        if sorted(set(milestones)) != list(milestones) or min(milestones, default=1) < 1:
            raise ValueError(f"milestones must increase and be at least 1, but they are {milestones}")
        parts: list[Any] = [make(optimizer) for make in schedulers]
        super().__init__(optimizer, parts, milestones)


def configure(
    owner: str,
    groups: Sequence[Any],
    optimizer: OptimizerCallable,
    scheduler: LRSchedulerCallable | None = None,
    interval: Interval | None = None,
) -> OptimizerConfig | OptimizerLRSchedulerConfig:
    """An optimizer, and its scheduler if there is one, as Lightning takes them; both have made a step elsewhere.

    Args:
        owner: name of the model, for the errors.
        groups: the parameters, or parameter groups.
        optimizer: makes the optimizer.
        scheduler: makes the scheduler.
        interval: what the scheduler counts; None for what its class is meant for.

    Raises:
        UserError: one of them refuses its settings, or would fail in training.
    """
    groups = [{**group, "params": list(group["params"])} for group in groups if isinstance(group, dict)] or [
        {"params": list(groups)}
    ]
    dummies = [{**group, "params": _dummies(group["params"])} for group in groups]
    made: Optimizer = fused(_made(owner, "optimizer", optimizer, groups))
    dummy: Optimizer = _made(owner, "optimizer", optimizer, dummies)
    _try_optimizer(owner, dummy)
    if scheduler is None:
        if interval is not None:
            raise UserError(
                f"model.lr_scheduler_interval is {interval}, but there is no scheduler: set model.lr_scheduler.", 2
            )
        return {"optimizer": made}
    schedule = _made(owner, "learning rate's scheduler", scheduler, made)
    if isinstance(schedule, ReduceLROnPlateau):
        if interval is not None:
            raise UserError(
                "ReduceLROnPlateau is stepped after each validation: leave model.lr_scheduler_interval out.", 2
            )
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule}}
    _try_schedule(dummy, _made(owner, "learning rate's scheduler", scheduler, dummy))
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": interval or meant_for(schedule)}}


def meant_for(schedule: LRScheduler) -> Interval:
    """What a schedule counts where nobody says: steps if its class, or that of a part, can mean nothing else."""
    parts = [schedule, *_parts(schedule)]
    return "step" if any(isinstance(part, _MEANT_FOR_STEPS) for part in parts) else "epoch"


def check(trainer: pl.Trainer, run: RunLength) -> None:
    """Check the schedules of a training that begins, see `check_length`; a `fast_dev_run` may cut them short.

    Raises:
        UserError: one is longer than the run, or over before it.
    """
    if getattr(trainer, "fast_dev_run", False):
        return
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            if _validates(trainer):
                continue
            raise UserError(
                f"{type(config.scheduler).__name__} changes the rate after validations, but this run never validates: "
                "take another schedule, or let it validate.",
                2,
            )
        begun = trainer.global_step > 0
        check_length(config.scheduler, "step" if config.interval == "step" else "epoch", run, begun)


def _validates(trainer: pl.Trainer) -> bool:
    """Whether a training that begins will validate."""
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    return trainer.enable_validation and (every is None or epochs in (None, -1) or every <= epochs)


def described(trainer: pl.Trainer) -> list[str]:
    """A sentence for each schedule of a training: what it is, and when it is stepped."""
    return [
        f"The learning rate follows {type(config.scheduler).__name__}, stepped after each "
        f"{'validation' if isinstance(config.scheduler, ReduceLROnPlateau) else config.interval}."
        for config in trainer.lr_scheduler_configs
    ]


def check_length(schedule: LRScheduler, interval: Interval, run: RunLength, begun: bool = False) -> None:
    """Check that a schedule is no longer than the run, and is not over before it where torch would then raise.

    Args:
        schedule: of the learning rate.
        interval: what it counts.
        run: how long the run is.
        begun: whether the run goes on from a checkpoint, with a schedule that it can't change.

    Raises:
        UserError: it is; the sentence says how long the run is.
    """
    length = run.steps if interval == "step" else run.epochs
    other: Interval = "epoch" if interval == "step" else "step"
    others = run.epochs if interval == "step" else run.steps
    made = f"the run makes {_count(run.steps, 'step')} in {_count(run.epochs, 'epoch')}"
    for part, available in _with_lengths(schedule, length):
        name = type(part).__name__
        setting = next((setting for cls, setting in _ENDS.items() if isinstance(part, cls)), "milestones")
        end = _end(part)
        if end is None:
            continue
        if end < 1 and setting != "milestones":
            raise UserError(f"model.lr_scheduler: {name} has {setting} = {end}, but it must be at least 1.", 2)
        exact = isinstance(part, torch_schedules.OneCycleLR)  # torch raises when it is over
        begins = isinstance(part, SequentialLR)  # of which the last phase has to begin in time
        if (end == available) if exact else (end < available) if begins else (end <= available):
            continue
        where = "the run" if part is schedule else "its phase"
        if begins:
            wrong, remedy = "longer than where it is used", f"begin its last phase before {available:.0f}"
        elif end > available:
            wrong, remedy = f"longer than {where}", f"set {setting} to {'' if exact else 'at most '}{available:.0f}"
        elif math.isinf(available):
            wrong, remedy = f"over before {where} is", "set trainer.max_steps or trainer.max_epochs"
        else:
            wrong, remedy = f"over before {where} is", f"set {setting} to {available:.0f}"
        if part is schedule and end > available and end <= others:
            remedy += f", or model.lr_scheduler_interval to {other}"
        if begun:
            remedy = (
                "a run that has begun keeps its schedule, so let it end as it was meant to, and begin a new one with "
                "its weights: --weights FILE"
            )
        raise UserError(
            f"model.lr_scheduler: {name} counts {interval}s up to {setting} = {end}, so it is {wrong}: {made}; "
            f"{remedy}.",
            2,
        )


def _count(number: float, noun: str) -> str:
    return f"endless {noun}s" if math.isinf(number) else f"{number:.0f} {noun}{'' if number == 1 else 's'}"


def _end(schedule: LRScheduler) -> int | None:
    """How long a schedule is, in what it counts; None if it goes on for ever."""
    if isinstance(schedule, SequentialLR):
        return max(private.milestones(schedule), default=None)
    for cls, setting in _ENDS.items():
        if isinstance(schedule, cls):
            end = getattr(schedule, setting)
            return int(end) if isinstance(end, int | float) else max(end, default=0)
    return None


def _parts(schedule: LRScheduler) -> Iterable[LRScheduler]:
    """The schedules that one is made of, and theirs."""
    for part in private.parts(schedule):
        yield part
        yield from _parts(part)


def _with_lengths(schedule: LRScheduler, length: float) -> Iterable[tuple[LRScheduler, float]]:
    """A schedule and its parts, each with how long it is in use."""
    yield schedule, length
    parts = private.parts(schedule)
    if isinstance(schedule, SequentialLR):
        bounds = [0, *private.milestones(schedule), length]
        lengths = [end - start for start, end in itertools.pairwise(bounds)]
    elif isinstance(schedule, ChainedScheduler):
        lengths = [length] * len(parts)
    else:
        return
    for part, available in zip(parts, lengths, strict=False):  # none of either where torch names them otherwise
        yield from _with_lengths(part, available)


def _made(owner: str, what: str, make: Any, of: Any) -> Any:
    try:
        return make(of)
    except UserError:
        raise
    except Exception as error:  # torch's classes refuse settings by errors of many types
        raise UserError(f"{owner}: the {what} can't be made: {_reason(error)}.", 2) from error


def _dummies(parameters: Iterable[Any]) -> list[torch.Tensor]:
    """A parameter of one number for each of some, with as many dimensions, which some optimizers look at."""
    return [p.new_zeros([1] * p.ndim).requires_grad_() for p in parameters]


def _try_optimizer(owner: str, optimizer: Optimizer) -> None:
    """A step with gradients, which shows what a constructor did not refuse."""
    name, cls = type(optimizer).__name__, type(optimizer)
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"{owner}: {name} measures the loss many times in a step, which a training step here does once: take "
            "another optimizer, such as Adam.",
            2,
        )
    if not cls.__module__.startswith("torch."):
        return  # a plugin's may be used in ways that are not known here
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except Exception as error:
        raise UserError(f"{owner}: {name} can't train this model with its settings: {_reason(error)}.", 2) from error


def _try_schedule(optimizer: Optimizer, schedule: LRScheduler) -> None:
    """The schedule's first steps: a setting of 0 divides by it in one of them, not in the constructor."""
    name = type(schedule).__name__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer makes no steps in between
        for step in range(1, _TRIED + 1):
            try:
                schedule.step()
            except Exception as error:
                if step > 1 and isinstance(error, ValueError):
                    return  # it is over; `check_length` says so
                zeros = [key for key, value in vars(schedule).items() if type(value) is int and value == 0]
                if isinstance(error, ZeroDivisionError) and zeros:
                    raise UserError(
                        f"model.lr_scheduler: {name} has {zeros[0]} = 0, but it must be at least 1.", 2
                    ) from error
                raise UserError(
                    f"model.lr_scheduler: {name} fails at its step {step} with these settings: {_reason(error)}.", 2
                ) from error
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            bad = [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]
            if bad:
                raise UserError(
                    f"model.lr_scheduler: {name} sets the learning rate to {bad[0]:g} at its step {step}, but it must "
                    "be finite and not negative: check its settings.",
                    2,
                )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, ZeroDivisionError):
        return "it divides by a setting that is 0"
    return text if isinstance(error, TypeError | ValueError) and text else f"{type(error).__name__}: {text}"


def step(trainer: pl.Trainer, interval: Interval) -> None:
    """Step the schedules that count this, after a step of the optimizer or an epoch."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == interval and not isinstance(config.scheduler, ReduceLROnPlateau):
            config.scheduler.step()


def step_plateaus(trainer: pl.Trainer, values: Mapping[str, torch.Tensor]) -> None:
    """Step each ReduceLROnPlateau by what it monitors, after a validation.

    Lightning would do so after the checkpoint, and a resumed run would leave that step out.

    Raises:
        UserError: what it monitors is not measured.
    """
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if not isinstance(schedule, ReduceLROnPlateau):
            continue
        monitor = getattr(schedule, "monitor", "val/loss")  # that of Lightning's class for configs
        if monitor not in values:
            raise UserError(
                f"The learning rate's scheduler monitors {monitor!r}, but what a validation gives is "
                f"{', '.join(values)}: set model.lr_scheduler.monitor to one of them.",
                2,
            )
        schedule.step(values[monitor].item())
