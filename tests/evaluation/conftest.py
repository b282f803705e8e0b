"""Fixtures of the evaluation's tests."""

from collections.abc import Iterator

import pytest
import torch

from encdec.data import Digits, Images


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def splits() -> dict[str, Images]:
    return Digits().splits
