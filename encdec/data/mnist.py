"""MNIST."""

from pathlib import Path
from typing import Any, ClassVar, final

from torchvision import datasets

from encdec.data.base import DataModule
from encdec.data.download import fetch
from encdec.data.idx import is_complete, read_dataset
from encdec.data.images import Images
from encdec.files import expanded


@final
class MNIST(DataModule):
    """60,000 + 10,000 grey handwritten digits of 28×28 pixels, downloaded when missing.

    Source: LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/.

    Args:
        data_dir: folder of data sets; the files are in `MNIST/raw` below it.
    """

    places: ClassVar[frozenset[str]] = frozenset({"data_dir"})

    def __init__(self, data_dir: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_dir = expanded(data_dir)

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        folder = Path(self.data_dir, "MNIST", "raw")
        if not is_complete(folder):
            fetch(datasets.MNIST, self.data_dir)
        return read_dataset(folder, tuple("0123456789"))
