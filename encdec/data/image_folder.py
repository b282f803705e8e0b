"""The user's own pictures."""

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, final

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encdec.data.base import DataModule, Images, InMemoryImages, random_split
from encdec.types import Shape, UserError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@final
class ImageFolder(DataModule):
    """A folder of pictures, cut to squares of one size.

    `path/CLASS/….png` gives labels from the folders' names, `path/….png` no labels. If `path` has the folders
    `train` and `test`, these are the splits; otherwise a random tenth is the test split. Each picture is turned
    as its camera says, scaled so that its shorter side fits, and cropped around its centre.

    Pictures are decoded once and held in memory as uint8, unless they take more than `max_memory_gb`.

    Args:
        path: the folder.
        size: height and width of the images, in pixels.
        mode: `grey` (one channel) or `colour` (three).
        labels: `folders` makes each folder a class, where there are folders; `none` ignores them.
        max_memory_gb: folders that take more than this as uint8 pixels stay on the disk and are read by workers.
        num_workers: processes that read pictures, where they stay on the disk.
    """

    def __init__(
        self,
        path: str,
        size: int = 32,
        mode: Literal["grey", "colour"] = "colour",
        labels: Literal["folders", "none"] = "folders",
        max_memory_gb: float = 4.0,
        num_workers: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if size < 1:
            raise UserError(f"ImageFolder: size is {size}, but pictures need at least 1 pixel.", 2)
        if num_workers < 0:
            raise UserError(f"ImageFolder: num_workers is {num_workers}, but it can't be negative.", 2)
        self.path, self.size, self.mode, self.labels = path, size, mode, labels
        self.max_memory_gb, self.num_workers = max_memory_gb, num_workers

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        root = Path(self.path)
        if not root.is_dir():
            raise UserError(f"ImageFolder: {self.path!r} is not a folder: set data.path to a folder of pictures.")
        if (root / "train").is_dir() and (root / "test").is_dir():
            train, test = self._scan(root / "train"), self._scan(root / "test")
            if train.classes != test.classes:
                raise UserError(
                    f"ImageFolder: {root / 'train'} has the classes {list(train.classes)}, but {root / 'test'} has "
                    f"{list(test.classes)}: give both the same folders."
                )
            return self._place(train), self._place(test)
        return random_split(self._place(self._scan(root)), fraction=0.1, seed=self.split_seed)

    def _scan(self, root: Path) -> "_ImagesOnDisk":
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        by_folder = [_pictures(folder) for folder in folders]
        if any(by_folder) and self.labels == "folders":
            classes = tuple(folder.name for folder in folders)
        else:
            by_folder, classes = [_pictures(root)], ("image",)
        paths = [path for pictures in by_folder for path in pictures]
        if not paths:
            raise UserError(
                f"ImageFolder: {root} has no pictures: put files ending in {', '.join(sorted(ENDINGS))} there, "
                "or one folder of them for each class."
            )
        labels = torch.tensor([label for label, pictures in enumerate(by_folder) for _ in pictures])
        shape: Shape = (1 if self.mode == "grey" else 3, self.size, self.size)
        return _ImagesOnDisk(_Readers(paths, shape, self.num_workers), torch.arange(len(paths)), labels, classes)

    def _place(self, images: "_ImagesOnDisk") -> Images:
        channels, height, width = images.image_shape
        if len(images.labels) * channels * height * width > self.max_memory_gb * 2**30:
            return images
        return images.read_all()


def _pictures(folder: Path) -> list[Path]:
    """The pictures below a folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())


def read_picture(path: Path, image_shape: Shape) -> Tensor:
    """A picture file as uint8 pixels of `image_shape`, (C, H, W).

    Raises:
        UserError: the file can't be decoded.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(path) as file:
            # in place, and no convert() to the same mode: both would copy the picture in its full size
            ImageOps.exif_transpose(file, in_place=True)
            picture = file if file.mode == mode else file.convert(mode)
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise many kinds, SyntaxError and struct.error among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be decoded as a picture ({reason}): replace or delete it.") from error
    return torch.from_numpy(np.array(picture)).reshape(height, width, channels).permute(2, 0, 1)


@final
@dataclass(frozen=True)
class _ImagesOnDisk(Images):
    """Pictures that are decoded when a batch asks for them. See `Images`.

    Attributes:
        readers: of the pictures; shared by the splits that were made of them.
        rows: which of these the N images of this split are, int64, (N,).
        labels: see `Images`.
        classes: see `Images`.
    """

    readers: "_Readers"
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> Shape:
        return self.readers.image_shape

    def subset(self, indices: Tensor) -> Self:
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        return self.readers.stream([self.rows[batch].tolist() for batch in batches])

    def read_all(self) -> InMemoryImages:
        pixels = torch.empty((len(self.rows), *self.image_shape), dtype=torch.uint8)
        for position, row in enumerate(track(self.rows.tolist(), "Reading pictures", transient=True)):
            pixels[position] = read_picture(self.readers.paths[row], self.image_shape)
        return InMemoryImages(pixels, self.labels, self.classes)


class _Readers:
    """Processes that decode pictures, kept from one pass to the next, because starting them takes a while.

    Args:
        paths: the pictures.
        image_shape: what they are made to fit.
        num_workers: processes of one pass; 0 decodes in this one.
    """

    def __init__(self, paths: list[Path], image_shape: Shape, num_workers: int) -> None:
        self.paths, self.image_shape, self._num_workers = paths, image_shape, num_workers
        self._idle: list[DataLoader[Tensor | UserError]] = []
        # not left to the garbage collector, which may take their queues first and then wait for them in vain
        weakref.finalize(self, self._idle.clear)

    def stream(self, batches: list[list[int]]) -> Iterator[Tensor]:
        """The pixels of the pictures at some positions, uint8, (B, C, H, W) for each batch of them.

        Raises:
            UserError: a picture can't be decoded.
        """
        left = len(batches)
        if left == 0:
            return
        loader = self._idle.pop() if self._idle else self._start()  # of its own for a pass within a pass
        assert isinstance(loader.batch_sampler, list)
        loader.batch_sampler[:] = batches
        try:
            for pixels in loader:
                left -= 1
                if left == 0:  # now, because who has taken the last batch may not ask for another
                    self._idle.append(loader)
                if isinstance(pixels, UserError):
                    raise pixels
                yield pixels
                if left == 0:
                    return
        except (GeneratorExit, UserError):
            if left > 0:  # cut short; what is on its way is dropped when the next pass begins
                self._idle.append(loader)
            raise

    def _start(self) -> DataLoader[Tensor | UserError]:
        return DataLoader(
            _Pictures(self.paths, self.image_shape),
            batch_sampler=[],
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # which nothing is drawn from; torch's own would be
        )


@dataclass
class _Pictures(Dataset[Tensor | UserError]):
    """Batches of decoded pictures. An error is returned, because raising in a worker buries its sentence."""

    paths: list[Path]
    image_shape: Shape

    def __getitems__(self, positions: list[int]) -> Tensor | UserError:
        try:
            return torch.stack([read_picture(self.paths[position], self.image_shape) for position in positions])
        except UserError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch
