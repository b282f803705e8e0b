"""Real formats read right, and every fault in a file named."""

import gc
import gzip
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from encdec.data import CIFAR10, MNIST, DataModule, Digits, FashionMNIST, ImageFolder, InMemoryImages, fashion_mnist
from encdec.data.base import Loader
from encdec.data.image_folder import read_picture
from encdec.types import UserError

from .small_data import write_all, write_idx, write_mnist


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
    "other count": (lambda path: write_idx(path, np.zeros((9, 28, 28), np.uint8)), "9 images, but"),
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


def test_labels_out_of_range_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.full(60, 11, np.uint8))
    with pytest.raises(UserError, match="label 11, but labels go from 0 to 9"):
        MNIST(data_dir=str(tmp_path)).load()


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
        for value, wanted in zip(batch, expected, strict=True):
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

    with pytest.raises(UserError, match=r"broken\.png can't be decoded"):
        read_everything()


def test_an_empty_or_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pictures"):
        ImageFolder(str(tmp_path)).load()
    with pytest.raises(UserError, match="is not a folder"):
        ImageFolder(str(tmp_path / "nowhere")).load()


def test_a_data_set_that_breaks_the_contract_is_refused() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(UserError, match="uint8"):
        InMemoryImages(torch.rand(3, 1, 4, 4), labels)
    with pytest.raises(UserError, match="3 images but 2 labels"):
        InMemoryImages(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), labels[:2])
    with pytest.raises(UserError, match=r"labels go from 0 to 1"):
        InMemoryImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("only",))


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
    assert all(tensor.device.type == "meta" for batch in batches for tensor in batch)
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
