"""Fashion-MNIST."""

from pathlib import Path
from typing import Any, ClassVar, final

from torchvision import datasets

from encdec.data.base import DataModule
from encdec.data.download import fetch
from encdec.data.idx import is_complete, read_dataset
from encdec.data.images import Images
from encdec.files import expanded

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four files."""


@final
class FashionMNIST(DataModule):
    """60,000 + 10,000 grey images of clothes of 28×28 pixels.

    Taken from `data_dir` if they are there, else from Debian's package dataset-fashion-mnist if it is installed,
    else downloaded.

    Source: Xiao et al. 2017, https://arxiv.org/abs/1708.07747.

    Args:
        data_dir: folder of data sets; the files are in `FashionMNIST/raw` below it.
    """

    places: ClassVar[frozenset[str]] = frozenset({"data_dir"})

    def __init__(self, data_dir: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_dir = expanded(data_dir)

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        folder, classes = Path(self.data_dir, "FashionMNIST", "raw"), tuple(datasets.FashionMNIST.classes)
        if not folder.exists() and DEBIAN_DIR.exists():
            return read_dataset(DEBIAN_DIR, classes, ending=".gz")
        if not is_complete(folder):
            fetch(datasets.FashionMNIST, self.data_dir)
        return read_dataset(folder, classes)
