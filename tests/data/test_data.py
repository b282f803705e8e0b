"""Real formats read right, and every fault in a file named."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import datasets

from encdec.data import CIFAR10, MNIST, DataModule, Digits, FashionMNIST, Images, InMemoryImages, base, fashion_mnist
from encdec.data.base import Loader
from encdec.types import Shape, UserError, scaled
from tests.conftest import RunCLI
from tests.small_data import write_all, write_idx, write_mnist
from tests.system.test_memory import Live


def test_digits_are_scikit_learns() -> None:
    data = Digits(val_fraction=0.25)
    sizes = [len(images.labels) for images in data.splits.values()]
    assert sizes == [1078, 360, 359]
    assert (data.image_shape, data.num_classes) == ((1, 8, 8), 10)
    levels = torch.cat([batch.x.flatten() for batch in data.train_dataloader()]).unique()
    assert len(levels) == 17
    assert (levels.min(), levels.max()) == (0, 1)


def test_splits_do_not_overlap_and_follow_the_split_seed_alone() -> None:
    def pictures(data: DataModule, split: str) -> set[bytes]:
        (pixels,) = data.splits[split].stream([torch.arange(len(data.splits[split].labels))])
        return {bytes(row.numpy().tobytes()) for row in pixels.flatten(1)}

    one, two, other = Digits(seed=1), Digits(seed=2), Digits(split_seed=1)
    assert pictures(one, "val") == pictures(two, "val") != pictures(other, "val")
    train, val, test = (pictures(one, split) for split in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test


def test_mnist_files_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    data = MNIST(data_dir=str(tmp_path), val_fraction=0.2)
    reference = datasets.MNIST(str(tmp_path), train=False)
    batches = list(data.test_dataloader())
    torch.testing.assert_close(torch.cat([b.x for b in batches])[:, 0], reference.data / 255)
    assert torch.equal(torch.cat([b.y for b in batches]), reference.targets)


def test_cifar10_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, monkeypatch)
    data = CIFAR10(data_dir=str(tmp_path / "data"))
    reference = datasets.CIFAR10(str(tmp_path / "data"), train=False)
    (batch,) = data.test_dataloader()
    expected = torch.from_numpy(reference.data).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(batch.x, expected)
    assert batch.y.tolist() == reference.targets


def test_fashion_mnist_is_taken_from_debians_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "plain")
    for path in (tmp_path / "plain").iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path)
    data = FashionMNIST(data_dir=str(tmp_path / "no data"))
    assert data.num_train == 54
    assert data.splits["train"].classes[9] == "Ankle boot"


@pytest.mark.skipif(not fashion_mnist.DEBIAN_DIR.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_has_the_known_floors(tmp_path: Path) -> None:
    """The check values of the mission: mean-image MSE 0.08701 in training, class-mean MSE 0.05245."""
    data = FashionMNIST(data_dir=str(tmp_path), val_fraction=0.1)
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    x, y = (torch.cat([batch[field] for batch in batches]) for field in (0, 1))
    x = x.flatten(1).double()
    assert x.shape == (60_000, 784)
    assert x.var(0, correction=0).mean().item() == pytest.approx(0.08701, abs=5e-6)
    within = torch.stack([x[y == label].var(0, correction=0).mean() for label in range(10)]).mean()
    assert within.item() == pytest.approx(0.05245, abs=5e-6)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "its header promises"),
    "foreign": (lambda path: path.write_bytes(b"<html>not found</html>"), "is not an IDX file"),
    "empty": (lambda path: path.write_bytes(b""), "is not an IDX file"),
    "broken gzip": (lambda path: path.write_bytes(gzip.compress(path.read_bytes())[:-20]), "can't be read"),
    "other count": (lambda path: write_idx(path, np.zeros((9, 28, 28), np.uint8)), "9 images, but .*has 60 labels"),
    "other size": (
        lambda path: write_idx(path, np.zeros((60, 20, 28), np.uint8)),
        "train-images-idx3-ubyte has images of 20×28 pixels, but .*t10k-images-idx3-ubyte of 28×28",
    ),
    "no pixels": (lambda path: write_idx(path, np.zeros((60, 28, 0), np.uint8)), r"no pixels, .*\(60, 28, 0\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_idx_file_is_named(fault: str, tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    spoil, expected = FAULTS[fault]
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    spoil(path)
    with pytest.raises(UserError, match=expected) as error:
        MNIST(data_dir=str(tmp_path)).load()
    assert str(path) in str(error.value)


def test_a_label_out_of_range_is_named_with_its_file_and_index(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    labels = np.zeros(20, np.uint8)
    labels[[7, 9]] = 11, 255
    write_idx(raw / "t10k-labels-idx1-ubyte", labels)
    with pytest.raises(UserError) as error:
        _ = MNIST(data_dir=str(tmp_path)).splits
    assert str(error.value) == (
        f"MNIST: {raw}/t10k-labels-idx1-ubyte has the label 11 at index 7, but labels go from 0 to 9: delete it so "
        "that it is fetched again, or put an intact copy there."
    )


def test_idx_files_without_images_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", test=0)
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte has no pixels, its header says \(0, 28, 28\)"):
        MNIST(data_dir=str(tmp_path)).load()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_damaged_cifar10_file_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    write_all(tmp_path, monkeypatch)
    path = tmp_path / "data" / "cifar-10-batches-py" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^CIFAR10: .*{name} is damaged \(its MD5 .*could not be downloaded again"):
        _ = CIFAR10(data_dir=str(tmp_path / "data")).splits


def test_a_missing_download_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "not installed")
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    for cls in (MNIST, FashionMNIST, CIFAR10):
        with pytest.raises(UserError, match=rf"{cls.__name__} .* nor downloaded .*network is unreachable"):
            cls(data_dir=str(tmp_path)).load()


def test_a_missing_file_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, download_root: str, filename: str, md5: str) -> None:
        write_mnist(Path(download_root))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    assert MNIST(data_dir=str(tmp_path)).num_train == 54


def in_memory(count: int = 20, shape: Shape = (1, 4, 5), **fields: Any) -> InMemoryImages:
    pixels = torch.zeros(count, *shape, dtype=torch.uint8)
    return InMemoryImages(**{"pixels": pixels, "labels": torch.arange(count) % 2, "classes": ("a", "b"), **fields})


class Mine(DataModule):
    """A data module as an author might write it, with whatever it is given; by default nothing is wrong with it."""

    def __init__(self, loaded: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loaded = loaded or (in_memory(), in_memory())

    def load(self) -> tuple[Images, Images]:
        return self.loaded() if callable(self.loaded) else self.loaded


LABELS = torch.arange(20) % 2
BAD: dict[str, tuple[Any, str]] = {
    "no pair": (in_memory(), "load must return the training and the test images, as a pair of Images"),
    "tensors": ((torch.zeros(3, 1, 2, 2), torch.zeros(3)), "load must return .* as a pair of Images"),
    "float pixels": (
        lambda: (in_memory(pixels=torch.rand(20, 1, 4, 5)), in_memory()),
        r"InMemoryImages needs pixels as a uint8 tensor .* not torch\.float32 of shape \(20, 1, 4, 5\).*from_floats",
    ),
    "too few labels": (
        lambda: (in_memory(labels=LABELS[:7]), in_memory()),
        "InMemoryImages got 20 images but 7 labels",
    ),
    "too few rows": (
        lambda: (in_memory(rows=torch.arange(3)), in_memory()),
        "InMemoryImages got 3 images but 20 labels",
    ),
    "a label too large": (
        (in_memory(), in_memory(labels=torch.where(LABELS.cumsum(0) > 4, 7, LABELS))),
        "the test images have the label 7 at index 9, but there are 2 classes, so labels must lie in 0…1",
    ),
    "a label too small": (
        (in_memory(labels=LABELS - 1), in_memory()),
        "the training images have the label -1 at index 0, but there are 2 classes",
    ),
    "32-bit labels": (
        (in_memory(labels=LABELS.int()), in_memory()),
        r"the training images have labels of type torch\.int32 and shape \(20,\), but they must be int64",
    ),
    "one-hot labels": (
        (in_memory(), in_memory(labels=LABELS.reshape(20, 1))),
        r"the test images have labels of type torch\.int64 and shape \(20, 1\), but",
    ),
    "no pixels": (
        (in_memory(shape=(1, 0, 4)), in_memory()),
        r"the training images have the shape \(1, 0, 4\), but it must be channels, height, width, each at least 1",
    ),
    "other shape": (
        (in_memory(), in_memory(shape=(3, 4, 5))),
        r"the training images have the shape \(1, 4, 5\) .* but the test images \(3, 4, 5\): give both the same",
    ),
    "other classes": (
        (in_memory(), in_memory(classes=("a", "c"))),
        r"the training images have the classes \['a', 'b'\], but the test images \['a', 'c'\]",
    ),
    "one image": ((in_memory(1), in_memory()), "the number of training images is 1, but at least 2 are needed"),
    "no image": ((in_memory(0), in_memory()), "the number of training images is 0, but at least 2 are needed"),
    "no test image": ((in_memory(), in_memory(0)), "the test split is empty"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_data_set_that_breaks_the_contract_is_refused(fault: str) -> None:
    loaded, sentence = BAD[fault]
    with pytest.raises(UserError, match=f"^Mine: {sentence}"):
        _ = Mine(loaded).splits


@pytest.mark.parametrize("fraction", [1e-9, 0.999])
def test_every_split_has_an_image_whatever_is_held_out(fraction: float) -> None:
    splits = Mine((in_memory(2), in_memory(1)), val_fraction=fraction).splits
    assert [len(images.labels) for images in splits.values()] == [1, 1, 1]


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
    monkeypatch.setattr(base, "BLOCK", 300)  # several blocks, the last one smaller
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
    monkeypatch.setattr(base, "BLOCK", 100)
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
    monkeypatch.setattr(base, "BLOCK", 10_000)
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


def test_too_many_processes_are_refused() -> None:
    images = InMemoryImages(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match="3 images can't be shared by 4 processes"):
        Loader(images, 2, 0, 4)


def test_evaluation_shards_are_the_split_without_padding() -> None:
    images = InMemoryImages(torch.zeros(11, 1, 4, 4, dtype=torch.uint8), torch.zeros(11, dtype=torch.int64))
    shards = [[batch.index for batch in Loader(images, 2, rank, 3)] for rank in range(3)]
    assert torch.cat([index for shard in shards for index in shard]).sort().values.tolist() == list(range(11))
    assert [len(Loader(images, 2, rank, 3)) for rank in range(3)] == [len(shard) for shard in shards]


def test_a_loader_delivers_where_the_model_is() -> None:
    """`meta` stands for a device that this machine may not have: it has shapes and types, and no numbers."""
    pixels = torch.zeros(7, 1, 4, 4, dtype=torch.uint8)
    images = InMemoryImages(pixels, torch.zeros(7, dtype=torch.int64))
    batches = list(Loader(images, 4, 0, 1, device=torch.device("meta")))
    assert [tuple(batch.x.shape) for batch in batches] == [(4, 1, 4, 4), (3, 1, 4, 4)]
    assert all(tensor.device.type == "meta" for batch in batches for tensor in batch[:3])
    assert all(batch.x.dtype == torch.float32 for batch in batches)


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


@pytest.mark.parametrize(("shape", "expected"), [((1, 8, 8), 80), ((1, 200, 300), 17), ((3, 600, 600), 10)])
def test_a_trainer_evaluates_small_images_in_larger_batches(shape: Shape, expected: int) -> None:
    """Up to eight times batch_size, and up to a million pixels where that is more than batch_size."""
    data = Mine((in_memory(20, shape), in_memory(90, shape)), batch_size=10)
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert len(next(iter(data.test_dataloader())).x) == expected
    assert len(next(iter(data.train_dataloader())).x) == 10


def test_a_validation_split_that_breaks_the_contract_is_refused() -> None:
    for val, sentence in (
        (in_memory(shape=(3, 4, 5)), r"the training images have the shape \(1, 4, 5\) .* but the validation images"),
        (in_memory(classes=("a", "c")), r"the training images have the classes .* but the validation images"),
        (in_memory(0), "the validation split is empty"),
        (in_memory(labels=LABELS - 1), "the validation images have the label -1"),
    ):
        with pytest.raises(UserError, match=f"^Mine: {sentence}"):
            _ = Mine((in_memory(), val, in_memory())).splits
    assert len(Mine((in_memory(1), in_memory(), in_memory())).splits["train"].labels) == 1


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
