"""What every data module promises."""

import torch
from torch import Tensor

from encdec.data import DataModule
from encdec.data.loader import Loader
from encdec.data.order import Order


def check_datamodule(data: DataModule) -> None:
    """Check everything that a data module promises.

    Args:
        data: a data module whose files are there.
    """
    name = type(data).__name__
    shape, classes = data.image_shape, data.num_classes
    assert data.num_train == len(data.splits["train"].labels)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader), f"{name}: a loader's length is not the number of its batches"
        for x, y, index, _ in batches:
            assert len(x) <= data.batch_size, f"{name}: a batch is larger than batch_size"
            assert x.shape == (len(y), *shape), f"{name}: x has the shape {tuple(x.shape)}"
            assert x.is_floating_point(), f"{name}: x is {x.dtype}"
            assert 0 <= float(x.min()) <= float(x.max()) <= 1, f"{name}: pixels lie outside [0, 1]"
            assert y.dtype == torch.int64, f"{name}: labels are {y.dtype}"
            assert index.dtype == torch.int64, f"{name}: indices are {index.dtype}"
            assert 0 <= int(y.min()) <= int(y.max()) < classes, f"{name}: labels lie outside 0…{classes - 1}"
    _check_order(data)


def _check_order(data: DataModule) -> None:
    """Every image once in each epoch, in an order of the seed and the epoch; shards and resuming fit together."""
    name, train = type(data).__name__, data.splits["train"]

    def epochs(loader: Loader, count: int) -> list[Tensor]:
        return [torch.cat([batch.index for batch in loader]) for _ in range(count)]

    def loader(size: int, rank: int = 0, processes: int = 1) -> Loader:
        fresh = type(data._cursor)()
        return Loader(train, size, rank, processes, Order(data.seed), fresh)

    first, second = epochs(loader(7), 2)
    everything = torch.arange(len(train.labels))
    assert torch.equal(first.sort().values, everything), f"{name}: an epoch does not hold every image once"
    assert len(everything) < 5 or not torch.equal(first, second), f"{name}: two epochs have the same order"
    assert torch.equal(first, epochs(loader(5), 1)[0]), f"{name}: the order depends on the batch size"
    if len(everything) >= 4:
        both = [list(loader(3, rank, 2)) for rank in range(2)]
        one = list(loader(6))
        for a, b, whole in zip(*both, one, strict=False):
            together = torch.cat([a.index, b.index]).sort().values
            known = whole.index.sort().values
            assert set(together.tolist()) <= set(known.tolist()), f"{name}: 2 processes see other batches than 1"
            assert len(a.index) == len(b.index), f"{name}: shards of a batch differ in size"
    whole_epoch, half = list(loader(4)), loader(4)
    taken = [next(iterator) for iterator in [iter(half)] for _ in range(len(whole_epoch) // 2)]
    assert half.cursor is not None
    half.cursor.resumed = bool(taken)
    rest = list(half)
    for a, b in zip(whole_epoch, taken + rest, strict=True):
        assert torch.equal(a.index, b.index), f"{name}: a resumed epoch goes on with other images"
        assert torch.equal(a.x, b.x), f"{name}: the same index gives other pixels"
