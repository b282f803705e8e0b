"""Damaged pictures of a folder: named all at once, or left out."""

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from encdec.data import ImageFolder
from encdec.types import UserError
from tests.conftest import RunCLI

IN_BOTH_WAYS = pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])
AS_THEY_ARE = pytest.mark.parametrize("settings", [{"size": 8}, {"size": None, "mode": None}], ids=["cut", "as is"])


def make(folder: Path, count: int = 30, damaged: tuple[int, ...] = ()) -> Path:
    """Numbered pictures, of which some are damaged in several ways."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i:02d}.{'jpg' if i % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
        if i in damaged:
            content = path.read_bytes()
            path.write_bytes((b"", b"no picture", content[: len(content) // 2], content[:20])[damaged.index(i) % 4])
    return folder


def numbers(sentence: str) -> list[int]:
    """The positions of the pictures that a sentence names."""
    return [int(number) for number in re.findall(r"\(picture (\d+)\)", sentence)]


def pixels(data: ImageFolder) -> dict[str, torch.Tensor]:
    return {
        name: torch.cat(list(images.stream(torch.arange(len(images.labels)).split(4))))
        for name, images in data.splits.items()
    }


@AS_THEY_ARE
def test_all_damaged_pictures_are_in_one_sentence(settings: dict[str, Any], tmp_path: Path) -> None:
    damaged = (0, 3, 4, 7, 8, 9, 11, 15, 17, 20, 21, 25, 29)
    make(tmp_path, damaged=damaged)
    with pytest.raises(UserError) as error:
        _ = ImageFolder(str(tmp_path), **settings).splits
    sentence = str(error.value)
    assert sentence.startswith("ImageFolder: ")
    assert "\n" not in sentence
    if settings["size"] is None:  # headers are read first; half of a picture is found when it is decoded
        assert "pictures can't be used" in sentence
    else:
        assert sentence.startswith(
            f"ImageFolder: 13 pictures can't be used: {tmp_path}/00.png (picture 0) can't be decoded"
        )
        assert numbers(sentence) == list(damaged[:10])
        assert "; and 3 more. For each: replace or delete it, or set data.skip_damaged to true" in sentence


def test_damaged_pictures_of_both_splits_are_in_one_sentence(tmp_path: Path) -> None:
    make(tmp_path / "train", damaged=(5,))
    make(tmp_path / "test", damaged=(6,))
    with pytest.raises(
        UserError, match=r"2 pictures can't be used: .*train/05.* \(picture 5\) .*test/06.* \(picture 6\)"
    ):
        ImageFolder(str(tmp_path)).load()


@pytest.mark.parametrize("workers", [0, 1])
def test_all_damaged_pictures_of_a_streamed_batch_are_in_one_sentence(workers: int, tmp_path: Path) -> None:
    make(tmp_path, damaged=tuple(range(0, 30, 2)))
    train = ImageFolder(str(tmp_path), max_memory_gb=0, num_workers=workers).splits["train"]
    with pytest.raises(UserError, match=r"1[0-5] pictures can't be used: .* and \d more\. For each: .*skip_damaged"):
        list(train.stream([torch.arange(len(train.labels))]))


def test_all_pictures_of_another_size_are_in_one_sentence(tmp_path: Path) -> None:
    make(tmp_path)
    for i in (2, 4):
        Image.new("RGB", (5, 6)).save(tmp_path / f"{i:02d}.png")
    for skip in (False, True):
        with pytest.raises(UserError) as error:
            ImageFolder(str(tmp_path), size=None, skip_damaged=skip).load()
        assert numbers(str(error.value)) == [2, 4]
        assert "has 5×6 pixels" in str(error.value)
        assert "skip_damaged" not in str(error.value)


@IN_BOTH_WAYS
@AS_THEY_ARE
def test_damaged_pictures_are_left_out(
    settings: dict[str, Any], memory: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = (0, 3, 8, 9, 11, 29)
    make(tmp_path / "some", damaged=damaged)
    make(tmp_path / "sound", damaged=())
    for i in damaged:
        (tmp_path / "sound" / f"{i:02d}.{'jpg' if i % 2 else 'png'}").unlink()
    expected = pixels(ImageFolder(str(tmp_path / "sound"), **settings))
    assert capsys.readouterr().err == ""
    for workers in (0, 2) if memory == 0 else (0,):
        data = ImageFolder(
            str(tmp_path / "some"), skip_damaged=True, max_memory_gb=memory, num_workers=workers, **settings
        )
        for name, found in pixels(data).items():
            assert torch.equal(found, expected[name]), name
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("encdec: ImageFolder: left out 6 of 30 pictures, which are damaged: ")
        assert numbers(line) == list(damaged)


def test_a_damaged_validation_picture_keeps_its_neighbours_labels(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            make(tmp_path / split / label, 4, damaged=(1,) if (split, label) == ("val", "a") else ())
    splits = ImageFolder(str(tmp_path), skip_damaged=True).splits
    assert [images.labels.tolist() for images in splits.values()] == [
        [0, 0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1, 1, 1],
    ]


@IN_BOTH_WAYS
def test_what_leaves_nothing_is_refused(memory: float, tmp_path: Path) -> None:
    make(tmp_path / "all", 3, damaged=(0, 1, 2))
    for size in (8, None):
        with pytest.raises(UserError, match="3 pictures can't be used"):
            ImageFolder(str(tmp_path / "all"), size=size, skip_damaged=True, max_memory_gb=memory).load()
    make(tmp_path / "classes" / "a", 5)
    make(tmp_path / "classes" / "b", 2, damaged=(0, 1))
    with pytest.raises(UserError, match="/b has no pictures that can be read, so its class would be empty"):
        ImageFolder(str(tmp_path / "classes"), skip_damaged=True, max_memory_gb=memory).load()


@IN_BOTH_WAYS
def test_values_that_are_no_grey_levels_are_not_left_out(memory: float, tmp_path: Path) -> None:
    """Which would leave out the bright ones of pictures that need to be scaled."""
    make(tmp_path, 5, damaged=(2,))
    for i in (5, 6):
        Image.fromarray(np.full((12, 12), 255 * (i - 5), np.float32)).save(tmp_path / f"{i:02d}.tif")
    with pytest.raises(UserError, match=r"06\.tif \(picture 6\) has the value 255 .*: scale or replace it\.$"):
        ImageFolder(str(tmp_path), skip_damaged=True, max_memory_gb=memory).load()


@IN_BOTH_WAYS
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_fault_of_the_moment_does_not_leave_out_a_picture(
    error: Exception, memory: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 6)
    opens = Image.open

    def fail(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "03.jpg":
            raise error
        return opens(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"03\.jpg \(picture 3\) can't be read \((Input/output error|MemoryError)\)"):
        ImageFolder(str(tmp_path), skip_damaged=True, max_memory_gb=memory, num_workers=0).load()


def test_a_picture_that_breaks_later_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    make(tmp_path, 9, damaged=(4,))
    data = ImageFolder(str(tmp_path), skip_damaged=True, max_memory_gb=0, num_workers=1)
    assert data.num_train > 0
    (tmp_path / "06.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"06\.png \(picture 6\) can't be decoded .*: replace or delete it\.$"):
        pixels(data)


def test_a_run_without_the_damaged_pictures(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(project / "mine", damaged=(1, 2, 7))
    call = ("--model=AE", "--data=ImageFolder", "--data.path=mine", "--data.size=8", "--trainer.max_epochs=1")
    with pytest.raises(SystemExit) as stop:
        cli("fit", *call)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("encdec: error: ImageFolder: 3 pictures can't be used: mine/01.jpg (picture 1)")
    cli("fit", *call, "--data.skip_damaged=true", "--name=rest")
    assert "left out 3 of 30 pictures, which are damaged: mine/01.jpg (picture 1)" in capsys.readouterr().err
    assert (project / "lightning_logs/rest/version_0/checkpoints/last.ckpt").is_file()
