"""Batches of a split, and where training is in them."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from encdec.data.images import Images, select
from encdec.data.order import Order
from encdec.types import Batch, UserError, scaled

_CPU = torch.device("cpu")
_PERMUTED = Order()


@dataclass
class Cursor:
    """Where training is in the data: the position of the *next* batch, so that a checkpoint can go on from it."""

    epoch: int = 0
    position: int = 0
    resumed: bool = False


@final
class Loader:
    """Batches of a split, in an order that depends on (seed, epoch) only.

    For training, the images of an epoch are drawn (see `Order`) and cut into global batches of `batch_size` times the
    number of processes; each process takes its share of every global batch, of equal size (so at the end of an epoch up
    to `processes` − 1 images are left out). For evaluation each process takes every `processes`-th image, none twice.

    Args:
        images: the split.
        batch_size: images of a batch on this process.
        rank: which process this is.
        processes: how many there are.
        order: for training, how the images of an epoch are drawn.
        cursor: for training, where to go on; None for evaluation, which goes once through the split in order.
        device: where batches are delivered; pixels travel as uint8 and are converted there.
        split: name of the split, which every batch says.
        group: for training, how many batches are given at a time, as an iterator that loads one after the other; a
            group begins at a multiple of so many, also in an epoch that is resumed within one.

    Raises:
        UserError: there are fewer images than processes, or training images can't be drawn like this.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        rank: int,
        processes: int,
        order: Order = _PERMUTED,
        cursor: Cursor | None = None,
        device: torch.device = _CPU,
        split: str = "",
        group: int = 1,
    ) -> None:
        if len(images.labels) < processes:
            raise UserError(
                f"A split of {len(images.labels)} images can't be shared by {processes} processes: "
                "use fewer processes or more images."
            )
        if cursor is not None:
            order.check(images.labels, processes, batch_size)
        self.images, self.device = images.resident(device), device
        self.batch_size, self.rank, self.processes = batch_size, rank, processes
        self.order, self.cursor, self.split, self.group = order, cursor, split, group

    def __len__(self) -> int:
        return -(-self.num_batches // self.group)

    @property
    def num_batches(self) -> int:
        """How many batches a pass has on this process."""
        n = len(self.images.labels)
        if self.cursor is None:
            n = len(range(self.rank, n, self.processes))
            return -(-n // self.batch_size)
        return self.order.batches(n, self.processes, self.batch_size)

    @property
    def share(self) -> int:
        """How many images an epoch has on each process, for training."""
        return min(len(self.images.labels) // self.processes, self.num_batches * self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Batches; where `group` is more than 1, iterators over as many."""
        batches = self._batches()
        if self.group == 1:
            yield from batches
            return
        cursor = self.cursor
        assert cursor is not None, "only training batches are grouped"
        for _ in range(cursor.position // self.group, len(self)):
            yield itertools.islice(batches, self.group - cursor.position % self.group)

    def _batches(self) -> Iterator[Batch]:
        if self.cursor is None:
            labels = self.images.labels
            indices = torch.arange(self.rank, len(labels), self.processes, device=labels.device)
            yield from self._load(indices.split(self.batch_size))
            return
        # a generator runs from its first next(), so asking for an iterator and not using it changes nothing
        cursor = self.cursor
        if cursor.position and not cursor.resumed:  # the last pass was cut short, for example by limit_train_batches
            cursor.epoch, cursor.position = cursor.epoch + 1, 0
        cursor.resumed = False
        batches, mirrored = self._epoch(cursor.epoch)
        for batch in self._load(batches[cursor.position :], mirrored[cursor.position :]):
            cursor.position += 1
            if cursor.position == len(batches):
                cursor.epoch, cursor.position = cursor.epoch + 1, 0
            yield batch

    def _epoch(self, epoch: int) -> tuple[list[Tensor], list[Tensor]]:
        """This process's batches of an epoch, and whether their images are mirrored; nothing if none ever is."""
        order, flips = self.order.drawn(epoch, self.images.labels)
        return self._shares(order), [] if flips is None else self._shares(flips)

    def _shares(self, drawn: Tensor) -> list[Tensor]:
        drawn = drawn[: len(drawn) - len(drawn) % self.processes].to(self.images.labels.device)
        parts = drawn.split(self.batch_size * self.processes)
        return [part[self.rank :: self.processes] for part in parts[: self.num_batches]]

    def _load(self, batches: Sequence[Tensor], mirrored: Sequence[Tensor] = ()) -> Iterator[Batch]:
        images, device, flips = self.images, self.device, iter(mirrored)
        for indices, pixels, y in zip(batches, images.stream(batches), select(images.labels, batches), strict=True):
            pixels = pixels.to(device)
            if mirrored:
                pixels = torch.where(next(flips).to(device)[:, None, None, None], pixels.flip(-1), pixels)
            yield Batch(scaled(pixels), y.to(device), indices.to(device), self.split)
