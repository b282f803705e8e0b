"""Pictures that stay on the disk, and the processes that decode them when a batch asks for them."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encdec.data.images import Images
from encdec.data.pictures.decoding import PictureError, combined, read_picture
from encdec.data.pictures.progress import tracked
from encdec.types import Shape

_AT_ONCE = 64
"""How many pictures are decoded at a time when damaged ones are looked for."""


@final
@dataclass(frozen=True, repr=False)
class ImagesOnDisk(Images):
    """Pictures that are decoded when a batch asks for them. See `Images`.

    Attributes:
        readers: of the pictures; shared by the splits that were made of them.
        rows: which of these the N images of this split are, int64, (N,).
        labels: see `Images`.
        classes: see `Images`.
        names: see `Images`.
    """

    readers: "Readers"
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    names: Tensor

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width."""
        return self.readers.pictures.image_shape

    def subset(self, indices: Tensor) -> Self:
        """The pictures at `indices`, read by the same processes."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices], names=self.names[indices])

    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pixels of each batch of indices, uint8, (B, C, H, W)."""
        return self.readers.stream([self.rows[batch].tolist() for batch in batches])


class Readers:
    """Processes that decode pictures, kept from one pass to the next, because starting them takes a while.

    Args:
        pictures: the pictures.
        num_workers: processes of one pass; 0 decodes in this one.
        skipping: whether damaged pictures have been left out, so that an error does not advise it.
    """

    def __init__(self, pictures: "Pictures", num_workers: int, skipping: bool) -> None:
        self.pictures, self._num_workers, self._skipping = pictures, num_workers, skipping
        self._idle: list[DataLoader[Decoded]] = []
        # not left to the garbage collector, which may take their queues first and then wait for them in vain
        weakref.finalize(self, self._idle.clear)

    def stream(self, batches: list[list[int]]) -> Iterator[Tensor]:
        """The pixels of the pictures at some positions, uint8, (B, C, H, W) for each batch of them.

        Raises:
            UserError: pictures of a batch can't be used; see `read_picture`.
        """
        for pixels in self._pass(batches):
            if isinstance(pixels, dict):
                raise combined(list(pixels.values()), can_skip=not self._skipping)
            yield pixels

    def broken(self, rows: Tensor) -> dict[int, PictureError]:
        """Decode the pictures at some positions; the errors of those that can't be used."""
        batches = [batch.tolist() for batch in rows.split(_AT_ONCE)]
        passes = tracked(self._pass(batches), "Looking for damaged pictures", len(batches))
        return {row: error for found in passes if isinstance(found, dict) for row, error in found.items()}

    def _pass(self, batches: list[list[int]]) -> Iterator["Decoded"]:
        left = len(batches)
        if left == 0:
            return
        loader = self._idle.pop() if self._idle else self._start()  # of its own for a pass within a pass
        assert isinstance(loader.batch_sampler, list)
        loader.batch_sampler[:] = batches
        try:
            for decoded in loader:
                left -= 1
                if left == 0:  # now, because who has taken the last batch may not ask for another
                    self._idle.append(loader)
                yield decoded
                if left == 0:
                    return
        except GeneratorExit:
            if left > 0:  # cut short; what is on its way is dropped when the next pass begins
                self._idle.append(loader)
            raise

    def _start(self) -> "DataLoader[Decoded]":
        return DataLoader(
            self.pictures,
            batch_sampler=[],
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # which nothing is drawn from; torch's own would be
        )


Decoded = Tensor | dict[int, PictureError]
"""Pixels of a batch of pictures, or the errors of those that can't be used, by their positions."""


@dataclass
class Pictures(Dataset[Decoded]):
    """Batches of decoded pictures. Errors are returned, because raising in a worker buries their sentences.

    Attributes:
        paths: the files.
        image_shape: what they are made to fit.
        as_they_are: refuse those that don't fit yet.
    """

    paths: list[Path]
    image_shape: Shape
    as_they_are: bool

    def read_all(self, rows: Tensor) -> tuple[Tensor, dict[int, PictureError]]:
        """The pixels at some positions but for those that can't be used, and the errors of these."""
        return self._read(len(rows), tracked(rows.tolist(), "Reading pictures"))

    def __getitems__(self, positions: list[int]) -> Decoded:
        pixels, broken = self._read(len(positions), positions)
        return broken or pixels

    def _read(self, count: int, positions: Iterable[int]) -> tuple[Tensor, dict[int, PictureError]]:
        pixels = torch.empty((count, *self.image_shape), dtype=torch.uint8)
        read, broken = 0, {}
        for position in positions:
            try:
                pixels[read] = read_picture(self.paths[position], self.image_shape, position, self.as_they_are)
                read += 1
            except PictureError as error:
                broken[position] = error
        return pixels[:read], broken


def _unchanged(batch: Any) -> Any:
    return batch
