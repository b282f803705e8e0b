"""Pictures as users have them: of many kinds, damaged, mixed, linked, hidden."""

import errno
import gc
import multiprocessing
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

import encdec
from encdec.data import DataModule, ImageFolder, InMemoryImages
from encdec.data.pictures.decoding import read_picture
from encdec.testing import check_datamodule
from encdec.types import UserError
from tests.conftest import RunCLI
from tests.small_data import write_all

RNG = np.random.default_rng(0)
IN_BOTH_WAYS = pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])


@pytest.mark.parametrize("mode", ["grey", "colour"])
@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])
def test_folder_gives_the_same_pixels_from_memory_and_from_workers(
    mode: str, memory: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    folder = str(tmp_path / "data" / "pictures")
    data = ImageFolder(folder, size=16, mode=mode, max_memory_gb=memory, batch_size=5)  # type: ignore[arg-type]
    assert isinstance(data.splits["train"], InMemoryImages) == (memory > 0)
    assert data.image_shape == (1 if mode == "grey" else 3, 16, 16)
    assert data.splits["train"].classes == ("cats", "dogs")
    reference = ImageFolder(folder, size=16, mode=mode, batch_size=5)  # type: ignore[arg-type]
    for batch, expected in zip(data.train_dataloader(), reference.train_dataloader(), strict=True):
        for value, wanted in zip(batch[:3], expected[:3], strict=True):
            assert torch.equal(value, wanted)


def test_a_streamed_folder_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    epochs = []
    for workers in (0, 1, 2):
        data = ImageFolder(str(tmp_path / "data" / "pictures"), size=8, max_memory_gb=0, num_workers=workers)
        epochs.append(torch.cat([batch.x for batch in data.train_dataloader()]))
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])


def streamed(folder: Path, **kwargs: Any) -> ImageFolder:
    return ImageFolder(str(folder / "data" / "pictures"), size=8, max_memory_gb=0, batch_size=5, **kwargs)


def test_the_processes_that_read_pictures_are_kept_and_end_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    others = set(multiprocessing.active_children())
    data = streamed(tmp_path)
    started = []
    for loader in (data.train_dataloader(), data.val_dataloader(), data.train_dataloader()):
        batches = iter(loader)
        for _ in range(len(loader)):
            next(batches)  # and no further, as Lightning does, which knows the length
        started.append(set(multiprocessing.active_children()) - others)
    assert started[0] == started[1] == started[2]
    assert len(started[0]) == 2
    del data, loader, batches
    gc.collect()
    assert not started[0] & set(multiprocessing.active_children())


def test_passes_over_a_streamed_folder_may_overlap_or_be_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    data = streamed(tmp_path)
    images = data.splits["train"]
    first, second = torch.arange(10).split(5), torch.arange(3, 9).split(3)
    expected = streamed(tmp_path, num_workers=0).splits["train"]
    for a, b, wanted_a, wanted_b in zip(
        *map(images.stream, (first, second)), *map(expected.stream, (first, second)), strict=True
    ):
        assert torch.equal(a, wanted_a)
        assert torch.equal(b, wanted_b)
    abandoned = images.stream(torch.arange(10).split(1))
    next(abandoned)
    del abandoned
    for a, wanted_a in zip(images.stream(first), expected.stream(first), strict=True):
        assert torch.equal(a, wanted_a)
    assert list(images.stream([])) == []


def test_reading_pictures_draws_nothing_from_torchs_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, monkeypatch)
    for workers in (0, 1):
        state = torch.get_rng_state()
        for _ in streamed(tmp_path, num_workers=workers).val_dataloader():
            pass
        assert torch.equal(state, torch.get_rng_state())


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


def test_folders_can_be_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, monkeypatch)
    data = ImageFolder(str(tmp_path / "data" / "pictures"), size=8, labels="none")
    assert data.num_classes == 1
    assert sum(len(images.labels) for images in data.splits.values()) == 24
    assert not any(images.labels.any() for images in data.splits.values())


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("test", 3)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (9, 9), i * 20).save(tmp_path / split / label / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=9, mode="grey", val_fraction=0.25)
    assert [len(images.labels) for images in data.splits.values()] == [12, 4, 6]
    (tmp_path / "test" / "c").mkdir()
    with pytest.raises(UserError, match="give both the same folders"):
        ImageFolder(str(tmp_path), size=9).load()


