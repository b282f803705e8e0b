"""Batches, their sizes and how processes share them."""

import lightning.pytorch as pl
import pytest
import torch

from encdec.data import InMemoryImages
from encdec.data.loader import Loader
from encdec.types import Shape, UserError

from .helpers import Mine, in_memory


def test_too_many_processes_are_refused() -> None:
    images = InMemoryImages(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match="3 images can't be shared by 4 processes"):
        Loader(images, 2, 0, 4)


def test_evaluation_shards_are_the_split_without_padding() -> None:
    images = InMemoryImages(torch.zeros(11, 1, 4, 4, dtype=torch.uint8), torch.zeros(11, dtype=torch.int64))
    shards = [[batch.index for batch in Loader(images, 2, rank, 3)] for rank in range(3)]
    assert torch.cat([index for shard in shards for index in shard]).sort().values.tolist() == list(range(11))
    assert [len(Loader(images, 2, rank, 3)) for rank in range(3)] == [len(shard) for shard in shards]


def test_a_loader_delivers_where_the_model_is() -> None:
    """`meta` stands for a device that this machine may not have: it has shapes and types, and no numbers."""
    pixels = torch.zeros(7, 1, 4, 4, dtype=torch.uint8)
    images = InMemoryImages(pixels, torch.zeros(7, dtype=torch.int64))
    batches = list(Loader(images, 4, 0, 1, device=torch.device("meta")))
    assert [tuple(batch.x.shape) for batch in batches] == [(4, 1, 4, 4), (3, 1, 4, 4)]
    assert all(tensor.device.type == "meta" for batch in batches for tensor in batch[:3])
    assert all(batch.x.dtype == torch.float32 for batch in batches)


@pytest.mark.parametrize(("shape", "expected"), [((1, 8, 8), 80), ((1, 200, 300), 17), ((3, 600, 600), 10)])
def test_a_trainer_evaluates_small_images_in_larger_batches(shape: Shape, expected: int) -> None:
    """Up to eight times batch_size, and up to a million pixels where that is more than batch_size."""
    data = Mine((in_memory(20, shape), in_memory(90, shape)), batch_size=10)
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert len(next(iter(data.test_dataloader())).x) == expected
    assert len(next(iter(data.train_dataloader())).x) == 10


def test_a_batch_says_in_which_split_its_indices_count() -> None:
    data = Mine(batch_size=7)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    assert {name: {batch.split for batch in loader} for name, loader in loaders.items()} == {
        name: {name} for name in loaders
    }
    assert {batch.split for batch in data.predict_dataloader()} == {"test"}
