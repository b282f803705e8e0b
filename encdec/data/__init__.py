"""Data sets, one LightningDataModule each."""

from encdec.data.base import DataModule
from encdec.data.cifar10 import CIFAR10
from encdec.data.digits import Digits
from encdec.data.fashion_mnist import FashionMNIST
from encdec.data.image_folder import ImageFolder
from encdec.data.images import Images, InMemoryImages, random_split
from encdec.data.mnist import MNIST

__all__ = [
    "CIFAR10",
    "MNIST",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "Images",
    "InMemoryImages",
    "random_split",
]
