"""Batches of a plain DataLoader: images, or images and labels, as tensors."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from encdec.data.tensors import checked_images, checked_labels
from encdec.messages import say
from encdec.types import Batch, UserError

if TYPE_CHECKING:
    from encdec.paradigms import Paradigm


class PlainBatches(pl.Callback):
    """Makes batches of what a plain DataLoader gives, and says once what such a training lacks.

    An image's index is its position in the pass, which in validations and tests decides its noise; in training it says
    nothing, so paradigms that store something for each training image are refused.
    """

    def __init__(self, paradigm: "Paradigm") -> None:
        self._paradigm, self._name = paradigm, type(paradigm).__name__
        self._seen = Counter[str]()
        self._has_said = False

    def of(self, stage: str, given: Any) -> Any:
        """The batch, or as they are: batches of encdec, and an iterator of several.

        Args:
            stage: `train`, `val`, `test` or `predict`.
            given: what the loader gives; tensors are a batch of images, or of images and labels.

        Raises:
            UserError: these are no images, or the paradigm needs more than a plain loader says.
        """
        if isinstance(given, Batch | Iterator):
            return given
        if stage == "train" and not self._has_said:
            self._begin_training()
        x, y = self._parts(given)
        paradigm, trainer = self._paradigm, self._paradigm.trainer
        x = checked_images(f"{self._name}: a batch of the DataLoader", x, paradigm.image_shape).float()
        if y is not None:
            y = checked_labels(f"{self._name}: a batch of the DataLoader", y, paradigm.num_classes, len(x))
        elif self._seen[stage] == 0 and paradigm.reads_labels:
            raise UserError(
                f"{self._name} reads labels, but the DataLoader gives images alone: let it give pairs of images and "
                "labels, as a TensorDataset(images, labels) does."
            )
        else:
            y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        position = torch.arange(self._seen[stage], self._seen[stage] + len(x), device=x.device)
        self._seen[stage] += len(x)
        return Batch(x, y, position * trainer.world_size + trainer.global_rank)

    def _parts(self, given: Any) -> tuple[Any, Any]:
        parts = list(given) if isinstance(given, list | tuple) else [given]
        if len(parts) > 2 or not all(isinstance(part, torch.Tensor) for part in parts) or not parts:
            found = "a list" if isinstance(given, list | tuple) else f"a {type(given).__name__}"
            raise UserError(
                f"{self._name}: the DataLoader gives {found} of other things, but it must give a tensor of images "
                "(N, C, H, W) with pixels in [0, 1], or images and labels."
            )
        return parts[0], parts[1] if len(parts) == 2 else None

    def _begin_training(self) -> None:
        paradigm = self._paradigm
        if hasattr(paradigm, "codes") and "codes" not in paradigm.lacks:
            raise UserError(
                f"{self._name} has a latent for each training image, but a plain DataLoader does not say which is "
                "which: derive the data from encdec.data.DataModule."
            )
        self._has_said = True
        say(
            f"{self._name} is trained on a plain DataLoader, without what a data module of encdec adds: floors and the "
            "verdict, images in the same order for every model, latents stored or fitted for each training image, and "
            "resuming within an epoch."
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count anew."""
        del self._seen["train"]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count anew."""
        del self._seen["val"]

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count anew."""
        del self._seen["test"]

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count anew."""
        del self._seen["predict"]
