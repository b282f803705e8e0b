"""What all checks train on, and how."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch

from encdec.cli import quiet
from encdec.data import DataModule, Images, InMemoryImages
from encdec.types import Shape


class Blobs(DataModule):
    """Small random images of three classes that differ in brightness."""

    def __init__(self, image_shape: Shape = (1, 8, 8), num_images: int = 48, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape, self.num_images = image_shape, num_images

    def load(self) -> tuple[Images, Images]:
        """Other images in each split."""
        train, test = (self._draw(seed) for seed in (1, 2))
        return train, test

    def _draw(self, seed: int) -> Images:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(self.num_images) % 3
        pixels = torch.randint(0, 100, (self.num_images, *self.shape), generator=generator)
        return InMemoryImages((pixels + 70 * labels.reshape(-1, 1, 1, 1)).to(torch.uint8), labels, ("a", "b", "c"))


def small_trainer(**kwargs: Any) -> pl.Trainer:
    """A trainer on the CPU that writes and shows nothing."""
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **kwargs,
    )


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Lightning's remarks about trainers without loggers and the like do not matter in a check."""
    quiet.install()
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            quiet.install()
            yield
    finally:
        logger.setLevel(level)
