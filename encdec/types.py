"""What flows between the parts: image shapes, batches, what outputs are conditioned on, and errors meant for users."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor  # seconds to import, and `compare` and `--help` do without

Shape = tuple[int, int, int]
"""Channels, height, width of one image."""


class Batch(NamedTuple):
    """A batch of B images.

    Attributes:
        x: pixels in [0, 1], float, (B, C, H, W).
        y: labels, int64, (B,); zeros where a data set has none.
        index: position of each image in its split, int64, (B,); the same in every run.
        split: `train`, `val` or `test`, the split that `index` counts in; empty where the images are of none.
    """

    x: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, for which a batch has no use
    split: str = ""

    def rows(self, which: slice | Tensor) -> Batch:
        """The images of some rows."""
        return Batch(self.x[which], self.y[which], self.index[which], self.split)


class Drawing(NamedTuple):
    """How training images are drawn, where not each as it is and as often as any other.

    Attributes:
        class_balanced: as often of each class.
        horizontal_flips: mirrored as often as not.
    """

    class_balanced: bool = False
    horizontal_flips: bool = False


def scaled(pixels: Tensor) -> Tensor:
    """Pixels from 0 to 1: uint8, (B, …) -> float32, (B, …), the nearest to k/255."""
    return pixels.float().div_(255)


class Losses(NamedTuple):
    """What an objective gives for a batch of B images.

    Attributes:
        loss: what is minimised, (B,), one value for each image, whose mean is taken; or () where it is of the set.
        terms: other values by name, (B,) or (), which are logged under their names; a term named `mse` or `bce` is that
            of the output and is not computed again.
        logits: an output for each image, (B, C, H, W), that is compared with the images: it is measured as `mse` and
            `bce`, and drawn; None where no output is made for an image.
        others: further such outputs by name: `zeros` is measured as `mse_zeros` and `bce_zeros`.
    """

    loss: Tensor
    terms: Mapping[str, Tensor] = {}
    logits: Tensor | None = None
    others: Mapping[str, Tensor] = {}

    def outputs(self) -> dict[str, Tensor]:
        """All outputs by their suffix: "" or "_NAME"."""
        first = {} if self.logits is None else {"": self.logits}
        return first | {f"_{name}": logits for name, logits in self.others.items()}


class Conditioning(StrEnum):
    """What an output depends on of the image that it is compared with; it decides which floor its loss has."""

    NONE = "none"
    LABEL = "label"
    IMAGE = "image"


class UserError(Exception):
    """Bad input from a user: one sentence that names the thing, what was expected and what to do.

    The command line prints it without a traceback and exits with `exit_code`: 2 for a wrong call,
    1 for a fault found at run time.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def checked_losses(
    owner: object, found: object, player: str = "model", x: Tensor | None = None, trains: bool = False
) -> Losses:
    """What an objective gives, if it is `Losses`.

    Args:
        owner: the paradigm.
        found: what its objective gave.
        player: whose objective it is.
        x: the images that it was given, (B, C, H, W); None if only types are checked.
        trains: whether the loss must have a gradient.

    Raises:
        UserError: it is something else, as the dictionary that encdec 0.1 took, or holds something else, of another
            shape or without a gradient.
    """
    name = f"{type(owner).__name__}.losses" if player == "model" else f"{type(owner).__name__}: the player {player}"
    if not isinstance(found, Losses):
        raise UserError(
            f"{name} gives a {type(found).__name__}, but it must give Losses, as `Losses(loss, terms, logits)`: see "
            "plugins/README.md."
        )
    if "loss" in found.terms:
        raise UserError(f"{name} has a term 'loss' beside the loss, which is logged under that name: rename it.")
    for key, value in (("loss", found.loss), *found.terms.items()):
        if not hasattr(value, "detach"):
            raise UserError(f"{name} gives {key} as a {type(value).__name__}, but it must be a tensor, (B,) or ().")
        if x is not None and value.shape not in ((), x.shape[:1]):
            raise UserError(
                f"{name} gives {key} of shape {tuple(value.shape)} for {len(x)} images, but it must be ({len(x)},), a "
                "value for each image, or ()."
            )
    for suffix, output in found.outputs().items():
        if x is not None and output.shape != x.shape:
            raise UserError(
                f"{name} gives logits{suffix} of shape {tuple(output.shape)} for images of shape {tuple(x.shape)}, "
                "which must be alike: an output for each image."
            )
    if trains and not found.loss.requires_grad:
        raise UserError(
            f"{name} gives a loss without a gradient, so nothing can be trained: is it computed by torch, from the "
            "networks' outputs, and outside of torch.no_grad() and detach()?"
        )
    return found


def require_positive(owner: object, *names: str) -> None:
    """Check that attributes of `owner` are greater than zero.

    Raises:
        UserError: one is not; the sentence names it.
    """
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise UserError(f"{type(owner).__name__}: {name} is {value}, but it must be greater than zero.", 2)


def require_seed(owner: object, *names: str) -> None:
    """Check that attributes of `owner` are seeds, as the command line takes them.

    Raises:
        UserError: one is out of range; the sentence names it.
    """
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value < 2**32:
            raise UserError(
                f"{type(owner).__name__}: {name} is {value}, but a seed must lie between 0 and {2**32 - 1}.", 2
            )


def require_not_negative(owner: object, *names: str) -> None:
    """Check that attributes of `owner` are zero or greater.

    Raises:
        UserError: one is not; the sentence names it.
    """
    for name in names:
        value = getattr(owner, name)
        if not value >= 0:
            raise UserError(f"{type(owner).__name__}: {name} is {value}, but it can't be negative.", 2)
