"""Which files of a folder are its pictures, which split and class they belong to, and which files are left out."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from encdec.data.pictures.decoding import ENDINGS, ENDINGS_OF
from encdec.types import UserError

_SPLIT = re.compile(
    r"((?P<train>train(ing)?)|(?P<val>val(id(ation)?)?)|(?P<test>test(ing)?))([ ._-]?(set|split|data|images|\d+))?",
    re.IGNORECASE,
)
_COMPANIONS = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".rst", ".html"),
    *(".log", ".md5", ".sha1", ".sha256", ".py", ".sh"),
}
"""Endings of files that labels, notes and checksums have, so that nobody expects a picture."""
_COMPANION_NAMES = {"thumbs.db", "ehthumbs.db", "readme", "license", "licence", "copying", "md5sums", "sha256sums"}
NO_CLASSES = ("image",)
"""What the one class of pictures without labels is called."""
_SHOWN = 10


class Scanned(NamedTuple):
    """The pictures of a folder, in the order of their paths, with their labels (N,) and the labels' names."""

    root: Path
    paths: list[Path]
    labels: Tensor
    classes: tuple[str, ...]


class Listing:
    """Looks through folders, and remembers the files that it leaves out.

    Args:
        by_class: whether each folder is a class.

    Attributes:
        others: how many files of each ending were left out, by folder.
    """

    def __init__(self, by_class: bool) -> None:
        self.by_class = by_class
        self.others: dict[Path, Counter[str]] = {}

    def splits(self, root: Path) -> dict[str, Scanned]:
        """The pictures of `train`, `test` and, if there is such a folder, `val`; or of `all`, if `root` has no splits.

        Raises:
            UserError: a folder can't be read or has no pictures, a split is missing, splits have different classes or
                share a picture, or it can't be told what is held out.
        """
        split_folders = self._split_folders(root)
        if not split_folders:
            return {"all": self._scan(root)[0]}
        scanned: dict[str, Scanned] = {}
        names: dict[str, Path] = {}
        for split, folder in split_folders.items():
            scanned[split], found = self._scan(folder)
            for real, path in found.items():
                if names.setdefault(real, path) != path:
                    raise UserError(
                        f"ImageFolder: {names[real]} and {path} are the same file, in two splits: keep one."
                    )
        first = scanned["train"]
        for other in scanned.values():
            if first.classes != other.classes:
                raise UserError(
                    f"ImageFolder: {first.root} has {_names(first)}, but {other.root} has {_names(other)}: give both "
                    "the same folders, or set data.labels to none."
                )
        return scanned

    def unread(self, root: Path) -> str:
        """What beside the splits in `root` is not read: "x, y and 3 more"; nothing if there is nothing."""
        folders, pictures = self._list(root)
        del self.others[root]
        names = [path.name for path in [*folders, *pictures] if _split(path) is None]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more

    def left_out(self) -> str:
        """How many files are not pictures by their endings: "12 files (.heic 10, .svg 2)"; nothing if there are none.

        Hidden files, and those that labels and notes have beside pictures, are not counted.
        """
        endings = sum(self.others.values(), Counter[str]())
        if not endings:
            return ""
        shown = [f"{ending or 'without an ending'} {count}" for ending, count in endings.most_common(_SHOWN)]
        more = f", and {len(endings) - _SHOWN} more endings" if len(endings) > _SHOWN else ""
        count = endings.total()
        return f"{count} {'file' if count == 1 else 'files'} ({', '.join(shown)}{more})"

    def _split_folders(self, root: Path) -> dict[str, Path]:
        """The folders of the splits by the splits' names; empty if the folders in `root` are no splits."""
        folders, loose = self._list(root)
        found = _by_split(folders)
        if not found:
            return {}
        for same in found.values():
            if {"train", "test"} <= found.keys() and len(same) > 1:
                raise UserError(
                    f"ImageFolder: {same[0]} and {same[1]} name the same split: keep or rename one of them."
                )
        if {"train", "test"} <= found.keys():
            return {split: same[0] for split, same in found.items()}
        splits = [folder for same in found.values() for folder in same]
        alone = len(splits) == len(folders) and not loose
        if self.by_class:  # a class may be called train, as vehicles are
            ends_in_pictures = not any(self._pictures(inner) for folder in splits for inner in self._list(folder)[0])
            is_split = len(splits) > 1 or "train" not in found or alone or not ends_in_pictures
        else:
            is_split = _holds_out(folders, loose)
        if is_split:
            raise UserError(_half_a_split(root, found, alone))
        return {}

    def _scan(self, root: Path) -> tuple[Scanned, dict[str, Path]]:
        """The pictures of a split, and their paths by their real paths."""
        folders, loose = self._list(root)
        above = frozenset([os.path.realpath(root)])
        by_folder = [self._pictures(folder, above) for folder in folders] if self.by_class else []
        if any(by_folder):
            classes = tuple(folder.name for folder in folders)
            if loose:
                raise UserError(
                    f"ImageFolder: {loose[0]} lies beside folders of pictures, so it has no class: move it into one of "
                    "them, or set data.labels to none."
                )
            _refuse_inner_splits(root, folders, loose)
        else:
            by_folder, classes = [self._pictures(root)], NO_CLASSES
        found = {real: path for pictures in by_folder for real, path in pictures.items()}
        paths = [path for pictures in by_folder for path in sorted(pictures.values())]
        if not paths:
            left_out = self.left_out()
            raise UserError(
                f"ImageFolder: {root} has no pictures{f', but {left_out}' if left_out else ''}: put files ending in "
                f"{_endings()} there, or one folder of them for each class."
            )
        labels = torch.tensor([label for label, pictures in enumerate(by_folder) for _ in pictures])
        return Scanned(root, paths, labels, classes), found

    def _pictures(self, folder: Path, above: frozenset[str] = frozenset()) -> dict[str, Path]:
        """The pictures below a folder by their real paths; links are followed, and what has two names counts once.

        Args:
            folder: the folder.
            above: the real paths of folders that must not be met again.

        Raises:
            UserError: a folder can't be read or has splits in it, or a link leads back to a folder above it.
        """
        found: dict[str, Path] = {}

        def visit(folder: Path, above: frozenset[str]) -> None:
            real = os.path.realpath(folder)
            if real in above:
                raise UserError(f"ImageFolder: {folder} is a link to {real}, which it lies in: delete it.")
            folders, pictures = self._list(folder)
            _refuse_inner_splits(folder, folders, pictures)
            for path in pictures:
                found.setdefault(os.path.realpath(path) if path.is_symlink() else os.path.join(real, path.name), path)
            for inner in folders:
                visit(inner, above | {real})

        visit(folder, above)
        return found

    def _list(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and the pictures in a folder, each in the order of their names, hidden ones left out.

        Raises:
            UserError: the folder can't be read, or what has a picture's name is not a file.
        """
        folders, pictures = [], []
        others: Counter[str] = Counter()
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    path = folder / entry.name
                    ending = path.suffix.lower()
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(path)
                    elif ending in ENDINGS:
                        if not entry.is_file():
                            what = "a link to a file that is missing" if entry.is_symlink() else "not a file"
                            raise UserError(f"ImageFolder: {path} is {what}: replace or delete it.")
                        pictures.append(path)
                    elif ending not in _COMPANIONS and entry.name.lower() not in _COMPANION_NAMES:
                        others[ending] += 1
        except OSError as error:
            raise UserError(
                f"ImageFolder: {error.filename or folder} can't be read ({error.strerror or error}): "
                "change its permissions, or move it elsewhere."
            ) from error
        self.others[folder] = others
        return folders, pictures


def refuse_empty_classes(root: Path, labels: Tensor, classes: tuple[str, ...]) -> None:
    """Refuse a class that none of the pictures has.

    Raises:
        UserError: there is one.
    """
    for count, name in zip(labels.bincount(minlength=len(classes)), classes, strict=True):
        if count == 0:
            raise UserError(
                f"ImageFolder: {root / name} has no pictures that can be read, so its class would be empty: delete it, "
                f"put files ending in {_endings()} there, or set data.labels to none."
            )


def _names(scanned: Scanned) -> str:
    """The classes of a split, in words."""
    if scanned.classes == NO_CLASSES:
        return "no folders of pictures"
    more = f" and {len(scanned.classes) - _SHOWN} more" if len(scanned.classes) > _SHOWN else ""
    return f"the classes {', '.join(scanned.classes[:_SHOWN])}{more}"


def _endings() -> str:
    """One ending of each format, for advice."""
    return ", ".join(endings[0] for endings in ENDINGS_OF.values())


def has_splits(root: Path) -> bool:
    """Whether a folder has the folders of a training and of a test split."""
    return {"train", "test"} <= _by_split([path for path in root.iterdir() if path.is_dir()]).keys()


def is_split(name: str) -> bool:
    """Whether a folder's name means a split."""
    return _split(Path(name)) is not None


def _split(folder: Path) -> str | None:
    """Which split a folder's name means: `train`, `val` or `test`; None if none."""
    match = _SPLIT.fullmatch(folder.name)
    return None if match is None else next(split for split in ("train", "val", "test") if match[split])


def _by_split(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """The folders whose names mean a split, by split, in the order train, val, test."""
    found = {split: [folder for folder in folders if _split(folder) == split] for split in ("train", "val", "test")}
    return {split: same for split, same in found.items() if same}


def _holds_out(folders: list[Path], pictures: list[Path]) -> bool:
    """Whether one folder has pictures of a validation or test split, and others."""
    found = _by_split(folders)
    return bool({"val", "test"} & found.keys()) and (len(found) > 1 or len(folders) > 1 or bool(pictures))


def _refuse_inner_splits(folder: Path, folders: list[Path], pictures: list[Path]) -> None:
    """A folder that holds splits is no class: its held-out pictures would be trained on."""
    if _holds_out(folders, pictures):
        names = " and ".join(f"`{inner.name}`" for inner in folders if _split(inner) is not None)
        raise UserError(
            f"ImageFolder: {folder} has {names} in it, as a data set in splits has: set data.path to {folder} for "
            "these splits, put splits above classes (`train/CLASS`, `test/CLASS`), or, if they are none, rename them."
        )


def _half_a_split(root: Path, found: dict[str, list[Path]], alone: bool) -> str:
    """The sentence for split folders without a counterpart."""
    names = [folder.name for same in found.values() for folder in same]
    missing = " and ".join(f"`{split}`" for split in ("train", "test") if split not in found)
    ways = [f"add {missing}"]
    if "test" not in found and "val" in found and "train" in found:
        ways.append(f"rename {found['val'][0].name} to test, so that data.val_fraction of train validates")
    elif alone:
        ways.append(f"set data.path to {root / names[0]} to split its pictures at random")
    if len(found) == 1:
        ways.append("rename it if it is a class")
    return (
        f"ImageFolder: {root} has {' and '.join(f'`{name}`' for name in names)}, as a data set in splits has, but no "
        f"{missing}, and a data set in splits needs both `train` and `test`: {', or '.join(ways)}."
    )
