"""What a data set must be, and what is said where it is not."""

from typing import Any

import pytest
import torch

from encdec.data import DataModule, Digits
from encdec.types import UserError

from .helpers import LABELS, Mine, in_memory


def test_splits_do_not_overlap_and_follow_the_split_seed_alone() -> None:
    def pictures(data: DataModule, split: str) -> set[bytes]:
        (pixels,) = data.splits[split].stream([torch.arange(len(data.splits[split].labels))])
        return {bytes(row.numpy().tobytes()) for row in pixels.flatten(1)}

    one, two, other = Digits(seed=1), Digits(seed=2), Digits(split_seed=1)
    assert pictures(one, "val") == pictures(two, "val") != pictures(other, "val")
    train, val, test = (pictures(one, split) for split in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test


BAD: dict[str, tuple[Any, str]] = {
    "no pair": (in_memory(), "load must return the training and the test images, as a pair of Images"),
    "tensors": ((torch.zeros(3, 1, 2, 2), torch.zeros(3)), "load must return .* as a pair of Images"),
    "float pixels": (
        lambda: (in_memory(pixels=torch.rand(20, 1, 4, 5)), in_memory()),
        r"InMemoryImages needs pixels as a uint8 tensor .* not torch\.float32 of shape \(20, 1, 4, 5\).*from_floats",
    ),
    "no axis of channels": (
        lambda: (in_memory(pixels=torch.zeros(20, 4, 5, dtype=torch.uint8)), in_memory()),
        r"InMemoryImages needs .* not torch\.uint8 of shape \(20, 4, 5\): add the axis of channels, as pixels\[",
    ),
    "too few labels": (
        lambda: (in_memory(labels=LABELS[:7]), in_memory()),
        "InMemoryImages got 20 images but 7 labels",
    ),
    "too few rows": (
        lambda: (in_memory(rows=torch.arange(3)), in_memory()),
        "InMemoryImages got 3 images but 20 labels",
    ),
    "channels last": (
        lambda: (in_memory(pixels=torch.zeros(20, 12, 12, 1, dtype=torch.uint8)), in_memory()),
        r"InMemoryImages needs pixels as \(N, C, H, W\), but \(20, 12, 12, 1\) looks like \(N, H, W, C\): give ",
    ),
    "a number of classes": (
        lambda: (in_memory(classes=2), in_memory()),
        r"InMemoryImages needs classes as the names of the labels .*, not as 2\.",
    ),
    "a label too large": (
        (in_memory(), in_memory(labels=torch.where(LABELS.cumsum(0) > 4, 7, LABELS))),
        "the test images have the label 7 at index 9, but there are 2 classes, so labels must lie in 0…1",
    ),
    "a label too small": (
        (in_memory(labels=LABELS - 1), in_memory()),
        "the training images have the label -1 at index 0, but there are 2 classes",
    ),
    "32-bit labels": (
        (in_memory(labels=LABELS.int()), in_memory()),
        r"the training images have labels of type torch\.int32 and shape \(20,\), but they must be int64",
    ),
    "one-hot labels": (
        (in_memory(), in_memory(labels=LABELS.reshape(20, 1))),
        r"the test images have labels of type torch\.int64 and shape \(20, 1\), but",
    ),
    "no pixels": (
        (in_memory(shape=(1, 0, 4)), in_memory()),
        r"the training images have the shape \(1, 0, 4\), but it must be channels, height, width, each at least 1",
    ),
    "other shape": (
        (in_memory(), in_memory(shape=(3, 4, 5))),
        r"the training images have the shape \(1, 4, 5\) .* but the test images \(3, 4, 5\): give both the same",
    ),
    "other classes": (
        (in_memory(), in_memory(classes=("a", "c"))),
        r"the training images have the classes \['a', 'b'\], but the test images \['a', 'c'\]",
    ),
    "one image": ((in_memory(1), in_memory()), "the number of training images is 1, but at least 2 are needed"),
    "no image": ((in_memory(0), in_memory()), "the number of training images is 0, but at least 2 are needed"),
    "no test image": ((in_memory(), in_memory(0)), "the test split is empty"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_data_set_that_breaks_the_contract_is_refused(fault: str) -> None:
    loaded, sentence = BAD[fault]
    with pytest.raises(UserError, match=f"^Mine: {sentence}"):
        _ = Mine(loaded).splits


@pytest.mark.parametrize("fraction", [1e-9, 0.999])
def test_every_split_has_an_image_whatever_is_held_out(fraction: float) -> None:
    splits = Mine((in_memory(2), in_memory(1)), val_fraction=fraction).splits
    assert [len(images.labels) for images in splits.values()] == [1, 1, 1]


def test_a_validation_split_that_breaks_the_contract_is_refused() -> None:
    for val, sentence in (
        (in_memory(shape=(3, 4, 5)), r"the training images have the shape \(1, 4, 5\) .* but the validation images"),
        (in_memory(classes=("a", "c")), r"the training images have the classes .* but the validation images"),
        (in_memory(0), "the validation split is empty"),
        (in_memory(labels=LABELS - 1), "the validation images have the label -1"),
    ):
        with pytest.raises(UserError, match=f"^Mine: {sentence}"):
            _ = Mine((in_memory(), val, in_memory())).splits
    assert len(Mine((in_memory(1), in_memory(), in_memory())).splits["train"].labels) == 1
