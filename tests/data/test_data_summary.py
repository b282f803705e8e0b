"""What a data module and its images are printed as."""

from pathlib import Path
from typing import Any

import pytest
import torch

from encdec.data import CIFAR10, MNIST, DataModule, Digits, FashionMNIST, ImageFolder, Images, InMemoryImages
from tests.small_data import make_datamodule


class Plugin(DataModule):
    """A data set of any number of channels, as an author writes one."""

    def __init__(self, channels: int = 5, wavelength: float = 0.5, classes: int = 12, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels, self.classes = channels, classes

    def load(self) -> tuple[Images, Images, Images]:
        train, val, test = (
            InMemoryImages(
                torch.full((n, self.channels, 3, 4), n % 256, dtype=torch.uint8),
                torch.arange(n) % self.classes,
                tuple(map(str, range(self.classes))),
            )
            for n in (1500, 20, 30)
        )
        return train, val, test


def test_digits_are_printed_before_and_after_they_are_loaded() -> None:
    data = Digits(batch_size=5)
    settings = "Digits(batch_size=5, val_fraction=0.1, split_seed=0, seed=0)"
    assert str(data) == repr(data) == f"{settings}: not loaded yet"
    assert data.num_train == 1294
    assert (
        str(data)
        == repr(data)
        == (
            f"{settings}: 1,294 images to train, 144 to validate, 359 to test, of 1×8×8, 10 classes: 0, 1, 2, 3, 4, 5, "
            "6, 7, 8, 9"
        )
    )


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST, CIFAR10, Digits, ImageFolder])
def test_every_data_set_is_one_line(cls: type[DataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_datamodule(cls, tmp_path, monkeypatch)
    assert str(data).endswith("): not loaded yet")
    assert data.num_train > 0
    for text in (str(data), f"{data!r}"):
        assert text.startswith(f"{cls.__name__}(")
        assert f": {data.num_train:,} images to train, " in text
        assert "\n" not in text
        assert len(text) < 600


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_validation_split_of_its_own_is_used(channels: int) -> None:
    data = Plugin(channels, val_fraction=0.9)
    assert [len(images.labels) for images in data.splits.values()] == [1500, 20, 30]
    assert data.image_shape == (channels, 3, 4)
    for loader, value in ((data.train_dataloader(), 1500), (data.val_dataloader(), 20), (data.test_dataloader(), 30)):
        assert all(bool((batch.x * 255 == value % 256).all()) for batch in loader)
    assert "wavelength=0.5" in str(data)
    assert f"1,500 images to train, 20 to validate, 30 to test, of {channels}×3×4, 12 classes: 0, 1, " in str(data)
    assert str(data).endswith("9, …")


def test_images_are_one_line() -> None:
    pixels, labels = torch.zeros(7, 2, 3, 4, dtype=torch.uint8), torch.zeros(7, dtype=torch.int64)
    images = InMemoryImages(pixels, labels)
    assert str(images) == "InMemoryImages(7 images of 2×3×4, without labels)"
    assert repr(images.subset(torch.tensor([1, 2]))) == "InMemoryImages(2 images of 2×3×4, without labels)"
    assert str(InMemoryImages(pixels, labels, ("a", "b"))) == "InMemoryImages(7 images of 2×3×4, 2 classes: a, b)"
