"""The floors of a run's data, beside what is measured."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from encdec.callbacks.images import tensorboard_writers
from encdec.callbacks.run import resumed_at
from encdec.data import DataModule
from encdec.floors import PCA, Floors, Moments, pictures, principal_components
from encdec.paradigms import Paradigm
from encdec.pictures import drawing, enlarge, grid
from encdec.types import Told


class LogFloors(pl.Callback):
    """Computes the floors when a run begins, so that they are logged beside every MSE and BCE.

    Draws the optima `images/mean_image` and `images/class_means`, to be compared with `images/samples`.

    Args:
        enabled: false saves the pass over the training images that the floors need (two, with PCA, where the
            decoder is told the image).
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._train: Moments | None = None
        self._pca: PCA | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute those of the training and validation split; draw the optima."""
        self._prepare(trainer, pl_module, "train", "val")
        data = getattr(trainer, "datamodule", None)
        if self._train is None or not isinstance(data, DataModule) or resumed_at(trainer):
            return  # a resumed run has them
        columns = data.num_classes if data.num_classes <= 16 else 8
        for writer in tensorboard_writers(trainer):
            for name, images in pictures(self._train, data.image_shape).items():
                with drawing(f"images/{name}"):
                    writer.add_image(f"images/{name}", enlarge(grid(images, columns)), 0)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute those of the validation split."""
        self._prepare(trainer, pl_module, "val")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute those of the test split."""
        self._prepare(trainer, pl_module, "test")

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *stages: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if not (self.enabled and isinstance(data, DataModule) and isinstance(pl_module, Paradigm)):
            return

        def reduce(tensor: Tensor) -> Tensor:
            if trainer.world_size == 1:
                return tensor
            total = trainer.strategy.reduce(tensor.to(pl_module.device), reduce_op="sum")
            assert isinstance(total, Tensor)
            return total.cpu()

        shared: dict[str, Any] = {"rank": trainer.global_rank, "processes": trainer.world_size, "reduce": reduce}
        for stage in stages:
            if stage in pl_module.floors:
                continue
            if self._train is None:
                if pl_module.told is Told.IMAGE:
                    self._pca = principal_components(data.splits["train"], pl_module.latent_dim, **shared)
                self._train = Moments.of(data.splits["train"], self._pca, **shared)
            split = self._train if stage == "train" else Moments.of(data.splits[stage], self._pca, **shared)
            pl_module.floors[stage] = Floors.of(self._train, split)
