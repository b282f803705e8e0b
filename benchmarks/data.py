"""Data sets as files, for processes that train on the same images; `python -m benchmarks.data FUNCTION ARGUMENTS`."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image


def prepare(folder: str, name: str, data_dir: str) -> dict[str, Any]:
    """Write a data set as the IDX files that torchvision's FashionMNIST reads.

    Args:
        folder: where to.
        name: FashionMNIST, Digits, or nothing: Fashion-MNIST if it is there, else the digits.
        data_dir: where Fashion-MNIST may be.
    """
    from encdec.data import Digits, FashionMNIST, InMemoryImages
    from encdec.data.fashion_mnist import DEBIAN_DIR
    from encdec.data.idx import is_complete

    if not name:
        there = DEBIAN_DIR.exists() or is_complete(Path(data_dir, "FashionMNIST", "raw"))
        name = "FashionMNIST" if there else "Digits"
    train, test = (FashionMNIST(data_dir) if name == "FashionMNIST" else Digits()).load()
    for part, images in (("train", train), ("t10k", test)):
        assert isinstance(images, InMemoryImages)
        rows = slice(None) if images.rows is None else images.rows
        write_idx(folder, part, images.pixels[rows, 0], images.labels)
    return {"data": name, "total": len(train.labels)}


def synthetic(folder: str, total: int, size: int) -> None:
    """Write random pixels as a data set with `total` training images of size × size."""
    for part, count in (("train", total), ("t10k", 100)):
        pixels = torch.randint(256, (count, size, size), dtype=torch.uint8)
        write_idx(folder, part, pixels, torch.arange(count) % 10)


def pictures(folder: str, total: int, ending: str, width: int, height: int) -> None:
    """Write files of pictures, smooth as photographs are, in two classes: `total` to train, a few to test."""
    for part, count in (("train", total), ("test", 4)):
        for label in ("a", "b"):
            Path(folder, part, label).mkdir(parents=True)
        for number in range(count):
            pixels = F.interpolate(torch.rand(1, 3, 10, 12), size=(height, width), mode="bicubic").clamp(0, 1)
            save_image(pixels, Path(folder, part, "ab"[number % 2], f"{number}.{ending}"))


def write_idx(folder: str, part: str, pixels: Tensor, labels: Tensor) -> None:
    """Write the images, uint8, (N, H, W), and labels of a split."""
    raw = Path(folder, "FashionMNIST", "raw")
    raw.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images", pixels), ("labels", labels.to(torch.uint8))):
        header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        path = raw / f"{part}-{kind}-idx{values.ndim}-ubyte"
        path.write_bytes(header + values.contiguous().numpy().tobytes())


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))
