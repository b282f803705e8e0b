"""Fixed features of images, in which sets of them are compared. Nothing of them is trained."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from encdec.copyable import Copyable
from encdec.networks.base import halved_sizes, require_positive_sizes
from encdec.objectives.losses import full_precision
from encdec.signatures import Named
from encdec.types import Shape, UserError


class Features(Named, Copyable, ABC):
    """Maps images to numbers: (B, C, H, W) -> (B, `size`), in full precision.

    A subclass takes `image_shape` first; whatever follows is set from the config. What it holds are buffers.
    """

    def __init__(self, image_shape: Shape) -> None:
        super().__init__()
        self.image_shape = image_shape

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers an image has."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, size)."""

    def __call__(self, images: Tensor) -> Tensor:
        """Apply `forward`, typed."""
        return super().__call__(images)  # type: ignore[no-any-return]


@final
class Pixels(Features):
    """The pixels themselves."""

    @property
    def size(self) -> int:
        """C · H · W."""
        return math.prod(self.image_shape)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, size)."""
        return full_precision(images).flatten(1)


@final
class RandomConvolutions(Features):
    """The pixels, and what stages of 3×3 convolutions with stride 2 and random filters see in them.

    The distance of two images says little about what lies beside what in them: images whose pixels are dealt out
    anew among them are noise, and 4 % as far from Fashion-MNIST as its mean image is. Here filters see differences of
    neighbours, as each sums to zero, and their absolute values go on, so that already the mean over a set depends on
    several pixels together: then it is 41 %. The filters are drawn once and never trained, from `seed` alone. As
    pixels are among the features, sets with one distribution of features have one of images. Every stage is scaled as
    if it had as many numbers as there are pixels.

    Source of the idea: random filters with absolute values tell objects apart nearly as trained ones do, Jarrett et al.
    2009, https://doi.org/10.1109/ICCV.2009.5459469.

    Args:
        image_shape: channels, height, width.
        channels: feature maps of each stage, first to last.
        seed: of the filters.

    Raises:
        UserError: there is no stage, or more than the images can be halved, or a size is not positive.
    """

    def __init__(self, image_shape: Shape, channels: tuple[int, ...] = (16, 32), seed: int = 0) -> None:
        super().__init__(image_shape)
        require_positive_sizes(self, "channels", channels)
        if not channels:
            raise UserError(
                "RandomConvolutions: channels is empty, and without a stage its features would be the pixels: take "
                "Pixels, or name a stage.",
                2,
            )
        self.sizes = halved_sizes(image_shape, channels)[1:]
        generator, maps = torch.Generator().manual_seed(seed), image_shape[0]
        for stage, count in enumerate(channels):
            filters = torch.randn(count, maps, 3, 3, generator=generator)
            filters -= filters.mean((2, 3), keepdim=True)
            self.register_buffer(f"filters_{stage}", filters * math.sqrt(2 / (9 * maps)))
            maps = count

    @property
    def size(self) -> int:
        """C · H · W, and the sizes of all stages."""
        stages = zip(self.buffers(), self.sizes, strict=True)
        return math.prod(self.image_shape) + sum(len(filters) * math.prod(size) for filters, size in stages)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, size)."""
        images = maps = full_precision(images)
        found, pixels = [images.flatten(1)], images[0].numel()
        with torch.autocast(images.device.type, enabled=False):
            for filters in self.buffers():
                maps = functional.conv2d(maps, filters.to(maps), stride=2, padding=1).abs()
                found.append(maps.flatten(1) * math.sqrt(pixels / maps[0].numel()))
        return torch.cat(found, 1)


FeaturesCallable = Callable[[Shape], Features]
