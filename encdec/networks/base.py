"""What an encoder and a decoder are, and how a config makes them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Literal

from torch import Tensor, nn

from encdec.copyable import Copyable
from encdec.signatures import Named
from encdec.types import Shape, UserError

Activation = Literal["relu", "elu", "silu"]
"""What stands between the layers of a network, by name."""


def activation_layer(name: Activation) -> nn.Module:
    """A new layer; all but `relu` are smooth: their gradient changes with their input everywhere.

    Raises:
        UserError: there is none of this name.
    """
    known: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}
    if name not in known:
        raise UserError(f"activation is {name!r}, but it must be one of {', '.join(known)}.", 2)
    return known[name]()


def require_positive_sizes(owner: nn.Module, name: str, sizes: Sequence[int]) -> None:
    """Check the sizes of a network's layers.

    Raises:
        UserError: they are no list of integers, or one is not positive.
    """
    if not isinstance(sizes, Sequence):
        raise UserError(f"{type(owner).__name__}: {name} is {sizes!r}, but it must be a list of integers.", 2)
    expected = "" if all(isinstance(size, Integral) for size in sizes) else "an integer"
    if not expected and any(size < 1 for size in sizes):
        expected = "at least 1"
    if expected:
        raise UserError(f"{type(owner).__name__}: {name} is {list(sizes)}, but every size must be {expected}.", 2)


def halved_sizes(image_shape: Shape, channels: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width before the first of some stages and after each, which halves both and rounds up.

    Raises:
        UserError: there are more stages than the images can be halved.
    """
    _, height, width = image_shape
    sizes = [(height, width)]
    for _ in channels:
        if sizes[-1] == (1, 1):
            most = f"so use at most {len(sizes) - 1}" if len(sizes) > 1 else "and one pixel has no half"
            raise UserError(
                f"`channels` {list(channels)} has too many stages for images of {height}×{width} pixels: "
                f"each stage halves the size, {most}.",
                2,
            )
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def of_shape(owner: nn.Module, found: Tensor, expected: tuple[int, ...]) -> Tensor:
    """What a network returns, (B, …), whose shape after B must be the expected one.

    Raises:
        UserError: it is another one.
    """
    if tuple(found.shape[1:]) != tuple(expected):
        must = ", ".join(map(str, expected))
        raise UserError(f"{type(owner).__name__} returns {tuple(found.shape)}, but it must return (B, {must}).", 2)
    return found


class Encoder(Named, Copyable, ABC):
    """Maps images to numbers: (B, C, H, W) -> (B, out_features).

    A subclass takes `image_shape` and `out_features` first; whatever follows is set from the config.
    """

    def __init__(self, image_shape: Shape, out_features: int) -> None:
        super().__init__()
        self.image_shape, self.out_features = image_shape, out_features

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_features)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply `forward`, whose shape is checked."""
        return of_shape(self, super().__call__(x), (self.out_features,))


class Decoder(Named, Copyable, ABC):
    """Maps numbers to the logits of pixel means: (B, in_features) -> (B, C, H, W); no sigmoid at its end.

    A subclass takes `in_features` and `image_shape` first; whatever follows is set from the config.
    """

    def __init__(self, in_features: int, image_shape: Shape) -> None:
        super().__init__()
        self.in_features, self.image_shape = in_features, image_shape

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """(B, in_features) -> (B, C, H, W), logits."""

    def __call__(self, z: Tensor) -> Tensor:
        """Apply `forward`, whose shape is checked."""
        return of_shape(self, super().__call__(z), self.image_shape)


EncoderCallable = Callable[[Shape, int], Encoder]
DecoderCallable = Callable[[int, Shape], Decoder]
