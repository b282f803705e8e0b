"""Every paradigm, data module and network that is found, plugins included, keeps its contract."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from encdec import plugins
from encdec.data import DataModule
from encdec.networks import Decoder, Encoder, MLPVelocity, Velocity
from encdec.objectives.mixture import LearnedMixture
from encdec.objectives.observations import Gaussian
from encdec.objectives.priors import GaussianMixture
from encdec.paradigms import AE, VAE, EncoderlessVAE, Paradigm
from encdec.testing import check_datamodule, check_decoder, check_encoder, check_paradigm, check_velocity
from tests.conftest import ROOT, shipped
from tests.small_data import make_datamodule

PROBLEMS = plugins.load(ROOT / "plugins")


def test_the_shipped_plugins_load() -> None:
    assert PROBLEMS == []
    names = {cls.__name__ for cls in shipped(Paradigm)}
    # more, where a test before this one wrote plugins of its own
    assert names >= {"AE", "VAE", "EncoderlessVAE", "ConditionalDecoder", "AutoDecoder", "EnergyScore", "GAN", "GLO"}


FEW_STEPS: dict[str, dict[str, Any]] = {
    "AutoDecoder": {"code_steps": 5},
    "DGD": {"latent_steps": 5, "start_steps": 1, "prior": partial(LearnedMixture, components=3)},
    "GLO": {"latent_steps": 5},
    "SVI": {"latent_steps": 5, "warm_up": 2},
    "VAD": {"latent_steps": 5, "warm_up": 2},
    "SAVAE": {"latent_steps": 2, "warm_up": 2},
    "ShortRun": {"latent_steps": 3},
}
"""Of the searches for latents, which take most of the time."""

SIZES: dict[str, dict[str, Any]] = {"FlowMatching": {"steps": 2}, "MeanFlow": {}}
"""Instead of `latent_dim`, where the noise is as large as an image."""


@pytest.mark.parametrize("paradigm", shipped(Paradigm), ids=lambda cls: cls.__name__)
def test_paradigm(paradigm: type[Paradigm], tmp_path: Path) -> None:
    sizes = SIZES.get(paradigm.__name__, {"latent_dim": 4})
    check_paradigm(paradigm, tmp_path, **sizes, **FEW_STEPS.get(paradigm.__name__, {}))


VARIANTS: dict[str, tuple[type[Paradigm], dict[str, Any]]] = {
    "fed zeros": (AE, {"encoder_input": "zeros"}),
    "a mixture": (AE, {"ex_post": partial(GaussianMixture, components=3)}),
    "fixed latents": (EncoderlessVAE, {"latents": "fixed"}),
    "the best of 8": (EncoderlessVAE, {"num_prior_samples": 8}),
    "annealed with free bits": (VAE, {"warm_up": 2, "free_bits": 0.05}),
    "Gaussian pixels": (VAE, {"observation": partial(Gaussian, sigma=0.3)}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_paradigm_with_other_settings(name: str, tmp_path: Path) -> None:
    cls, settings = VARIANTS[name]
    check_paradigm(cls, tmp_path, latent_dim=4, **settings)


@pytest.mark.parametrize("pairing", ["batch", "fresh"])
def test_an_assignment_within_batches(pairing: str, tmp_path: Path) -> None:
    (assignment,) = (cls for cls in shipped(Paradigm) if cls.__name__ == "Assignment")
    check_paradigm(assignment, tmp_path, latent_dim=4, pairing=pairing, latent_steps=3)


def test_a_flow_from_paired_noise(tmp_path: Path) -> None:
    (flow,) = (cls for cls in shipped(Paradigm) if cls.__name__ == "FlowMatching")
    check_paradigm(flow, tmp_path, velocity=MLPVelocity, pairing="batch", steps=2)


@pytest.mark.parametrize("encoder", shipped(Encoder), ids=lambda cls: cls.__name__)
def test_encoder(encoder: type[Encoder]) -> None:
    check_encoder(encoder)


@pytest.mark.parametrize("decoder", shipped(Decoder), ids=lambda cls: cls.__name__)
def test_decoder(decoder: type[Decoder]) -> None:
    check_decoder(decoder)


@pytest.mark.parametrize("velocity", shipped(Velocity), ids=lambda cls: cls.__name__)
def test_velocity(velocity: type[Velocity]) -> None:
    check_velocity(velocity)


@pytest.mark.parametrize("data", shipped(DataModule), ids=lambda cls: cls.__name__)
def test_datamodule(data: type[DataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_datamodule(make_datamodule(data, tmp_path, monkeypatch))
