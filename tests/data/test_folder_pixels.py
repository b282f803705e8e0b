"""What the values of a picture mean: turned, cropped, scaled, transparent."""

import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from encdec.data import ImageFolder
from encdec.data.pictures.decoding import read_picture
from encdec.types import UserError

from .pictures import IN_BOTH_WAYS, RNG, grey, read_all, write


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = np.zeros((20, 20), np.uint8)
    picture[:10] = 255
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter to the left: what was its upper half is shown on the right
    Image.fromarray(picture).save(tmp_path / "upright.png")
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    turned, upright = (read_picture(tmp_path / name, (1, 20, 20))[0] for name in ("turned.png", "upright.png"))
    assert torch.equal(upright, torch.from_numpy(picture))
    assert torch.equal(turned, torch.from_numpy(picture).rot90(-1))


def _photograph(folder: Path, width: int, height: int, **options: Any) -> tuple[Path, Image.Image]:
    """A smooth JPEG, and what it is when it is decoded in full."""
    coarse = Image.fromarray(RNG.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    path = folder / f"{width}.jpg"
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95, **options)
    with Image.open(path) as file:
        return path, file.convert("RGB")


@pytest.mark.parametrize(("size", "smaller"), [(100, False), (96, False), (64, True), (32, True), (13, True)])
def test_a_large_jpeg_is_decoded_smaller_but_looks_the_same(size: int, smaller: bool, tmp_path: Path) -> None:
    path, full = _photograph(tmp_path, 320, 256)
    pixels = read_picture(path, (3, size, size)).permute(1, 2, 0).numpy()
    expected = np.asarray(ImageOps.fit(full, (size, size), Image.Resampling.BICUBIC))
    difference = np.abs(pixels.astype(float) - expected)
    assert difference.mean() < 1.5
    assert (difference.max() > 0) == smaller


def test_a_large_jpeg_is_turned_and_made_grey_as_a_small_one_is(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    path, full = _photograph(tmp_path, 320, 256, exif=turned)
    pixels = read_picture(path, (1, 32, 32))[0].numpy()
    upright = full.transpose(Image.Transpose.ROTATE_270).convert("L")
    expected = np.asarray(ImageOps.fit(upright, (32, 32), Image.Resampling.BICUBIC))
    assert np.abs(pixels.astype(float) - expected).mean() < 1.5


def test_a_picture_is_cropped_around_its_centre(tmp_path: Path) -> None:
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 255
    for i in range(4):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=20, val_fraction=0.3)
    (batch,) = data.test_dataloader()
    assert (batch.x == 1).all()
    assert data.num_classes == 1
    assert (batch.y == 0).all()


LEVELS = np.concatenate([[0, 128, 129, 255, 256, 32767, 65406, 65407, 65535], RNG.integers(0, 65536, 247)])
LEVELS = LEVELS.reshape(16, 16).astype(np.uint16)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_levels_are_scaled(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"deep.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 16 16 65535\n" + LEVELS.astype(">u2").tobytes())
    else:
        write(path, LEVELS)
    assert np.array_equal(grey(path), np.round(LEVELS / 65535 * 255))
    color = read_picture(path, (3, 16, 16))
    assert all(np.array_equal(channel, grey(path)) for channel in color)


def test_16_bit_pictures_whose_white_is_0_are_inverted(tmp_path: Path) -> None:
    path = write(tmp_path / "inverted.tif", LEVELS, tiffinfo={262: 0})
    assert np.array_equal(grey(path), 255 - np.round(LEVELS / 65535 * 255))


def test_12_bit_grey_levels_are_scaled(tmp_path: Path) -> None:
    levels = np.concatenate([[0, 8, 9, 4095], RNG.integers(0, 4096, 252)]).reshape(16, 16)
    pairs = levels.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    tags = [
        (256, 3, 16),
        (257, 3, 16),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 150),
        (277, 3, 1),
        (278, 3, 16),
    ]
    tags += [(279, 4, packed.size)]
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + bytes(4)
    path = tmp_path / "twelve.tif"
    path.write_bytes(content.ljust(150, b"\0") + packed.astype(np.uint8).tobytes())
    assert np.array_equal(grey(path), np.round(levels / 4095 * 255))


def test_a_16_bit_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    path = write(tmp_path / "turned.png", LEVELS, exif=exif)
    assert np.array_equal(grey(path), np.rot90(np.round(LEVELS / 257), -1))


def test_floating_point_grey_levels_are_scaled(tmp_path: Path) -> None:
    values = RNG.random((16, 16)).astype(np.float32)
    values[0, :2] = 0, 1
    path = write(tmp_path / "float.tiff", values)
    assert np.array_equal(grey(path), np.round(values.astype(np.float64) * 255))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.float32(np.nan), r"nan in row 2, column 3, but .* finite and go from 0, black, to 1, white"),
        (np.float32(-np.inf), "-inf in row 2, column 3, but"),
        (np.float32(1.5), "1.5 in row 2, column 3, but"),
        (np.int32(-7), r"-7 in row 2, column 3, but .* from 0, black, to 65535, white"),
        (np.int32(65536), "65536 in row 2, column 3, but"),
    ],
)
@IN_BOTH_WAYS
def test_values_that_are_no_grey_levels_are_named(values: Any, found: str, memory: float, tmp_path: Path) -> None:
    picture = np.zeros((6, 6), values.dtype)
    for i in range(9):
        write(tmp_path / f"{i}.tif", picture)
    picture[2, 3] = picture[4, 0] = values
    write(tmp_path / "5.tif", picture)
    with pytest.raises(UserError, match=rf"^ImageFolder: {tmp_path}/5\.tif \(picture 5\) has the value {found}"):
        read_all(ImageFolder(str(tmp_path), size=6, max_memory_gb=memory))


