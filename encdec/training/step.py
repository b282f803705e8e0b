"""The training step: a turn of each player for each batch, on Lightning's public interface alone."""

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import ParallelStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from encdec.data import DataModule
from encdec.data.loader import Loader
from encdec.training import schedules
from encdec.training.contract import check_data
from encdec.training.finite import require_finite
from encdec.training.images import TrainingImages
from encdec.training.progress import TrainingCurve
from encdec.training.signals import Signals
from encdec.types import Batch, Losses, UserError, checked_losses

if TYPE_CHECKING:
    from encdec.paradigms import Paradigm

BATCHES_PER_STEP = 16
"""How many batches Lightning is asked for at a time, where nothing counts them: each time costs as much as a tenth of a
small network's step."""


_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
_BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class Player(NamedTuple):
    """Who minimises what. A step is one turn of each player, in order; those of the last one are the steps of a run.

    Attributes:
        objective: the loss of a batch, by which only this player's parameters change.
        groups: its parameters, or parameter groups with settings of their own.
        optimizer: makes its optimizer; that of the paradigm if None.
    """

    objective: Callable[[Batch], Losses]
    groups: Iterable[Any]
    optimizer: OptimizerCallable | None = None


class Steps(pl.Callback):
    """Trains a paradigm: forward, backward and a step of the optimizer, for each batch and player.

    `Trainer` refuses `accumulate_grad_batches` and `gradient_clip_val` for models that step themselves, so both are
    taken over from it and mean here what they mean there.

    Attributes:
        in_all: how many batches an epoch has on each process; infinite where nobody knows.
        batches: how many batches were trained on; the key of all noise.
        in_epoch: how many of them in this epoch.
        loss_scale: by which a gradient scaler multiplied the last gradients; 1 without one.
        accumulate: of how many batches the gradients are added up.
    """

    def __init__(self, paradigm: "Paradigm", curve: TrainingCurve) -> None:
        self._paradigm, self._curve = paradigm, curve
        self._players: list[tuple[str, Player, torch.optim.Optimizer]] = []
        self._signals: list[Signals] = []
        self._clip: float | None = None
        self._clip_algorithm: str | None = None
        self._before: dict[str, Any] = {}
        self.accumulate = self.batches_per_step = 1
        self.batches = self.in_epoch = 0
        self.in_all: float = math.inf
        self.loss_scale = 1.0

    # ------------------------------------------------------------------ before the training

    def take_over(self, trainer: pl.Trainer) -> None:
        """Take the trainer's settings for gradients, before it refuses them."""
        names = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
        self._before = {name: getattr(trainer, name) for name in names}
        self.accumulate, self._clip, self._clip_algorithm = self._before.values()
        trainer.accumulate_grad_batches, trainer.gradient_clip_val = 1, None

    def _give_back(self, trainer: pl.Trainer) -> None:
        for name, value in self._before.items():
            setattr(trainer, name, value)
        self._before = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask the data for as many batches at a time as nothing forbids."""
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, DataModule):
            group = max(BATCHES_PER_STEP // self.accumulate, 1) * self.accumulate
            self.batches_per_step = 1 if counts_batches(trainer) else group
            data.batches_per_step = self.batches_per_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out how a step is made.

        Raises:
            UserError: validations, which checkpoints follow, fall between the batches of one accumulated gradient; or
                several players train under a DDP that waits for the gradients of all of them at each turn.
        """
        check_data(self._paradigm, getattr(trainer, "datamodule", None))
        self._check_validations(trainer)
        counted: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        if counted.ready > counted.processed:
            # a stop between two steps left a batch that was fetched but not trained on; Lightning takes back only the
            # epoch's count of it, and at the next restart takes uneven counts for another place in the epoch
            counted.reset_on_restart()
        self.in_all = batches_in_epoch(trainer, self.batches_per_step)
        schedules.check(trainer, self.length(trainer))
        players = self._paradigm.players().items()
        self._players = [(name, one, made) for (name, one), made in zip(players, trainer.optimizers, strict=True)]
        self._signals = [one for one in callbacks(trainer) if isinstance(one, Signals)]
        self._before_zero_grad = [one for one in callbacks(trainer) if overrides(one, "on_before_zero_grad")]
        self._counted = len(self._players) - 1
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            model.broadcast_buffers = False  # all processes change them alike; tables take long to send
            if self._counted and not model.find_unused_parameters:
                names = " and ".join(name for name, _ in players)
                raise UserError(
                    f"{type(pl_module).__name__} trains {names} in turns, so not all "
                    "parameters have a gradient at each: set trainer.strategy to ddp_find_unused_parameters_true.",
                    2,
                )
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        plugin = type(trainer.precision_plugin)
        self._convert = (
            None if plugin.convert_input is Precision.convert_input else trainer.precision_plugin.convert_input
        )
        # Lightning's wrappers of backward and step cost a tenth of a small network's step; without a hook, a scaler or
        # other processes they do nothing else
        self._is_plain = (
            type(trainer.strategy) is SingleDeviceStrategy
            and self._scaler is None
            and not any(overrides(one, *_HOOKS) for one in callbacks(trainer) if one is not self)
            and not overrides(pl_module, *_HOOKS)
            and isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]  # not set in __init__
        )

    def _check_validations(self, trainer: pl.Trainer) -> None:
        accumulate, every, batches = self.accumulate, trainer.val_check_batch, trainer.num_training_batches
        if accumulate == 1 or self.batches_per_step > 1:  # then it validates at the end of epochs only
            return
        across_epochs = trainer.check_val_every_n_epoch is None and batches % accumulate != 0
        if every is None or across_epochs or (every < batches and every % accumulate != 0):
            raise UserError(
                f"trainer.val_check_interval makes validations fall between the {accumulate} batches whose gradients "
                f"are accumulated, and a checkpoint there would lose them: validate after a multiple of {accumulate} "
                "batches, or at the end of epochs.",
                2,
            )

    def length(self, trainer: pl.Trainer) -> schedules.RunLength:
        """How long the training is."""
        batches = self.in_all / self.accumulate
        return schedules.RunLength.of(trainer, math.ceil(batches) if math.isfinite(batches) else math.inf)

    # ------------------------------------------------------------------ the step

    def run(self, trainer: pl.Trainer, group: Batch | Iterable[Batch]) -> Tensor:
        """Train on a batch or several; gives the last one's loss, a mean over its images.

        Raises:
            UserError: a loss is not finite; the weights are still those of before.
            Stopped: a signal asked for it; the checkpoint to go on from is written.
        """
        loss = torch.zeros(())
        for batch in (group,) if isinstance(group, Batch) else group:
            loss = self.take(trainer, batch)
        return loss

    def take(self, trainer: pl.Trainer, batch: Batch) -> Tensor:
        """Train on a batch; see `run`."""
        paradigm, accumulate = self._paradigm, self.accumulate
        begins = self.in_epoch % accumulate == 0
        ends_epoch = self.in_epoch + 1 == self.in_all
        steps = (self.in_epoch + 1) % accumulate == 0 or ends_epoch
        if begins and self._signals:
            self._stop_if_asked(trainer)
        where = (self.batches, trainer.global_rank, trainer.world_size, batch.x.device)
        if self.in_epoch == 0:  # after the stop: a run that resumes from there comes by here again, any other does not
            paradigm.randomness.begin_epoch(*where)
            paradigm.before_epoch(TrainingImages(trainer, paradigm))
        if self._convert is not None:
            batch = self._convert(batch)
        if paradigm.is_compiled and batch.x.is_cuda:  # CUDA graphs keep a network's outputs until the next step begins
            torch.compiler.cudagraph_mark_step_begin()
        paradigm.randomness.begin_step(*where)
        found: dict[str, Losses] = {}
        for number, (name, player, optimizer) in enumerate(self._players):
            with self._turn(trainer, optimizer, steps):
                found[name] = checked_losses(paradigm, player.objective(batch), name, batch.x, trains=True)
                loss = found[name].loss.mean()
                # before weights are changed by it; on a GPU one would wait for the number, so there it is looked at
                # with the sums of the curve, and with the weights before they are saved
                if loss.device.type == "cpu" and not math.isfinite(loss.item()):
                    own = "loss" if number == self._counted else f"loss_{name}"
                    means = {**found[name].terms, own: loss}
                    require_finite(paradigm, means, "training", f"step {trainer.global_step + 1}")
                if begins:
                    self._zero_grad(trainer, optimizer)
                self._backward(trainer, loss if accumulate == 1 else loss / accumulate)
                if steps:
                    self._optimize(trainer, number, optimizer)
        rates = [float(group["lr"]) for _, _, optimizer in self._players for group in optimizer.param_groups]
        if steps:
            paradigm.after_step(batch)
            schedules.step(trainer, "step")
        self.batches += 1
        self.in_epoch = 0 if ends_epoch else self.in_epoch + 1
        if ends_epoch:
            schedules.step(trainer, "epoch")
        self._curve.take(trainer, batch, found, rates, steps, ends_epoch)
        return loss.detach()

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, DataModule):
            data.has_fetched = True  # the batch that is about to be trained on is the first that a resumed run needs
        for signals in self._signals:
            signals.between_steps()
        if isinstance(data, DataModule):
            data.has_fetched = False

    def _turn(self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer, steps: bool) -> ExitStack:
        """Where only one player's parameters have gradients, and processes exchange them only before a step."""
        stack = ExitStack()
        if self._counted:
            stack.enter_context(self._paradigm.toggled_optimizer(optimizer))
        if not steps and isinstance(trainer.strategy, ParallelStrategy):
            stack.enter_context(trainer.strategy.block_backward_sync())
        return stack

    def _zero_grad(self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer) -> None:
        for callback in self._before_zero_grad:  # Lightning calls them only where it makes the step itself
            callback.on_before_zero_grad(trainer, self._paradigm, optimizer)
        self._paradigm.on_before_zero_grad(optimizer)
        optimizer.zero_grad()

    def _backward(self, trainer: pl.Trainer, loss: Tensor) -> None:
        self.loss_scale = 1.0 if self._scaler is None else float(self._scaler.get_scale())
        if self._is_plain:
            loss.backward()
        else:
            self._paradigm.manual_backward(loss)

    def _optimize(self, trainer: pl.Trainer, number: int, optimizer: torch.optim.Optimizer) -> None:
        """A step of a player's optimizer; only the last player's is counted."""
        is_counted = number == self._counted
        if self._is_plain:
            self._clip_gradients(trainer, optimizer)
            optimizer.step()
            if is_counted:
                progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
                progress.increment_ready()
                progress.increment_completed()
        elif is_counted:
            wrapped: Any = self._paradigm.optimizers()
            (wrapped[number] if isinstance(wrapped, list) else wrapped).step()
        else:
            trainer.strategy.optimizer_step(optimizer, closure=lambda: None)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip gradients, after a gradient scaler has unscaled them and others have seen them."""
        self._clip_gradients(trainer, optimizer)

    def _clip_gradients(self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer) -> None:
        if self._clip:
            kind: Any = self._clip_algorithm or "norm"
            trainer.precision_plugin.clip_gradients(optimizer, self._clip, kind)

    # ------------------------------------------------------------------ around it

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the next epoch at its first batch, also after one that was cut short."""
        self.in_epoch = 0

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the trainer its settings back."""
        self._give_back(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the trainer its settings back."""
        self._give_back(trainer)
        self._paradigm.randomness.end_training()

    def state_dict(self) -> dict[str, int]:
        """How many batches were trained on, in all and in this epoch."""
        return {"batches": self.batches, "in_epoch": self.in_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from a checkpoint."""
        self.batches, self.in_epoch = state_dict["batches"], state_dict["in_epoch"]


def steps_of(trainer: pl.Trainer) -> Steps | None:
    """The part of a training that counts its batches; None where no paradigm is trained."""
    return next((one for one in callbacks(trainer) if isinstance(one, Steps)), None)


def callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """The callbacks of a trainer."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]  # not set in __init__


def overrides(owner: object, *hooks: str) -> bool:
    """Whether a callback, a module or a data module has a hook of its own among some."""
    for base in (pl.Callback, pl.LightningModule, pl.LightningDataModule):
        if isinstance(owner, base):
            return any(getattr(type(owner), hook) is not getattr(base, hook) for hook in hooks if hasattr(base, hook))
    return False


def counts_batches(trainer: pl.Trainer) -> bool:
    """Whether a setting or a callback of a trainer counts batches, so that they have to come one by one.

    A callback with an attribute `takes_several_batches` says that it does not mind.
    """
    settings: Any = trainer  # some are not set in __init__
    as_usual = {"limit_train_batches": 1.0, "val_check_interval": 1.0, "overfit_batches": 0.0, "max_steps": -1}
    module, data = trainer.lightning_module, settings.datamodule
    others = [one for one in callbacks(trainer) if not getattr(one, "takes_several_batches", False)]
    return (
        any(repr(getattr(settings, name, None)) != repr(value) for name, value in as_usual.items())  # 1 is one batch
        or bool(settings.fast_dev_run)
        or settings.check_val_every_n_epoch is None
        or not isinstance(settings.profiler, PassThroughProfiler)
        or overrides(module, *_BATCH_HOOKS, *_TRANSFER_HOOKS)
        or overrides(data, *_TRANSFER_HOOKS)
        # encdec's own know that several may come at a time
        or any(overrides(one, *_BATCH_HOOKS) for one in others)
    )


def batches_in_epoch(trainer: pl.Trainer, batches_per_step: int) -> int | float:
    """How many batches an epoch has on each process; infinite where nobody knows."""
    loader = trainer.train_dataloader
    if batches_per_step > 1 and isinstance(loader, Loader):
        return loader.num_batches
    return trainer.num_training_batches
