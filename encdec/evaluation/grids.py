"""Grids of images, as TensorBoard and PNG files show them: of any number of channels, in color."""

import io
import math
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from encdec.evaluation.context import random_order
from encdec.messages import say
from encdec.text import printable

_GREY = 0.5  # separates images, whatever their background
_WIDEST = 4096  # pixels to which a image is enlarged at most
_SPRITE = 1 << 23  # numbers of all thumbnails together
_THUMBNAIL = 32  # pixels to which a thumbnail is enlarged: the projector blurs what it enlarges itself


def as_rgb(images: Tensor) -> Tensor:
    """Images as they are shown, (N, C, H, W) -> (N, 3, H, W) in [0, 1]: one channel grey, else the first three.

    Of two channels the first is shown as red, the second as green. What is not a number is shown as black.
    """
    images = images.detach().float().cpu()[:, :3].nan_to_num(0.0).clamp(0, 1)
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    return F.pad(images, (0, 0, 0, 0, 0, 3 - images.shape[1]))


def grid(images: Tensor, columns: int) -> Tensor:
    """Images side by side, row by row: (N, C, H, W) in [0, 1] -> (3, H', W')."""
    image: Tensor = make_grid(as_rgb(images), nrow=columns, padding=1, pad_value=_GREY)
    return image


def comparison(rows: Sequence[Tensor], columns: int) -> Tensor:
    """Inputs above what was made of them: each (N, C, H, W) -> (3, H', W'), one group of rows per `columns` images."""
    columns = min(columns, len(rows[0]))
    padding = torch.full((-len(rows[0]) % columns, 3, *rows[0].shape[2:]), _GREY)  # so that each stays below its own
    rows = [torch.cat([as_rgb(row), padding]) for row in rows]
    groups = [torch.cat([row[i : i + columns] for row in rows]) for i in range(0, len(rows[0]), columns)]
    return grid(torch.cat(groups), columns)


def sample_labels(num_classes: int) -> tuple[Tensor, int]:
    """Labels of a grid of samples, and its columns: one class in each column where there are few of them."""
    columns = num_classes if 4 <= num_classes <= 16 else 8
    return torch.arange(8 * columns) % columns % num_classes, columns


def shown_images(labels: Tensor, most: int, order: Tensor | None = None) -> Tensor:
    """Positions of images to look at, (≤ most,), by class: the same in every run, equally many of each if possible.

    Args:
        labels: of the images, int64, (N,).
        most: how many at most.
        order: the positions to choose from, the first ones first; all of them in a random order if None.
    """
    order = random_order(len(labels)) if order is None else order
    labels = labels.cpu()[order]
    # the how-manieth of its class each one is, and so the first of all classes before the second of any
    rank = torch.zeros_like(labels)
    for label in labels.unique():
        of_label = labels == label
        rank[of_label] = torch.arange(int(of_label.sum()))
    first = rank.argsort(stable=True)[:most]
    return order[first[labels[first].argsort(stable=True)]]


def enlarge(image: Tensor, smallest: int = 256) -> Tensor:
    """An image scaled up by a whole factor until it is `smallest` pixels high, or 4,096 wide: (C, kH, kW)."""
    factor = max(1, min(-(-smallest // image.shape[1]), _WIDEST // image.shape[2]))
    return image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def thumbnails(images: Tensor) -> Tensor:
    """Images as squares with grey bars, (N, C, H, W) -> (N, 3, S, S): TensorBoard's projector takes no others.

    Small ones are enlarged by a whole factor, until S is 32 or more. Where their sides S would take more than 8 million
    numbers they are scaled down.
    """
    largest = math.isqrt(_SPRITE // (3 * max(len(images), 1)))
    factor = max(1, min(-(-_THUMBNAIL // max(images.shape[2:])), largest // max(images.shape[2:])))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    longest = max(images.shape[2:])
    side = max(min(longest, largest), 1)
    height, width = (max(1, size * side // longest) for size in images.shape[2:])
    if side < longest:
        images = F.adaptive_avg_pool2d(images[:, :3].float(), (height, width))
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(as_rgb(images), (left, side - width - left, top, side - height - top), value=_GREY)


def eight_bits(image: Tensor) -> Tensor:
    """Pixels in [0, 1] as whole numbers, 0 to 255, uint8: before an image is enlarged, it takes little memory."""
    return image.mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)


def as_picture(image: Tensor) -> Image.Image:
    """An image (3, H, W), in [0, 1] or of eight bits, as Pillow's, which notebooks show."""
    pixels = eight_bits(image) if image.is_floating_point() else image
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def as_png(image: Tensor) -> bytes:
    """An image (3, H, W), in [0, 1] or of eight bits, as the content of a PNG file."""
    content = io.BytesIO()
    as_picture(image).save(content, format="PNG")
    return content.getvalue()


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Within, what goes wrong costs the image of that name and a sentence on stderr, but nothing else."""
    try:
        yield
    except Exception as error:  # whatever a library, or a plugin's network, makes of unusual images
        say(f"{name} is not drawn ({type(error).__name__}: {printable(str(error), 200)}); all else goes on.")
        if os.environ.get("ENCDEC_DEBUG") == "1":
            traceback.print_exc()
