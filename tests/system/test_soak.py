"""The soak test, in short."""

import pytest

from tests import soak


@pytest.mark.slow
def test_three_kills_change_nothing() -> None:
    assert soak.main(["--kills", "3", "--epochs", "40", "--seed", "1"]) == 0
