"""Fingerprints tell data apart, wherever they lie."""

import shutil
import time
from pathlib import Path

from encdec.data import MNIST, DataModule, Digits, ImageFolder, InMemoryImages
from encdec.data.fingerprints import PresentData, fingerprint
from tests.runs.measuring import (
    write_pictures,
)
from tests.small_data import write_mnist


def numbers(data: DataModule) -> dict[str, dict[str, str]]:
    """The fingerprints of a data set."""
    return PresentData(data).identity.fingerprints


def test_fingerprints_are_of_images_and_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a/x", *range(5))
    write_pictures(tmp_path / "a/y", *range(5, 10))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    in_memory, streamed = ({"size": 9, "mode": "grey", "max_memory_gb": gigabytes} for gigabytes in (4.0, 0.0))
    first = numbers(ImageFolder(str(tmp_path / "a"), **in_memory))  # type: ignore[arg-type]
    assert first == numbers(ImageFolder(str(tmp_path / "b"), **in_memory)), "wherever they lie"  # type: ignore[arg-type]
    assert set(first) == {"pixels", "names"}
    from_disk = numbers(ImageFolder(str(tmp_path / "b"), num_workers=0, **streamed))  # type: ignore[arg-type]
    assert from_disk == {"names": first["names"]}, "however they are read"
    (tmp_path / "b/x/000.png").rename(tmp_path / "b/y/000.png")
    moved = numbers(ImageFolder(str(tmp_path / "b"), **in_memory))  # type: ignore[arg-type]
    assert all(moved[kind]["train"] != first[kind]["train"] for kind in first), "a picture of another class"


def test_a_fingerprint_takes_a_few_tenths_of_a_second_for_60_000_images(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw", train=60_000, test=10_000)
    data = MNIST(str(tmp_path))
    assert data.num_train == 54_000
    began = time.process_time()
    PresentData(data)
    assert time.process_time() - began < 1


def test_fingerprints_tell_data_apart() -> None:
    images = Digits().splits["val"]
    same = Digits(batch_size=7).splits["val"]
    assert fingerprint(images) == fingerprint(same)
    assert isinstance(images, InMemoryImages)
    other = InMemoryImages(images.pixels[images.rows].clone(), images.labels, images.classes)
    assert fingerprint(other) == fingerprint(images), "it is of the images, however they are kept"
    other.pixels[3, 0, 2, 2] ^= 1
    assert fingerprint(other) != fingerprint(images)
