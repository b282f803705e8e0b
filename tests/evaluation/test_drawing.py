"""Pictures of images of any shape and number of channels, and what one that can't be drawn costs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encdec.callbacks import evaluation_images
from encdec.evaluation.grids import as_png, as_rgb, comparison, drawing, enlarge, grid, shown_images, thumbnails
from encdec.evaluation.latent_images import latent_map
from encdec.tables import print_table
from tests.conftest import RunCLI, events

Capture = pytest.CaptureFixture[str]
PLUGIN = '''
import torch
from encdec.data import DataModule, InMemoryImages

NAMES = {"plain": ("a", "b"), "odd": ("\\udcff", "two\\nlines\\tand a tab" + " and a long name" * 50)}


class OddImages(DataModule):
    """Images of any shape."""

    def __init__(self, channels: int = 1, height: int = 8, width: int = 8, names: str = "plain", **kwargs):
        super().__init__(**kwargs)
        self.shape, self.names = (channels, height, width), NAMES[names]

    def load(self):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (50, *self.shape), generator=generator, dtype=torch.uint8)
        images = InMemoryImages(pixels, torch.arange(50) % 2, self.names)
        return images.subset(torch.arange(30)), images.subset(torch.arange(30, 50))
'''
FIT = ("--trainer.max_epochs=1", "--model.encoder.hidden=[8]", "--model.decoder.hidden=[8]", "--model.latent_dim=3")
QUICK = ("--evaluation.num_images=6", "--evaluation.num_samples=20", "--evaluation.posterior_samples=2",
         "--evaluation.prior_samples=5", "--evaluation.posterior_steps=2",
         "--evaluation.feature_space=pca")  # fmt: skip
CHECKPOINT = "lightning_logs/vae/version_0/checkpoints/last.ckpt"


@pytest.fixture
def odd(project: Path) -> Path:
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    (project / "plugins" / "odd_images.py").write_text(PLUGIN)
    return project


def data(channels: int, height: int, width: int, names: str = "plain") -> tuple[str, ...]:
    return ("--data=OddImages", f"--data.channels={channels}", f"--data.height={height}", f"--data.width={width}",
            f"--data.names={names}")  # fmt: skip


SHAPES = [(5, 8, 8, "plain"), (4, 8, 8, "plain"), (2, 8, 8, "plain"), (1, 16, 9, "odd"), (3, 9, 16, "odd"),
          (1, 1, 1, "plain"), (5, 16, 9, "odd")]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_of_any_shape_are_trained_on_tested_and_predicted(
    shape: tuple[int, int, int, str], cli: RunCLI, odd: Path, capsys: Capture
) -> None:
    cli("fit", "--config", "configs/vae.yaml", *data(*shape), *FIT)
    cli("test", "--ckpt_path", CHECKPOINT, *QUICK)
    cli("predict", "--ckpt_path", CHECKPOINT)
    out, err = capsys.readouterr()
    assert err == ""
    assert "last.evaluation.json" in out
    run = events("lightning_logs/vae/version_0")
    assert set(run.Tags()["images"]) == {
        "images/outputs", "images/samples", "images/mean_image", "images/class_means",
        "test/reconstructions", "test/interpolations", "test/latent_map"}  # fmt: skip
    (sprite,) = odd.rglob("sprite.png")
    longest = max(shape[1:3]) * -(-32 // max(shape[1:3]))  # small ones are enlarged
    with Image.open(sprite) as picture:
        assert picture.size == (5 * longest, 5 * longest), "20 images, as squares of 5 × 5"
    names = sprite.with_name("metadata.tsv").read_text().splitlines()
    assert len(names) == 20, "a class name is one line"
    assert max(map(len, names)) <= 80
    assert len(set(names)) == 2
    for name in ("samples", "reconstructions", "interpolations", "traversals"):
        with Image.open(f"lightning_logs/vae/version_0/predictions/{name}.png") as picture:
            assert picture.mode == "RGB"
        content = torch.load(f"lightning_logs/vae/version_0/predictions/{name}.pt", weights_only=True)
        images = content["images" if "images" in content else "x"]
        assert images.shape[-3:] == shape[:3], "the tensors have all channels"


def test_test_writes_its_report_before_it_draws(
    cli: RunCLI, odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Whatever goes wrong in a picture, the numbers are there, and so are the other pictures."""
    cli("fit", "--config", "configs/vae.yaml", *data(1, 8, 8), *FIT)
    report = odd / CHECKPOINT.replace(".ckpt", ".evaluation.json")

    def fail(*_: object) -> None:
        assert report.is_file()
        raise ValueError("no [picture]\nhere")

    monkeypatch.setattr("encdec.evaluation.latent_images.latent_map", fail)
    capsys.readouterr()
    cli("test", "--ckpt_path", CHECKPOINT, *QUICK, "--evaluation.parts=[reconstruction]")
    out, err = capsys.readouterr()
    assert err == r"encdec: test/latent_map is not drawn (ValueError: no [picture]\nhere); all else goes on." + "\n"
    assert "  mse  " in out
    assert "mse_posterior" in json.loads(report.read_text())["metrics"]
    tags = set(events("lightning_logs/vae/version_0").Tags()["images"])
    assert {"test/reconstructions", "test/interpolations"} <= tags
    assert "test/latent_map" not in tags
    assert list(odd.rglob("sprite.png"))