RGBA = RNG.integers(0, 256, (16, 16, 4), dtype=np.uint8)
RGBA[:8, :, 3] = np.where(RGBA[:8, :, 3] < 128, 0, 255)  # invisible or opaque above, everything below


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_what_is_transparent_is_laid_over_white(mode: str, ending: str, tmp_path: Path) -> None:
    picture = Image.fromarray(RGBA).convert(mode)
    picture.save(tmp_path / f"x.{ending}")
    values = np.asarray(picture).astype(float)
    alpha = values[..., -1:] / 255
    expected = (alpha * values[..., :-1] + (1 - alpha) * 255).transpose(2, 0, 1)
    found = read_picture(tmp_path / f"x.{ending}", (len(expected), 16, 16)).numpy().astype(float)
    assert np.abs(found - expected).max() <= 1
    assert np.array_equal(found[:, :8], expected[:, :8])


@pytest.mark.parametrize("mode", ["color", "grey"])
def test_a_jpeg_in_the_colors_of_a_printer_looks_as_on_a_screen(mode: Literal["color", "grey"], tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), (200, 80, 30))
    picture.convert("CMYK").save(tmp_path / "printed.jpg", quality=100)
    (images, _) = ImageFolder(str(tmp_path), size=16, mode=mode, labels="none").all_pictures()
    (pixels,) = images.stream([torch.tensor([0])])
    expected = [200, 80, 30] if mode == "color" else [picture.convert("L").getpixel((0, 0))]
    assert (pixels.float().mean((0, 2, 3)) - torch.tensor(expected)).abs().max() < 3


def test_transparent_colors_and_palettes_are_white(tmp_path: Path) -> None:
    picture = np.zeros((16, 16), np.uint8)
    picture[:4], picture[4:8] = 3, 7
    palette = Image.fromarray(picture).convert("P")
    palette.putpalette(bytes(range(0, 240, 10)))
    colors = np.asarray(palette.convert("RGB")).copy()
    assert colors[0, 0].tolist() == [90, 100, 110]
    expected = colors.copy()
    expected[:4] = 255
    palette.save(tmp_path / "palette.png", transparency=3)
    palette.save(tmp_path / "palette.gif", transparency=3)
    Image.fromarray(colors).save(tmp_path / "key.png", transparency=(90, 100, 110))
    for name in ("palette.png", "palette.gif", "key.png"):
        assert np.array_equal(read_picture(tmp_path / name, (3, 16, 16)).permute(1, 2, 0), expected), name
    palette.save(tmp_path / "half.png", transparency=bytes([255] * 7 + [128]))
    expected = colors.copy()
    expected[4:8] = np.round(colors[4:8] * (128 / 255) + 255 * (127 / 255))
    half = read_picture(tmp_path / "half.png", (3, 16, 16)).permute(1, 2, 0).numpy().astype(float)
    assert np.abs(half - expected).max() <= 1
    deep = LEVELS.copy()
    deep[3] = 777
    write(tmp_path / "deep.png", deep, transparency=777)
    expected = np.round(LEVELS / 257)
    expected[deep == 777] = 255
    assert np.array_equal(grey(tmp_path / "deep.png"), expected)


@pytest.mark.parametrize("ending", ["gif", "tif", "png", "webp"])
def test_the_first_frame_is_taken(ending: str, tmp_path: Path) -> None:
    first, second = Image.new("L", (16, 16), 40), Image.new("L", (16, 16), 200)
    lossless: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    first.save(tmp_path / f"x.{ending}", save_all=True, append_images=[second], **lossless)
    with Image.open(tmp_path / f"x.{ending}") as file:
        assert file.n_frames == 2  # type: ignore[attr-defined]
    assert (grey(tmp_path / f"x.{ending}") == 40).all()


@IN_BOTH_WAYS
@pytest.mark.parametrize("limit", [300, 100], ids=["warning", "error"])
def test_a_picture_made_to_fill_the_memory_is_refused(
    limit: int, memory: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(9):
        write(tmp_path / f"{i}.png", np.zeros((9, 9), np.uint8))
    write(tmp_path / "3.png", np.zeros((20, 20), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=rf"3\.png \(picture 3\) has more than {limit} pixels, as files have"):
        read_all(ImageFolder(str(tmp_path), size=8, max_memory_gb=memory, num_workers=0))
    with pytest.raises(UserError, match=rf"3\.png \(picture 3\) has more than {limit} pixels, as files have"):
        ImageFolder(str(tmp_path), size=8, mode=None, max_memory_gb=memory).load()
