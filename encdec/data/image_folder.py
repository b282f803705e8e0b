"""The user's own pictures."""

import os
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, final

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encdec.data.base import DataModule, Images, InMemoryImages, random_split
from encdec.data.identity import numbers_of_files
from encdec.types import Shape, UserError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_SPARE = 2
"""How many times as wide and high as the image a JPEG is at least decoded, if it is larger than that."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = ExifTags.Base.BitsPerSample, ExifTags.Base.PhotometricInterpretation, 0


@final
class ImageFolder(DataModule):
    """A folder of pictures, cut to squares of one size, or as they are.

    `path/CLASS/….png` gives labels from the folders' names, `path/….png` no labels. If `path` has the folders
    `train` and `test`, these are the splits, and nothing else in `path` is read; otherwise a random tenth is the test
    split. Names that begin with a dot are left out, and a picture of a class that links give several names counts once.

    Each picture is turned as its camera says, scaled so that its shorter side fits, and cropped around its centre.
    What is transparent is laid over white. Of a file with several frames or pages the first is taken. Grey levels of
    16 bits are scaled (65535 is white), floating-point ones must lie in [0, 1]; of 16-bit colours Pillow keeps the
    upper 8 bits. A JPEG of four times the size or more is decoded at a half, a quarter or an eighth of its own size,
    still at least twice the image's. That is faster, and changes photographs less than half as much as a bilinear
    filter in place of the bicubic one would (by 0.4 to 1 of 255 grey levels on average).

    Pictures are decoded once, when they are loaded, and held in memory as uint8, unless they take more than
    `max_memory_gb`. Then they are decoded when a batch asks for them, and one that can't be is found only there; when
    they are loaded, just their names are read, and their headers if `size` or `mode` is None. Errors name a picture and
    its position among all of its folder (`path`, or its `train` or `test`) in the order of their paths, from 0.

    Args:
        path: the folder.
        size: height and width of the images, in pixels; None leaves them as they are, which must be the same for all.
        mode: `grey` (one channel) or `colour` (three); None is what the pictures are, which must be the same for all
            (pictures with a palette are taken as colour).
        labels: `folders` makes each folder a class, where there are folders; `none` ignores them.
        max_memory_gb: folders that take more than this as uint8 pixels stay on the disk and are read by workers.
        num_workers: processes that read pictures, where they stay on the disk.
    """

    places: ClassVar[frozenset[str]] = frozenset({"path"})
    resources: ClassVar[frozenset[str]] = frozenset({"max_memory_gb", "num_workers"})

    def __init__(
        self,
        path: str,
        size: int | None = 32,
        mode: Literal["grey", "colour"] | None = "colour",
        labels: Literal["folders", "none"] = "folders",
        max_memory_gb: float = 4.0,
        num_workers: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if size is not None and size < 1:
            raise UserError(f"ImageFolder: size is {size}, but pictures need at least 1 pixel.", 2)
        if mode not in ("grey", "colour", None):
            raise UserError(f"ImageFolder: mode is {mode!r}, but it must be 'grey', 'colour' or None.", 2)
        if labels not in ("folders", "none"):
            raise UserError(f"ImageFolder: labels is {labels!r}, but it must be 'folders' or 'none'.", 2)
        if num_workers < 0:
            raise UserError(f"ImageFolder: num_workers is {num_workers}, but it can't be negative.", 2)
        self.path, self.size, self.mode, self.labels = path, size, mode, labels
        self.max_memory_gb, self.num_workers = max_memory_gb, num_workers

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        root = Path(self.path)
        if not os.path.isdir(root):
            raise UserError(f"ImageFolder: {self.path!r} is not a folder: set data.path to a folder of pictures.")
        folders, _ = _listing(root)
        if not {"train", "test"} <= {folder.name for folder in folders}:
            if self.labels == "folders":
                _refuse_half_a_split(folders)
            scanned = self._scan(root)
            self._refuse_empty_classes(root, scanned)
            return random_split(self._place(scanned, self._shape(scanned)), fraction=0.1, seed=self.split_seed)
        train, test = self._scan(root / "train"), self._scan(root / "test")
        if train.classes != test.classes:
            raise UserError(
                f"ImageFolder: {root / 'train'} has the classes {list(train.classes)}, but {root / 'test'} has "
                f"{list(test.classes)}: give both the same folders."
            )
        self._refuse_empty_classes(root / "train", train)
        shape = self._shape(train, test)
        return self._place(train, shape), self._place(test, shape)

    def _scan(self, root: Path) -> "_Scanned":
        folders, loose = _listing(root)
        by_folder = [_pictures(folder, above=frozenset([os.path.realpath(root)])) for folder in folders]
        if any(by_folder) and self.labels == "folders":
            classes = tuple(folder.name for folder in folders)
            if loose:
                raise UserError(
                    f"ImageFolder: {loose[0]} lies beside folders of pictures, so it has no class: move it into one of "
                    "them, or set data.labels to none."
                )
        else:
            by_folder, classes = [_pictures(root)], ("image",)
        paths = [path for pictures in by_folder for path in pictures]
        if not paths:
            raise UserError(
                f"ImageFolder: {root} has no pictures: put files ending in {', '.join(sorted(ENDINGS))} there, "
                "or one folder of them for each class."
            )
        labels = torch.tensor([label for label, pictures in enumerate(by_folder) for _ in pictures])
        return _Scanned(paths, labels, classes)

    def _refuse_empty_classes(self, root: Path, scanned: "_Scanned") -> None:
        for count, name in zip(scanned.labels.bincount(minlength=len(scanned.classes)), scanned.classes, strict=True):
            if count == 0:
                raise UserError(
                    f"ImageFolder: {root / name} has no pictures, so its class would be empty: delete it, put files "
                    f"ending in {', '.join(sorted(ENDINGS))} there, or set data.labels to none."
                )

    def _shape(self, *splits: "_Scanned") -> Shape:
        """What the images have; from the pictures' headers where the settings leave it to the pictures."""
        channels = None if self.mode is None else 1 if self.mode == "grey" else 3
        if channels is not None and self.size is not None:
            return channels, self.size, self.size
        pictures = [(path, index) for scanned in splits for index, path in enumerate(scanned.paths)]
        first = _header(*pictures[0])
        for path, index in track(pictures, "Looking at pictures", transient=True):
            header = _header(path, index)
            if self.size is None and (header.width, header.height) != (first.width, first.height):
                raise UserError(
                    f"ImageFolder: {path} (picture {index}) has {header.width}×{header.height} pixels, but "
                    f"{pictures[0][0]} has {first.width}×{first.height}: set data.size to a number N, which cuts all "
                    "to N×N pixels, or give all the same size."
                )
            if channels is None and header.channels != first.channels:
                raise UserError(
                    f"ImageFolder: {path} (picture {index}) is {header.kind}, but {pictures[0][0]} is {first.kind}: "
                    "set data.mode to grey or to colour."
                )
        height, width = (first.height, first.width) if self.size is None else (self.size, self.size)
        return first.channels if channels is None else channels, height, width

    def _place(self, scanned: "_Scanned", shape: Shape) -> Images:
        pictures = _Pictures(scanned.paths, shape, as_they_are=self.size is None)
        readers, rows = _Readers(pictures, self.num_workers), torch.arange(len(scanned.paths))
        names = numbers_of_files(scanned.paths, Path(self.path))
        images = _ImagesOnDisk(readers, rows, scanned.labels, scanned.classes, names)
        channels, height, width = shape
        if len(rows) * channels * height * width > self.max_memory_gb * 2**30:
            return images
        return images.read_all()


