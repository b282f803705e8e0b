"""Every paradigm, data module and network that is found, plugins included, keeps its contract."""

from pathlib import Path

import pytest

from encdec import plugins
from encdec.data import DataModule
from encdec.networks import Decoder, Encoder
from encdec.paradigms import Paradigm
from encdec.testing import check_datamodule, check_decoder, check_encoder, check_paradigm
from tests.conftest import ROOT, shipped
from tests.small_data import make_datamodule

PROBLEMS = plugins.load(ROOT / "plugins")


def test_the_shipped_plugins_load() -> None:
    assert PROBLEMS == []
    assert "AutoDecoder" in [cls.__name__ for cls in plugins.subclasses(Paradigm)]


@pytest.mark.parametrize("paradigm", shipped(Paradigm), ids=lambda cls: cls.__name__)
def test_paradigm(paradigm: type[Paradigm], tmp_path: Path) -> None:
    check_paradigm(paradigm, tmp_path, latent_dim=4)


@pytest.mark.parametrize("encoder", shipped(Encoder), ids=lambda cls: cls.__name__)
def test_encoder(encoder: type[Encoder]) -> None:
    check_encoder(encoder)


@pytest.mark.parametrize("decoder", shipped(Decoder), ids=lambda cls: cls.__name__)
def test_decoder(decoder: type[Decoder]) -> None:
    check_decoder(decoder)


@pytest.mark.parametrize("data", shipped(DataModule), ids=lambda cls: cls.__name__)
def test_datamodule(data: type[DataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_datamodule(make_datamodule(data, tmp_path, monkeypatch))
