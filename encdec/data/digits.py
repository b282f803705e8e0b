"""The digits that scikit-learn ships."""

from typing import final

import torch

from encdec.data.base import DataModule
from encdec.data.images import Images, InMemoryImages, random_split


@final
class Digits(DataModule):
    """1,797 grey handwritten digits of 8×8 pixels, embedded in scikit-learn: nothing is downloaded.

    A fifth, the same in every run, is the test split. The 17 grey levels 0…16 become 0…255.

    Source: Alpaydin & Kaynak 1998, https://doi.org/10.24432/C50P49.
    """

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        from sklearn.datasets import load_digits  # slow to import, and no other data set needs it

        digits = load_digits()
        pixels = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(digits.target).long()
        return random_split(InMemoryImages(pixels, labels, tuple("0123456789")), fraction=0.2, seed=0)
