"""Pictures of other sizes and modes than their neighbours."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import encdec
from encdec.data import ImageFolder, InMemoryImages
from encdec.testing import check_datamodule
from encdec.types import UserError
from tests.conftest import RunCLI

from .pictures import IN_BOTH_WAYS, RNG, read_all, write


@IN_BOTH_WAYS
def test_pictures_can_stay_as_they_are(memory: float, tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (12, 10, 14), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        if i % 3:
            write(tmp_path / f"{i:02d}.png", picture)
        else:  # shown as the others are, but stored on its side
            exif = Image.Exif()
            exif[0x112] = 6
            write(tmp_path / f"{i:02d}.png", np.rot90(picture), exif=exif)
    data = ImageFolder(str(tmp_path), size=None, mode=None, max_memory_gb=memory, batch_size=4)
    assert data.image_shape == (1, 10, 14)
    found = torch.cat([batch.x for name in ("train", "val", "test") for batch in getattr(data, f"{name}_dataloader")()])
    assert {bytes(x.numpy()) for x in (found[:, 0] * 255).round().byte()} == {bytes(picture) for picture in pictures}
    assert isinstance(data.splits["test"], InMemoryImages) == (memory > 0)
    check_datamodule(data)


@pytest.mark.parametrize("ending", ["tif", "jpg", "webp"])
def test_the_size_of_a_turned_picture_is_known_from_its_header(ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 8
    for i in range(3):
        Image.new("RGB", (14, 10)).save(tmp_path / f"{i}.{ending}", exif=exif)
    assert ImageFolder(str(tmp_path), size=None).image_shape == (3, 14, 10)


def mixed(folder: Path, **other: Any) -> str:
    for i in range(7):
        Image.new(**{"mode": "RGB", "size": (14, 10), **(other if i == 4 else {})}).save(folder / f"{i}.png")
    return str(folder)


@IN_BOTH_WAYS
def test_mixed_sizes_are_found_when_loading(memory: float, tmp_path: Path) -> None:
    folder = mixed(tmp_path, size=(10, 14))
    with pytest.raises(UserError) as error:
        ImageFolder(folder, size=None, max_memory_gb=memory).load()
    assert str(error.value) == (
        f"ImageFolder: {folder}/4.png (picture 4) has 10×14 pixels, but {folder}/0.png has 14×10: set data.size to a "
        "number N, which cuts all to N×N pixels, or give all the same size."
    )
    assert ImageFolder(folder, size=5, mode=None).image_shape == (3, 5, 5)


@IN_BOTH_WAYS
def test_mixed_modes_are_found_when_loading(memory: float, tmp_path: Path) -> None:
    folder = mixed(tmp_path, mode="L")
    with pytest.raises(UserError) as error:
        ImageFolder(folder, mode=None, max_memory_gb=memory).load()
    assert str(error.value) == (
        f"ImageFolder: {folder}/4.png (picture 4) is grey (Pillow's mode L), but {folder}/0.png is color (Pillow's "
        "mode RGB): set data.mode to grey or to color."
    )
    assert ImageFolder(folder, size=None, mode="grey").image_shape == (1, 10, 14)


def test_train_and_test_must_be_alike_too(tmp_path: Path) -> None:
    for split, size in (("train", (14, 10)), ("test", (10, 10))):
        (tmp_path / split).mkdir()
        for i in range(3):
            Image.new("L", size).save(tmp_path / split / f"{i}.png")
    with pytest.raises(UserError, match=r"test/0\.png \(picture 0\) has 10×10 pixels, but .*train/0\.png has 14×10"):
        ImageFolder(str(tmp_path), size=None).load()


@IN_BOTH_WAYS
def test_a_picture_that_is_turned_behind_its_pixels_is_refused(memory: float, tmp_path: Path) -> None:
    """A PNG may say so at its end, where looking at headers does not find it."""
    folder = mixed(tmp_path)
    path = tmp_path / "4.png"
    content, chunk = path.read_bytes(), b"eXIfMM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:-12] + late + content[-12:])
    with pytest.raises(
        UserError, match=r"4\.png \(picture 4\) has 10×14 pixels, but the others have 14×10: set data\.s"
    ):
        read_all(ImageFolder(folder, size=None, max_memory_gb=memory))
    read_all(ImageFolder(folder, size=8, max_memory_gb=memory))


def test_damaged_headers_are_named(tmp_path: Path) -> None:
    (Path(mixed(tmp_path)) / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2\.png \(picture 2\) can't be decoded \(its content is none of "):
        ImageFolder(str(tmp_path), size=None).load()


@pytest.mark.parametrize("network", ["MLPDecoder", "ConvDecoder"])
def test_a_run_on_pictures_that_are_not_square(network: str, cli: RunCLI, project: Path) -> None:
    (project / "mine").mkdir()
    for i in range(30):
        write(project / "mine" / f"{i}.png", RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8))
    cli("fit", "--model=EncoderlessVAE", "--data=ImageFolder", "--data.path=mine", "--data.size=null",
        "--data.mode=null", f"--model.decoder={network}", "--trainer.max_epochs=1", "--name=wide")  # fmt: skip
    model = encdec.load(project / "lightning_logs/wide/version_0/checkpoints/last.ckpt")
    assert model.sample(torch.zeros(2).long(), torch.zeros(2, model.noise_dim)).shape == (2, 3, 9, 14)


def test_settings_that_mean_nothing_are_refused() -> None:
    for setting, found in (
        ({"mode": "gray"}, "mode is 'gray', but it must be 'grey', 'color' or None"),
        ({"labels": "files"}, "labels is 'files', but it must be 'folders' or 'none'"),
        ({"size": 0}, "size is 0, but"),
    ):
        with pytest.raises(UserError, match=found):
            ImageFolder("pictures", **setting)
