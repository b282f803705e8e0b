"""What several tests of studies use."""

from pathlib import Path

import pytest

from .reports import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A study of two paradigms with an encoder and two without, all done; the later ones are better."""
    found = Folder(tmp_path / "small", ("vae", "ae", "svi", "assignment"))
    found.fill()
    return found
