"""The images of one split, wherever they are kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from encdec.data import summary
from encdec.types import Shape, UserError

BLOCK = 1 << 20
"""How many numbers are converted to pixels at a time."""
_CHANNELS = (1, 3, 4)
"""Of grey, color, and color with transparency."""


class Images(ABC):
    """The images of one split, wherever they are kept: write `image_shape`, `subset` and `read`, inherit the rest.

    Attributes:
        labels: int64, (N,); zeros where there are none.
        classes: name of each label.
        names: a number for each image, int64, (N,), that tells it from others before its pixels are read, such as one
            made of a file's name and size; None if there is no such thing.
    """

    labels: Tensor
    classes: tuple[str, ...]
    names: Tensor | None = None

    def __repr__(self) -> str:
        """Their number, shape and classes."""
        return summary.of_images(self)

    @property
    @abstractmethod
    def image_shape(self) -> Shape:
        """Channels, height, width."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """The images at `indices`, without a copy of the pixels."""

    @abstractmethod
    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pixels of each batch of indices (B,), uint8, (B, C, H, W)."""

    @final
    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """What `read` gives, which is checked to be pixels of that type and shape.

        Raises:
            UserError: it is not.
        """
        shape, parts = self.image_shape, iter(self.read(batches))
        for indices in batches:
            pixels = next(parts, None)
            if pixels is None or pixels.dtype != torch.uint8 or pixels.shape != (len(indices), *shape):
                found = "nothing" if pixels is None else f"{pixels.dtype} of shape {tuple(pixels.shape)}"
                raise UserError(
                    f"{type(self).__name__}.read gives {found} for a batch of {len(indices)} indices, but it must give "
                    f"uint8 pixels of shape {(len(indices), *shape)}."
                )
            yield pixels

    def resident(self, device: torch.device) -> Self:
        """These images, kept on a GPU if they fit there: a batch is then gathered without a transfer."""
        return self


SomeImages = TypeVar("SomeImages", bound=Images)


