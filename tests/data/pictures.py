"""Pictures as files, for the tests of `ImageFolder`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from encdec.data import DataModule
from encdec.data.pictures.decoding import read_picture

RNG = np.random.default_rng(0)
IN_BOTH_WAYS = pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])


def read_all(data: DataModule) -> None:
    for split in data.splits.values():
        list(split.stream(torch.arange(len(split.labels)).split(3)))


def write(path: Path, values: Any, **options: Any) -> Path:
    """A picture, its mode and its format as Pillow takes them from the values and the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def grey(path: Path, size: int = 16) -> Any:
    return read_picture(path, (1, size, size))[0].numpy()