class _Scanned(NamedTuple):
    """The pictures of a folder, in the order of their paths, with their labels (N,) and the labels' names."""

    paths: list[Path]
    labels: Tensor
    classes: tuple[str, ...]


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the pictures in a folder, each in the order of their names, hidden ones left out.

    Raises:
        UserError: the folder can't be read, or what has a picture's name is not a file.
    """
    folders, pictures = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(path)
                elif path.suffix.lower() in ENDINGS:
                    if not entry.is_file():
                        what = "a link to a file that is missing" if entry.is_symlink() else "not a file"
                        raise UserError(f"ImageFolder: {path} is {what}: replace or delete it.")
                    pictures.append(path)
    except OSError as error:
        raise UserError(
            f"ImageFolder: {error.filename or folder} can't be read ({error.strerror or error}): "
            "change its permissions, or move it elsewhere."
        ) from error
    return folders, pictures


def _pictures(folder: Path, above: frozenset[str] = frozenset()) -> list[Path]:
    """The pictures below a folder, in a fixed order; links are followed, and what they give two names counts once.

    Args:
        folder: the folder.
        above: the real paths of folders that must not be met again.

    Raises:
        UserError: a folder can't be read, or a link leads back to a folder above it.
    """
    found: dict[str, Path] = {}

    def visit(folder: Path, above: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in above:
            raise UserError(f"ImageFolder: {folder} is a link to {real}, which it lies in: delete it.")
        folders, pictures = _listing(folder)
        for path in pictures:
            found.setdefault(os.path.realpath(path) if path.is_symlink() else os.path.join(real, path.name), path)
        for inner in folders:
            visit(inner, above | {real})

    visit(folder, above)
    return sorted(found.values())


def _refuse_half_a_split(folders: list[Path]) -> None:
    """A lone `train` full of class folders would otherwise become a class, and its classes would be lost."""
    for folder in folders:
        if folder.name.lower() in ("train", "test") and any(_pictures(inner) for inner in _listing(folder)[0]):
            raise UserError(
                f"ImageFolder: {folder} has folders of pictures, as a split has, but a data set in splits needs both "
                f"`train` and `test`: add the other one, set data.path to {folder}, or, if it is a class, put its "
                "pictures directly into it."
            )


class _Header(NamedTuple):
    """What a picture's file says before its pixels; width and height as it is shown."""

    mode: str
    width: int
    height: int

    @property
    def channels(self) -> int:
        return 1 if Image.getmodebase(self.mode) == "L" else 3

    @property
    def kind(self) -> str:
        return f"{'grey' if self.channels == 1 else 'colour'} (Pillow's mode {self.mode})"


