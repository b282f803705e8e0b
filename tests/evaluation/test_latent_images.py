"""Interpolations and maps of latents."""

import pytest
import torch

from encdec.evaluation.context import random_order
from encdec.evaluation.latent_images import _plane, interpolations, latent_map, strip_latents
from encdec.evaluation.view import View
from encdec.paradigms import VAE, ConditionalDecoder
from encdec.types import Batch, Shape

from .helpers import SHAPE, context_of, pixels_of, random_images

pytestmark = pytest.mark.usefixtures("no_grad")


def test_strips_go_straight_from_the_first_half_to_the_second() -> None:
    ends = torch.randn(6, 4)
    z = strip_latents(ends, 5)
    assert z.shape == (3, 5, 4)
    torch.testing.assert_close(z[:, 0], ends[:3])
    torch.testing.assert_close(z[:, -1], ends[3:])
    torch.testing.assert_close(z[:, 1], 0.75 * ends[:3] + 0.25 * ends[3:])


@pytest.mark.parametrize("count", [0, 1, 5, 40])
@pytest.mark.parametrize("encoder", [True, False])
def test_interpolations_are_images(count: int, encoder: bool) -> None:
    shape: Shape = (3, 6, 5)
    paradigm = (VAE if encoder else ConditionalDecoder)(image_shape=shape, num_classes=3, latent_dim=2).eval()
    context = context_of(View(paradigm), random_images(count, shape=shape))
    image = interpolations(context)
    rows = count // 2 if encoder and 2 <= count < 16 else 8
    factor = -(-256 // (rows * 7 + 1))
    assert image.shape == (3, factor * (rows * 7 + 1), factor * (9 * 6 + 1))
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert torch.equal(image, interpolations(context))


def test_interpolations_end_in_reconstructions() -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=2).eval()
    test = random_images(4)
    image = interpolations(context_of(View(paradigm), test), rows=2, steps=3)
    x = pixels_of(test).float().unflatten(1, SHAPE)
    order = random_order(4)
    reconstruction = paradigm.reconstruct(Batch(x[order], test.labels[order], order))
    assert reconstruction is not None
    factor = image.shape[1] // (2 * 4 + 1)
    small = image[:, ::factor, ::factor]
    torch.testing.assert_close(small[0, 1:4, 1:5], reconstruction[0, 0])
    torch.testing.assert_close(small[0, 5:8, 11:15], reconstruction[3, 0])


@pytest.mark.parametrize("dim", [1, 2, 32])
@pytest.mark.parametrize("kind", ["random", "constant", "single"])
def test_a_map_of_latents_is_an_image(dim: int, kind: str) -> None:
    z = {"random": torch.randn(300, dim), "constant": torch.ones(30, dim), "single": torch.randn(1, dim)}[kind]
    labels = torch.arange(len(z)) % 3
    classes = ("a $x", "_b", "a very long name of a class in 猫")
    image = latent_map(z, labels, classes)
    assert image.shape == (3, 700, 800)
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    if kind == "random":
        assert torch.equal(image, latent_map(z, labels, classes))


def test_a_map_of_many_classes_and_of_one() -> None:
    z = torch.randn(300, 5)
    many = latent_map(z, torch.arange(300) % 100, tuple(map(str, range(100))))
    one = latent_map(z, torch.zeros(300).long(), ("image",))
    assert many.shape == one.shape


def test_a_map_shows_the_principal_components() -> None:
    z = (torch.randn(200, 5) * torch.tensor([1.0, 5, 2, 0.1, 0.5])).double()
    points, names = _plane(z, torch.zeros(200).long())
    centred = z - z.mean(0)
    _, s, vh = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(points.abs(), (centred @ vh[:2].T).abs())
    shares = s.square() / s.square().sum()
    assert f"{float(shares[0]):.0%}" in names[0]
    assert f"{float(shares[1]):.0%}" in names[1]
