"""All images of a training, in order, whatever order they are trained in."""

import sys
from collections.abc import Callable, Iterator
from typing import final

import lightning.pytorch as pl
import torch
from torch import Tensor

from encdec.data.loader import Loader
from encdec.training.gathering import gathered
from encdec.types import Batch, UserError


@final
class TrainingImages:
    """The training images in the order of their indices, streamed in batches of the training's size.

    Iterating gives all of them on every process. Neither that nor `map` changes the order of training or draws from
    torch's generators. Nothing is read until it is asked for.

    Args:
        trainer: whose images they are.
        model: what is trained.
        most: how many images there are at most; the first ones.
    """

    def __init__(self, trainer: pl.Trainer, model: pl.LightningModule, most: int = sys.maxsize) -> None:
        self._trainer, self._model, self._most = trainer, model, most

    def __len__(self) -> int:
        return min(len(self._known.images.labels), self._most)

    def __iter__(self) -> Iterator[Batch]:
        """All images, as batches in the training's precision; their split is `train`."""
        return self._stream(0, 1)

    def map(self, function: Callable[[Batch], Tensor]) -> Tensor:
        """A function of all images, on every process: (B, …) for each batch -> (N, …).

        All processes call it together, and each does its share. The model is in evaluation mode meanwhile, without
        gradients, in the training's precision.

        Args:
            function: of a batch to a value for each of its images; it may draw from torch's generators.
        """
        rank, processes = self._trainer.global_rank, self._trainer.world_size
        share = len(range(rank, len(self), processes))
        precision, device = self._trainer.precision_plugin, self._trainer.strategy.root_device
        modes = [(module, module.training) for module in self._model.modules()]
        values, filled = torch.empty(0), 0
        self._model.eval()
        try:
            with (
                torch.inference_mode(False),  # latents that are searched for need gradients
                torch.no_grad(),
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                precision.forward_context(),
            ):
                for batch in self._stream(rank, processes):
                    value = function(batch).detach()
                    if not filled:
                        values = value.new_empty(share, *value.shape[1:])
                    values[filled : filled + len(value)] = value
                    filled += len(value)
        finally:
            for module, training in modes:
                module.training = training
        return _merged(values, len(self), processes)

    def some(self, most: int) -> Tensor:
        """Images that are spread evenly over the training split, on every process: (n, C, H, W), n at most `most`."""
        every = -(-len(self) // most)
        return torch.cat([batch.x[batch.index % every == 0] for batch in self])

    @property
    def _known(self) -> Loader:
        """Raises UserError where the order of images is not known."""
        loader = self._trainer.train_dataloader
        if not isinstance(loader, Loader):
            raise UserError(
                f"{type(self._model).__name__} needs all training images in order before each epoch, which only a data "
                f"module of encdec gives, but the training's loader is a {type(loader).__name__}: derive the data from "
                "encdec.data.DataModule."
            )
        return loader

    def _stream(self, rank: int, processes: int) -> Iterator[Batch]:
        loader, device = self._known, self._trainer.strategy.root_device
        images = loader.images
        if len(self) < len(images.labels):
            images = images.subset(torch.arange(len(self)))
        batches = Loader(images, loader.batch_size, rank, processes, device=device, split="train")
        return map(self._trainer.precision_plugin.convert_input, batches)


def _merged(part: Tensor, total: int, processes: int) -> Tensor:
    """The rows of all processes' shares, every `processes`-th row each, in order: (total, …)."""
    if processes == 1:
        return part
    longest = -(-total // processes)
    padded = torch.cat([part, part.new_zeros(longest - len(part), *part.shape[1:])])
    merged: Tensor = gathered(padded).unflatten(0, (processes, longest)).transpose(0, 1).flatten(0, 1)[:total]
    return merged