def _header(path: Path, index: int) -> _Header:
    with _opened(path, index) as file:
        width, height = file.size
        # a TIFF's size is as it is shown; a PNG's own getexif() would decode the picture
        if file.format != "TIFF" and Image.Image.getexif(file).get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
            width, height = height, width
        return _Header(file.mode, width, height)


@contextmanager
def _opened(path: Path, index: int) -> Iterator[Image.Image]:
    """A picture file, and one sentence for whatever goes wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                yield file
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"ImageFolder: {path} (picture {index}) has more than {Image.MAX_IMAGE_PIXELS} pixels, as files have that "
            "are made to fill the memory: replace it by a smaller copy, or delete it."
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds, SyntaxError and struct.error among them
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"ImageFolder: {path} (picture {index}) can't be decoded ({reason}): replace or delete it."
        ) from error


def read_picture(path: Path, image_shape: Shape, index: int = 0, as_it_is: bool = False) -> Tensor:
    """A picture file as uint8 pixels of `image_shape`, (C, H, W).

    Args:
        path: the file.
        image_shape: channels, height, width.
        index: its position among the data set's pictures, for the errors.
        as_it_is: refuse a picture that has another size, instead of cutting it.

    Raises:
        UserError: the file can't be decoded, or its values or its size are not what they must be.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    with _opened(path, index) as file:
        if not as_it_is:  # a JPEG that is much too large is decoded at a half, a quarter or an eighth of its size
            file.draft(None, (_SPARE * width, _SPARE * height))
        # in place, and no convert() to the same mode: both would copy the picture in its full size
        ImageOps.exif_transpose(file, in_place=True)
        if as_it_is and file.size != (width, height):
            raise UserError(
                f"ImageFolder: {path} (picture {index}) has {file.width}×{file.height} pixels, but the others have "
                f"{width}×{height}: set data.size to a number N, which cuts all to N×N pixels, or replace it."
            )
        picture: Image.Image = file
        if file.mode == "F" or file.mode.startswith("I"):
            picture = _eight_bits(file, f"ImageFolder: {path} (picture {index})")
        elif file.has_transparency_data:
            picture = Image.new("RGBA", file.size, "white")
            picture.alpha_composite(file.convert("RGBA"))
        picture = picture if picture.mode == mode else picture.convert(mode)
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).reshape(height, width, channels).permute(2, 0, 1)


