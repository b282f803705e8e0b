"""What a paradigm is: the few methods that it writes, and all that it gets for them."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from encdec import __version__
from encdec.copyable import Copyable
from encdec.formats import CHECKPOINT_FORMAT, CURVE_KEY, WRITTEN_BY_KEY
from encdec.objectives.floors import Floors
from encdec.objectives.losses import pixel_means
from encdec.objectives.metrics import PIXEL_TERMS, RunningMeans
from encdec.objectives.noise import StepNoise, normal, step_seed
from encdec.training import schedules
from encdec.training.optimizers import fused
from encdec.types import Batch, Conditioning, Shape, UserError


@dataclass
class _Curve:
    """The training curve since it was last logged."""

    sums: RunningMeans = field(default_factory=RunningMeans)
    logged_step: int = 0
    rates: list[float] = field(default_factory=list)


class Paradigm(Copyable, pl.LightningModule, ABC):
    """A way to train a generative model: write `losses` and `decode`, inherit the rest.

    A paradigm has a latent code z of `latent_dim` numbers and a decoder from (z, y) to the logits of an image.
    What differs between paradigms is where a training image's z comes from. It may also write

    - `encode`, where an image has a code: makes `reconstruct` work;
    - `posterior`, where there is a Gaussian q(z|x): the evaluation draws codes from it;
    - `paired_codes`, where training knows codes of its images that `encode` does not give;
    - `prior`, where codes are not distributed as N(0, I);
    - `parameter_groups`, where parts of it learn at different rates;

    and overrides nothing else. Its `__init__` sets `self.told` and `self.latent_dim`.

    Args:
        image_shape: channels, height, width; the command line takes it from the data.
        num_classes: number of labels, 1 where there are none; taken from the data.
        num_train: number of training images; taken from the data.
        seed: seed of all noise; the command line takes it from `seed_everything`.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the learning rate's scheduler from the optimizer.
        lr_scheduler_interval: whether it is stepped after each step of the optimizer or each epoch; if None, after each
            step where it is meant for nothing else (OneCycleLR, CyclicLR), after each epoch where it is not.

    Raises:
        UserError: a size is not positive.
    """

    conditioning: Conditioning
    """What the decoder learns about the image it is asked for."""
    paired: bool = True
    """Whether `loss` compares each image with an output of its own; if not, an MSE has no floor to stand beside."""
    latent_dim: int
    """Size of the latent code z."""

    def __init__(
        self,
        image_shape: Shape,
        num_classes: int = 1,
        num_train: int = 1,
        seed: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] | None = None,
    ) -> None:
        super().__init__()
        self.image_shape: Shape = (image_shape[0], image_shape[1], image_shape[2])
        self.num_classes, self.num_train, self.seed = num_classes, num_train, seed
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self._lr_scheduler_interval = lr_scheduler_interval
        self.training_means: dict[str, float] = {}  # what was last logged, for the progress bar
        self.floors: dict[str, Floors] = {}  # of "train", "val" and "test", to be logged beside what is measured there
        self._evaluation_sums = RunningMeans()
        # what changes in each step is not kept as attributes of a module, which are slow to set
        self._curve, self._step_noise = _Curve(), StepNoise()
        self.loaded_step = 0  # at which the checkpoint was saved that is measured
        self._not_rebuildable: list[str] = []
        self.save_hyperparameters(logger=False)
        self._make_hparams_loadable()
        require_positive(self, "num_classes", "num_train")

    # ------------------------------------------------------------------ what a paradigm writes

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective's terms for each image of a batch.

        `loss`, (B,), is minimised (its mean over images); other (B,) values are logged under their names.
        `logits`, (B, C, H, W), is the output that was compared with `batch.x` (none need be if not `paired`): it is
        measured as `mse` and `bce`, and drawn. A second output `logits_NAME` is measured as `mse_NAME` and `bce_NAME`.
        """

    @abstractmethod
    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits of p(x|z) (or of p(x|z, y)): (B, latent_dim), (B,) -> (B, C, H, W)."""

    def encode(self, batch: Batch) -> Tensor | None:
        """The codes whose decodings reconstruct a batch, (B, latent_dim); None where images have no code."""
        return None

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Mean and log-variance of q(z|x), both (B, latent_dim), where the prior is N(0, I); None without a q."""
        return None

    def paired_codes(self, batch: Batch) -> Tensor | None:
        """The codes that these *training* images are trained with, (B, latent_dim).

        None where codes are drawn afresh at every step. By default what `encode` gives.
        """
        return self.encode(batch)

    def prior(self, noise: Tensor) -> Tensor:
        """Codes distributed as the prior, from standard normal noise: (B, latent_dim) -> (B, latent_dim)."""
        return noise

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer, each with its own settings where it needs some."""
        return [{"params": list(self.parameters())}]

    # ------------------------------------------------------------------ what a paradigm and its users call

    @final
    @torch.no_grad()
    def sample(self, y: Tensor, noise: Tensor | None = None) -> Tensor:
        """One image for each label: (B,) -> (B, C, H, W), pixel means in [0, 1].

        Args:
            y: labels, int64; a paradigm without labels reads only how many there are.
            noise: standard normal, (B, latent_dim); drawn from torch's global generator if None.
        """
        if noise is None:
            noise = torch.randn(len(y), self.latent_dim, device=y.device)
        return pixel_means(self.decode(self.prior(noise.to(self.code_dtype)), y))

    @final
    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Tensor | None:
        """The decodings of a batch's codes, pixel means in [0, 1], (B, C, H, W); None where there are no codes."""
        return self._encode_and_decode(batch)[1]

    @final
    def noise(self, index: Tensor, dim: int) -> Tensor:
        """Standard normal noise for the images at `index`: (B,) -> (B, dim).

        In training it is fresh at each step, a function of (seed, step, position in the global batch); in
        evaluation it is the same every time, a function of (seed, image). So neither the number of processes nor
        the batch size of an evaluation changes a result.
        """
        self._step_noise.draws += 1
        if not self.training:
            return normal(self.seed, -self._step_noise.draws, index, dim).to(self.code_dtype)
        rank, processes = self._rank_and_processes()
        return self._fresh(len(index) * processes, dim, index.device)[rank::processes]

    @final
    def shared_noise(self, count: int, dim: int) -> Tensor:
        """Standard normal noise, (count, dim), the same for all images of a batch and on all processes.

        Fresh at each step in training, the same for all batches in evaluation.
        """
        self._step_noise.draws += 1
        if not self.training:
            index = torch.arange(count, device=self.device)
            return normal(self.seed, -self._step_noise.draws, index, dim).to(self.code_dtype)
        return self._fresh(count, dim, self.device)

    @final
    def restart_noise(self) -> None:
        """Start counting draws anew, as for each batch: in evaluation the same calls then give the same noise."""
        self._step_noise.draws = 0

    @final
    @property
    def code_dtype(self) -> torch.dtype:
        """The type of the weights, and so of codes."""
        dtype = self.dtype
        assert isinstance(dtype, torch.dtype)
        return dtype

    # ------------------------------------------------------------------ what Lightning calls

    def setup(self, stage: str) -> None:
        """Start new curves."""
        # Lightning restores weights before it converts them, and double precision would lose its digits
        self.trainer.precision_plugin.convert_module(self)
        self._curve.sums.reset()
        self._curve.logged_step = self.loaded_step = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on a batch; the loss is the mean of the images' losses."""
        # keyed by the count of batches, because global_step repeats under gradient accumulation
        trainer = self.trainer
        step = trainer.fit_loop.total_batch_idx
        self._step_noise.begin(self.seed, step)
        dropout_seed = step_seed(self.seed, step, trainer.global_rank)
        torch.default_generator.manual_seed(dropout_seed)  # torch.manual_seed takes 0.15 ms
        if batch.x.is_cuda:
            torch.cuda.manual_seed(dropout_seed)
        terms = self._measure(batch)
        self._curve.sums.update(terms, len(batch.x))
        loss = terms["loss"].mean()
        # before weights are changed by it; on a GPU one would wait for the number, so there it is looked at with the
        # sums, and with the weights before they are saved
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            means = {name: term.mean() for name, term in terms.items()}
            self._require_finite(means, "training", f"step {self.global_step + 1}")
        # those of this step; a scheduler may change them before they are logged
        self._curve.rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        return loss

    def on_train_start(self) -> None:
        """Check that the schedule is as long as the run, and that every checkpoint will be one to go on from.

        Raises:
            UserError: it is not, or validations, which checkpoints follow, fall between the batches of one accumulated
                gradient.
        """
        trainer = self.trainer
        schedules.check(trainer)
        accumulated, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
        by_time, every = trainer.val_check_batch is None, trainer.val_check_batch or 0
        across_epochs = trainer.check_val_every_n_epoch is None and batches % accumulated != 0
        if accumulated > 1 and (by_time or across_epochs or (every < batches and every % accumulated != 0)):
            raise UserError(
                f"trainer.val_check_interval makes validations fall between the {accumulated} batches whose gradients "
                f"are accumulated, and a checkpoint there would lose them: validate after a multiple of {accumulated} "
                "batches, or at the end of epochs.",
                2,
            )

    def is_logging_due(self) -> bool:
        """Whether a point of the training curve follows the present step: every `log_every_n_steps`, and at the end."""
        trainer, step = self.trainer, self.global_step
        if step - self._curve.logged_step >= trainer.log_every_n_steps:  # type: ignore[attr-defined]  # not set in __init__
            return True
        loop = trainer.fit_loop
        if loop.max_steps != -1 and step >= loop.max_steps:
            return True
        # now, and not in on_train_end: what the last checkpoint does not know, a resumed run would log again
        last_epoch = loop.max_epochs is not None and trainer.current_epoch + 1 == loop.max_epochs
        return last_epoch and loop.epoch_loop.batch_idx + 1 == trainer.num_training_batches

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the means over the images since the last time, every `log_every_n_steps` optimizer steps."""
        if self.is_logging_due():
            self._log_training()

    def on_train_end(self) -> None:
        """Log the steps since the last time."""
        if self._curve.sums:
            self._log_training()

    def on_validation_epoch_start(self) -> None:
        """Start new sums."""
        self._evaluation_sums.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch."""
        self._evaluation_sums.update(self._measure(batch), len(batch.x))

    def on_validation_epoch_end(self) -> None:
        """Log the exact means over the split; step ReduceLROnPlateau.

        Lightning would step it after the checkpoint, and a resumed run would leave that step out.

        Raises:
            UserError: what it monitors is not measured.
        """
        values = self._log_split("val")
        if self.trainer.state.fn != TrainerFn.FITTING or self.trainer.sanity_checking:
            return
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                if config.monitor not in values:
                    raise UserError(
                        f"The learning rate's scheduler monitors {config.monitor!r}, but what a validation gives is "
                        f"{', '.join(values)}: set model.lr_scheduler.monitor to one of them.",
                        2,
                    )
                assert isinstance(config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                config.scheduler.step(values[config.monitor].item())

    def on_test_epoch_start(self) -> None:
        """Start new sums."""
        self._evaluation_sums.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch."""
        self._evaluation_sums.update(self._measure(batch), len(batch.x))

    def on_test_epoch_end(self) -> None:
        """Log the exact means over the split."""
        self._log_split("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor | None]:
        """Reconstruct a batch; where images have no code, `reconstruction` is None."""
        z, reconstruction = self._encode_and_decode(batch)
        return {"x": batch.x, "y": batch.y, "index": batch.index, "z": z, "reconstruction": reconstruction}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save who writes it and where the training curve is; refuse to write what is useless.

        Raises:
            UserError: the model could not be rebuilt from it, or a weight is not finite.
        """
        if self._not_rebuildable:
            raise UserError(
                f"{type(self).__name__}: a checkpoint can't rebuild {', '.join(self._not_rebuildable)} from a lambda "
                "or a function: give a class, or functools.partial of a class."
            )
        for name, weights in self.state_dict().items():
            if not torch.isfinite(weights).all():
                raise UserError(
                    f"{type(self).__name__}: {name} is not finite after step {self.global_step}, so the run is "
                    "stopped; its checkpoints are from before. Try a lower learning rate or another precision."
                )
        sums = self._curve.sums.state_dict(*self._rank_and_processes(), self._sum_over_processes)
        checkpoint[WRITTEN_BY_KEY] = {"format": CHECKPOINT_FORMAT, "version": __version__, **digits_depend_on()}
        checkpoint[CURVE_KEY] = {"logged_step": self._curve.logged_step, **sums}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the training curve where it was, and remember which step is measured."""
        self.loaded_step = checkpoint["global_step"]
        curve = checkpoint.get(CURVE_KEY)
        if curve is not None and self._trainer is not None:
            self._curve.logged_step = curve["logged_step"]
            self._curve.sums.load_state_dict(curve, *self._rank_and_processes())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the scheduler if there is one.

        Raises:
            UserError: one of them refuses its settings, or would fail in training.
        """
        return schedules.configure(
            type(self).__name__,
            self.parameter_groups(),
            lambda groups: fused(self._optimizer(groups)),
            self._lr_scheduler,
            self._lr_scheduler_interval,
        )

    # ------------------------------------------------------------------ inside

    def outputs(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The objective's terms, (B,), and the measured outputs, (B, C, H, W), by their suffix ("" or "_NAME")."""
        self.restart_noise()
        terms, outputs = {}, {}
        for name, value in self.losses(batch).items():
            if name.startswith("logits"):
                outputs[name.removeprefix("logits")] = value
            else:
                terms[name] = value
        return terms, outputs

    def _encode_and_decode(self, batch: Batch) -> tuple[Tensor, Tensor] | tuple[None, None]:
        self.restart_noise()
        z = self.encode(batch)
        return (None, None) if z is None else (z, pixel_means(self.decode(z, batch.y)))

    def _make_hparams_loadable(self) -> None:
        """Turn classes among the hyper-parameters into the plain values that the command line would store.

        So a checkpoint of a run in pure Python loads without trusting pickled code.
        """
        if "_instantiator" in self.hparams:
            return  # the command line did it
        for name, value in list(self.hparams.items()):
            spec = _class_spec(value)
            if spec is not None:
                self.hparams[name] = spec
            elif callable(value):
                del self.hparams[name]
                if name not in ("optimizer", "lr_scheduler"):  # a model is rebuilt without these
                    self._not_rebuildable.append(name)
        self.hparams["_class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"

    def _measure(self, batch: Batch) -> dict[str, Tensor]:
        terms, outputs = self.outputs(batch)
        with torch.no_grad():
            for suffix, logits in outputs.items():
                for name, term in PIXEL_TERMS.items():
                    if name + suffix not in terms:  # the objective may have it already
                        terms[name + suffix] = term(logits, batch.x)
        return terms

    def _fresh(self, count: int, dim: int, device: torch.device) -> Tensor:
        if self._trainer is None:  # there is no step to key the noise by, so it comes from torch's global generator
            noise = torch.randn(count, dim, device=device)
        else:
            noise = self._step_noise.normal(count, dim, device)
        return noise.to(self.code_dtype)

    def _rank_and_processes(self) -> tuple[int, int]:
        return (0, 1) if self._trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        total = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _require_finite(self, means: dict[str, Tensor], stage: str, where: str) -> None:
        names = sorted((name for name, value in means.items() if not math.isfinite(value.item())), key="loss".__eq__)
        if not names:
            return
        found = f"{type(self).__name__}: the {stage} {names[0]} is {means[names[0]].item()}"  # what made the loss so
        if self.trainer.state.fn != TrainerFn.FITTING:
            raise UserError(f"{found}, so there is nothing to measure: take a checkpoint from before.")
        raise UserError(
            f"{found} at {where}, so the run is stopped; its checkpoints are from before. "
            "Try a lower learning rate or another precision."
        )

    def _log_training(self) -> None:
        means = self._curve.sums.compute(self._sum_over_processes)
        self._require_finite(means, "training", f"one of the steps {self._curve.logged_step + 1} to {self.global_step}")
        self._curve.sums.reset()
        self._curve.logged_step = self.global_step
        self.training_means = {name: value.item() for name, value in means.items()}
        scalars = self.training_means | self._beside("train", self.training_means)
        points = {f"train/{name}": value for name, value in scalars.items()}
        optimizer = type(self.trainer.optimizers[0]).__name__
        for group, rate in enumerate(self._curve.rates, 1):
            points[f"lr-{optimizer}" + (f"/pg{group}" if len(self._curve.rates) > 1 else "")] = float(rate)
        for logger in self.trainer.loggers:
            logger.log_metrics(points, step=self.global_step)

    def _log_split(self, stage: str) -> dict[str, Tensor]:
        means = self._evaluation_sums.compute(self._sum_over_processes)
        self._require_finite(means, "validation" if stage == "val" else stage, f"step {self.global_step}")
        # already summed over processes: sync_dist only averages equal numbers, and keeps Lightning from warning
        values = {f"{stage}/{name}": value.float() for name, value in means.items()}
        beside = self._beside(stage, {name: value.item() for name, value in means.items()})
        values |= {f"{stage}/{name}": torch.tensor(value, dtype=torch.float32) for name, value in beside.items()}
        if self.trainer.state.fn != TrainerFn.FITTING:  # without a step of its own, a checkpoint is measured at its
            values["step"] = means["loss"].new_tensor(self.loaded_step, dtype=torch.float32)
        self.log_dict(values, sync_dist=True)
        return values

    def _beside(self, stage: str, means: Mapping[str, float]) -> dict[str, float]:
        return self.floors[stage].beside(means, self.conditioning, self.paired) if stage in self.floors else {}


def digits_depend_on() -> dict[str, str | int]:
    """What the last digits of sums depend on: another torch, or another number of threads, adds in another order."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "threads": torch.get_num_threads(),
    }


def require_positive(owner: object, *names: str) -> None:
    """Check that attributes of `owner` are greater than zero.

    Raises:
        UserError: one is not; the sentence names it.
    """
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise UserError(f"{type(owner).__name__}: {name} is {value}, but it must be greater than zero.", 2)


def _class_spec(value: object) -> dict[str, Any] | None:
    """A class, or a partial of one, as a config writes it; None for anything else."""
    arguments: Mapping[str, Any] = {}
    if isinstance(value, functools.partial) and not value.args:
        arguments, value = value.keywords, value.func
    if not isinstance(value, type):
        return None
    spec: dict[str, Any] = {"class_path": f"{value.__module__}.{value.__qualname__}"}
    return {**spec, "init_args": dict(arguments)} if arguments else spec
