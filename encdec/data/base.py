"""Splits, batches and their order: what every data module shares."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar, final

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from encdec.data import checks, summary
from encdec.objectives.noise import step_seed
from encdec.types import Batch, Shape, UserError, scaled

BLOCK = 1 << 20
"""How many numbers are converted to pixels at a time."""
_CPU = torch.device("cpu")


class Images(ABC):
    """The images of one split, wherever they are kept: write `image_shape`, `subset` and `read`, inherit the rest.

    Attributes:
        labels: int64, (N,); zeros where there are none.
        classes: name of each label.
        names: a number for each image, int64, (N,), that tells it from others before its pixels are read, such as one
            made of a file's name and size; None if there is no such thing.
    """

    labels: Tensor
    classes: tuple[str, ...]
    names: Tensor | None = None

    def __repr__(self) -> str:
        """Their number, shape and classes."""
        return summary.of_images(self)

    @property
    @abstractmethod
    def image_shape(self) -> Shape:
        """Channels, height, width."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """The images at `indices`, without a copy of the pixels."""

    @abstractmethod
    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pixels of each batch of indices (B,), uint8, (B, C, H, W)."""

    @final
    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """What `read` gives, which is checked to be pixels of that type and shape.

        Raises:
            UserError: it is not.
        """
        shape, parts = self.image_shape, iter(self.read(batches))
        for indices in batches:
            pixels = next(parts, None)
            if pixels is None or pixels.dtype != torch.uint8 or pixels.shape != (len(indices), *shape):
                found = "nothing" if pixels is None else f"{pixels.dtype} of shape {tuple(pixels.shape)}"
                raise UserError(
                    f"{type(self).__name__}.read gives {found} for a batch of {len(indices)} indices, but it must give "
                    f"uint8 pixels of shape {(len(indices), *shape)}."
                )
            yield pixels

    def resident(self, device: torch.device) -> Self:
        """These images, kept on a GPU if they fit there: a batch is then gathered without a transfer."""
        return self


SomeImages = TypeVar("SomeImages", bound=Images)


