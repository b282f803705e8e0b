"""Files from strangers, for the tests of what may be in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from encdec.types import UserError
from tests import conftest
from tests.conftest import ON_CPU

SMALL = (
    "--model=VAE", "--model.latent_dim=2", "--model.encoder=MLPEncoder", "--model.encoder.hidden=[4]",
    "--model.decoder=MLPDecoder", "--model.decoder.hidden=[4]", "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--floors.enabled=false",
)  # fmt: skip


def contents(file: Path) -> Any:
    """What it holds, apart from the file, which may then be written anew."""
    return torch.load(file, weights_only=True)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 700
    assert sentence.endswith(".")
    return sentence


def refused_by_cli(args: list[str], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    capsys.readouterr()
    return conftest.refused(capsys, *args, *ON_CPU, code=code)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran", "w"))


EVIL = """
from pathlib import Path
Path("ran").touch()
class Evil:
    def __init__(self, *args, **kwargs): pass
"""


def config_of(run: Path) -> Any:
    return yaml.safe_load((run / "config.yaml").read_text())
