"""Lightning's loops over batches, at a fraction of what they cost for each batch.

For every batch Lightning asks each callback for each of a dozen hooks, and wraps every call into a profiler's
context: about a millisecond, a quarter of a training step of a small network. Here only those hooks are called that
somebody overrides. Which ones, in which order, with what arguments, and all counters that a checkpoint holds are
Lightning's; where a run needs more than the plain step (a gradient scaler, another strategy, a profiler, several
optimizers, a paradigm that overrides a part of the step), Lightning's own code runs.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from encdec.paradigms import Paradigm
from encdec.types import Batch

_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_STEP = ("backward", "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad")
"""What a module may override, which Lightning's own loop then calls."""


def install(trainer: pl.Trainer, between_steps: Callable[[], None] | None = None) -> None:
    """Give a trainer the loops of this module, before it runs.

    Args:
        trainer: the trainer.
        between_steps: called between two steps of the optimizer, where nothing is half done; it may raise, to end.
    """
    plain = trainer.fit_loop.epoch_loop
    loop = EpochLoop(trainer, min_steps=plain.min_steps, max_steps=plain.max_steps)
    loop.between_steps = between_steps
    loop.val_loop = _like(plain.val_loop)
    trainer.fit_loop.epoch_loop = loop
    trainer.validate_loop, trainer.test_loop = _like(trainer.validate_loop), _like(trainer.test_loop)


def _like(plain: _EvaluationLoop) -> "EvaluationLoop":
    return EvaluationLoop(
        plain.trainer, plain._trainer_fn, plain._stage, verbose=plain.verbose, inference_mode=plain.inference_mode
    )


class _Hooks:
    """The hooks that a run's callbacks and its module override."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer, self._module = trainer, trainer.lightning_module
        self._callbacks: dict[str, list[Callable[..., Any]]] = {}
        self._overridden: dict[str, Callable[..., Any] | None] = {}

    def __call__(self, name: str, *args: Any) -> Any:
        """Call a hook: that of each callback that has one, then the module's, whose answer is returned."""
        if name not in self._callbacks:
            hooks = [getattr(callback, name) for callback in self._trainer.callbacks]  # type: ignore[attr-defined]
            base = getattr(pl.Callback, name)
            self._callbacks[name] = [hook for hook in hooks if getattr(hook, "__func__", None) is not base]
            self._overridden[name] = getattr(self._module, name) if is_overridden(name, self._module) else None
        own = self._overridden[name]
        if not self._callbacks[name] and own is None:
            return None
        attributes = vars(self._module)  # the attribute that self.log reads; nn.Module's __setattr__ is slow
        before, attributes["_current_fx_name"] = attributes.get("_current_fx_name"), name
        for hook in self._callbacks[name]:
            hook(self._trainer, self._module, *args)
        answer = None if own is None else own(*args)
        attributes["_current_fx_name"] = before
        return answer


def _to_device(trainer: pl.Trainer, batch: Any) -> Any:
    """A batch where the model is; the loaders of encdec put theirs there."""
    batch = trainer.precision_plugin.convert_input(batch)
    device = trainer.strategy.root_device
    if isinstance(batch, Batch) and batch.x.device == batch.y.device == batch.index.device == device:
        return batch
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _takes_plain_batches(trainer: pl.Trainer, data_fetcher: _DataFetcher | None) -> bool:
    """Whether batches and profiling are as usual, so that hooks may be called directly."""
    owners = [trainer.lightning_module, *([] if trainer.datamodule is None else [trainer.datamodule])]  # type: ignore[attr-defined]
    return (
        isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
        and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        and not any(is_overridden(hook, owner) for owner in owners for hook in _TRANSFER)
    )


