"""Grids of images, as TensorBoard and PNG files show them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import make_grid

_GREY = 0.5  # separates images, whatever their background


def grid(images: Tensor, columns: int) -> Tensor:
    """Images side by side, row by row: (N, C, H, W) in [0, 1] -> (C, H', W')."""
    picture: Tensor = make_grid(images.detach().float().cpu().clamp(0, 1), nrow=columns, padding=1, pad_value=_GREY)
    return picture


def comparison(rows: Sequence[Tensor], columns: int) -> Tensor:
    """Inputs above what was made of them: each (N, C, H, W) -> (C, H', W'), one group of rows per `columns` images."""
    groups = [torch.cat([row[i : i + columns] for row in rows]) for i in range(0, len(rows[0]), columns)]
    return grid(torch.cat(groups), columns)


def sample_labels(num_classes: int) -> tuple[Tensor, int]:
    """Labels of a grid of samples, and its columns: one class in each column where there are few of them."""
    columns = num_classes if 4 <= num_classes <= 16 else 8
    return torch.arange(8 * columns) % columns % num_classes, columns


def enlarge(picture: Tensor, smallest: int = 256) -> Tensor:
    """A picture scaled up by a whole factor until it is `smallest` pixels high: (C, H, W) -> (C, kH, kW)."""
    factor = max(1, -(-smallest // picture.shape[1]))
    return picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
