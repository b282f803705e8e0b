"""Which files of a folder are its pictures: links, hidden files, classes."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encdec.data import ImageFolder
from encdec.types import UserError

from .pictures import RNG, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six pictures."""
    for label in ("a", "b"):
        for i in range(6):
            write(tmp_path / "set" / label / f"{i}.png", RNG.integers(0, 256, (8, 8), dtype=np.uint8))
    return tmp_path / "set"


def count(folder: Path, **settings: Any) -> dict[str, int]:
    """How many pictures of each class there are."""
    splits = ImageFolder(str(folder), size=8, **settings).splits.values()
    labels, names = torch.cat([images.labels for images in splits]), next(iter(splits)).classes
    return dict(zip(names, labels.bincount(minlength=len(names)).tolist(), strict=True))


def test_endings_in_capitals_count_and_other_files_do_not(folder: Path) -> None:
    write(folder / "a" / "UPPER.PNG", np.zeros((8, 8), np.uint8))
    write(folder / "a" / "Mixed.Jpeg", np.zeros((8, 8), np.uint8))
    write(folder / "a" / "deeper" / "still" / "x.png", np.zeros((8, 8), np.uint8))
    (folder / "a" / "notes.txt").write_text("x")
    assert count(folder) == {"a": 9, "b": 6}


def test_hidden_files_are_left_out(folder: Path) -> None:
    for name in ("a/._0.png", "a/.thumbnails/0.png", ".trash/a/0.png", "._x.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of the system")
    assert count(folder) == {"a": 6, "b": 6}
    assert count(folder, labels="none") == {"image": 12}


def test_links_are_followed_and_count_once(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "x.png", np.zeros((8, 8), np.uint8))
    (folder / "a" / "far").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "near.png").symlink_to(folder / "a" / "0.png")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    assert count(folder) == {"a": 7, "b": 6, "c": 1}
    assert count(folder, labels="none") == {"image": 13}


@pytest.mark.parametrize("name", ["a/again", "latest"])
@pytest.mark.parametrize("labels", ["folders", "none"])
def test_links_that_lead_back_are_named(name: str, labels: Any, folder: Path) -> None:
    (folder / name).symlink_to(folder)
    with pytest.raises(UserError, match=rf"{folder}/{name} is a link to {folder}, which it lies in: delete it"):
        ImageFolder(str(folder), labels=labels).load()


def test_a_link_to_itself_is_named(folder: Path) -> None:
    (folder / "a" / "loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match=r"a/loop\.png can't be read \(Too many levels of symbolic links\)"):
        ImageFolder(str(folder)).load()


def test_what_is_no_file_is_named(folder: Path) -> None:
    (folder / "a" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"a/gone\.png is a link to a file that is missing: replace or delete it"):
        ImageFolder(str(folder)).load()
    (folder / "a" / "gone.png").unlink()
    os.mkfifo(folder / "b" / "pipe.png")
    with pytest.raises(UserError, match=r"b/pipe\.png is not a file"):
        ImageFolder(str(folder)).load()


@pytest.mark.parametrize("name", ["", "a", "b/deeper"])
def test_a_folder_that_can_not_be_read_is_named(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "b" / "deeper").mkdir()
    closed = folder / name
    closed.chmod(0)
    if os.access(closed, os.R_OK):  # the superuser may read everything
        scandir = os.scandir

        def refuse(path: Any) -> Any:
            if Path(path) == closed:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
    try:
        with pytest.raises(UserError, match=rf"{closed} can't be read \(Permission denied\): change its permissions"):
            ImageFolder(str(folder)).load()
    finally:
        closed.chmod(0o700)


def test_pictures_beside_the_classes_are_not_lost(folder: Path) -> None:
    write(folder / "x.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match=r"x\.png lies beside folders of pictures, so it has no class: move it"):
        ImageFolder(str(folder)).load()
    assert count(folder, labels="none") == {"image": 13}


def test_a_class_without_pictures_is_refused(folder: Path) -> None:
    (folder / "c").mkdir()
    (folder / "c" / "0.heic").write_bytes(b"not supported")
    with pytest.raises(UserError, match="/c has no pictures that can be read, so its class would be empty: delete it"):
        ImageFolder(str(folder)).load()
    assert count(folder, labels="none") == {"image": 12}


def test_a_lone_train_folder_is_no_class(folder: Path) -> None:
    for name in ("train", "Test"):
        folder = folder.rename(folder.parent / name)
        with pytest.raises(
            UserError, match=rf"{folder.parent} has `{name}`, as a data set in splits has, but .* both `train` and"
        ):
            ImageFolder(str(folder.parent)).load()
    assert count(folder.parent, labels="none") == {"image": 12}


def test_a_class_may_be_called_train(folder: Path) -> None:
    (folder / "a").rename(folder / "train")
    assert count(folder) == {"b": 6, "train": 6}


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"{i}.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match="ImageFolder: the number of training images is 1, but at least 2 are needed"):
        _ = ImageFolder(str(tmp_path)).splits
    write(tmp_path / "2.png", np.zeros((8, 8), np.uint8))
    assert count(tmp_path) == {"image": 3}
