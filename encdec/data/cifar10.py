"""CIFAR10."""

from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from encdec.data.base import DataModule
from encdec.data.download import fetch
from encdec.data.images import Images, InMemoryImages
from encdec.files import expanded
from encdec.types import UserError


@final
class CIFAR10(DataModule):
    """50,000 + 10,000 color photographs of 32×32 pixels in 10 classes, downloaded when missing.

    Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        data_dir: folder of data sets; the files are in `cifar-10-batches-py` below it.
    """

    places: ClassVar[frozenset[str]] = frozenset({"data_dir"})

    def __init__(self, data_dir: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_dir = expanded(data_dir)

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        train, test = (self._split(train) for train in (True, False))
        return train, test

    def _split(self, train: bool) -> Images:
        try:
            split = fetch(datasets.CIFAR10, self.data_dir, train=train)  # checks the files' MD5 before it unpickles
        except UserError as error:
            self._name_the_damaged(error)
            raise
        pixels = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
        return InMemoryImages(pixels, torch.tensor(split.targets), tuple(split.classes))

    def _name_the_damaged(self, error: UserError) -> None:
        """A better sentence than `error`, where a file is there that is not the published one."""
        folder, meta = Path(self.data_dir, datasets.CIFAR10.base_folder), datasets.CIFAR10.meta
        known = [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list, (meta["filename"], meta["md5"])]
        for path, md5 in ((folder / name, md5) for name, md5 in known):
            if path.is_file() and not check_integrity(path, md5):
                raise UserError(
                    f"CIFAR10: {path} is damaged (its MD5 is not the published one) and could not be downloaded again "
                    f"({error.__cause__}): delete {folder} so that all is downloaded, or put intact files there."
                ) from error