def test_ctrl_c_while_it_draws_says_what_was_written(
    cli: RunCLI, odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cli("fit", "--config", "configs/vae.yaml", *data(1, 8, 8), *FIT)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(evaluation_images._IMAGES, "interpolations", interrupt)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli("test", "--ckpt_path", CHECKPOINT, *QUICK, "--evaluation.parts=[reconstruction]")
    assert stop.value.code == 130
    folder = "lightning_logs/vae/version_0/checkpoints"
    endings = ("evaluation.json", "evaluation.csv", "evaluation.npz", "samples.png", "reconstructions.png")
    words = ", ".join(f"{folder}/last.{ending}" for ending in endings)
    assert f"Interrupted: {words} had been written before." in capsys.readouterr().out


def test_a_training_does_not_end_by_a_picture(
    cli: RunCLI, odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no picture")

    for module in ("image_grids", "log_floors"):
        monkeypatch.setattr(f"encdec.callbacks.{module}.grid", fail)
    cli("fit", "--config", "configs/vae.yaml", *data(1, 8, 8), *FIT)
    assert (odd / CHECKPOINT).is_file()
    err = capsys.readouterr().err
    assert err.count("is not drawn (ValueError: no picture)") == 3
    assert events("lightning_logs/vae/version_0").Tags()["images"] == ["images/outputs"]


def test_images_that_are_shown_are_a_fixed_choice_of_each_class() -> None:
    labels = torch.arange(10).repeat_interleave(100)  # as of a folder that is sorted by class
    shown = shown_images(labels, 20)
    assert labels[shown].tolist() == [y for y in range(10) for _ in range(2)], "two of each, one class after the other"
    assert not (shown % 100 < 2).all(), "not the first ones"
    assert torch.equal(shown, shown_images(labels, 20))
    assert len(shown.unique()) == 20
    few = shown_images(labels, 7)
    assert len(labels[few].unique()) == 7, "as many classes as fit"
    rare = torch.cat([torch.zeros(50), torch.ones(1)]).long()
    assert shown_images(rare, 4)[-1] == 50
    assert len(shown_images(rare[:3], 16)) == 3
    order = torch.tensor([5, 105, 6, 106])
    assert shown_images(labels, 3, order).tolist() == [5, 6, 105]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_the_first_three_channels_are_red_green_and_blue(channels: int) -> None:
    images = torch.rand(2, channels, 3, 5)
    shown = as_rgb(images)
    assert shown.shape == (2, 3, 3, 5)
    if channels == 1:
        assert torch.equal(shown, images.repeat(1, 3, 1, 1)), "grey"
    else:
        known = min(channels, 3)
        assert torch.equal(shown[:, :known], images[:, :known])
        assert shown[:, known:].eq(0).all()
    assert grid(images, 2).shape == (3, 5, 13)


def test_numbers_that_are_none_are_black() -> None:
    assert as_rgb(torch.tensor([float("nan"), 2, -1]).reshape(1, 1, 1, 3))[0, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("size", [(16, 9), (9, 16), (1, 1), (1, 7), (8, 8)])
def test_thumbnails_are_squares_around_the_image(size: tuple[int, int]) -> None:
    images = torch.rand(3, 1, *size)
    squares = thumbnails(images)
    factor = -(-32 // max(size))  # pixels stay sharp where the projector would blur them
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    size = (factor * size[0], factor * size[1])
    side = max(size)
    assert squares.shape == (3, 3, side, side)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    inner = squares[:, :, top : top + size[0], left : left + size[1]]
    assert torch.equal(inner, images.expand(-1, 3, -1, -1))
    assert squares.sum().item() == pytest.approx(inner.sum().item() + 0.5 * 3 * 3 * (side**2 - size[0] * size[1]))


def test_thumbnails_of_long_strips_stay_small() -> None:
    squares = thumbnails(torch.rand(2000, 1, 1, 4000))
    assert squares.numel() <= 1 << 23
    assert squares.shape[2] == squares.shape[3]
    assert enlarge(torch.zeros(3, 3, 4001)).shape == (3, 3, 4001), "nor is a wide picture enlarged beyond measure"
    assert enlarge(torch.zeros(3, 9, 73)).shape == (3, 261, 29 * 73)


def test_images_fewer_than_columns_leave_no_cell_empty() -> None:
    rows = [torch.zeros(6, 1, 8, 8), torch.ones(6, 1, 8, 8)]
    assert comparison(rows, columns=8).shape == (3, 1 + 2 * 9, 1 + 6 * 9)
    assert comparison(rows, columns=4).shape == (3, 1 + 4 * 9, 1 + 4 * 9)


def test_a_png_holds_the_pixels() -> None:
    pixels = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)
    with Image.open(io.BytesIO(as_png(pixels.float() / 255))) as picture:
        assert np.array_equal(np.asarray(picture), pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", ["\udcff", "two\nlines", "tab\t", "x" * 5000, "$x", "_hidden", "", "日本"])
def test_a_map_takes_any_class_name(name: str) -> None:
    assert latent_map(torch.randn(6, 2), torch.arange(6) % 2, (name, "b")).shape == (3, 700, 800)


def test_an_interrupt_is_no_picture_that_failed() -> None:
    with pytest.raises(KeyboardInterrupt), drawing("a"):
        raise KeyboardInterrupt


def test_tables_show_names_as_they_are_and_cut_none(capsys: Capture) -> None:
    print_table([["", "x"], ["kl[0]", "0.1"], ["[red]a[/red]", "123456.7"], [":smile:", "1"]])
    out = capsys.readouterr().out
    assert all(f"│ {name} " in out for name in ("kl[0]", "[red]a[/red]", ":smile:"))
