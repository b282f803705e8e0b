"""What a model costs: numbers against sums of the shapes of what it is made of, and time against a clock."""

import math
import time
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from encdec import plugins
from encdec.evaluation.costs import add_costs, latent_milliseconds, parameters_generator, parameters_training
from encdec.evaluation.view import View
from encdec.networks import MLPDecoder, MLPEncoder
from encdec.objectives.priors import FittedGaussian, GaussianMixture
from encdec.paradigms import VAE, ConditionalDecoder, Paradigm
from encdec.types import Batch
from tests.conftest import ROOT

from .helpers import SHAPE, context_of, random_images

DECODER = partial(MLPDecoder, hidden=(5,))
ENCODER = partial(MLPEncoder, hidden=(6,))
PIXELS = math.prod(SHAPE)
OF_DECODER = (3 * 5 + 5) + (5 * PIXELS + PIXELS)
OF_ENCODER = (PIXELS * 6 + 6) + (6 * 6 + 6)


def vae(**settings: Any) -> VAE:
    return VAE(image_shape=SHAPE, latent_dim=3, encoder=ENCODER, decoder=DECODER, **settings).eval()


def test_a_vae_samples_by_its_decoder_and_trains_both() -> None:
    model = vae()
    assert parameters_generator(View(model)) == OF_DECODER
    assert parameters_training(model) == OF_DECODER + OF_ENCODER
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_what_is_frozen_is_needed_all_the_same() -> None:
    model = vae().requires_grad_(False)
    assert parameters_generator(View(model)) == OF_DECODER
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_density_is_needed_for_samples_and_not_for_training() -> None:
    model = vae()
    model.ex_post = FittedGaussian(3)
    assert parameters_generator(View(model)) == OF_DECODER + 3 + 9, "mean and axes"
    model.ex_post = GaussianMixture(3, 2)
    assert parameters_generator(View(model)) == OF_DECODER + 2 + 2 * 3 + 2 * 9, "weights, means and axes"
    assert parameters_training(model) == OF_DECODER + OF_ENCODER


def test_a_table_is_trained_without_the_moments_of_its_optimizer() -> None:
    plugins.load(ROOT / "plugins")
    known: list[type] = plugins.subclasses(Paradigm)
    (auto_decoder,) = [one for one in known if one.__name__ == "AutoDecoder"]
    model = auto_decoder(image_shape=SHAPE, latent_dim=3, decoder=DECODER, num_train=40)
    assert parameters_training(model) == OF_DECODER + 40 * 3


def test_the_time_of_a_latent_is_that_of_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(self: View, batch: Batch) -> Tensor:
        time.sleep(0.002 * len(batch.x))
        return torch.zeros(len(batch.x), 3)

    monkeypatch.setattr(View, "encode", slow)
    found = latent_milliseconds(context_of(View(vae()), random_images(120)))
    assert 2 <= found < 4, "2 milliseconds for each image"


def test_what_is_not_known_is_a_sentence() -> None:
    model = ConditionalDecoder(image_shape=SHAPE, num_classes=3, latent_dim=3, decoder=DECODER).eval()
    context = context_of(View(model), random_images(20))
    with torch.no_grad():
        add_costs(context, None)
    assert context.metrics.values.keys() == {"parameters_generator", "parameters_training"}
    assert "ConditionalDecoder has no latents of images" in context.metrics.undefined["latent_milliseconds"]
    assert "did not count" in context.metrics.undefined["decoder_calls"]
    context = context_of(View(vae()), random_images(20))
    with torch.no_grad():
        add_costs(context, 1.5)
    assert context.metrics.values["decoder_calls"].value == 1.5
    assert f"{torch.get_num_threads()} thread" in context.metrics.values["latent_milliseconds"].unit


@pytest.mark.parametrize("count", [1, 7])
def test_fewer_images_than_a_batch_are_timed(count: int) -> None:
    with torch.no_grad():
        assert latent_milliseconds(context_of(View(vae()), random_images(count))) > 0