@final
@dataclass(frozen=True, repr=False)
class InMemoryImages(Images):
    """Images held as one uint8 tensor, from which a batch is one gather.

    Attributes:
        pixels: uint8, (M, C, H, W); shared by the splits that were made of it.
        labels: int64, (N,).
        classes: name of each label.
        rows: where the N images of this split are in `pixels`, int64, (N,); all M in order if None.
        names: see `Images`.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ("image",)
    rows: Tensor | None = None
    names: Tensor | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise UserError(
                f"InMemoryImages needs pixels as a uint8 tensor (N, C, H, W), not {self.pixels.dtype} of shape "
                f"{tuple(self.pixels.shape)}: use InMemoryImages.from_floats for pixels in [0, 1]."
            )
        count = len(self.pixels) if self.rows is None else len(self.rows)
        if len(self.labels) != count:
            raise UserError(f"InMemoryImages got {count} images but {len(self.labels)} labels: give one for each.")

    @classmethod
    def from_floats(
        cls,
        pixels: Tensor | np.ndarray[Any, Any],
        labels: Tensor,
        classes: tuple[str, ...] = ("image",),
        source: str = "the data set",
    ) -> Self:
        """Images from pixels in [0, 1], which are rounded to the nearest of the 256 levels 0, 1/255, …, 1.

        They are checked and converted a block at a time, so `pixels` may be larger than the memory, as `np.memmap`.

        Args:
            pixels: floating point, (N, C, H, W).
            labels: int64, (N,).
            classes: name of each label.
            source: where the pixels are from, for the errors; best the name of the file.

        Raises:
            UserError: a pixel is NaN, infinite or outside [0, 1], or the shape or the type is another.
        """
        floating = pixels.is_floating_point() if isinstance(pixels, Tensor) else pixels.dtype.kind == "f"
        if not floating or pixels.ndim != 4:
            raise UserError(
                f"InMemoryImages.from_floats needs pixels as floating-point numbers (N, C, H, W), but {source} has "
                f"{pixels.dtype} of shape {tuple(pixels.shape)}."
            )
        converted = torch.empty(tuple(pixels.shape), dtype=torch.uint8)
        size = max(1, BLOCK // max(1, converted[:1].numel()))
        for start in range(0, len(pixels), size):
            part: Any = pixels[start : start + size]
            # as float64, so that no type of the pixels changes how they are rounded
            block = part.detach().double() if isinstance(part, Tensor) else torch.from_numpy(part.astype(np.float64))
            outside = ~((block >= 0) & (block <= 1)).flatten(1)  # so NaN is outside
            if outside.any():
                index, pixel = outside.nonzero()[0].tolist()
                raise UserError(
                    f"InMemoryImages.from_floats: image {start + index} of {source} has the pixel value "
                    f"{block[index].flatten()[pixel].item():g}, but pixels must be finite and lie in [0, 1]: "
                    "scale or repair them first."
                )
            converted[start : start + size] = block.mul(255).round()
        return cls(converted, labels, classes)

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices`; the pixels are shared."""
        rows = indices if self.rows is None else self.rows[indices]
        names = None if self.names is None else self.names[indices]
        return replace(self, labels=self.labels[indices], rows=rows, names=names)

    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pixels of each batch of indices, uint8, (B, C, H, W)."""
        return _select(self.pixels, batches, self.rows)

    def resident(self, device: torch.device) -> Self:
        """These images, on the GPU if they take at most a quarter of what is free there."""
        if device.type != "cuda" or len(self.labels) * self.pixels[0].numel() > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        pixels = self.pixels if self.rows is None else self.pixels[self.rows]
        return replace(self, pixels=pixels.to(device), labels=self.labels.to(device), rows=None)


@dataclass
class Cursor:
    """Where training is in the data: the position of the *next* batch, so that a checkpoint can go on from it."""

    epoch: int = 0
    position: int = 0
    resumed: bool = False


@final
class Loader:
    """Batches of a split, in an order that depends on (seed, epoch) only.

    For training, the images of an epoch are permuted and cut into global batches of `batch_size` times the number
    of processes; each process takes its share of every global batch, of equal size (so at the end of an epoch up to
    `processes` − 1 images are left out). For evaluation each process takes every `processes`-th image, none twice.

    Args:
        images: the split.
        batch_size: images of a batch on this process.
        rank: which process this is.
        processes: how many there are.
        seed: of the order.
        cursor: for training, where to go on; None for evaluation, which goes once through the split in order.
        device: where batches are delivered; pixels travel as uint8 and are converted there.
        shuffle: for training, whether the images are permuted; if not, every epoch has them in their order.

    Raises:
        UserError: there are fewer images than processes.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        rank: int,
        processes: int,
        seed: int = 0,
        cursor: Cursor | None = None,
        device: torch.device = _CPU,
        shuffle: bool = True,
    ) -> None:
        if len(images.labels) < processes:
            raise UserError(
                f"A split of {len(images.labels)} images can't be shared by {processes} processes: "
                "use fewer processes or more images."
            )
        self.images, self.device = images.resident(device), device
        self.batch_size, self.rank, self.processes = batch_size, rank, processes
        self.seed, self.cursor, self.shuffle = seed, cursor, shuffle

    def __len__(self) -> int:
        n = len(self.images.labels)
        if self.cursor is None:
            n = len(range(self.rank, n, self.processes))
            return -(-n // self.batch_size)
        n -= n % self.processes
        return -(-n // (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[Batch]:
        if self.cursor is None:
            labels = self.images.labels
            indices = torch.arange(self.rank, len(labels), self.processes, device=labels.device)
            yield from self._load(indices.split(self.batch_size))
            return
        # a generator runs from its first next(), so asking for an iterator and not using it changes nothing
        cursor = self.cursor
        if cursor.position and not cursor.resumed:  # the last pass was cut short, for example by limit_train_batches
            cursor.epoch, cursor.position = cursor.epoch + 1, 0
        cursor.resumed = False
        batches = self._epoch(cursor.epoch)
        for batch in self._load(batches[cursor.position :]):
            cursor.position += 1
            if cursor.position == len(batches):
                cursor.epoch, cursor.position = cursor.epoch + 1, 0
            yield batch

    def _epoch(self, epoch: int) -> list[Tensor]:
        n = len(self.images.labels)
        generator = torch.Generator().manual_seed(step_seed(self.seed, epoch))
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        order = order[: n - n % self.processes].to(self.images.labels.device)
        return [batch[self.rank :: self.processes] for batch in order.split(self.batch_size * self.processes)]

    def _load(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        images, device = self.images, self.device
        for indices, pixels, y in zip(batches, images.stream(batches), _select(images.labels, batches), strict=True):
            x = scaled(pixels.to(device))
            yield Batch(x, y.to(device), indices.to(device))


class DataModule(pl.LightningDataModule, ABC):
    """A data set: write `load`, inherit splits, batches, their order and resuming.

    A run is the same with other values of the settings that are named in `places` and `resources`.

    Args:
        batch_size: images of a batch on each process; a trainer validates and tests with up to eight times as many.
        val_fraction: share of the training images that is held out for validation.
        split_seed: seed of that choice; it does not follow the run's seed, so that all runs share their splits.
        seed: seed of the order of training images; the command line takes it from `seed_everything`.

    Raises:
        UserError: a value is out of range.
    """

    places: ClassVar[frozenset[str]] = frozenset()
    """Settings that say where the images lie: the same images in another place are the same data."""
    resources: ClassVar[frozenset[str]] = frozenset()
    """Settings that change how fast images are read and what memory they take, and no result."""

    def __init__(self, batch_size: int = 128, val_fraction: float = 0.1, split_seed: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        if batch_size < 1:
            raise UserError(f"{type(self).__name__}: batch_size is {batch_size}, but it must be at least 1.", 2)
        if not 0 < val_fraction < 1:
            raise UserError(
                f"{type(self).__name__}: val_fraction is {val_fraction}, but it must lie between 0 and 1.", 2
            )
        self.batch_size, self.val_fraction, self.split_seed, self.seed = batch_size, val_fraction, split_seed, seed
        self._cursor = Cursor()
        self.starts_over = False  # with images that the checkpoint was not trained on

    def __repr__(self) -> str:
        """Name, settings and, once the data are loaded, what they are; nothing is loaded for it."""
        return summary.of_data(self)

    __str__ = __repr__

    @abstractmethod
    def load(self) -> tuple[Images, Images] | tuple[Images, Images, Images]:
        """The training images (validation included) and the test images; called once by each process.

        A data set with a validation split of its own returns it between them; `val_fraction` then has no effect.

        Raises:
            UserError: a file is missing, damaged or foreign; the sentence names it and says what to do.
        """

    @cached_property
    def splits(self) -> dict[str, Images]:
        """The images of `train`, `val` and `test`.

        Raises:
            UserError: `load` failed, or what it gave is not a data set; the sentence names this class, the split and,
                where it is one image, its index.
        """
        name = type(self).__name__
        try:
            loaded: Any = self.load()
        except UserError as error:
            if str(error).startswith(name):
                raise
            raise UserError(f"{name}: {error}", error.exit_code) from error
        if not (isinstance(loaded, tuple) and {isinstance(images, Images) for images in loaded} == {True}):
            loaded = ()
        if len(loaded) not in (2, 3):
            raise UserError(
                f"{name}: load must return the training and the test images, as a pair of Images, or these with the "
                "validation images between them."
            )
        checks.check_splits(name, *loaded)
        train, *val, test = loaded
        if not val:
            train, *val = random_split(train, self.val_fraction, self.split_seed)
        return {"train": train, "val": val[0], "test": test}

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width of every image."""
        return self.splits["train"].image_shape

    @property
    def num_classes(self) -> int:
        """Number of labels; 1 where there are none."""
        return len(self.splits["train"].classes)

    @property
    def num_train(self) -> int:
        """Number of training images, validation not included."""
        return len(self.splits["train"].labels)

    def train_dataloader(self) -> Loader:
        """Batches of the training split; with the trainer's `overfit_batches` the same ones in every epoch."""
        return self._loader("train", seed=self.seed, cursor=self._cursor, shuffle=not self._overfits)

    def val_dataloader(self) -> Loader:
        """Batches of the validation split."""
        return self._loader("val")

    def test_dataloader(self) -> Loader:
        """Batches of the test split."""
        return self._loader("test")

    def predict_dataloader(self) -> Loader:
        """Batches of the test split."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Where training is in the data, for the checkpoint."""
        epoch, position = self._cursor.epoch, self._cursor.position
        if self.trainer is not None and 0 < self.trainer.num_training_batches <= position:  # limit_train_batches
            epoch, position = epoch + 1, 0
        return {
            "epoch": epoch,
            "position": position,
            "global_batch": self._global_batch,
            "num_train": self.num_train,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it was saved with other images, or within an epoch that was cut into batches of another size.
        """
        if self.starts_over or (self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING):
            return
        images = state_dict.get("num_train", self.num_train)
        if images != self.num_train:
            raise UserError(
                f"{type(self).__name__} has {self.num_train} images to train on, but there were {images} when the "
                "checkpoint was saved: the data have changed, so begin a new run."
            )
        before = state_dict.get("global_batch", self._global_batch)
        if state_dict["position"] > 0 and before != self._global_batch:
            raise UserError(
                f"The checkpoint was saved within an epoch, with {before} images in each batch of all processes, but "
                f"now there are {self._global_batch}: go on with as many processes and the same data.batch_size."
            )
        self._cursor.epoch, self._cursor.position = state_dict["epoch"], state_dict["position"]
        self._cursor.resumed = True

    @property
    def _overfits(self) -> bool:
        return self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0

    @property
    def _evaluation_batch_size(self) -> int:
        if self._overfits:  # it counts the batches of both splits
            return self.batch_size
        # larger ones take less time for an image; a network that can be trained has memory for as few pixels as these
        most = BLOCK // math.prod(self.image_shape)
        return max(self.batch_size, min(8 * self.batch_size, most))

    @property
    def _global_batch(self) -> int:
        return self.batch_size * (1 if self.trainer is None else self.trainer.world_size)

    def _loader(self, split: str, **order: Any) -> Loader:
        if self.trainer is None:
            return Loader(self.splits[split], self.batch_size, 0, 1, **order)
        batch_size = self.batch_size if split == "train" else self._evaluation_batch_size
        rank, processes, device = self.trainer.global_rank, self.trainer.world_size, self.trainer.strategy.root_device
        return Loader(self.splits[split], batch_size, rank, processes, device=device, **order)


def _select(source: Tensor, batches: Sequence[Tensor], rows: Tensor | None = None) -> Iterator[Tensor]:
    """`source[batch]` of each batch, or `source[rows[batch]]`: several at once, because each selection costs time."""
    if not batches:
        return
    at_once = max(1, BLOCK // max(1, source[:1].numel() * len(batches[0])))
    for start in range(0, len(batches), at_once):
        group = batches[start : start + at_once]
        indices = torch.cat(list(group))
        selected = source.index_select(0, indices if rows is None else rows.index_select(0, indices))
        yield from selected.split([len(batch) for batch in group])


def fingerprint(images: Images) -> str:
    """SHA-256 of a split's pixels and labels, in hexadecimal: equal where the data are equal, wherever they lie."""
    digest = hashlib.sha256(repr((images.image_shape, images.classes)).encode())
    digest.update(images.labels.numpy().tobytes())
    for pixels in images.stream(torch.arange(len(images.labels)).split(256)):
        digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()


def random_split(images: SomeImages, fraction: float, seed: int) -> tuple[SomeImages, SomeImages]:
    """`images` without a random `fraction` of them, and that fraction; the same for the same seed."""
    n = len(images.labels)
    held_out = min(max(round(n * fraction), 1), n - 1) if n > 1 else 0
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return images.subset(order[held_out:].sort().values), images.subset(order[:held_out].sort().values)
