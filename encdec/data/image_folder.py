"""The user's own pictures."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from encdec.data.base import DataModule
from encdec.data.fingerprints import numbers_of_files
from encdec.data.images import Images, InMemoryImages, random_split
from encdec.data.pictures.decoding import CUT, Header, PictureError, combined, listed, read_header
from encdec.data.pictures.listing import Listing, Scanned, is_split, refuse_empty_classes
from encdec.data.pictures.progress import tracked
from encdec.data.pictures.streaming import ImagesOnDisk, Pictures, Readers
from encdec.files import expanded
from encdec.messages import say
from encdec.types import Shape, UserError


@final
class ImageFolder(DataModule):
    """A folder of pictures, cut to one size, or as they are.

    `path/CLASS/….png` gives labels from the folders' names, `path/….png` no labels, and a random tenth is the test
    split. If `path` has the folders `train` and `test`, these are the splits, and `val`, if it is there, is the
    validation split (`val_fraction` then has no effect). `training`, `valid`, `validation` and `testing` mean the same,
    in capitals too, and with an appendix as in `test_set` or `train2017`. Half a split is refused: one without `train`
    or without `test`, two folders of one split, and splits in the folder of a class. Only a folder `train` of pictures
    beside other folders is a class.

    Files are taken for pictures by their endings: AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF and WebP, whose content may be
    that of any other of these, and of no other format. How many files with other endings are left out is said, but for
    hidden ones, whose names begin with a dot, and such as labels and notes have (`.txt`, `.csv`, `.json`, …). A picture
    of a class that links give several names counts once; one that links give to two splits is refused.

    Each picture is turned as its camera says, scaled until it just covers the images' height and width, and cropped
    around its centre.
    What is transparent is laid over white. Of a file with several frames or pages the first is taken. Grey levels of
    16 bits are scaled (65535 is white), floating-point ones must lie in [0, 1]; of 16-bit colors Pillow keeps the
    upper 8 bits. A JPEG of four times the size or more is decoded at a half, a quarter or an eighth of its own size,
    still at least twice the image's. That is faster, and changes photographs less than half as much as a bilinear
    filter in place of the bicubic one would (by 0.4 to 1 of 255 grey levels on average).

    Pictures are decoded once, when they are loaded, and held in memory as uint8, unless they take more than
    `max_memory_gb`. Then they are decoded when a batch asks for them, and when they are loaded, just their names are
    read, and their headers if `size` or `mode` is None. One error names all pictures that can't be used, as far as they
    have been decoded: of those that stay on the disk, the pictures of one batch, unless `skip_damaged` is set. It gives
    a picture's position among all of its folder (`path`, or that of its split) in the order of their paths, from 0.

    Args:
        path: the folder.
        size: of the images, in pixels: N for N×N, or [height, width]; None leaves them as they are, which must be the
            same for all.
        mode: `grey` (one channel) or `color` (three; `colour` in encdec 0.1); None is what the pictures are, which must
            be the same for all (pictures with a palette are taken as color).
        labels: `folders` makes each folder a class, where there are folders; `none` ignores them.
        max_memory_gb: folders that take more than this as uint8 pixels stay on the disk and are read by workers.
        num_workers: processes that read pictures, where they stay on the disk.
        skip_damaged: leave out pictures that can't be decoded, and say which. All are decoded once to find them when
            the data are loaded, also those that stay on the disk, which takes as long as an epoch's reading; one that
            is damaged later, or that the system can't read, still ends the run.
    """

    places: ClassVar[frozenset[str]] = frozenset({"path"})
    resources: ClassVar[frozenset[str]] = frozenset({"max_memory_gb", "num_workers"})

    def __init__(
        self,
        path: str,
        size: int | Sequence[int] | None = 32,
        mode: Literal["grey", "color", "colour"] | None = "color",
        labels: Literal["folders", "none"] = "folders",
        max_memory_gb: float = 4.0,
        num_workers: int = 2,
        skip_damaged: bool = False,
        **kwargs: Any,
    ) -> None:
        if mode == "colour":
            say("ImageFolder: mode colour is called color since encdec 0.2: set data.mode to color.")
            mode = "color"
        super().__init__(**kwargs)
        sides = [size, size] if isinstance(size, int) else size
        if sides is not None and (len(sides) != 2 or min(sides) < 1):
            shown = size if isinstance(size, int) else list(sides)
            raise UserError(
                f"ImageFolder: size is {shown}, but it must be a number of pixels, such as 64 for 64×64, or [height, "
                "width], such as [48, 64], each at least 1.",
                2,
            )
        if num_workers < 0:
            raise UserError(f"ImageFolder: num_workers is {num_workers}, but it can't be negative.", 2)
        self.path, self.mode, self.labels = expanded(path), mode, labels
        self.size = None if sides is None else (sides[0], sides[1])
        self.max_memory_gb, self.num_workers, self.skip_damaged = max_memory_gb, num_workers, skip_damaged
        self._rows: dict[str, Tensor] = {}  # which pictures of each split are not left out

    def load(self) -> tuple[Images, Images] | tuple[Images, Images, Images]:
        """See `DataModule.load`."""
        scanned = self._scan(by_class=self.labels == "folders")
        main = scanned.get("all") or scanned["train"]
        refuse_empty_classes(main.root, main.labels, main.classes)
        for name in filter(is_split, scanned["all"].classes if "all" in scanned else ()):
            say(f"ImageFolder: the folder {name} is taken for a class, as it lies beside others.")
        pictures = self._place(scanned)
        refuse_empty_classes(main.root, (pictures.get("all") or pictures["train"]).labels, main.classes)
        if "all" in pictures:
            return random_split(pictures["all"], fraction=0.1, seed=self.split_seed)
        if "val" not in pictures:
            return pictures["train"], pictures["test"]
        say(f"ImageFolder: {scanned['val'].root} is the validation split, so data.val_fraction has no effect.")
        return pictures["train"], pictures["val"], pictures["test"]

    def all_pictures(self) -> tuple[Images, tuple[str, ...]]:
        """All pictures below the folder, without splits and classes; and their files, as paths in it.

        Raises:
            UserError: there are none, some can't be used, or they are in splits.
        """
        scanned = self._scan(by_class=False)
        if "all" not in scanned:
            raise UserError(f"ImageFolder: {self.path} has the folders {', '.join(scanned)}: name one of them.", 2)
        images = self._place(scanned)["all"]
        rows = self._rows["all"].tolist()
        return images, tuple(scanned["all"].paths[row].relative_to(self.path).as_posix() for row in rows)

    def _scan(self, by_class: bool) -> dict[str, Scanned]:
        """The files of each split, or of `all`; what is not read is said."""
        root = Path(self.path)
        if not os.path.isdir(root):
            raise UserError(f"ImageFolder: {self.path!r} is not a folder: set data.path to a folder of pictures.")
        listing = Listing(by_class)
        scanned = listing.splits(root)
        if "all" not in scanned:
            unread = listing.unread(root)
            if unread:
                say(f"ImageFolder: beside the splits in {root}, these are not read: {unread}.")
        left_out = listing.left_out()
        if left_out:
            say(f"ImageFolder: left out {left_out}, whose endings are not those of pictures that are read.")
        return scanned

    def _place(self, scanned: dict[str, Scanned]) -> dict[str, Images]:
        """The pictures of each split, decoded if they fit into memory.

        Raises:
            UserError: some can't be used; the sentence counts all of them.
        """
        broken: _Broken = {split: {} for split in scanned}
        shape = self._shape(scanned, broken)
        placed: dict[str, Images] = {}
        for split, (_, paths, labels, classes) in scanned.items():
            readers = Readers(Pictures(paths, shape, self.size is None), self.num_workers, self.skip_damaged)
            names = numbers_of_files(paths, Path(self.path))
            if len(paths) * math.prod(shape) > self.max_memory_gb * 2**30:
                if self.skip_damaged:
                    broken[split] |= readers.broken(_others(paths, broken[split]))
                rows = self._rows[split] = _others(paths, broken[split])
                placed[split] = ImagesOnDisk(readers, rows, labels[rows], classes, names[rows])
            else:
                pixels, found = readers.pictures.read_all(_others(paths, broken[split]))
                broken[split] |= found
                rows = self._rows[split] = _others(paths, broken[split])
                placed[split] = InMemoryImages(pixels, labels[rows], classes, names=names[rows])
        self._refuse(scanned, broken)
        errors = _all(broken)
        if errors:
            total = sum(len(one.paths) for one in scanned.values())
            say(f"ImageFolder: left out {len(errors):,} of {total:,} pictures, which are damaged: {listed(errors)}.")
        return placed

    def _refuse(self, scanned: dict[str, Scanned], broken: "_Broken") -> None:
        """Refuse pictures that can't be used, if they are not to be left out or would leave nothing."""
        errors = _all(broken)
        refused = [error for error in errors if not (error.damaged and self.skip_damaged)]
        if refused or any(len(broken[split]) == len(one.paths) for split, one in scanned.items()):
            raise combined(refused or errors, can_skip=not self.skip_damaged)

    def _shape(self, scanned: dict[str, Scanned], broken: "_Broken") -> Shape:
        """What the images have; from the pictures' headers where the settings leave it to the pictures.

        Args:
            scanned: the splits.
            broken: gets the errors of damaged pictures.

        Raises:
            UserError: pictures differ, or are damaged and not to be left out; the sentence counts all of them.
        """
        channels = None if self.mode is None else 1 if self.mode == "grey" else 3
        if channels is not None and self.size is not None:
            return channels, *self.size
        pictures = [(split, row, path) for split, one in scanned.items() for row, path in enumerate(one.paths)]
        first: tuple[Path, Header] | None = None
        for split, row, path in tracked(pictures, "Looking at pictures"):
            try:
                header = read_header(path, row, decode=self.skip_damaged)
                first = first or (path, header)
                self._refuse_unlike(first, path, row, header)
            except PictureError as error:
                broken[split][row] = error
        self._refuse(scanned, broken)
        assert first is not None, "a folder has pictures"
        height, width = self.size or (first[1].height, first[1].width)
        return first[1].channels if channels is None else channels, height, width

    def _refuse_unlike(self, first: tuple[Path, Header], path: Path, row: int, header: Header) -> None:
        """Refuse a picture that differs from the first, where the settings need all to be alike."""
        name, wanted = first
        if self.size is None and (header.width, header.height) != (wanted.width, wanted.height):
            raise PictureError(
                f"{path} (picture {row}) has {header.width}×{header.height} pixels, but {name} has "
                f"{wanted.width}×{wanted.height}",
                f"{CUT}, or give all the same size",
            )
        if self.mode is None and header.channels != wanted.channels:
            raise PictureError(
                f"{path} (picture {row}) is {header.kind}, but {name} is {wanted.kind}",
                "set data.mode to grey or to color",
            )


_Broken = dict[str, dict[int, PictureError]]
"""Errors of the pictures that can't be used, by split and position."""


def _all(broken: _Broken) -> list[PictureError]:
    return [found[row] for found in broken.values() for row in sorted(found)]


def _others(paths: list[Path], broken: dict[int, PictureError]) -> Tensor:
    """The positions of the pictures that are not broken."""
    return torch.tensor([row for row in range(len(paths)) if row not in broken], dtype=torch.int64)
