"""What a paradigm is: the few methods that it writes, and all that it gets for them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from encdec.copyable import Copyable
from encdec.data.tensors import checked_batch
from encdec.objectives.floors import Floors
from encdec.objectives.noise import Noise
from encdec.paradigms.hparams import make_loadable
from encdec.paradigms.overrides import refuse_overrides
from encdec.paradigms.protocols import reconstructed
from encdec.paradigms.use import Usable
from encdec.signatures import Named
from encdec.training import contract, schedules
from encdec.training.decoder_calls import DecoderCalls, in_checkpoint
from encdec.training.ex_post import FitExPost
from encdec.training.finite import FiniteWeights
from encdec.training.images import TrainingImages
from encdec.training.plain import PlainBatches
from encdec.training.progress import TrainingCurve
from encdec.training.provenance import Provenance
from encdec.training.split_means import SplitMeans
from encdec.training.step import Player, Steps
from encdec.types import Batch, Conditioning, Losses, Shape, UserError, checked_losses, require_positive, require_seed


class Paradigm(Named, Copyable, Usable, ABC):
    """A way to train a generative model: write `losses`, `generate` and `noise_dim`, inherit the rest.

    It may also write `players`, `before_epoch`, `after_step`, and `encode`, `posterior`, `codes` (see
    `encdec.paradigms.protocols`). It sets, on the class or in `__init__`, what its outputs are conditioned on.

    Args:
        image_shape: channels, height, width; the command line takes it from the data.
        num_classes: number of labels, 1 where there are none; taken from the data.
        num_train: number of training images; taken from the data.
        seed: seed of all noise; the command line takes it from `seed_everything`.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the learning rate's scheduler from the optimizer; each player's optimizer gets one.
        lr_scheduler_interval: whether it is stepped after each step or each epoch; None for what its class is made for.

    Raises:
        UserError: a setting is of another type than the signature says, or a size is not positive; or, when the class
            is defined, it overrides what it must not.
    """

    conditioning: Conditioning | None = Conditioning.IMAGE
    """What the output depends on of the image it is compared with; None where it belongs to none, and has no floor."""
    other_conditioning: Mapping[str, Conditioning | None] = {}
    """The same for further outputs, by their names in `Losses.others`."""
    monitor: str | None = "val/loss"
    """The scalar that the best checkpoint is chosen by; None where no loss measures progress."""
    maximized: frozenset[str] = frozenset({"val/elbo"})  # the scalars of which more is better
    lacks: frozenset[str] = frozenset()
    """Methods, such as `encode`, that the class has and an instance with these settings has not."""
    least_images: int = 1
    """How many images a batch of training needs, of all processes together."""
    is_compiled = False  # networks may be CUDA graphs, which write their outputs into the same memory at each step
    noise_dim: int  # how many standard normal numbers make an image

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_overrides(cls)

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
        self.automatic_optimization = False
        self.save_hyperparameters(logger=False)
        self.not_rebuildable = make_loadable(self)
        if len(image_shape) != 3 or min(image_shape) < 1:
            shown = tuple(image_shape)
            raise UserError(
                f"{type(self).__name__}: image_shape is {shown}, but it must be channels, height and width, each at "
                "least 1, such as (1, 28, 28).",
                2,
            )
        self.image_shape: Shape = (image_shape[0], image_shape[1], image_shape[2])
        self.num_classes, self.num_train, self.seed, self.randomness = num_classes, num_train, seed, Noise(seed)
        self._optimizer, self._rates = optimizer, (lr_scheduler, lr_scheduler_interval)
        self.floors: dict[str, Floors] = {}  # of "train", "val" and "test", to be logged beside what is measured there
        self.loaded_step = 0  # at which the checkpoint was saved that is measured
        self.decoder_calls: float | None = None  # of its training, if it counted them
        require_positive(self, "num_classes", "num_train")
        require_seed(self, "seed")

    # ------------------------------------------------------------------ what a paradigm writes

    @abstractmethod
    def losses(self, batch: Batch) -> Losses:
        """The objective: what is minimised for a batch, and what is logged and measured beside it."""

    @abstractmethod
    def generate(self, noise: Tensor, y: Tensor) -> Tensor:
        """Images from standard normal noise: (B, noise_dim), labels (B,) -> (B, C, H, W), pixel means in [0, 1]."""

    def players(self) -> dict[str, Player]:
        """Who minimises what, by name, where several objectives are minimised in turns; see `Player`."""
        return {"model": Player(self.losses, [p for p in self.parameters() if p.requires_grad])}

    def before_epoch(self, images: TrainingImages) -> None:
        """Change what belongs to the whole training set, such as an assignment; called once before each epoch."""

    def after_step(self, batch: Batch) -> None:
        """Change what no optimizer changes, such as tables and averages; `batch` is the last one trained on."""

    # ------------------------------------------------------------------ what a paradigm and its users call

    @final
    def noise(self, index: Tensor, dim: int) -> Tensor:
        """Standard normal noise for the images at `index`: (B,) -> (B, dim); see `encdec.objectives.noise.Noise`."""
        return self.randomness.of_images(index, dim, self.training).to(self.weights_dtype)

    @final
    def shared_noise(self, count: int, dim: int) -> Tensor:
        """Standard normal noise, (count, dim), the same for all images of a batch and on all processes."""
        return self.randomness.shared(count, dim, self.device, self.training).to(self.weights_dtype)

    @property
    def gradient_scale(self) -> float:
        """What undoes the scale of the present step's gradients, for `LatentTable.step`."""
        return self._steps.accumulate / self._steps.loss_scale

    def measured_losses(self, batch: Batch) -> Losses:
        """The losses of a batch with the noise that belongs to it: in evaluation the same at every call.

        Raises:
            UserError: it is no batch, or its images have another shape than the model's.
        """
        self.randomness.restart()
        batch = checked_batch(self._name("measured_losses"), batch, self.image_shape)
        return checked_losses(self, self.losses(batch), x=batch.x)

    def baselines(self, stage: str, means: Mapping[str, float]) -> dict[str, float]:
        """The floors of what was measured on a split, and how far above them it is, by name."""
        of_outputs = {"": self.conditioning} | {f"_{name}": of for name, of in self.other_conditioning.items()}
        return self.floors[stage].beside(means, of_outputs) if stage in self.floors else {}

    # ------------------------------------------------------------------ what Lightning calls

    def __getstate__(self) -> dict[str, Any]:
        """What a copy holds: not the training that this one is in."""
        return super().__getstate__() | dict.fromkeys(("_curve", "_means", "_plain", "_steps"))

    def configure_callbacks(self) -> Sequence[pl.Callback]:
        """The parts of a training that no paradigm has to know, so that any `Trainer` has them without asking."""
        self._curve, self._means = TrainingCurve(self), SplitMeans(self)
        self._steps, self._plain = Steps(self, self._curve), PlainBatches(self)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._steps.take_over(self.trainer)
        others = FitExPost(), self._means, FiniteWeights(), Provenance(self), DecoderCalls(), self._plain
        return [self._steps, self._curve, *others]

    def configure_optimizers(self) -> Any:
        """An optimizer for each player, each with a scheduler if there is one.

        Raises:
            UserError: one of them refuses its settings, or would fail in training; or the contract is broken.
        """
        contract.check_paradigm(self)
        name, players = type(self).__name__, self.players().values()
        made = [schedules.configure(name, [*p.groups], p.optimizer or self._optimizer, *self._rates) for p in players]
        return made[0] if len(made) == 1 else made

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember which step is measured, and what its training cost."""
        self.loaded_step = checkpoint["global_step"]
        self.decoder_calls = in_checkpoint(checkpoint)

    def setup(self, stage: str) -> None:
        """Convert the weights to the precision of the run."""
        self.loaded_step = 0
        if stage == "fit":
            self.decoder_calls = None
        # Lightning restores weights before it converts them, and double precision would lose its digits
        self.trainer.precision_plugin.convert_module(self)

    def training_step(self, batch: Batch | Iterable[Batch], batch_idx: int) -> Tensor:
        """Train on a batch or several; see `encdec.training.step`."""
        return self._steps.run(self.trainer, self._plain.of("train", batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch."""
        self._means.measure(self._plain.of("val", batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch."""
        self._means.measure(self._plain.of("test", batch))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor | None]:
        """The latent codes `z` and the `reconstruction` of a batch, None where images have no codes; and the batch."""
        batch = batch if isinstance(batch, Batch) else self._plain.of("predict", batch)
        self.randomness.restart()
        z, reconstruction = reconstructed(self, batch)
        return {"x": batch.x, "y": batch.y, "index": batch.index, "z": z, "reconstruction": reconstruction}
