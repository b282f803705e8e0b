"""Which images a model was trained on, so that data that have changed since are noticed."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor

from encdec.data.base import DataModule
from encdec.data.images import Images, InMemoryImages
from encdec.types import UserError

KEY = "data"
"""Where a checkpoint holds it; those of encdec 0.1 don't."""
SPLITS = ("train", "val", "test")


def fingerprint(images: Images) -> str:
    """SHA-256 of a split's pixels and labels, in hexadecimal: equal where the data are equal, wherever they lie."""
    digest = hashlib.sha256(repr((images.image_shape, images.classes)).encode())
    digest.update(images.labels.numpy().tobytes())
    for pixels in images.stream(torch.arange(len(images.labels)).split(256)):
        digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()


def numbers(contents: Iterable[bytes]) -> Tensor:
    """A number for each content, int64 (N,): the first 8 bytes of its SHA-256."""
    digests = b"".join(hashlib.sha256(content).digest()[:8] for content in contents)
    return torch.from_numpy(np.frombuffer(digests, "<i8").astype(np.int64))


def numbers_of_files(paths: Iterable[Path], root: Path) -> Tensor:
    """A number for each file, int64 (N,), made of its path below `root` and its size, but not of its content.

    Raises:
        UserError: a file can't be looked at.
    """
    try:
        return numbers(os.fsencode(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}") for path in paths)
    except OSError as error:
        raise UserError(f"{error.filename} can't be read ({error.strerror}): restore or delete it.") from error


def _numbers(images: Images) -> dict[str, Tensor]:
    """What tells an image from others: its pixels where they are at hand, and the name and size of its file."""
    found: dict[str, Tensor] = {}
    if isinstance(images, InMemoryImages) or images.names is None:
        batches = images.stream(torch.arange(len(images.labels)).split(256))
        found["pixels"] = numbers(image.tobytes() for pixels in batches for image in pixels.contiguous().numpy())
    if images.names is not None:
        found["names"] = images.names
    return found


@final
@dataclass(frozen=True)
class DataIdentity:
    """Which images the splits of a data set hold, wherever they lie.

    Images are told apart by their pixels. Pictures that stay on the disk are told apart by name (below the folder)
    and size in bytes, because reading all would take too long: of these, one that is edited without a change of its
    size goes unnoticed, and one that is renamed counts as another.

    Attributes:
        name: of the class of the data module.
        images: how many, by split.
        fingerprints: SHA-256 of images, labels, classes and shape, by what images are told apart by and by split.
        trained_on: a number for each image that the model was trained on, int64 (N,), sorted, by what it is made of;
            empty in an export.
        repeated: how many images of `val` and `test` are equal to one that was trained on, as data sets have some; by
            the same, and by split.
    """

    name: str
    images: dict[str, int]
    fingerprints: dict[str, dict[str, str]]
    trained_on: dict[str, Tensor]
    repeated: dict[str, dict[str, int]]

    @property
    def total(self) -> int:
        """How many images there are in all splits."""
        return sum(self.images.values())

    def differs(self, other: Self, *splits: str) -> list[str]:
        """Those of `splits` that do not hold the same images with the same labels in the same order."""
        kind = _common(self.fingerprints, other.fingerprints)
        if kind is None:
            return [split for split in splits if self.images[split] != other.images[split]]
        before, now = other.fingerprints[kind], self.fingerprints[kind]
        return [split for split in splits if before[split] != now[split]]

    def as_dict(self, trained_before: Self | None = None) -> dict[str, Any]:
        """What a checkpoint holds.

        Args:
            trained_before: on which data the model was trained before it was trained on these.
        """
        trained_on = dict(self.trained_on)
        for kind, before in {} if trained_before is None else trained_before.trained_on.items():
            trained_on[kind] = torch.cat([before, trained_on.get(kind, before)]).unique()
        return {
            "class": self.name,
            "images": self.images,
            "fingerprints": self.fingerprints,
            "trained_on": trained_on,
            "repeated": self.repeated,
        }


@final
class PresentData:
    """The images that there are now, to be compared with those of a checkpoint.

    Args:
        data: the data module; its splits are read once.

    Attributes:
        identity: of the data.
    """

    def __init__(self, data: DataModule) -> None:
        splits = {split: data.splits[split] for split in SPLITS}
        numbers = {split: _numbers(images) for split, images in splits.items()}
        kinds = [kind for kind in numbers["train"] if all(kind in of for of in numbers.values())]
        self._held_out = {kind: {split: numbers[split][kind] for split in ("val", "test")} for kind in kinds}
        trained_on = {kind: numbers["train"][kind].unique() for kind in kinds}
        self.identity = DataIdentity(
            name=type(data).__name__,
            images={split: len(images.labels) for split, images in splits.items()},
            fingerprints={
                kind: {split: _fingerprint(splits[split], numbers[split][kind]) for split in SPLITS} for kind in kinds
            },
            trained_on=trained_on,
            repeated={kind: self._overlaps(kind, trained_on[kind]) for kind in kinds},
        )

    def trained_on(self, before: DataIdentity, split: str) -> int | None:
        """How many images of `val` or `test` a model was trained on, if they are more than there were then; else 0.

        None if it is not known: an export says it only as far as the training images are the same.
        """
        trained_on = before.trained_on
        if not trained_on and not self.identity.differs(before, "train"):
            trained_on = self.identity.trained_on
        kind = _common(trained_on, self._held_out)
        if kind is None:
            return None
        overlap = self._overlaps(kind, trained_on[kind])[split]
        return overlap if overlap > before.repeated.get(kind, {}).get(split, 0) else 0

    def _overlaps(self, kind: str, trained_on: Tensor) -> dict[str, int]:
        return {split: int(torch.isin(of, trained_on).sum()) for split, of in self._held_out[kind].items()}


def identity_in(checkpoint: Mapping[str, Any], path: object) -> DataIdentity | None:
    """On which data a checkpoint was trained; None if it does not say.

    Raises:
        UserError: what it says is not valid.
    """
    held = checkpoint.get(KEY)
    if held is None:
        return None
    try:
        for part in (
            held,
            *(_checked(held, dict)[name] for name in ("images", "fingerprints", "trained_on", "repeated")),
        ):
            _checked(part, dict)
        found = DataIdentity(
            name=_checked(held["class"], str),
            images={split: _checked(held["images"][split], int) for split in SPLITS},
            fingerprints={
                _checked(kind, str): {split: _checked(_checked(of, dict)[split], str) for split in SPLITS}
                for kind, of in held["fingerprints"].items()
            },
            trained_on={_checked(kind, str): _checked(of, Tensor) for kind, of in held["trained_on"].items()},
            repeated={
                _checked(kind, str): {split: _checked(_checked(of, dict)[split], int) for split in ("val", "test")}
                for kind, of in held["repeated"].items()
            },
        )
        # a tensor may repeat a few numbers, and then fill all memory when it is copied
        if not all(of.dtype == torch.int64 and of.ndim == 1 and of.is_contiguous() for of in found.trained_on.values()):
            raise TypeError("trained_on")
    except Exception as error:  # what a stranger wrote raises nearly anything
        raise UserError(f"{path} is not a checkpoint of encdec: what it says about its data is not valid.") from error
    return found


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(kind)
    return value


def _common(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    return next((kind for kind in ("pixels", "names") if kind in before and kind in now), None)


def _fingerprint(images: Images, numbers: Tensor) -> str:
    digest = hashlib.sha256(repr((images.image_shape, images.classes)).encode())
    digest.update(images.labels.numpy().tobytes())
    digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()
