"""Convolutional encoder and decoder, for any channel count and any image size, odd ones included.

Every stage of the encoder halves the height and the width, rounding up; the decoder goes the same way back.
"""

import math
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from encdec.networks.base import Activation, Decoder, Encoder, activation_layer, halved_sizes, require_positive_sizes
from encdec.types import Shape, UserError


def _sizes(image_shape: Shape, channels: tuple[int, ...]) -> list[tuple[int, int]]:
    """Height and width before the first stage and after each: [image, …, smallest]."""
    if not channels:
        raise UserError("A convolutional network needs at least one stage: `channels` is empty.", 2)
    return halved_sizes(image_shape, channels)


@final
class ConvEncoder(Encoder):
    """Stages of 3×3 convolutions with stride 2 and ReLU, then one linear layer.

    Args:
        image_shape: channels, height, width.
        out_features: size of the output.
        channels: feature maps of each stage, first to last.

    Raises:
        UserError: there are more stages than the images can be halved, or a size is not positive.
    """

    def __init__(self, image_shape: Shape, out_features: int, channels: tuple[int, ...] = (32, 64)) -> None:
        super().__init__(image_shape, out_features)
        require_positive_sizes(self, "channels", channels)
        smallest = _sizes(image_shape, channels)[-1]
        layers: list[nn.Module] = []
        for maps_in, maps_out in pairwise((image_shape[0], *channels)):
            layers += [nn.Conv2d(maps_in, maps_out, kernel_size=3, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(channels[-1] * math.prod(smallest), out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_features)."""
        return self.head(self.layers(x))  # type: ignore[no-any-return]


@final
class ConvDecoder(Decoder):
    """One linear layer, then stages of 3×3 transposed convolutions with stride 2, activations between them.

    Args:
        in_features: size of the input.
        image_shape: channels, height, width.
        channels: feature maps of each stage, first to last.
        activation: what stands between them; objectives with gradients of gradients may want a smooth one.

    Raises:
        UserError: there are more stages than the images can be halved, or a size is not positive.
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Shape,
        channels: tuple[int, ...] = (64, 32),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(in_features, image_shape)
        require_positive_sizes(self, "channels", channels)
        sizes = _sizes(image_shape, channels)[::-1]
        self.smallest = (channels[0], *sizes[0])
        self.head = nn.Linear(in_features, math.prod(self.smallest))
        layers: list[nn.Module] = []
        for (maps_in, maps_out), (size_in, size_out) in zip(
            pairwise((*channels, image_shape[0])), pairwise(sizes), strict=True
        ):
            # a stride-2 transposed convolution gives 2·size − 1 pixels; output_padding adds the even case's one
            padding = (size_out[0] - 2 * size_in[0] + 1, size_out[1] - 2 * size_in[1] + 1)
            layers += [
                activation_layer(activation),
                nn.ConvTranspose2d(maps_in, maps_out, 3, stride=2, padding=1, output_padding=padding),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_features) -> (B, C, H, W)."""
        return self.layers(self.head(z).unflatten(1, self.smallest))  # type: ignore[no-any-return]
