"""What every data set must be: its splits are looked at once, when they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from encdec.types import UserError

if TYPE_CHECKING:
    from encdec.data.images import Images


def check_splits(name: str, train: Images, *others: Images) -> None:
    """Refuse splits that can't be trained on and measured alike.

    Args:
        name: of the data set.
        train: the training images; if there are no validation images, they include them.
        others: the validation images, if there are any, and the test images.

    Raises:
        UserError: labels or a shape are none, splits differ, or there are too few images.
    """
    named = {"training": train, **dict(zip(("test", "validation"), reversed(others), strict=False))}
    for split, images in named.items():
        _check(images, f"{name}: the {split} images")
    for split, images in named.items():
        if train.image_shape != images.image_shape:
            raise UserError(
                f"{name}: the training images have the shape {train.image_shape} (channels, height, width), but the "
                f"{split} images {images.image_shape}: give both the same."
            )
        if train.classes != images.classes:
            raise UserError(
                f"{name}: the training images have the classes {list(train.classes)}, but the {split} images "
                f"{list(images.classes)}: give both the same."
            )
    if "validation" not in named and len(train.labels) < 2:
        raise UserError(
            f"{name}: the number of training images is {len(train.labels)}, but at least 2 are needed: one of them "
            "is held out for validation."
        )
    for split, images in named.items():
        if len(images.labels) == 0:
            raise UserError(f"{name}: the {split} split is empty; it needs at least one image.")


def _check(images: Images, what: str) -> None:
    """Refuse labels and shapes that are none; `what` names the images."""
    if not isinstance(images.classes, list | tuple) or not all(isinstance(name, str) for name in images.classes):
        raise UserError(f"{what} have the classes {images.classes!r}, but these must be a tuple of names.")
    shape, labels, classes = images.image_shape, images.labels, len(images.classes)
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"{what} have the shape {shape}, but it must be channels, height, width, each at least 1.")
    if not isinstance(labels, torch.Tensor):
        raise UserError(f"{what} have labels of type {type(labels).__name__}, but they must be a tensor, int64 (N,).")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise UserError(
            f"{what} have labels of type {labels.dtype} and shape {tuple(labels.shape)}, but they must be int64 of "
            "shape (N,)."
        )
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        index = int(outside.nonzero()[0])
        raise UserError(
            f"{what} have the label {int(labels[index])} at index {index}, but there are {classes} classes, so labels "
            f"must lie in 0…{classes - 1}."
        )
