"""A data module as an author might write it, for the tests of data."""

from typing import Any

import torch

from encdec.data import DataModule, Images, InMemoryImages
from encdec.types import Shape


def in_memory(count: int = 20, shape: Shape = (1, 4, 5), **fields: Any) -> InMemoryImages:
    pixels = torch.zeros(count, *shape, dtype=torch.uint8)
    return InMemoryImages(**{"pixels": pixels, "labels": torch.arange(count) % 2, "classes": ("a", "b"), **fields})


class Mine(DataModule):
    """A data module as an author might write it, with whatever it is given; by default nothing is wrong with it."""

    def __init__(self, loaded: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loaded = loaded or (in_memory(), in_memory())

    def load(self) -> tuple[Images, Images]:
        return self.loaded() if callable(self.loaded) else self.loaded


LABELS = torch.arange(20) % 2
