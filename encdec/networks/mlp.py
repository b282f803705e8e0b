"""Fully connected encoder and decoder."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from encdec.networks.base import Activation, Decoder, Encoder, activation_layer, require_positive_sizes
from encdec.types import Shape


def _mlp(sizes: Sequence[int], activation: Activation = "relu") -> nn.Sequential:
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), activation_layer(activation)]
    return nn.Sequential(*layers[:-1])


@final
class MLPEncoder(Encoder):
    """Linear layers with ReLU between them: (B, C, H, W) -> (B, out_features).

    Args:
        image_shape: channels, height, width.
        out_features: size of the output.
        hidden: sizes of the hidden layers, first to last; none makes it linear.

    Raises:
        UserError: a size is not positive.
    """

    def __init__(self, image_shape: Shape, out_features: int, hidden: tuple[int, ...] = (512,)) -> None:
        super().__init__(image_shape, out_features)
        require_positive_sizes(self, "hidden", hidden)
        self.layers = _mlp([math.prod(image_shape), *hidden, out_features])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_features)."""
        return self.layers(x.flatten(1))  # type: ignore[no-any-return]


@final
class MLPDecoder(Decoder):
    """Linear layers with activations between them: (B, in_features) -> (B, C, H, W), logits.

    Args:
        in_features: size of the input.
        image_shape: channels, height, width.
        hidden: sizes of the hidden layers, first to last; none makes it linear.
        activation: what stands between them; objectives with gradients of gradients may want a smooth one.

    Raises:
        UserError: a size is not positive.
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Shape,
        hidden: tuple[int, ...] = (512,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(in_features, image_shape)
        require_positive_sizes(self, "hidden", hidden)
        self.layers = _mlp([in_features, *hidden, math.prod(image_shape)], activation)

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_features) -> (B, C, H, W)."""
        return self.layers(z).unflatten(1, self.image_shape)  # type: ignore[no-any-return]
