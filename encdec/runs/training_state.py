"""The state of a training in a checkpoint, compared with that of the training that goes on from it.

Lightning and torch take what a checkpoint says for the state of loops, optimizers and schedulers as it is: a method may
be replaced by text, and a fused kernel reads as many numbers as its parameter has, wherever they end. So each part is
compared with that of the new training, by the same keys, kinds of values and shapes.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import SWALR

from encdec.data import DataModule
from encdec.runs import trust, version_0_1
from encdec.runs.contents import CURRENT_WEIGHTS, INSTEAD, MOST, is_count, is_number, is_plain_tensor
from encdec.types import UserError

_LOOPS = {
    TrainerFn.FITTING: "fit_loop",
    TrainerFn.VALIDATING: "validate_loop",
    TrainerFn.TESTING: "test_loop",
    TrainerFn.PREDICTING: "predict_loop",
}


_PLACE = {
    "last_epoch", "num_bad_epochs", "best", "cooldown_counter", "T_cur", "T_i", "_step_count", "_is_initial",
    "_get_lr_called_within_step",
}  # fmt: skip
"""What says where a schedule of torch is; all other numbers of its state are its settings."""


class MismatchError(Exception):
    """A part of a state is none that fits; the message says which and why."""


def check_optimizers(states: Any, optimizers: list[Optimizer]) -> None:
    """Check that states are those of optimizers: the same groups, and what each class remembers of its parameters.

    Raises:
        MismatchError: they are not.
    """
    if type(states) is not list or len(states) != len(optimizers):
        raise MismatchError(f"optimizer_states must be a list of {len(optimizers)}, as many as there are optimizers")
    for index, (state, optimizer) in enumerate(zip(states, optimizers, strict=True)):
        where = f"optimizer_states[{index}]" if len(states) > 1 else "optimizer_states"
        if type(state) is not dict or state.keys() != {"state", "param_groups"}:
            raise MismatchError(f"{where} is {trust.shown(state)}, but it must hold state and param_groups")
        _check_groups(state["param_groups"], optimizer.state_dict()["param_groups"], f"{where}.param_groups")
        _check_moments(state["state"], optimizer, f"{where}.state")


def check(
    checkpoint: Mapping[str, Any],
    path: str | PathLike[str],
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: DataModule,
    command: TrainerFn,
) -> None:
    """Check the state in a checkpoint from which a trainer is to go on, or which it is to measure.

    Args:
        checkpoint: the contents.
        path: of the checkpoint, for the errors.
        trainer: that has not run yet.
        module: that is trained or measured.
        data: that it is trained or measured on.
        command: what the trainer is to do.

    Raises:
        UserError: a part of the state is of another training, or of none; the sentence names it.
    """
    if command == TrainerFn.FITTING and version_0_1.is_old(checkpoint):
        raise version_0_1.refuse_to_resume(path)
    try:
        _check_loop(checkpoint, trainer, _LOOPS[command])
        _check_callbacks(checkpoint, trainer)
        _check_precision(checkpoint, trainer)
        if command == TrainerFn.FITTING:
            _check_steps(checkpoint)
            _check_averages(checkpoint, module)
            _check_cursor(checkpoint, data)
            optimizers, schedulers = _configured(module.configure_optimizers())
            check_optimizers(checkpoint.get("optimizer_states"), optimizers)
            _check_schedulers(checkpoint.get("lr_schedulers"), schedulers, optimizers, trainer)
    except MismatchError as error:
        raise UserError(f"{path} holds a state that does not fit: {error}; {INSTEAD}.") from error


# ---------------------------------------------------------------------- parts


def _check_loop(checkpoint: Mapping[str, Any], trainer: pl.Trainer, name: str) -> None:
    loops = checkpoint.get("loops")
    if loops is None and name != "fit_loop":  # an export has none
        return
    if type(loops) is not dict or name not in loops:
        raise MismatchError(f"its loops have no {name}")
    template = getattr(trainer, name).state_dict()
    found = loops[name]
    _like(template, found, f"loops.{name}")
    for place, value in _leaves(found, f"loops.{name}"):
        if type(value) is not bool and not is_count(value):
            raise MismatchError(f"{place} is {trust.shown(value)}, but it must be a non-negative integer below 2^48")


def _check_callbacks(checkpoint: Mapping[str, Any], trainer: pl.Trainer) -> None:
    states = checkpoint.get("callbacks", {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # not set in __init__
        if callback.state_key in states:
            name = type(callback).__name__
            state = states[callback.state_key]
            _like(callback.state_dict(), state, f"the state of {name}", grows=True)
            scores = [(key, value) for key, value in state.items() if str(key).endswith("score")]
            for key, value in [*scores, *state.get("best_k_models", {}).items()]:
                is_score = is_number(value) or (is_plain_tensor(value) and value.numel() == 1)
                if value is not None and not is_score:
                    raise MismatchError(
                        f"the state of {name} has {trust.shown(value)} for {key}, but it must be a number"
                    )


def _check_steps(checkpoint: Mapping[str, Any]) -> None:
    """Check how many batches were trained on, which is the key of all noise; the trainer has that part only later."""
    state = checkpoint.get("callbacks", {}).get("Steps")
    if type(state) is not dict or state.keys() != {"batches", "in_epoch"} or not all(map(is_count, state.values())):
        raise MismatchError(
            f"the state of Steps is {trust.shown(state)}, but it must count batches, in all and in an epoch"
        )


def _check_precision(checkpoint: Mapping[str, Any], trainer: pl.Trainer) -> None:
    plugin = trainer.precision_plugin
    template = plugin.state_dict()
    for name in (type(plugin).__qualname__, "native_amp_scaling_state"):
        if name in checkpoint and template:
            _like(template, checkpoint[name], name)


def _check_averages(checkpoint: Mapping[str, Any], module: pl.LightningModule) -> None:
    """What Lightning's callbacks that average weights keep beside the callbacks' states."""
    if CURRENT_WEIGHTS in checkpoint:
        _like(module.state_dict(), dict(checkpoint[CURRENT_WEIGHTS]), CURRENT_WEIGHTS)
    averaging = checkpoint.get("averaging_state", {})
    if type(averaging) is not dict or not all(
        type(name) is str and is_plain_tensor(value) and value.numel() <= 1 for name, value in averaging.items()
    ):
        raise MismatchError("its averaging_state is none of averaged weights")


def _check_cursor(checkpoint: Mapping[str, Any], data: DataModule) -> None:
    name = type(data).__qualname__
    if name not in checkpoint:
        held = checkpoint.get("datamodule_hyper_parameters", {}).get("_class_path", name)
        if str(held).rpartition(".")[2] == name:
            raise MismatchError("it does not say where its training is in the data")
        return  # a new run, on other data
    template, found = data.state_dict(), checkpoint[name]
    if type(found) is not dict or not {"epoch", "position"} <= found.keys() <= template.keys():
        raise MismatchError(f"where its training is in {name} is {trust.shown(found)}")
    for key, value in found.items():
        if not is_count(value):
            raise MismatchError(f"{name}.{key} is {trust.shown(value)}, but it must be a non-negative integer")
    batch = found.get("global_batch", template["global_batch"])
    images = found.get("num_train", template["num_train"])
    if batch < 1 or found["position"] > math.ceil(images / batch):
        raise MismatchError(
            f"{name}.position is {found['position']}, but {images} images make {math.ceil(images / max(batch, 1))} "
            f"batches of {batch}"
        )


def _configured(made: Any) -> tuple[list[Optimizer], list[Any]]:
    """The optimizers and schedulers that `configure_optimizers` gives, in any of the forms that Lightning takes."""
    if isinstance(made, Optimizer):
        return [made], []
    if isinstance(made, Mapping):
        found = made.get("lr_scheduler")
        return [made["optimizer"]], [] if found is None else [_scheduler(found)]
    if isinstance(made, Sequence) and len(made) == 2 and isinstance(made[0], Sequence):
        return list(made[0]), [_scheduler(found) for found in made[1]]
    parts = [_configured(part) for part in made or ()]
    return [one for part, _ in parts for one in part], [one for _, part in parts for one in part]


def _scheduler(found: Any) -> Any:
    return found["scheduler"] if isinstance(found, Mapping) else found


def _check_schedulers(states: Any, schedulers: list[Any], optimizers: list[Optimizer], trainer: pl.Trainer) -> None:
    averages = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if averages and type(states) is list and len(states) == 1:
        groups = [{"params": [torch.zeros(1)]} for _ in optimizers[0].param_groups]
        template = SWALR(torch.optim.SGD(groups), swa_lr=1.0).state_dict()
        if type(states[0]) is dict and states[0].keys() == template.keys():  # it has taken the others' place
            return _like(template, states[0], "lr_schedulers[0]", grows=True)
    templates = [scheduler.state_dict() for scheduler in schedulers]
    _like(templates, states, "lr_schedulers")
    for index, (template, state) in enumerate(zip(templates, states or (), strict=True)):
        _check_schedule(template, state, f"lr_schedulers[{index}]")
    return None


def _check_schedule(template: Mapping[str, Any], state: Mapping[str, Any], where: str) -> None:
    """Check that a schedule is the one that the settings describe, wherever it is."""
    for name, value in template.items():
        if name == "_schedulers":
            for index, (inner, held) in enumerate(zip(value, state[name], strict=True)):
                _check_schedule(inner, held, f"{where}.{name}[{index}]")
        elif name not in _PLACE and type(value) in (int, float, str, bool) and state[name] != value:
            raise MismatchError(f"{where}.{name} is {trust.shown(state[name])}, but it must be {value}")


# ---------------------------------------------------------------------- optimizers


def _check_groups(groups: Any, template: list[dict[str, Any]], where: str) -> None:
    if type(groups) is not list or len(groups) != len(template):
        raise MismatchError(f"{where} must be a list of {len(template)} groups")
    for index, (group, like) in enumerate(zip(groups, template, strict=True)):
        place = f"{where}[{index}]"
        if type(group) is not dict or group.get("params") != like["params"]:
            raise MismatchError(f"{place}.params must be the numbers of the {len(like['params'])} parameters in it")
        # schedulers keep rates of their own there
        added = {name: 1.0 for name in group.keys() - like.keys() if type(name) is str and name.endswith("_lr")}
        own = {name: value for name, value in like.items() if name in group or not name.endswith("_lr")}
        like = {**added, **own}
        _like(like, group, place)
        for name, value in group.items():
            if type(like[name]) in (bool, type(None)) and value is not like[name]:
                raise MismatchError(f"{place}.{name} is {trust.shown(value)}, but it must be {like[name]}")
            numbers = [number for _, number in _leaves(value, name) if type(number) in (int, float, Tensor)]
            if not all(math.isfinite(number) for number in numbers):
                raise MismatchError(f"{place}.{name} is {trust.shown(value)}, but it must be finite")
            if name == "lr" and not numbers[0] >= 0:
                raise MismatchError(f"{place}.lr is {trust.shown(value)}, but a learning rate can't be negative")
            if name == "betas" and not all(0 <= number < 1 for number in numbers):
                raise MismatchError(f"{place}.betas is {trust.shown(value)}, but they must lie in [0, 1)")


def _check_moments(state: Any, optimizer: Optimizer, where: str) -> None:
    """Check what an optimizer remembers for each parameter, such as the moments of its gradients."""
    groups = [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if type(state) is not dict or not all(type(key) is int and 0 <= key < len(groups) for key in state):
        raise MismatchError(f"{where} must hold the state of parameters by their numbers, 0…{len(groups) - 1}")
    for key, found in state.items():
        group, parameter = groups[key]
        place = f"{where}[{key}]"
        if type(found) is not dict or not all(type(name) is str for name in found):
            raise MismatchError(f"{place} is {trust.shown(found)}, but it must be a dictionary")
        expected = _after_a_step(optimizer, group, parameter)
        if found and expected is not None and found.keys() != expected.keys():
            raise MismatchError(f"{place} holds {', '.join(map(trust.shown, found))} instead of {', '.join(expected)}")
        for name, value in found.items():
            like = None if expected is None else expected[name]
            _check_moment(value, like, parameter, f"{place}.{name}")


def _check_moment(value: Any, like: Any, parameter: Tensor, where: str) -> None:
    if not isinstance(value, Tensor):
        if not (is_number(value) or value is None) or isinstance(like, Tensor):
            raise MismatchError(f"{where} is {trust.shown(value)}, but it must be a tensor")
        return
    if not is_plain_tensor(value) or value.nbytes > max(8 * parameter.numel(), 64):
        raise MismatchError(f"{where} is no plain tensor of the size of its parameter")
    if like is not None:
        shape = None if not isinstance(like, Tensor) else _stretched(like, parameter)
        # the memory of a moment is read in its parameter's order
        in_order = value.stride() == parameter.stride() if value.shape == parameter.shape else value.is_contiguous()
        in_order = in_order or (value.is_contiguous() and parameter.is_contiguous())
        if shape != tuple(value.shape) or like.is_floating_point() != value.is_floating_point() or not in_order:
            raise MismatchError(
                f"{where} has the shape {tuple(value.shape)} and the type {value.dtype}, but its parameter has the "
                f"shape {tuple(parameter.shape)}"
            )
    is_absurd = value.numel() == 1 and (abs(value.item()) >= MOST or (where.endswith(".step") and value.item() < 0))
    if is_absurd or not value.isfinite().all():
        raise MismatchError(f"{where} holds values that are not finite, or absurd")


def _after_a_step(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> dict[str, Any] | None:
    """What the optimizer remembers of a tiny parameter after a step; None where it can't make one so simply.

    Where its constructor has made that already, as Adagrad's of torch 2.10 does, it is as large as it will be.
    The sizes of the tiny parameter differ along all dimensions, so that what is measured in them can be told.
    """
    if parameter in optimizer.state:
        return dict(optimizer.state[parameter])
    tiny = torch.zeros([size + 2 for size in range(parameter.ndim)], dtype=parameter.dtype, requires_grad=True)
    tiny.grad = torch.zeros_like(tiny)
    trial = copy.copy(optimizer)  # without hooks
    trial.param_groups = [{**group, "params": [tiny], "fused": None, "foreach": False, "capturable": False}]
    trial.state = defaultdict(dict)
    try:
        type(trial).step(trial)
    except Exception:  # one that needs a closure, or sparse gradients
        return None
    return dict(trial.state[tiny])


def _stretched(like: Tensor, parameter: Tensor) -> tuple[int, ...]:
    """The shape of what has the shape of `like` beside a tiny parameter, beside the real one."""
    if like.ndim != parameter.ndim:
        return tuple(like.shape)
    sizes = enumerate(zip(like.shape, parameter.shape, strict=True))
    return tuple(real if tiny == axis + 2 else tiny for axis, (tiny, real) in sizes)


# ---------------------------------------------------------------------- values


def _like(template: Any, found: Any, where: str, grows: bool = False) -> None:
    """Check that a value has the keys, kinds and shapes of a template.

    Args:
        template: of a training that has not begun.
        found: in a checkpoint.
        where: its name.
        grows: whether empty lists, dictionaries and None in the template may have become something plain since.

    Raises:
        MismatchError: it has not.
    """
    if grows and (template is None or template == {} or template == []):
        _check_plain(found, where)
    elif isinstance(template, Mapping):
        if not isinstance(found, dict) or type(found) not in (dict, type(template)):
            raise MismatchError(f"{where} is {trust.shown(found)}, but it must be a dictionary")
        missing = [name for name in template if name not in found]
        more = [name for name in found if name not in template]
        if missing or more:
            what = f"lacks {trust.shown(missing[0])}" if missing else f"has {trust.shown(more[0])}"
            raise MismatchError(f"{where} {what}, so it is the state of something else")
        for key, inner in template.items():
            _like(inner, found[key], f"{where}.{key}", grows)
    elif isinstance(template, list | tuple):
        if type(found) not in (list, tuple) or len(found) != len(template):
            raise MismatchError(f"{where} is {trust.shown(found)}, but it must be a list of {len(template)} values")
        for index, pair in enumerate(zip(template, found, strict=True)):
            _like(*pair, f"{where}[{index}]", grows)
    elif isinstance(template, Tensor):
        same = is_plain_tensor(found) and found.shape == template.shape
        if not same or found.is_floating_point() != template.is_floating_point():
            raise MismatchError(f"{where} is {_described(found)}, but it must be {_described(template)}")
    elif isinstance(template, str) and not grows and found != template:
        raise MismatchError(f"{where} is {trust.shown(found)}, but it must be {template!r}")
    elif not _is_like(template, found):
        raise MismatchError(f"{where} is {trust.shown(found)}, but it must be like {trust.shown(template)}")


def _is_like(template: Any, found: Any) -> bool:
    """Whether a value that is no collection is of the same kind as another."""
    if isinstance(template, bool) or template is None:
        return type(found) is bool or found is None or (template is None and is_number(found))
    if isinstance(template, str):
        return type(found) is str and len(found) < 10_000
    if isinstance(template, float):
        return is_number(found) and (math.isfinite(found) or not math.isfinite(template))
    if isinstance(template, int):
        return (type(found) is int and abs(found) < MOST) or (type(found) is float and math.isfinite(found))
    return type(found) is type(template)


def _check_plain(value: Any, where: str) -> None:
    trust.check_size(value, where)
    for place, leaf in _leaves(value, where):
        is_text = type(leaf) is str or leaf is None or type(leaf) is bool
        if not is_text and not is_number(leaf) and not is_plain_tensor(leaf):
            raise MismatchError(f"{place} is {trust.shown(leaf)}, but it must be a plain value")


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The values in dictionaries and lists, and their names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{where}[{index}]")
    else:
        yield where, value


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return trust.shown(value)
    return f"a tensor of {value.dtype} of shape {tuple(value.shape)}"
