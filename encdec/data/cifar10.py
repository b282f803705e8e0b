"""CIFAR10."""

from typing import Any, final

import torch
from torchvision import datasets

from encdec.data.base import DataModule, Images, InMemoryImages
from encdec.data.download import fetch


@final
class CIFAR10(DataModule):
    """50,000 + 10,000 colour photographs of 32×32 pixels in 10 classes, downloaded when missing.

    Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        data_dir: folder of data sets; the files are in `cifar-10-batches-py` below it.
    """

    def __init__(self, data_dir: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        train, test = (self._split(train) for train in (True, False))
        return train, test

    def _split(self, train: bool) -> Images:
        split = fetch(datasets.CIFAR10, self.data_dir, train=train)  # checks the files' MD5 before it unpickles
        pixels = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
        return InMemoryImages(pixels, torch.tensor(split.targets), tuple(split.classes))
