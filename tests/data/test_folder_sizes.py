"""Pictures of other sizes and modes than their neighbours."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import encdec
from encdec.data import ImageFolder, InMemoryImages
from encdec.testing import check_datamodule
from encdec.types import UserError
from tests.conftest import RunCLI, refused
from tests.small_data import write_pictures

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
        f"ImageFolder: {folder}/4.png (picture 4) has 10×14 pixels, but {folder}/0.png has 14×10: set data.size to N "
        "or to [height, width], which cuts all to N×N or to height×width pixels, or give all the same size."
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


@IN_BOTH_WAYS
def test_pictures_are_cut_to_a_height_and_a_width(memory: float, tmp_path: Path) -> None:
    """As Pillow alone cuts them; one is wider than the images, one higher, one is enlarged."""
    pictures = [RNG.integers(0, 256, (*sides, 3), dtype=np.uint8) for sides in ((20, 70), (70, 20), (3, 4), (9, 14))]
    for i, picture in enumerate(pictures):
        write(tmp_path / f"{i}.png", picture)
    data = ImageFolder(str(tmp_path), size=[9, 14], max_memory_gb=memory, batch_size=2)
    assert data.image_shape == (3, 9, 14)
    found = torch.cat([batch.x for name in ("train", "val", "test") for batch in getattr(data, f"{name}_dataloader")()])
    cut = [ImageOps.fit(Image.fromarray(picture), (14, 9), Image.Resampling.BICUBIC) for picture in pictures]
    assert {bytes(x.numpy()) for x in (found * 255).round().byte().permute(0, 2, 3, 1).contiguous()} == {
        image.tobytes() for image in cut
    }
    check_datamodule(data)


def test_a_large_jpeg_on_its_side_is_not_decoded_too_small(tmp_path: Path) -> None:
    """Shown 250 pixels wide and 1,000 high; cut to 100 × 25, it must not be decoded at less than 200 pixels' width."""
    smooth = Image.fromarray(RNG.integers(0, 256, (10, 40), dtype=np.uint8)).resize((1000, 250))
    exif = Image.Exif()
    exif[0x112] = 6
    for i in range(3):
        smooth.save(tmp_path / f"{i}.jpg", exif=exif, quality=95)
    data = ImageFolder(str(tmp_path), size=(25, 100), mode="grey")
    (found,) = data.splits["test"].stream([torch.tensor([0])])
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "0.jpg"))
    expected = np.asarray(ImageOps.fit(shown, (100, 25), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(found[0, 0].numpy() - expected).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "network"),
    [
        (("--data.size=null",), "MLP"),
        (("--data.size=[9,14]",), "Residual"),
        (("--data.size=[7,1]", "--model.decoder.channels=[4,3,2]", "--model.encoder.channels=[2,3,4]"), "Conv"),
    ],
)
def test_pictures_that_are_not_square_are_trained_on_measured_and_drawn(
    flags: tuple[str, ...], network: str, cli: RunCLI, project: Path
) -> None:
    for i in range(40):
        write(project / f"mine/{'ab'[i % 2]}/{i}.png", RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8))
    cli("fit", "--model=VAE", "--data=ImageFolder", "--data.path=mine", "--data.mode=null",
        f"--model.decoder={network}Decoder", f"--model.encoder={network}Encoder", *flags, "--trainer.max_epochs=1",
        "--name=wide", "--data.batch_size=8")  # fmt: skip
    last = "--ckpt_path=lightning_logs/wide/version_0/checkpoints/last.ckpt"
    cli("test", last, "--evaluation.num_samples=20", "--evaluation.feature_space=classifier",
        "--evaluation.posterior_steps=3", "--evaluation.posterior_samples=4",
        "--evaluation.prior_samples=50")  # fmt: skip
    cli("predict", last)
    height, width = (7, 1) if "[7,1]" in flags[0] else (9, 14)
    run = project / "lightning_logs/wide/version_0"
    samples = torch.load(run / "predictions/samples.pt", weights_only=True)
    assert next(t.shape[-3:] for t in samples.values() if t.ndim == 4) == (3, height, width)
    report = json.loads((run / "checkpoints/last.evaluation.json").read_text())
    train, test = (
        next(ImageFolder("mine", size=(height, width)).splits[split].stream([torch.arange(n)])).double() / 255
        for split, n in (("train", 32), ("test", 4))
    )
    assert report["metrics"]["mse_mean_image"]["value"] == pytest.approx(
        ((test - train.mean(0)) ** 2).mean().item(), rel=1e-5
    )
    model = encdec.load(run / "checkpoints/last.ckpt")
    assert model.sample(torch.zeros(2).long(), torch.zeros(2, model.noise_dim)).shape == (2, 3, height, width)


def test_too_many_stages_for_narrow_pictures_are_refused(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    write_pictures(project / "mine")
    err = refused(capsys, "fit", "--model=VAE", "--data=ImageFolder", "--data.path=mine", "--data.size=[3,2]",
                  "--model.decoder=ConvDecoder", "--model.decoder.channels=[4,4,4]")  # fmt: skip
    assert "has too many stages for images of 3×2 pixels: each stage halves the size, so use at most 2" in err


@pytest.mark.parametrize("size", ["[0,5]", "[16]", "[1,2,3]", "-3", "0"])
def test_sizes_that_are_none_are_refused(size: str, capsys: pytest.CaptureFixture[str], project: Path) -> None:
    write_pictures(project / "mine")
    err = refused(
        capsys, "fit", "--model=VAE", "--data=ImageFolder", "--data.path=mine", f"--data.size={size}"
    ).replace(" ", "")
    assert f"sizeis{size},butitmustbeanumberofpixels,suchas64for64×64,or[height,width]" in err


def test_settings_that_mean_nothing_are_refused() -> None:
    for setting, found in (
        ({"mode": "gray"}, "mode is 'gray', but it must be one of 'grey', 'color'.* did you mean grey"),
        ({"labels": "files"}, "labels is 'files', but it must be one of 'folders', 'none'"),
        ({"size": 0}, "size is 0, but"),
    ):
        with pytest.raises(UserError, match=found):
            ImageFolder("pictures", **setting)
