"""Networks from an image and times to an image, for flows: an MLP and a small U-Net."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encdec.copyable import Copyable
from encdec.networks.base import Activation, activation_layer, of_shape, require_positive_sizes
from encdec.signatures import Named
from encdec.types import Shape, UserError

_FREQUENCIES = 16  # of the embedding of a time, from half a wave in [0, 1]
_HIGHEST = 8  # times as many waves; with more, derivatives by time, which MeanFlow takes, would be mostly noise


class Velocity(Named, Copyable, ABC):
    """Maps images and times to images: (B, C, H, W), (B, times) -> (B, C, H, W), of any sign.

    A subclass takes `image_shape` and `times` first; whatever follows is set from the config.

    Args:
        image_shape: channels, height, width.
        times: how many times the network reads: one for a flow's velocity, two for the mean of it between them.
    """

    def __init__(self, image_shape: Shape, times: int) -> None:
        super().__init__()
        self.image_shape, self.times = image_shape, times

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W), (B, times) in [0, 1] -> (B, C, H, W)."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Apply `forward`, whose shape is checked."""
        return of_shape(self, super().__call__(x, t), self.image_shape)


VelocityCallable = Callable[[Shape, int], Velocity]


def time_embedding(t: Tensor) -> Tensor:
    """Cosines and sines of times in [0, 1]: (B, k) -> (B, 32 k).

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sec. 3.5, with frequencies for [0, 1].
    """
    exponents = torch.linspace(0, 1, _FREQUENCIES, device=t.device, dtype=t.dtype)
    angles = t[:, :, None] * (math.pi * _HIGHEST**exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=2).flatten(1)


def _embedded(times: int) -> int:
    """How many numbers the embedding of times has."""
    return 2 * _FREQUENCIES * times


@final
class MLPVelocity(Velocity):
    """Linear layers with activations between them, on the pixels beside the embedded times, plus a skip connection.

    That adds each pixel times a factor of its own, linear in the embedded times: noise of more numbers than a hidden
    layer has can't pass through it, and would be left in the samples.

    Source: of the skip connection: Karras et al. 2022, https://arxiv.org/abs/2206.00364, eq. 7, where the factor is
    computed, and the same for all pixels.

    Args:
        image_shape: channels, height, width.
        times: how many times it reads.
        hidden: sizes of the hidden layers, first to last.
        activation: what stands between them; a smooth one, because `MeanFlow` differentiates by time.

    Raises:
        UserError: a size is not positive.
    """

    def __init__(
        self,
        image_shape: Shape,
        times: int,
        hidden: tuple[int, ...] = (512, 512),
        activation: Activation = "silu",
    ) -> None:
        super().__init__(image_shape, times)
        require_positive_sizes(self, "hidden", hidden)
        pixels = math.prod(image_shape)
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise((pixels + _embedded(times), *hidden, pixels)):
            layers += [nn.Linear(size_in, size_out), activation_layer(activation)]
        self.layers = nn.Sequential(*layers[:-1])
        self.skip = nn.Linear(_embedded(times), pixels)
        for parameter in self.skip.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W), (B, times) -> (B, C, H, W)."""
        pixels, time = x.flatten(1), time_embedding(t)
        found = self.layers(torch.cat([pixels, time], 1)) + self.skip(time) * pixels
        return found.unflatten(1, self.image_shape)  # type: ignore[no-any-return]


class _TimedBlock(nn.Module):
    """A residual block that times shift and scale: (B, in, h, w), (B, T) -> (B, out, h, w)."""

    def __init__(self, maps_in: int, maps_out: int, time_size: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(maps_in), nn.SiLU(), nn.Conv2d(maps_in, maps_out, 3, padding=1))
        self.norm, self.of_time = _norm(maps_out), nn.Linear(time_size, 2 * maps_out)
        self.last = nn.Conv2d(maps_out, maps_out, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)
        self.short = nn.Conv2d(maps_in, maps_out, 1) if maps_in != maps_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.of_time(time)[:, :, None, None].chunk(2, 1)
        hidden = self.norm(self.first(x)) * (1 + scale) + shift
        return self.short(x) + self.last(F.silu(hidden))  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.GroupNorm:
    """Normalization in as many groups of about 16 channels as divide them: the same for any batch."""
    return nn.GroupNorm(math.gcd(channels, max(channels // 16, 1)), channels)


@final
class UNet(Velocity):
    """A small U-Net with residual blocks that read the times; images of any size.

    Patches of pixels become channels first, so that nothing is computed at full resolution, which a processor could
    not afford. By default it has 0.4 million parameters for images of 32×32×3.

    Source: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; with time: Ho et al. 2020,
    https://arxiv.org/abs/2006.11239, appendix B, without attention.

    Args:
        image_shape: channels, height, width.
        times: how many times it reads.
        channels: feature maps of each resolution, first to last; each is half the one before it.
        patch: pixels, in height and in width, that become channels.
        time_size: how many numbers the blocks read of the times.

    Raises:
        UserError: a size is not positive, or there is no resolution, or the lowest is too low for the images.
    """

    def __init__(
        self,
        image_shape: Shape,
        times: int,
        channels: tuple[int, ...] = (32, 64),
        patch: int = 2,
        time_size: int = 64,
    ) -> None:
        super().__init__(image_shape, times)
        if not channels:
            raise UserError("UNet needs at least one resolution: `channels` is empty.", 2)
        require_positive_sizes(self, "channels", channels)
        require_positive_sizes(self, "patch", (patch,))
        require_positive_sizes(self, "time_size", (time_size,))
        pixel = patch * 2 ** (len(channels) - 1)
        if pixel >= 2 * max(image_shape[1:]):
            raise UserError(
                f"UNet: channels {list(channels)} and patch {patch} make the lowest resolution one pixel for "
                f"{pixel}×{pixel}, but images have {image_shape[1]}×{image_shape[2]}: use fewer resolutions, a smaller "
                "patch, or MLPVelocity.",
                2,
            )
        self.padding = (0, -image_shape[2] % pixel, 0, -image_shape[1] % pixel)
        self.time = nn.Sequential(nn.Linear(_embedded(times), time_size), nn.SiLU())
        maps = image_shape[0] * patch**2
        self.stem = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(maps, channels[0], 3, padding=1))
        self.down = nn.ModuleList(_TimedBlock(size, size, time_size) for size in channels)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(channels))
        self.middle = _TimedBlock(channels[-1], channels[-1], time_size)
        self.up = nn.ModuleList(_TimedBlock(2 * size, size, time_size) for size in channels[::-1])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairwise(channels[::-1]))
        last = nn.Conv2d(channels[0], maps, 3, padding=1)
        self.end = nn.Sequential(_norm(channels[0]), nn.SiLU(), last, nn.PixelShuffle(patch))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W), (B, times) -> (B, C, H, W)."""
        time = self.time(time_embedding(t))
        h, kept = self.stem(F.pad(x, self.padding)), []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else self.shrink[level - 1](h), time)
            kept.append(h)
        h = self.middle(h, time)
        for level, block in enumerate(self.up):
            h = block(torch.cat([h if level == 0 else self.grow[level - 1](h), kept.pop()], 1), time)
        return self.end(h)[:, :, : self.image_shape[1], : self.image_shape[2]]  # type: ignore[no-any-return]
