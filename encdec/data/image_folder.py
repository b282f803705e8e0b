"""The user's own pictures."""

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
        return _ImagesOnDisk(paths, labels, classes, shape, self.num_workers)

    def _place(self, images: "_ImagesOnDisk") -> Images:
        channels, height, width = images.image_shape
        if len(images.paths) * channels * height * width > self.max_memory_gb * 2**30:
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
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise many kinds, SyntaxError and struct.error among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be decoded as a picture ({reason}): replace or delete it.") from error
    return torch.from_numpy(np.array(picture)).reshape(height, width, channels).permute(2, 0, 1)


@final
@dataclass(frozen=True)
class _ImagesOnDisk(Images):
    """Pictures that are decoded when a batch asks for them. See `Images`."""

    paths: list[Path]
    labels: Tensor
    classes: tuple[str, ...]
    shape: Shape
    num_workers: int

    @property
    def image_shape(self) -> Shape:
        return self.shape

    def subset(self, indices: Tensor) -> Self:
        return replace(self, paths=[self.paths[i] for i in indices.tolist()], labels=self.labels[indices])

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        loader: DataLoader[Tensor | UserError] = DataLoader(
            _Decoded(self.paths, self.image_shape),
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self.num_workers,
            collate_fn=_collate,
        )
        for pixels in loader:
            if isinstance(pixels, UserError):
                raise pixels
            yield pixels

    def read_all(self) -> InMemoryImages:
        pixels = torch.empty((len(self.paths), *self.image_shape), dtype=torch.uint8)
        for row, path in enumerate(track(self.paths, "Reading pictures", transient=True)):
            pixels[row] = read_picture(path, self.image_shape)
        return InMemoryImages(pixels, self.labels, self.classes)


@dataclass
class _Decoded(Dataset[Tensor | UserError]):
    """Decoded pictures by position. An error is returned, because raising in a worker buries its sentence."""

    paths: list[Path]
    image_shape: Shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | UserError:
        try:
            return read_picture(self.paths[index], self.image_shape)
        except UserError as error:
            return error


def _collate(pictures: list[Tensor | UserError]) -> Tensor | UserError:
    tensors = [picture for picture in pictures if isinstance(picture, Tensor)]
    errors = [picture for picture in pictures if isinstance(picture, UserError)]
    return errors[0] if errors else torch.stack(tensors)
