"""A training step is that of Lightning's automatic optimization, bit by bit, however many batches come at a time."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from encdec.networks import MLPDecoder, MLPEncoder
from encdec.objectives.losses import pixel_squared_error
from encdec.paradigms import VAE, LatentVariable, Paradigm
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.training.step import BATCHES_PER_STEP
from encdec.types import Batch, Losses

BATCHES = 27
"""In an epoch: no multiple of what is accumulated, nor of what comes at a time."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_trainer():
        yield


def data() -> Blobs:
    return Blobs(num_images=150, batch_size=5)


def vae(**settings: Any) -> VAE:
    pl.seed_everything(3, verbose=False)
    settings = {"optimizer": partial(Adam, lr=0.01), **settings}
    return VAE(
        partial(MLPEncoder, hidden=(8,)), partial(MLPDecoder, hidden=(8,)), 2, image_shape=(1, 8, 8), seed=3, **settings
    )


class Automatic(pl.LightningModule):
    """A paradigm whose steps Lightning makes; its noise is that of the batch's number."""

    def __init__(self, paradigm: Paradigm) -> None:
        super().__init__()
        self.paradigm, self.batches = paradigm, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.paradigm.randomness.begin_step(self.batches, 0, 1, batch.x.device)
        self.batches += 1
        return self.paradigm.losses(batch).loss.mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: the other one validates."""

    def configure_optimizers(self) -> Any:
        return self.paradigm.configure_optimizers()


class OneByOne(pl.Callback):
    """A callback that counts batches."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.count += 1


@dataclass
class Case:
    """Settings of a trainer and of a paradigm, and how many batches come at a time."""

    trainer: dict[str, Any] = field(default_factory=dict)
    paradigm: dict[str, Any] = field(default_factory=dict)
    scale: float | None = None
    at_a_time: int = BATCHES_PER_STEP

    def new_trainer(self, *callbacks: pl.Callback) -> pl.Trainer:
        settings = {"max_epochs": 2, "callbacks": [*callbacks], **self.trainer}
        if self.scale is not None:  # Lightning takes bf16 in place of 16-mixed on a CPU, but not from a plugin
            scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=7)
            settings["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler)]
        return small_trainer(**settings)


CASES = {
    "plain": Case(),
    "clipped by norm": Case({"gradient_clip_val": 0.5}),
    "clipped by value": Case({"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "2 accumulated": Case({"accumulate_grad_batches": 2}),
    "4 accumulated": Case({"accumulate_grad_batches": 4}),
    "3 accumulated and clipped": Case({"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}, at_a_time=15),
    "StepLR": Case(paradigm={"lr_scheduler": partial(StepLR, step_size=1, gamma=0.3)}),
    "OneCycleLR": Case(paradigm={"lr_scheduler": partial(OneCycleLR, max_lr=0.1, total_steps=54)}),
    "OneCycleLR, 4 accumulated": Case(
        {"accumulate_grad_batches": 4}, {"lr_scheduler": partial(OneCycleLR, max_lr=0.1, total_steps=14)}
    ),
    "SGD with momentum": Case(paradigm={"optimizer": partial(SGD, lr=0.001, momentum=0.9)}),
    "bf16-mixed": Case({"precision": "bf16-mixed"}),
    "bf16-true": Case({"precision": "bf16-true"}),
    "64-true": Case({"precision": "64-true"}),
    "16-mixed": Case(scale=2.0**10),
    "16-mixed that overflows": Case(scale=2.0**40),
    "16-mixed, 2 accumulated": Case({"accumulate_grad_batches": 2}, scale=2.0**10),
    "16-mixed, clipped": Case({"gradient_clip_val": 0.5}, {"optimizer": partial(Adam, lr=0.01, fused=False)}, 2.0**10),
    "max_steps": Case({"max_steps": 40, "max_epochs": -1}, at_a_time=1),
    "max_steps, 4 accumulated": Case({"max_steps": 9, "max_epochs": -1, "accumulate_grad_batches": 4}, at_a_time=1),
    "limit_train_batches": Case({"limit_train_batches": 10, "accumulate_grad_batches": 4}, at_a_time=1),
}


def flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {found: inner for key, one in items for found, inner in flat(one, f"{name}.{key}").items()}
    return {name: value}


def left(trainer: pl.Trainer, paradigm: Paradigm) -> dict[str, Any]:
    """All that a training ends with."""
    state = {
        "weights": paradigm.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "scaler": trainer.precision_plugin.state_dict(),
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
    }
    return {name: value for name, value in flat(state).items() if not callable(value)}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert one.keys() == other.keys()
    return [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name])
    ]


@functools.cache
def by_lightning(name: str) -> dict[str, Any]:
    case = CASES[name]
    module, trainer = Automatic(vae(**case.paradigm)), case.new_trainer()
    trainer.fit(module, datamodule=data())
    return left(trainer, module.paradigm)


def calls(trainer: pl.Trainer) -> int:
    """How often Lightning has called `training_step`."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_that_of_automatic_optimization(name: str) -> None:
    case, expected, plain = CASES[name], by_lightning(name), by_lightning("plain")
    weights = [key for key in plain if key.startswith(".weights")]
    assert name == "plain" or not all(torch.equal(expected[key], plain[key]) for key in weights), "it changes something"
    for callbacks in ([], [OneByOne()]):
        paradigm, trainer = vae(**case.paradigm), case.new_trainer(*callbacks)
        trainer.fit(paradigm, datamodule=data())
        assert differences(left(trainer, paradigm), expected) == []
        at_a_time = 1 if callbacks else case.at_a_time
        if "max_epochs" not in case.trainer and "limit_train_batches" not in case.trainer:
            assert calls(trainer) == 2 * -(-BATCHES // at_a_time)


def test_a_run_of_one_epoch_after_the_other_is_one_run(tmp_path: Any) -> None:
    """With 16 batches at a time, and where a checkpoint lies at the end of an epoch."""
    whole, trainer = vae(), CASES["plain"].new_trainer()
    trainer.fit(whole, datamodule=data())
    first = Case({"max_epochs": 1}).new_trainer()
    first.fit(vae(), datamodule=data())
    first.save_checkpoint(tmp_path / "first.ckpt", weights_only=False)
    second, resumed = vae(), CASES["plain"].new_trainer()
    resumed.fit(second, datamodule=data(), ckpt_path=str(tmp_path / "first.ckpt"), weights_only=True)
    assert differences(left(resumed, second), left(trainer, whole)) == []


# ---------------------------------------------------------------------- hooks


class Hooks(pl.Callback):
    """Notes each call of a hook with what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []

    def _note(self, name: str, pl_module: pl.LightningModule, loss: float = 0.0) -> None:
        gradients = [p.grad.double().square().sum() for p in pl_module.parameters() if p.grad is not None]
        self.calls.append((name, loss or float(sum(gradients))))

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._note("zero_grad", pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._note("before backward", pl_module, loss.item())

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note("after backward", pl_module)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._note("step", pl_module)


@pytest.mark.parametrize(
    "name", ["plain", "clipped by norm", "2 accumulated", "4 accumulated", "16-mixed", "bf16-mixed", "max_steps"]
)
def test_hooks_of_callbacks_are_called_as_in_automatic_optimization(name: str) -> None:
    case, expected, found = CASES[name], Hooks(), Hooks()
    case.new_trainer(expected).fit(Automatic(vae(**case.paradigm)), datamodule=data())
    case.new_trainer(found).fit(vae(**case.paradigm), datamodule=data())
    assert [hook for hook, _ in found.calls] == [hook for hook, _ in expected.calls]
    assert found.calls == expected.calls
    assert {hook for hook, _ in found.calls} == {"zero_grad", "before backward", "after backward", "step"}


class NotingMeans(LatentVariable):
    """A decoder of noise, which notes its own hooks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(partial(MLPDecoder, hidden=(4,)), 2, image_shape=(1, 8, 8), seed=3, **kwargs)
        self.calls: list[str] = []

    def losses(self, batch: Batch) -> Losses:
        return Losses(pixel_squared_error(self.decode(self.noise(batch.index, 2), batch.y), batch.x))

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.calls.append("zero_grad")

    def on_before_backward(self, loss: Tensor) -> None:
        self.calls.append("before backward")

    def on_after_backward(self) -> None:
        self.calls.append("after backward")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.calls.append("step")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_hooks_of_a_model_are_called_once_for_each_batch_or_step(accumulate: int) -> None:
    model = NotingMeans()
    small_trainer(max_steps=3, accumulate_grad_batches=accumulate).fit(model, datamodule=data())
    backward = ["before backward", "after backward"]
    assert model.calls == ["zero_grad", *backward * accumulate, "step"] * 3


# ---------------------------------------------------------------------- settings that are taken over


class Settings(pl.Callback):
    """Notes what the trainer says of gradients while it trains, and may fail there."""

    def __init__(self, fails: bool = False) -> None:
        self.seen: list[Any] = []
        self.fails = fails

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(of_gradients(trainer))
        if self.fails:
            raise RuntimeError("on purpose")


def of_gradients(trainer: pl.Trainer) -> tuple[Any, ...]:
    return trainer.accumulate_grad_batches, trainer.gradient_clip_val, trainer.gradient_clip_algorithm


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_a_trainer_has_its_settings_again_after_the_training(fails: bool) -> None:
    settings = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1, "gradient_clip_algorithm": "norm"}
    trainer = small_trainer(max_epochs=1, callbacks=[Settings(fails)], **settings)
    before = of_gradients(trainer)
    assert before[:2] == (3, 0.1)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.fit(vae(), datamodule=data())
    else:
        trainer.fit(vae(), datamodule=data())
        assert trainer.global_step == 9
    assert of_gradients(trainer) == before


def test_a_trainer_that_trains_twice_means_the_same_both_times() -> None:
    found = []
    trainer = small_trainer(max_epochs=1, accumulate_grad_batches=4, gradient_clip_val=0.01)
    for _ in range(2):
        paradigm = vae(optimizer=partial(SGD, lr=0.01))
        trainer.fit_loop.epoch_progress.reset()
        trainer.fit(paradigm, datamodule=data())
        found.append(paradigm.state_dict())
    assert differences(*found) == []


class Manual(pl.LightningModule):
    """A module that makes its own steps and takes nothing over."""

    def __init__(self, takes_over: bool) -> None:
        super().__init__()
        self.automatic_optimization, self.takes_over = False, takes_over
        self.layer = torch.nn.Linear(1, 1)
        self.order: list[str] = []

    def configure_callbacks(self) -> list[pl.Callback]:
        self.order.append("configure_callbacks")
        if self.takes_over:
            self.trainer.accumulate_grad_batches, self.trainer.gradient_clip_val = 1, None
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.order.append("training_step")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("settings", [{"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}], ids=str)
def test_lightning_asks_for_callbacks_before_it_refuses_settings_of_gradients(settings: dict[str, Any]) -> None:
    """All of `Steps.take_over` rests on this order, which Lightning does not document."""
    refused = Manual(takes_over=False)
    with pytest.raises(MisconfigurationException, match="manual optimization"):
        small_trainer(max_epochs=1, **settings).fit(refused, datamodule=data())
    assert refused.order == ["configure_callbacks"]
    allowed = Manual(takes_over=True)
    small_trainer(max_epochs=1, limit_train_batches=1, **settings).fit(allowed, datamodule=data())
    assert allowed.order == ["configure_callbacks", "training_step"]
