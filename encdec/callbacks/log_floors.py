"""What is known of a run's data, beside what is measured: the floors, and the variance that samples should have."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from encdec.callbacks.image_grids import fixed_noise, tensorboard_writers
from encdec.callbacks.keep_run import resumed_at
from encdec.callbacks.verdicts import SAMPLES, is_compared
from encdec.data import DataModule
from encdec.data.loader import Loader
from encdec.evaluation.context import block_size
from encdec.evaluation.grids import drawing, enlarge, grid
from encdec.objectives.floors import Floors, Moments, pictures
from encdec.objectives.pca import PCA, principal_components
from encdec.paradigms import LatentVariable, Paradigm
from encdec.training.split_means import log_measured
from encdec.types import Conditioning

_WAYS = ("balanced by class", "mirrored as often as not")
"""What `Drawing` says, in its order."""
_SPLITS = {"val": "validation", "test": "test"}


class LogFloors(pl.Callback):
    """Computes the floors of the images that are measured, so that they are logged beside every MSE and BCE.

    They are the losses of the outputs that are best for the training images as they are drawn, balanced and mirrored if
    the data say so: that is where a collapsed model ends.

    Where a limit cuts a validation or a test, they are the floors of the images that are left. Where one cuts the
    epochs of a training, which then see other images each time, the training has none.

    Draws the optima `images/mean_image` and `images/class_means`, to be compared with `images/samples`.

    An objective that pairs no output with an image has no floors. It gets `val/sample_variance`: the variance of 1,000
    samples, summed over pixels, as a share of that of the training images.

    Args:
        enabled: false saves the pass over the training images that the floors need (two, with PCA, where the
            output is conditioned on the image).
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._data: DataModule | None = None
        self._train: Moments | None = None
        self._pca: PCA | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the floors of another run, which may have measured other images."""
        data = getattr(trainer, "datamodule", None)
        if isinstance(pl_module, Paradigm):
            pl_module.floors.clear()
        if data is not self._data:
            self._data, self._train, self._pca = data if isinstance(data, DataModule) else None, None, None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute those of the training split; draw the optima."""
        self._prepare(trainer, pl_module, "train")
        ways = [words for words, drawn in zip(_WAYS, self._data.drawing if self._data else (), strict=False) if drawn]
        if self._train is not None and ways and trainer.is_global_zero:
            print(f"floors are those of the training images as they are drawn: {' and '.join(ways)}", flush=True)
        if self._train is None or self._data is None or resumed_at(trainer):
            return  # a resumed run has them
        columns = self._data.num_classes if self._data.num_classes <= 16 else 8
        for writer in tensorboard_writers(trainer):
            for name, images in pictures(self._train, self._data.image_shape).items():
                with drawing(f"images/{name}"):
                    writer.add_image(f"images/{name}", enlarge(grid(images, columns)), 0)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute those of the images that are validated."""
        if not trainer.sanity_checking:  # which measures a few images and logs nothing
            self._prepare(trainer, pl_module, "val")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the variance of samples, where there are no floors."""
        if isinstance(pl_module, Paradigm) and not is_compared(pl_module) and not trainer.sanity_checking:
            share = self._sample_variance(trainer, pl_module)
            if share is not None:
                log_measured(trainer, {"val/sample_variance": torch.tensor(share)})

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute those of the images that are tested."""
        self._prepare(trainer, pl_module, "test")

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = self._data
        if not self.enabled or data is None or not isinstance(pl_module, Paradigm) or stage in pl_module.floors:
            return

        def reduce(tensor: Tensor) -> Tensor:
            if trainer.world_size == 1:
                return tensor
            total = trainer.strategy.reduce(tensor.to(pl_module.device), reduce_op="sum")
            assert isinstance(total, Tensor)
            return total.cpu()

        shared: dict[str, Any] = {"rank": trainer.global_rank, "processes": trainer.world_size, "reduce": reduce}
        if self._train is None:
            if pl_module.conditioning is Conditioning.IMAGE and isinstance(pl_module, LatentVariable):
                dim, split = pl_module.latent_dim, data.splits["train"]
                self._pca = principal_components(split, dim, **shared, drawing=data.drawing)
            measured = Moments.of(data.splits["train"], self._pca, **shared)
            self._train = measured.drawn(data.drawing, data.image_shape)
        if not is_compared(pl_module):
            return
        share = _measured(trainer, stage)
        if share is not None and stage == "train":
            if trainer.is_global_zero:
                batches = int(trainer.num_training_batches)
                print(
                    f"a limit cuts the training epochs to {batches:,} of their batches, so train/… has no floors",
                    flush=True,
                )
            return
        moments = self._train
        if stage != "train":
            moments = Moments.of(data.splits[stage], self._pca, **shared, share=share)
        if share is not None and trainer.is_global_zero:
            print(
                f"a limit cuts the {_SPLITS[stage]} split: {int(moments.counts.sum()):,} of its "
                f"{len(data.splits[stage].labels):,} images are measured, and the floors are theirs",
                flush=True,
            )
        pl_module.floors[stage] = Floors.of(self._train, moments)

    def _sample_variance(self, trainer: pl.Trainer, paradigm: Paradigm) -> float | None:
        """Variance of samples from fixed noise, over that of the training images; None where these do not vary."""
        if self._train is None or self._data is None:
            return None
        dim, labels = math.prod(paradigm.image_shape), self._data.splits["val"].labels
        variance = dim * Floors.of(self._train, self._train).mse[Conditioning.NONE]
        if variance == 0:
            return None
        noise, y = fixed_noise(SAMPLES, paradigm.noise_dim), labels[torch.arange(SAMPLES) % len(labels)]
        sums, square, size = torch.zeros(dim, dtype=torch.float64), 0.0, block_size(dim)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for z, label in zip(noise.split(size), y.split(size), strict=True):
                samples = paradigm.sample(label.to(paradigm.device), z.to(paradigm.device)).flatten(1).cpu().double()
                sums += samples.sum(0)
                square += samples.square().sum().item()
        return (square / SAMPLES - (sums / SAMPLES).square().sum().item()) / variance


def _measured(trainer: pl.Trainer, stage: str) -> Tensor | None:
    """Positions of the images that this process measures, where a limit leaves out some; None for the whole split.

    In a training they are others in each epoch, so these positions say only that there is a limit.
    """
    loader: Any = {
        "train": trainer.train_dataloader,
        "val": trainer.val_dataloaders,
        "test": trainer.test_dataloaders,
    }[stage]
    if not isinstance(loader, Loader):
        return None
    batches = {
        "train": [trainer.num_training_batches],
        "val": trainer.num_val_batches,
        "test": trainer.num_test_batches,
    }[stage][0]
    if batches == len(loader):
        return None
    indices = torch.arange(loader.rank, len(loader.images.labels), loader.processes)
    return indices[: int(batches) * loader.batch_size]
