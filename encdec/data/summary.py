"""Data sets and their images in one line, for people who print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encdec.data.base import DataModule
    from encdec.data.images import Images

_SHOWN = 10


def of_data(data: DataModule) -> str:
    """ "Digits(batch_size=128, …): 1,294 images to train, …", or "…: not loaded yet"; without what is switched off."""
    settings = ", ".join(f"{name}={value!r}" for name, value in data.hparams.items() if value is not False)
    splits: dict[str, Images] | None = data.__dict__.get("splits")
    if splits is None:
        what = "not loaded yet"
    else:
        train, val, test = (f"{len(splits[name].labels):,}" for name in ("train", "val", "test"))
        what = f"{train} images to train, {val} to validate, {test} to test, of {_kind(splits['train'])}"
    return f"{type(data).__name__}({settings}): {what}"


def of_images(images: Images) -> str:
    """ "InMemoryImages(1,294 images of 1×8×8, 10 classes: 0, 1, 2, …)"."""
    return f"{type(images).__name__}({len(images.labels):,} images of {_kind(images)})"


def _kind(images: Images) -> str:
    shape = "×".join(map(str, images.image_shape))
    if len(images.classes) == 1:
        return f"{shape}, without labels"
    names = [*images.classes[:_SHOWN], *(["…"] if len(images.classes) > _SHOWN else [])]
    return f"{shape}, {len(images.classes):,} classes: {', '.join(names)}"
