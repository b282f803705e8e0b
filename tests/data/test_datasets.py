"""Data sets in their real files: read as others read them, and damaged ones named."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from encdec.data import CIFAR10, MNIST, Digits, FashionMNIST, fashion_mnist
from encdec.types import UserError
from tests.small_data import write_all, write_idx, write_mnist


def test_digits_are_scikit_learns() -> None:
    data = Digits(val_fraction=0.25)
    sizes = [len(images.labels) for images in data.splits.values()]
    assert sizes == [1078, 360, 359]
    assert (data.image_shape, data.num_classes) == ((1, 8, 8), 10)
    levels = torch.cat([batch.x.flatten() for batch in data.train_dataloader()]).unique()
    assert len(levels) == 17
    assert (levels.min(), levels.max()) == (0, 1)


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
