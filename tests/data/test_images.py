"""Images from tensors, from floats and from an author's own code."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import Tensor

from encdec.data import Images, InMemoryImages
from encdec.types import Shape, UserError, scaled
from tests.conftest import RunCLI
from tests.system.test_memory import Live

from .helpers import LABELS, Mine, in_memory


@dataclass(frozen=True)
class Streamed(Images):
    """Images that are read by a function, as an author might write them."""

    give: Callable[[Sequence[Tensor]], Iterator[Any]]
    labels: Tensor = LABELS
    classes: tuple[str, ...] = ("a", "b")

    @property
    def image_shape(self) -> Shape:
        return 1, 4, 5

    def subset(self, indices: Tensor) -> Self:
        return self

    def read(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        return self.give(batches)


@pytest.mark.parametrize(
    ("give", "found"),
    [
        (lambda batches: (torch.rand(len(b), 1, 4, 5) for b in batches), r"torch\.float32 of shape \(7, 1, 4, 5\)"),
        (lambda batches: (torch.zeros(len(b), 4, 5).byte() for b in batches), r"torch\.uint8 of shape \(7, 4, 5\)"),
        (lambda batches: (torch.zeros(5, 1, 4, 5).byte() for _ in batches), r"torch\.uint8 of shape \(5, 1, 4, 5\)"),
        (lambda batches: iter([]), "nothing"),
    ],
    ids=["floats", "no channels", "other images", "too few batches"],
)
def test_what_is_streamed_is_checked(give: Any, found: str) -> None:
    data = Mine((Streamed(give), in_memory()), batch_size=7)
    with pytest.raises(UserError, match=rf"Streamed\.read gives {found} for a batch of 7 .* shape \(7, 1, 4, 5\)"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4", torch.float16, torch.float32])
def test_floats_become_the_nearest_levels(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encdec.data.images.BLOCK", 300)  # several blocks, the last one smaller
    values = np.random.default_rng(0).random((37, 2, 5, 6))
    values[0, 0, 0, :2] = 0, 1
    given = torch.tensor(values, dtype=kind) if isinstance(kind, torch.dtype) else values.astype(kind)
    images = InMemoryImages.from_floats(given, torch.zeros(37, dtype=torch.int64))
    expected = np.rint(np.asarray(given).astype(np.float64) * 255)
    assert np.array_equal(images.pixels.numpy(), expected)
    assert images.image_shape == (2, 5, 6)


def test_pixels_survive_the_way_through_floats() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    floats = pixels.to(torch.float32).div_(255)
    assert torch.equal(InMemoryImages.from_floats(floats, torch.zeros(4).long()).pixels, pixels)


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-0.25, "-0.25"), (37.0, "37")])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_floats_outside_0_to_1_are_named(
    value: float, name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encdec.data.images.BLOCK", 100)
    values = np.zeros((20, 1, 4, 5), np.float32)
    values[13, 0, 2, 3], values[17] = value, 2
    np.save(tmp_path / "x.npy", values)
    source = str(tmp_path / "x.npy")
    mapped = np.load(source, mmap_mode="r")

    def load() -> tuple[Images, Images]:
        given = torch.from_numpy(values) if kind == "tensor" else mapped
        return InMemoryImages.from_floats(given, LABELS, ("a", "b"), source), in_memory()

    with pytest.raises(UserError) as error:
        _ = Mine(load).splits
    assert str(error.value) == (
        f"Mine: InMemoryImages.from_floats: image 13 of {source} has the pixel value {name}, but pixels must be finite "
        "and lie in [0, 1]: scale or repair them first."
    )


@pytest.mark.parametrize(
    "pixels", [torch.zeros(3, 1, 2, 2, dtype=torch.uint8), np.zeros((3, 1, 2, 2), np.int64), torch.zeros(3, 2, 2)]
)
def test_from_floats_takes_nothing_else(pixels: Any) -> None:
    with pytest.raises(
        UserError, match=r"from_floats needs .* floating-point .* but the data set has .* of shape \(3,"
    ):
        InMemoryImages.from_floats(pixels, torch.zeros(3).long())


def test_floats_are_converted_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encdec.data.images.BLOCK", 10_000)
    pixels = torch.rand(4000, 1, 10, 10)
    with Live(pixels) as held:
        images = InMemoryImages.from_floats(pixels, torch.zeros(4000).long())
    assert images.pixels.nbytes <= held.peak < images.pixels.nbytes + 10_000 * 8 * 4


PLUGIN = '''
"""Floats with a hole."""

import torch
from encdec.data import DataModule, InMemoryImages


class Holes(DataModule):
    def load(self):
        pixels = torch.rand(40, 1, 8, 8)
        pixels[31] = torch.nan
        images = InMemoryImages.from_floats(pixels, torch.zeros(40, dtype=torch.int64), source="holes.pt")
        return images, images
'''


def test_a_run_on_nan_ends_before_it_begins(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    (project / "plugins" / "holes.py").write_text(PLUGIN)
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--model=VAE", "--data=Holes")
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "encdec: error: Holes: InMemoryImages.from_floats: image 31 of holes.pt has the pixel value nan, but pixels "
        "must be finite and lie in [0, 1]: scale or repair them first.\n"
    )


@pytest.mark.parametrize(("free", "stays"), [(4 * 5 * 16, False), (4 * 5 * 16 - 1, True)])
def test_a_split_is_kept_on_a_gpu_if_it_takes_a_quarter_of_what_is_free(
    free: int, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 of 9 images of 16 bytes; the copy itself goes to another device here, because there may be no GPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    moves: list[torch.device] = []

    def to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moves.append(device)
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    pixels = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 1, 4, 4)
    split = InMemoryImages(pixels, torch.zeros(9, dtype=torch.int64)).subset(torch.tensor([1, 3, 4, 6, 8]))
    resident = split.resident(torch.device("cuda", 0))
    assert (resident is split) == stays
    assert moves == ([] if stays else [torch.device("cuda", 0)] * 2)
    for images in (split, resident):
        (batch,) = images.stream([torch.tensor([0, 4])])
        assert batch[:, 0, 0, 0].tolist() == [1, 8]


def test_scaled_pixels_are_the_nearest_numbers() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 1, 16, 16)
    expected = torch.tensor([k / 255 for k in range(256)]).repeat(3).view(3, 1, 16, 16)
    assert torch.equal(scaled(pixels), expected)
    assert torch.equal(scaled(pixels.transpose(2, 3)), expected.transpose(2, 3))
    assert scaled(pixels[:0]).shape == (0, 1, 16, 16)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert scaled(pixels).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