@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])
def test_an_undecodable_picture_is_named(memory: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, monkeypatch)
    broken = tmp_path / "data" / "pictures" / "cats" / "broken.png"
    broken.write_bytes((tmp_path / "data" / "pictures" / "cats" / "0.png").read_bytes()[:60])
    data = ImageFolder(str(tmp_path / "data" / "pictures"), size=8, max_memory_gb=memory)

    def read_everything() -> None:
        for split in data.splits.values():
            list(split.stream([torch.arange(len(split.labels))]))

    with pytest.raises(UserError, match=r"cats/broken\.png \(picture 12\) can't be decoded \(image file is truncated"):
        read_everything()


def test_an_empty_or_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pictures: put files ending in"):
        ImageFolder(str(tmp_path)).load()
    with pytest.raises(UserError, match="is not a folder"):
        ImageFolder(str(tmp_path / "nowhere")).load()


def read_all(data: DataModule) -> None:
    for split in data.splits.values():
        list(split.stream(torch.arange(len(split.labels)).split(3)))


def write(path: Path, values: Any, **options: Any) -> Path:
    """A picture, its mode and its format as Pillow takes them from the values and the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def grey(path: Path, size: int = 16) -> Any:
    return read_picture(path, (1, size, size))[0].numpy()


# what a picture's values mean


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
    colour = read_picture(path, (3, 16, 16))
    assert all(np.array_equal(channel, grey(path)) for channel in colour)


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


def test_transparent_colours_and_palettes_are_white(tmp_path: Path) -> None:
    picture = np.zeros((16, 16), np.uint8)
    picture[:4], picture[4:8] = 3, 7
    palette = Image.fromarray(picture).convert("P")
    palette.putpalette(bytes(range(0, 240, 10)))
    colours = np.asarray(palette.convert("RGB")).copy()
    assert colours[0, 0].tolist() == [90, 100, 110]
    expected = colours.copy()
    expected[:4] = 255
    palette.save(tmp_path / "palette.png", transparency=3)
    palette.save(tmp_path / "palette.gif", transparency=3)
    Image.fromarray(colours).save(tmp_path / "key.png", transparency=(90, 100, 110))
    for name in ("palette.png", "palette.gif", "key.png"):
        assert np.array_equal(read_picture(tmp_path / name, (3, 16, 16)).permute(1, 2, 0), expected), name
    palette.save(tmp_path / "half.png", transparency=bytes([255] * 7 + [128]))
    expected = colours.copy()
    expected[4:8] = np.round(colours[4:8] * (128 / 255) + 255 * (127 / 255))
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


# pictures as they are


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
        f"ImageFolder: {folder}/4.png (picture 4) is grey (Pillow's mode L), but {folder}/0.png is colour (Pillow's "
        "mode RGB): set data.mode to grey or to colour."
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
    assert model.sample(torch.zeros(2).long(), torch.zeros(2, model.latent_dim)).shape == (2, 3, 9, 14)


def test_a_picture_that_breaks_during_a_run_ends_it_with_a_sentence(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project / "data" / "pictures"
    broken = folder / "dogs" / "4.png"
    broken.write_bytes(broken.read_bytes()[:-400])
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--model=VAE", "--data=ImageFolder", f"--data.path={folder}", "--data.max_memory_gb=0")
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line == (
        f"encdec: error: ImageFolder: {broken} (picture 18) can't be decoded (image file is truncated): replace or "
        "delete it, or set data.skip_damaged to true, which leaves out what can't be decoded."
    )


def test_settings_that_mean_nothing_are_refused() -> None:
    for setting, found in (
        ({"mode": "gray"}, "mode is 'gray', but it must be 'grey', 'colour' or None"),
        ({"labels": "files"}, "labels is 'files', but it must be 'folders' or 'none'"),
        ({"size": 0}, "size is 0, but"),
    ):
        with pytest.raises(UserError, match=found):
            ImageFolder("pictures", **setting)


# which files are the pictures


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