@final
@dataclass(frozen=True, repr=False)
class InMemoryImages(Images):
    """Images held as one uint8 tensor, from which a batch is one gather.

    Attributes:
        pixels: uint8, (M, C, H, W); shared by the splits that were made of it.
        labels: int64, (N,).
        classes: name of each label.
        rows: where the N images of this split are in `pixels`, int64, (N,); all M in order if None.
        names: see `Images`.

    Raises:
        UserError: one is of another type or shape, or channels come last.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ("image",)
    rows: Tensor | None = None
    names: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in (("pixels", self.pixels), ("labels", self.labels)):
            if not isinstance(value, Tensor):
                raise UserError(f"InMemoryImages needs {name} as a tensor, not as a {type(value).__name__}.")
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            fits = self.pixels.dtype == torch.uint8
            advice = (
                "add the axis of channels, as pixels[:, None] does for grey images"
                if fits
                else ("use InMemoryImages.from_floats for pixels in [0, 1]")
            )
            raise UserError(
                f"InMemoryImages needs pixels as a uint8 tensor (N, C, H, W), not {self.pixels.dtype} of shape "
                f"{tuple(self.pixels.shape)}: {advice}."
            )
        channels, height, width = self.image_shape
        if width in _CHANNELS and channels not in _CHANNELS and height > max(_CHANNELS):
            raise UserError(
                f"InMemoryImages needs pixels as (N, C, H, W), but {tuple(self.pixels.shape)} looks like (N, H, W, C): "
                "give pixels.permute(0, 3, 1, 2)."
            )
        if not isinstance(self.classes, tuple | list) or not all(isinstance(name, str) for name in self.classes):
            raise UserError(
                f"InMemoryImages needs classes as the names of the labels 0, 1, …, such as ('cat', 'dog'), not as "
                f"{self.classes!r}."
            )
        count = len(self.pixels) if self.rows is None else len(self.rows)
        if len(self.labels) != count:
            raise UserError(f"InMemoryImages got {count} images but {len(self.labels)} labels: give one for each.")

    @classmethod
    def from_floats(
        cls,
        pixels: Tensor | np.ndarray[Any, Any],
        labels: Tensor,
        classes: tuple[str, ...] = ("image",),
        source: str = "the data set",
    ) -> Self:
        """Images from pixels in [0, 1], which are rounded to the nearest of the 256 levels 0, 1/255, …, 1.

        They are checked and converted a block at a time, so `pixels` may be larger than the memory, as `np.memmap`.

        Args:
            pixels: floating point, (N, C, H, W).
            labels: int64, (N,).
            classes: name of each label.
            source: where the pixels are from, for the errors; best the name of the file.

        Raises:
            UserError: a pixel is NaN, infinite or outside [0, 1], or the shape or the type is another.
        """
        if not isinstance(pixels, Tensor | np.ndarray):
            found = type(pixels).__name__
            raise UserError(
                f"InMemoryImages.from_floats needs pixels as a tensor or an array, but {source} is a {found}."
            )
        floating = pixels.is_floating_point() if isinstance(pixels, Tensor) else pixels.dtype.kind == "f"
        if not floating or pixels.ndim != 4:
            raise UserError(
                f"InMemoryImages.from_floats needs pixels as floating-point numbers (N, C, H, W), but {source} has "
                f"{pixels.dtype} of shape {tuple(pixels.shape)}."
            )
        converted = torch.empty(tuple(pixels.shape), dtype=torch.uint8)
        size = max(1, BLOCK // max(1, converted[:1].numel()))
        for start in range(0, len(pixels), size):
            part: Any = pixels[start : start + size]
            # as float64, so that no type of the pixels changes how they are rounded
            block = part.detach().double() if isinstance(part, Tensor) else torch.from_numpy(part.astype(np.float64))
            outside = ~((block >= 0) & (block <= 1)).flatten(1)  # so NaN is outside
            if outside.any():
                index, pixel = outside.nonzero()[0].tolist()
                raise UserError(
                    f"InMemoryImages.from_floats: image {start + index} of {source} has the pixel value "
                    f"{block[index].flatten()[pixel].item():g}, but pixels must be finite and lie in [0, 1]: "
                    "scale or repair them first."
                )
            converted[start : start + size] = block.mul(255).round()
        return cls(converted, labels, classes)

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices`; the pixels are shared."""
        rows = indices if self.rows is None else self.rows[indices]
        names = None if self.names is None else self.names[indices]
        return replace(self, labels=self.labels[indices], rows=rows, names=names)

    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pixels of each batch of indices, uint8, (B, C, H, W)."""
        return select(self.pixels, batches, self.rows)

    def resident(self, device: torch.device) -> Self:
        """These images, on the GPU if they take at most a quarter of what is free there."""
        if device.type != "cuda" or len(self.labels) * self.pixels[0].numel() > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        pixels = self.pixels if self.rows is None else self.pixels[self.rows]
        return replace(self, pixels=pixels.to(device), labels=self.labels.to(device), rows=None)


def select(source: Tensor, batches: Sequence[Tensor], rows: Tensor | None = None) -> Iterator[Tensor]:
    """`source[batch]` of each batch, or `source[rows[batch]]`: several at once, because each selection costs time."""
    if not batches:
        return
    at_once = max(1, BLOCK // max(1, source[:1].numel() * len(batches[0])))
    for start in range(0, len(batches), at_once):
        group = batches[start : start + at_once]
        indices = torch.cat(list(group))
        selected = source.index_select(0, indices if rows is None else rows.index_select(0, indices))
        yield from selected.split([len(batch) for batch in group])


def random_split(images: SomeImages, fraction: float, seed: int) -> tuple[SomeImages, SomeImages]:
    """`images` without a random `fraction` of them, and that fraction; the same for the same seed."""
    n = len(images.labels)
    held_out = min(max(round(n * fraction), 1), n - 1) if n > 1 else 0
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return images.subset(order[held_out:].sort().values), images.subset(order[:held_out].sort().values)
