"""The IDX format of MNIST and Fashion-MNIST, plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encdec.data.images import Images, InMemoryImages
from encdec.types import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_ADVICE = "delete it so that it is fetched again, or put an intact copy there"


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The unsigned bytes in an IDX file, as a uint8 tensor of `dimensions` dimensions.

    Source: the format's description at http://yann.lecun.com/exdb/mnist/.

    Raises:
        UserError: the file can't be read, is truncated, or is not of this format.
    """
    try:
        content = path.read_bytes()
        if content[:2] == _GZIP_MAGIC:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be read ({error}): {_ADVICE}.") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{path} is not an IDX file of {dimensions}-dimensional unsigned bytes: {_ADVICE}.")
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4)]
    if len(content) != header + math.prod(shape):
        raise UserError(
            f"{path} has {len(content) - header} bytes of data, but its header promises {math.prod(shape)}: {_ADVICE}."
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def read_dataset(folder: Path, classes: tuple[str, ...], ending: str = "") -> tuple[Images, Images]:
    """Training and test images of an MNIST-like data set, from its four files in `folder`.

    Raises:
        UserError: a file can't be read, or two that belong together do not fit.
    """
    image_files, labels = (
        [folder / f"{part}-{kind}-ubyte{ending}" for part in ("train", "t10k")]
        for kind in ("images-idx3", "labels-idx1")
    )
    train, test = (_read_split(*files, classes) for files in zip(image_files, labels, strict=True))
    if train.image_shape != test.image_shape:
        sizes = ["×".join(map(str, images.image_shape[1:])) for images in (train, test)]
        raise UserError(
            f"{image_files[0]} has images of {sizes[0]} pixels, but {image_files[1]} of {sizes[1]}: put files there "
            "that belong together."
        )
    return train, test


def is_complete(folder: Path) -> bool:
    """Whether the four files of an MNIST-like data set are in `folder`."""
    names = (f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    return all((folder / name).is_file() for name in names)


def _read_split(images: Path, labels: Path, classes: tuple[str, ...]) -> Images:
    pixels, targets = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(targets):
        raise UserError(
            f"{images} has {len(pixels)} images, but {labels} has {len(targets)} labels: put files there that "
            "belong together."
        )
    if pixels.numel() == 0:
        raise UserError(f"{images} has no pixels, its header says {tuple(pixels.shape)}: {_ADVICE}.")
    outside = targets >= len(classes)
    if outside.any():
        index = int(outside.nonzero()[0])
        raise UserError(
            f"{labels} has the label {int(targets[index])} at index {index}, but labels go from 0 to "
            f"{len(classes) - 1}: {_ADVICE}."
        )
    return InMemoryImages(pixels.unsqueeze(1), targets.long(), classes)
