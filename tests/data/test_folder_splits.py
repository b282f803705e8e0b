"""Folders that come in splits: what is held out is never trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from encdec.data import ImageFolder
from encdec.types import UserError

IN_BOTH_WAYS = pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])
SHADES = {"train": 10, "val": 20, "test": 30}
"""A grey level for each split, so that a picture tells where it is from."""


def fill(folder: Path, shade: int, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", (4, 4), shade + i).save(folder / f"{i}.png")


def shades(folder: Path, **settings: Any) -> dict[str, set[int]]:
    """From which folders the pictures of each split are."""
    data = ImageFolder(str(folder), size=4, mode="grey", num_workers=0, **settings)
    return {
        name: {int(pixels[0, 0, 0]) // 10 * 10 for pixels in next(images.stream([torch.arange(len(images.labels))]))}
        for name, images in data.splits.items()
    }


@IN_BOTH_WAYS
@pytest.mark.parametrize("classes", [["a", "b"], [""]], ids=["classes", "flat"])
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAINING", "VALIDATION", "TESTING"),
        ("train", "validation", "testing"),
        ("training_set", "val-set", "test_set"),
        ("train2017", "val2017", "test2017"),
    ],
)
def test_the_usual_names_are_splits(
    train: str, val: str, test: str, classes: list[str], memory: float, tmp_path: Path, capsys: Any
) -> None:
    for name, split in ((train, "train"), (val, "val"), (test, "test")):
        for label in classes:
            fill(tmp_path / name / label, SHADES[split])
    assert shades(tmp_path, max_memory_gb=memory) == {split: {shade} for split, shade in SHADES.items()}
    data = ImageFolder(str(tmp_path), size=4)
    assert data.num_train == 3 * len(classes)
    assert data.num_classes == len(classes)
    says = f"encdec: ImageFolder: {tmp_path / val} is the validation split, so data.val_fraction has no effect.\n"
    assert capsys.readouterr().err.startswith(says)


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("train", "TEST"), ("training", "testing")])
@pytest.mark.parametrize("labels", ["folders", "none"])
def test_without_a_validation_folder_a_share_of_train_validates(
    train: str, test: str, labels: Any, tmp_path: Path
) -> None:
    fill(tmp_path / train, 10, 8)
    fill(tmp_path / test, 30)
    assert shades(tmp_path, labels=labels, val_fraction=0.25) == {"train": {10}, "val": {10}, "test": {30}}


@pytest.mark.parametrize("labels", ["folders", "none"])
@pytest.mark.parametrize("inner", ["", "cats"], ids=["flat", "classes"])
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["train", "valid"], r"has `train` and `valid`, .* but no `test`, .*: add `test`, or rename valid to test, so"),
        (["Train", "VALIDATION"], "has `Train` and `VALIDATION`, .* but no `test`"),
        (["val", "test"], "has `val` and `test`, .* but no `train`, .* set data.path to .*/val to split its pictures"),
        (["train", "val", "valid"], "but no `test`"),
        (["val", "valid"], "but no `train` and `test`"),
        (["val", "x"], "has `val`, .* but no `train` and `test`, .*: add .*, or rename it if it is a class"),
        (["test", "x"], "has `test`, .* but no `train`"),
        (["train", "test", "Test"], "/Test and .*/test name the same split: keep or rename one of them"),
        (["train", "val", "valid", "test"], "/val and .*/valid name the same split"),
        (["Train", "training", "test"], "/Train and .*/training name the same split"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_half_a_split_is_refused(names: list[str], sentence: str, inner: str, labels: Any, tmp_path: Path) -> None:
    for name in names:
        fill(tmp_path / name / inner, 10)
    with pytest.raises(UserError, match=sentence):
        ImageFolder(str(tmp_path), size=4, labels=labels).load()


@pytest.mark.parametrize("name", ["train", "Valid", "test"])
def test_a_lone_split_is_refused_unless_folders_mean_nothing(name: str, tmp_path: Path) -> None:
    fill(tmp_path / name, 10)
    with pytest.raises(UserError, match=rf"set data.path to {tmp_path / name} to split its pictures at random"):
        ImageFolder(str(tmp_path), size=4).load()
    assert sum(map(len, shades(tmp_path, labels="none").values())) == 3


def test_pictures_beside_a_held_out_folder_are_not_mixed_with_it(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    fill(tmp_path / "test", 30)
    for labels in ("folders", "none"):
        with pytest.raises(UserError, match="has `test`, as a data set in splits has, but no `train`"):
            ImageFolder(str(tmp_path), size=4, labels=labels).load()


def test_a_class_called_train_is_taken_for_one_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bus", "car", "Train"):
        fill(tmp_path / name, 10)
    data = ImageFolder(str(tmp_path), size=4)
    assert data.splits["train"].classes == ("Train", "bus", "car")
    assert capsys.readouterr().err == (
        "encdec: ImageFolder: the folder Train is taken for a class, as it lies beside others.\n"
    )


@pytest.mark.parametrize("labels", ["folders", "none"])
@pytest.mark.parametrize(
    "folders",
    [
        ["set/train", "set/test"],
        ["archive/Train/cats", "archive/valid/cats"],
        ["cats/train", "cats/test", "dogs/train", "dogs/test"],
        ["cats/deep/train", "cats/deep/test", "dogs"],
        ["cats/x", "cats/test", "dogs/x"],
        ["train/cats", "test/cats", "train/dogs/train", "train/dogs/val", "test/dogs"],
    ],
    ids="+".join,
)
def test_splits_within_a_class_are_refused(folders: list[str], labels: Any, tmp_path: Path) -> None:
    for name in folders:
        fill(tmp_path / name, 10)
    with pytest.raises(UserError, match=r"has `.*` in it, as a data set in splits has: set data\.path to"):
        ImageFolder(str(tmp_path), size=4, labels=labels).load()


@pytest.mark.parametrize("lacking", ["val", "test"])
def test_all_splits_have_the_same_classes(lacking: str, tmp_path: Path) -> None:
    for split in SHADES:
        for label in ("cats", "dogs"):
            if (split, label) != (lacking, "dogs"):
                fill(tmp_path / split / label, 10)
    with pytest.raises(
        UserError, match=rf"train has the classes cats, dogs, but .*{lacking} has the classes cats: give both"
    ):
        ImageFolder(str(tmp_path), size=4).load()


def test_classes_in_one_split_only_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "cats", 10)
    fill(tmp_path / "test", 30)
    with pytest.raises(
        UserError, match=r"/train has the classes cats, but .*/test has no folders of pictures: .*labels to none"
    ):
        ImageFolder(str(tmp_path), size=4).load()
    assert shades(tmp_path, labels="none")["test"] == {30}


@pytest.mark.parametrize("linked", ["test", "test/1.png"])
def test_a_picture_that_links_give_to_two_splits_is_refused(linked: str, tmp_path: Path) -> None:
    fill(tmp_path / "train", 10)
    if "/" in linked:
        fill(tmp_path / "test", 30)
        (tmp_path / linked).unlink()
    (tmp_path / linked).symlink_to(tmp_path / linked.replace("test", "train"))
    with pytest.raises(UserError, match=r"train/\d\.png and .*/test/\d\.png are the same file, in two splits"):
        ImageFolder(str(tmp_path), size=4).load()


def test_what_lies_beside_splits_is_not_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "test", "unlabeled", "masks"):
        fill(tmp_path / name, 10)
    Image.new("L", (4, 4)).save(tmp_path / "logo.png")
    data = ImageFolder(str(tmp_path), size=4)
    assert sum(len(images.labels) for images in data.splits.values()) == 6
    assert capsys.readouterr().err == (
        f"encdec: ImageFolder: beside the splits in {tmp_path}, these are not read: masks, unlabeled, logo.png.\n"
    )


@IN_BOTH_WAYS
def test_a_validation_folder_is_seen_as_it_is_in_all_its_size(memory: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("valid", 7), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).save(tmp_path / split / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=None, mode=None, max_memory_gb=memory, batch_size=3, val_fraction=0.9)
    assert [len(images.labels) for images in data.splits.values()] == [5, 7, 2]
    seen = torch.cat([batch.x for batch in data.val_dataloader()])
    for i, x in enumerate(seen):
        with Image.open(tmp_path / "valid" / f"{i}.png") as file:
            assert np.array_equal((x * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(file))