def _training_step(trainer: pl.Trainer) -> Callable[[Batch, int], Any]:
    """The module's training step, wrapped by the strategy and the precision only where these have something to do."""
    strategy, module = trainer.strategy, trainer.lightning_module
    if (
        type(strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and strategy.model is module
    ):
        return module.training_step
    return strategy.training_step


def _next(data_fetcher: _DataFetcher) -> Any:
    """The next batch of the only loader, counted as the fetcher counts."""
    assert data_fetcher.length is not None
    batch = next(data_fetcher.combined_loader._iterator.iterators[0])  # type: ignore[union-attr]
    data_fetcher.fetched += 1
    data_fetcher.done = data_fetcher.fetched >= data_fetcher.length
    return batch


class EpochLoop(_TrainingEpochLoop):
    """The loop over the training batches of an epoch."""

    _hooks: _Hooks | None = None
    between_steps: Callable[[], None] | None = None

    @property
    def global_step(self) -> int:
        """How many steps the optimizer has made."""
        if self._hooks is None:
            return super().global_step
        return self.automatic_optimization.optim_progress.optimizer_steps

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """See Lightning; and find out whether this epoch's steps are plain."""
        super().on_run_start(data_fetcher)
        self._hooks = None
        self._validates = super()._should_check_val_epoch()
        if self._is_plain(data_fetcher):
            self._hooks = _Hooks(self.trainer)
            self._training_step = _training_step(self.trainer)
            self._optimize = self.trainer.optimizers[0].step

    def _should_check_val_epoch(self) -> bool:
        # asked for each batch; it does not change within an epoch
        return super()._should_check_val_epoch() if self._hooks is None else self._validates

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One batch.

        Raises:
            StopIteration: the epoch is over, or a hook ends it.
        """
        if self.between_steps is not None and not self._should_accumulate():
            self.between_steps()
        if self.restarted_on_last and self.batch_progress.current.ready == 0:
            # saved before the first batch of an epoch, which Lightning takes for a save after the last one's: it would
            # count a step that nobody makes, and every later validation would be logged a step too far
            self.restarting = False
        hooks = self._hooks
        if hooks is None or self.restarting:
            super().advance(data_fetcher)
            return
        if self.val_loop.restarting:
            self.val_loop.restarting = False
        batch = _next(data_fetcher)
        batch_idx = self.batch_idx + 1
        self.batch_progress.is_last_batch = data_fetcher.done
        batch = _to_device(self.trainer, batch)
        self.batch_progress.increment_ready()
        connector = self.trainer._logger_connector
        _begin_batch(connector, self._results, batch)

        ends = hooks("on_train_batch_start", batch, batch_idx) == -1
        output = None
        if ends:
            self.batch_progress.increment_by(0, is_last_batch=True)
        else:
            self.batch_progress.increment_started()
            output = {"loss": self._step(hooks, batch, batch_idx)}
        self.batch_progress.increment_processed()
        if self.trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if ends:
            raise StopIteration

        hooks("on_train_batch_end", output, batch, batch_idx)
        _end_batch(connector, self._results)
        self.batch_progress.increment_completed()
        if self._results:
            connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validate, if it is time to."""
        trainer = self.trainer
        ends = trainer.should_stop or trainer.received_sigterm
        if self._hooks is None or self._skip_next_val or ends or self._should_check_val_fx(data_fetcher):
            super().on_advance_end(data_fetcher)
            return
        if not self._should_accumulate():
            if trainer.lr_scheduler_configs:
                self.update_lr_schedulers("step", update_plateau_schedulers=True)
            self._batches_that_stepped += 1

    def _broadcast_sigterm_tensor(self) -> None:
        pass  # `between_steps` asks the other processes, and less often

    def _is_plain(self, data_fetcher: _DataFetcher) -> bool:
        trainer, module = self.trainer, self.trainer.lightning_module
        precision, strategy = trainer.precision_plugin, trainer.strategy
        return (
            isinstance(module, Paradigm)
            and type(module).training_step is Paradigm.training_step
            and module.automatic_optimization
            and not any(is_overridden(hook, module) for hook in _STEP)
            and type(trainer.optimizers[0]).zero_grad is torch.optim.Optimizer.zero_grad
            and type(strategy) in (SingleDeviceStrategy, DDPStrategy)
            and getattr(strategy, "_model_averager", None) is None
            and type(precision) in (Precision, MixedPrecision, DoublePrecision, HalfPrecision)
            and getattr(precision, "scaler", None) is None
            and _takes_plain_batches(trainer, data_fetcher)
            and data_fetcher.length is not None
            and len(data_fetcher.combined_loader.flattened) == 1
        )

    def _step(self, hooks: _Hooks, batch: Any, batch_idx: int) -> Tensor:
        """Forward, backward and, unless gradients are still accumulated, a step of the optimizer."""
        if self._should_accumulate():
            with _block_parallel_sync_behavior(self.trainer.strategy):
                return self._gradients(hooks, batch, batch_idx)
        trainer, optimizer = self.trainer, self.trainer.optimizers[0]
        progress = self.automatic_optimization.optim_progress.optimizer.step
        progress.increment_ready()
        loss = self._gradients(hooks, batch, batch_idx)
        hooks("on_before_optimizer_step", optimizer)
        if trainer.gradient_clip_val is not None:
            trainer.lightning_module.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
        self._optimize()
        progress.increment_completed()
        return loss

    def _gradients(self, hooks: _Hooks, batch: Any, batch_idx: int) -> Tensor:
        trainer, optimizer = self.trainer, self.trainer.optimizers[0]
        attributes = vars(trainer.lightning_module)
        attributes["_current_fx_name"] = "training_step"
        loss = self._training_step(batch, batch_idx)
        attributes["_current_fx_name"] = None
        assert isinstance(loss, Tensor)
        accumulated = trainer.accumulate_grad_batches
        if accumulated > 1:
            loss = loss / accumulated
        if batch_idx % accumulated == 0:
            progress = self.automatic_optimization.optim_progress.optimizer.zero_grad
            progress.increment_ready()
            hooks("on_before_zero_grad", optimizer)
            progress.increment_started()
            for group in optimizer.param_groups:  # what optimizer.zero_grad() does, without its profiling
                for parameter in group["params"]:
                    parameter.grad = None
            progress.increment_completed()
        hooks("on_before_backward", loss)
        loss.backward()
        hooks("on_after_backward")
        detached: Tensor = loss.detach()
        return detached


class EvaluationLoop(_EvaluationLoop):
    """The loop over the batches of a validation or a test."""

    _hooks: _Hooks | None = None
    _takes_index: bool | None = None

    def on_run_start(self) -> None:
        """See Lightning; and find out whether this run's steps are plain."""
        super().on_run_start()
        self._takes_index = None
        plain = self.num_dataloaders == 1 and _takes_plain_batches(self.trainer, self._data_fetcher)
        self._hooks = _Hooks(self.trainer) if plain else None

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, dataloader_iter: Any) -> None:
        hooks, trainer = self._hooks, self.trainer
        if hooks is None:
            super()._evaluation_step(batch, batch_idx, dataloader_idx, dataloader_iter)
            return
        batch = _to_device(trainer, batch)
        self.batch_progress.increment_ready()
        connector = trainer._logger_connector
        _begin_batch(connector, self._results, batch)
        stage = "test" if trainer.testing else "validation"
        hooks(f"on_{stage}_batch_start", batch, batch_idx)
        self.batch_progress.increment_started()
        attributes = vars(trainer.lightning_module)
        attributes["_current_fx_name"] = f"{stage}_step"
        if self._takes_index is None:  # it reads the signature, which does not change
            kwargs = OrderedDict(batch=batch, batch_idx=batch_idx)
            self._takes_index = len(self._build_step_args_from_hook_kwargs(kwargs, f"{stage}_step")) > 1
        args = (batch, batch_idx) if self._takes_index else (batch,)
        output = getattr(trainer.strategy, f"{stage}_step")(*args)
        attributes["_current_fx_name"] = None
        self.batch_progress.increment_processed()
        hooks(f"on_{stage}_batch_end", output, batch, batch_idx)
        _end_batch(connector, self._results)
        self.batch_progress.increment_completed()
        if not trainer.sanity_checking:
            self._has_run = True
            if self._results:
                connector.update_eval_step_metrics(self._seen_batches_per_dataloader[dataloader_idx])
            self._seen_batches_per_dataloader[dataloader_idx] += 1


def _begin_batch(connector: Any, results: Any, batch: Any) -> None:
    if connector._first_loop_iter is not False:
        connector.on_batch_start(batch)
    else:  # what it does from the third batch on
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None


def _end_batch(connector: Any, results: Any) -> None:
    if results:
        connector.on_batch_end()
    else:  # nothing was logged through self.log
        results.batch = results.batch_size = None
