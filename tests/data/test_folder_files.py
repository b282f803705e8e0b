"""Which files of a folder are read as pictures, and what is said about the others."""

import runpy
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest
from PIL import Image, features

from encdec.data import ImageFolder
from encdec.data.pictures import decoding
from encdec.data.pictures.decoding import ENDINGS, ENDINGS_OF, read_picture
from encdec.types import UserError

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
0 0 8 8 rectfill
showpage
%%EOF
"""
PROGRAM = """#!/bin/sh
touch {mark}
exit 1
"""


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there when a program called `gs` has been started."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(mark=mark))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    # Pillow looks for the program once in each process
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return mark


def fill(folder: Path, count: int = 4, ending: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(folder / f"{i}.{ending}")
    return folder


def count(folder: Path, **settings: Any) -> int:
    return sum(len(images.labels) for images in ImageFolder(str(folder), size=8, **settings).splits.values())


def test_pillow_itself_would_start_ghostscript(ghostscript: Path, tmp_path: Path) -> None:
    """What the next test is about happens where the formats are not limited."""
    (tmp_path / "x.png").write_bytes(POSTSCRIPT)
    with Image.open(tmp_path / "x.png") as file, pytest.raises(CalledProcessError):
        file.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.TIFF"])
@pytest.mark.parametrize(
    "settings",
    [{"size": 8}, {"size": None}, {"size": 8, "mode": None}, {"max_memory_gb": 0}, {"skip_damaged": True}],
    ids=str,
)
@pytest.mark.parametrize(
    "prefix", [b"", b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + len(POSTSCRIPT).to_bytes(4, "little") + bytes(18)]
)
def test_postscript_starts_no_program(
    prefix: bytes, settings: dict[str, Any], name: str, ghostscript: Path, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "set")
    (folder / name).write_bytes(prefix + POSTSCRIPT)

    def read_all() -> None:
        data = ImageFolder(str(folder), num_workers=0, **settings)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            list(loader)

    if "skip_damaged" in settings:
        read_all()
    else:
        with pytest.raises(UserError, match=rf"{name} \(picture 4\) can't be decoded \(its content is none of .*PNG"):
            read_all()
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["TGA", "ICO", "PCX", "SGI", "JPEG2000", "PDF", "EPS", "DDS"])
def test_the_content_of_other_formats_is_refused(kind: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "set")
    Image.new("RGB", (16, 16)).save(folder / "x.png", format=kind)
    with pytest.raises(UserError, match=r"x\.png \(picture 4\) can't be decoded \(its content is none of "):
        count(folder)


@pytest.mark.parametrize("kind", ENDINGS_OF)
def test_the_content_may_be_that_of_another_format_that_is_read(kind: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "set")
    for ending in (".png", ".jpg"):
        Image.new("RGB", (16, 16)).save(folder / f"x{ending}", format=kind)
    assert count(folder) == 6


@pytest.mark.parametrize("kind", ENDINGS_OF)
@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_every_ending_of_a_format_is_read(
    kind: str, change: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "set")
    endings = ENDINGS_OF[kind]
    for ending in endings:
        Image.new("RGB", (16, 16)).save(folder / f"x{change(ending)}", format=kind)
    assert count(folder) == 4 + len(endings)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp", "mpo", "JPG", "JFIF"])
def test_jpegs_are_jpegs_whatever_their_ending_is_called(ending: str) -> None:
    assert f".{ending.lower()}" in ENDINGS


def test_a_picture_with_two_views_gives_the_first(tmp_path: Path) -> None:
    """As the cameras of telephones write them, under the endings of JPEGs."""
    folder = fill(tmp_path / "set")
    first, second = (Image.new("RGB", (16, 16), color) for color in ("white", "black"))
    first.save(folder / "x.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(folder / "x.jpg") as file:
        assert (file.format, file.n_frames) == ("MPO", 2)  # type: ignore[attr-defined]
    assert float(read_picture(folder / "x.jpg", (3, 8, 8)).min()) > 250


def test_files_that_are_left_out_are_counted_by_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    for label in ("a", "b"):
        fill(folder / label)
        (folder / label / "x.heic").write_bytes(b"of a telephone")
        (folder / label / "deeper").mkdir()
        (folder / label / "deeper" / "y.HEIC").write_bytes(b"of a telephone")
    for name in ("scan.psd", "noending", "x.png.bak"):
        (folder / "b" / name).write_bytes(b"of something else")
    for name in ("labels.csv", "0.txt", "0.json", "0.xml", "README", "Thumbs.db", ".DS_Store", "._0.png", "LICENSE"):
        (folder / "a" / name).write_bytes(b"of no picture")
    data = ImageFolder(str(folder), size=8)
    assert data.num_train > 0
    data.train_dataloader()
    assert capsys.readouterr().err == (
        "encdec: ImageFolder: left out 7 files (.heic 4, without an ending 1, .psd 1, .bak 1), whose endings are not "
        "those of pictures that are read.\n"
    )


def test_files_that_are_left_out_of_splits_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        fill(tmp_path / split)
        (tmp_path / split / "x.heic").touch()
    (tmp_path / "paper.pdf").touch()
    assert count(tmp_path) == 8
    assert "left out 2 files (.heic 2), whose" in capsys.readouterr().err


def test_a_folder_of_files_that_are_left_out_says_which(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.heic").touch()
    (tmp_path / "x.svg").touch()
    with pytest.raises(UserError, match=r"has no pictures, but 4 files \(\.heic 3, \.svg 1\): put files ending in \."):
        count(tmp_path)


def test_many_endings_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    for i in range(14):
        (tmp_path / f"x.{i}").touch()
    count(tmp_path)
    assert capsys.readouterr().err.count(" 1,") == 10
    count(tmp_path)
    assert ", and 4 more endings), whose" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["AVIF", "WEBP"])
def test_a_pillow_without_a_decoder_leaves_its_files_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name != kind.lower() and check(name))
    made = runpy.run_path(decoding.__file__)
    assert kind not in made["FORMATS"]
    assert f".{kind.lower()}" not in made["ENDINGS"]
    assert len(made["FORMATS"]) == len(ENDINGS_OF) - 1
