"""What every data module shares: splits, their loaders and resuming."""

import math
import os
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

import encdec
from encdec import signatures
from encdec.data import checks, summary
from encdec.data.images import BLOCK, Images, random_split
from encdec.data.loader import Cursor, Loader
from encdec.data.order import Order
from encdec.types import Drawing, Shape, UserError, require_seed

if TYPE_CHECKING:
    from PIL import Image


class DataModule(signatures.Named, pl.LightningDataModule, ABC):
    """A data set: write `load`, inherit splits, batches, their order and resuming.

    A run is the same with other values of the settings that are named in `places` and `resources`.

    Args:
        batch_size: images of a batch on each process; a trainer validates and tests with up to eight times as many.
        val_fraction: share of the training images that is held out for validation.
        split_seed: seed of that choice; it does not follow the run's seed, so that all runs share their splits.
        seed: seed of the order of training images; the command line takes it from `seed_everything`.
        drop_last: leave out the last batch of an epoch, where it is smaller than the others: other images each time.
        class_balanced: draw as many training images of each class, and as many in all as there are. In an epoch, each
            image of a small class then comes up several times, and some of a large class do not.
        horizontal_flips: mirror each training image, left to right, with a chance of one half, anew in each epoch.

    Raises:
        UserError: a setting is of another type than the signature says, or out of range.
    """

    places: ClassVar[frozenset[str]] = frozenset()
    """Settings that say where the images lie: the same images in another place are the same data."""
    resources: ClassVar[frozenset[str]] = frozenset()
    """Settings that change how fast images are read and what memory they take, and no result."""
    predicted: tuple[str, ...] = ()
    """Names of the images that are predicted, in their order, where `predict` is to list them."""

    def __init__(
        self,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        drop_last: bool = False,
        class_balanced: bool = False,
        horizontal_flips: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        if "_instantiator" not in self.hparams:  # otherwise the command line has checked them
            signatures.check(type(self), self.hparams)
        for setting, value in self.hparams.items():
            self.hparams[setting] = signatures.as_plain(value)
        if batch_size < 1:
            raise UserError(f"{self.called}: batch_size is {batch_size}, but it must be at least 1.", 2)
        if not 0 < val_fraction < 1:
            raise UserError(
                f"{self.called}: val_fraction is {val_fraction}, but it must be more than 0 and less than 1.", 2
            )
        self.batch_size, self.val_fraction, self.split_seed, self.seed = batch_size, val_fraction, split_seed, seed
        require_seed(self, "seed", "split_seed")
        self.drop_last, self.drawing = drop_last, Drawing(class_balanced, horizontal_flips)
        self._cursor = Cursor()
        self.has_fetched = False  # whether the last batch was not trained on yet, as far as a checkpoint is concerned
        self.batches_per_step = 1  # a training step of a paradigm sets how many it takes at a time
        self.starts_over = False  # with images that the checkpoint was not trained on

    def __repr__(self) -> str:
        """Name, settings and, once the data are loaded, what they are; nothing is loaded for it."""
        return summary.of_data(self)

    __str__ = __repr__

    def show(
        self,
        num_images: int = 32,
        split: Literal["train", "val", "test"] = "train",
        file: str | os.PathLike[str] | None = None,
    ) -> "Image.Image":
        """A grid of images, some of each class; see `encdec.show`, which also writes it to a `file`.

        Raises:
            UserError: there is no such split, or the images can't be loaded.
        """
        signatures.check_call(f"{self.called}.show", DataModule.show, split=split)
        return encdec.show(self.splits[split], num_images=num_images, file=file)

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
        name = self.called
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
    def called(self) -> str:
        """What the errors call it."""
        return type(self).__name__

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
        return self._loader("train", order=self._order, cursor=self._cursor, group=self.batches_per_step)

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
        if self.has_fetched:
            if position == 0:
                processes = 1 if self.trainer is None else self.trainer.world_size
                epoch, position = epoch - 1, self._order.batches(self.num_train, processes, self.batch_size)
            position -= 1
        single = self.batches_per_step == 1  # which it is with limit_train_batches
        if single and self.trainer is not None and 0 < self.trainer.num_training_batches <= position:
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
                f"{self.called} has {self.num_train} images to train on, but there were {images} when the "
                "checkpoint was saved: the data have changed, so begin a new run."
            )
        before = state_dict.get("global_batch", self._global_batch)
        if state_dict["position"] > 0 and before != self._global_batch:
            raise UserError(
                f"The checkpoint was saved within an epoch, with {before} images in each batch of all processes, but "
                f"now there are {self._global_batch}: go on with as many processes and the same data.batch_size."
            )
        if state_dict["position"] >= self._order.batches(
            images, self._global_batch // self.batch_size, self.batch_size
        ):
            raise UserError(
                "The checkpoint was saved before the last batch of an epoch, which data.drop_last now leaves out: "
                "leave drop_last as it was."
            )
        self._cursor.epoch, self._cursor.position = state_dict["epoch"], state_dict["position"]
        self._cursor.resumed = True

    @property
    def _order(self) -> Order:
        return Order(self.seed, not self._overfits, *self.drawing, self.drop_last)

    @property
    def _overfits(self) -> bool:
        return self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0

    @property
    def evaluation_batch_size(self) -> int:
        """Images of a batch on each process in validations and tests."""
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
            return Loader(self.splits[split], self.batch_size, 0, 1, split=split, **order)
        batch_size = self.batch_size if split == "train" else self.evaluation_batch_size
        rank, processes, device = self.trainer.global_rank, self.trainer.world_size, self.trainer.strategy.root_device
        return Loader(self.splits[split], batch_size, rank, processes, device=device, split=split, **order)
