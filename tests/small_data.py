"""Small data sets in the real formats, written where the real loading code looks for them."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from encdec.data import DataModule, fashion_mnist


def write_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """An IDX file: two zero bytes, the type, the number of dimensions, the big-endian sizes, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())


def write_mnist(raw: Path, train: int = 60, test: int = 20) -> None:
    """The four files of MNIST or Fashion-MNIST; as all here, with the same pixels each time."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of CIFAR10, with torchvision told their checksums."""
    folder, rng = root / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir(parents=True)

    def write(name: str, content: dict[Any, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name: str) -> list[str]:
        pixels = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
        return write(name, {"data": pixels, "labels": [i % 10 for i in range(12)]})

    train = [batch(f"data_batch_{i}") for i in range(1, 6)]
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch")])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})


def write_pictures(root: Path, per_class: int = 12) -> None:
    """Pictures of several sizes, modes and formats in two folders."""
    rng = np.random.default_rng(0)
    kinds = [("RGB", "png", (40, 30)), ("L", "jpg", (28, 28)), ("RGBA", "png", (33, 50)), ("P", "gif", (64, 20))]
    for label in ("cats", "dogs"):
        (root / label).mkdir(parents=True)
        for i in range(per_class):
            mode, ending, (width, height) = kinds[i % len(kinds)]
            picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
            picture.save(root / label / f"{i}.{ending}")


def write_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set that would be downloaded, and pictures, below `folder`/data."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", folder / "not installed")
    write_mnist(folder / "data" / "MNIST" / "raw")
    write_mnist(folder / "data" / "FashionMNIST" / "raw")
    write_cifar10(folder / "data", monkeypatch)
    write_pictures(folder / "data" / "pictures")


def make_datamodule(cls: type[DataModule], folder: Path, monkeypatch: pytest.MonkeyPatch) -> DataModule:
    """A data module of a class on small files; a plugin's must work with its defaults."""
    write_all(folder, monkeypatch)
    downloaded = {"data_dir": str(folder / "data")}
    arguments: dict[str, dict[str, Any]] = {
        "MNIST": downloaded,
        "FashionMNIST": downloaded,
        "CIFAR10": downloaded,
        "ImageFolder": {"path": str(folder / "data" / "pictures"), "size": 16},
    }
    return cls(batch_size=7, **arguments.get(cls.__name__, {}))