def _eight_bits(file: Image.Image, what: str) -> Image.Image:
    """Grey levels of more bits, or floating-point ones, as 8-bit ones; Pillow would cut them off at 255."""
    tags = getattr(file, "tag_v2", {})
    white = 1 if file.mode == "F" else 4095 if tags.get(_BITS) == (12,) else 65535
    values = np.asarray(file).astype(np.float64)
    outside = ~((values >= 0) & (values <= white))  # so NaN is outside
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise UserError(
            f"{what} has the value {values[row, column]:g} in row {row}, column {column}, but its values must be "
            f"finite and go from 0, black, to {white}, white: scale or replace it."
        )
    grey = np.rint(values * 255 / white)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if "transparency" in file.info:  # the one value of a PNG that is transparent
        grey[values == file.info["transparency"]] = 255
    return Image.fromarray(grey.astype(np.uint8))


@final
@dataclass(frozen=True)
class _ImagesOnDisk(Images):
    """Pictures that are decoded when a batch asks for them. See `Images`.

    Attributes:
        readers: of the pictures; shared by the splits that were made of them.
        rows: which of these the N images of this split are, int64, (N,).
        labels: see `Images`.
        classes: see `Images`.
        names: see `Images`.
    """

    readers: "_Readers"
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    names: Tensor

    @property
    def image_shape(self) -> Shape:
        return self.readers.pictures.image_shape

    def subset(self, indices: Tensor) -> Self:
        return replace(self, rows=self.rows[indices], labels=self.labels[indices], names=self.names[indices])

    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        return self.readers.stream([self.rows[batch].tolist() for batch in batches])

    def read_all(self) -> InMemoryImages:
        pixels = torch.empty((len(self.rows), *self.image_shape), dtype=torch.uint8)
        for position, row in enumerate(track(self.rows.tolist(), "Reading pictures", transient=True)):
            pixels[position] = self.readers.pictures.read(row)
        return InMemoryImages(pixels, self.labels, self.classes, names=self.names)


class _Readers:
    """Processes that decode pictures, kept from one pass to the next, because starting them takes a while.

    Args:
        pictures: the pictures.
        num_workers: processes of one pass; 0 decodes in this one.
    """

    def __init__(self, pictures: "_Pictures", num_workers: int) -> None:
        self.pictures, self._num_workers = pictures, num_workers
        self._idle: list[DataLoader[Tensor | UserError]] = []
        # not left to the garbage collector, which may take their queues first and then wait for them in vain
        weakref.finalize(self, self._idle.clear)

    def stream(self, batches: list[list[int]]) -> Iterator[Tensor]:
        """The pixels of the pictures at some positions, uint8, (B, C, H, W) for each batch of them.

        Raises:
            UserError: see `read_picture`.
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
            self.pictures,
            batch_sampler=[],
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # which nothing is drawn from; torch's own would be
        )


@dataclass
class _Pictures(Dataset[Tensor | UserError]):
    """Batches of decoded pictures. An error is returned, because raising in a worker buries its sentence.

    Attributes:
        paths: the files.
        image_shape: what they are made to fit.
        as_they_are: refuse those that don't fit yet.
    """

    paths: list[Path]
    image_shape: Shape
    as_they_are: bool

    def read(self, position: int) -> Tensor:
        return read_picture(self.paths[position], self.image_shape, position, self.as_they_are)

    def __getitems__(self, positions: list[int]) -> Tensor | UserError:
        try:
            return torch.stack([self.read(position) for position in positions])
        except UserError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch
