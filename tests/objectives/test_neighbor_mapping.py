"""The nearest-neighbor mapping: what it is fitted to, how, and what it does not have."""

import time

import pytest
import torch
from torch import Tensor

from encdec.objectives.neighbor_mapping import NeighborMapping
from encdec.objectives.priors import FittedGaussian
from encdec.types import UserError


def ring(count: int, seed: int = 0) -> Tensor:
    """Latents on a circle of radius 5 around (10, 0), which no Gaussian fits."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    noise = 0.05 * torch.randn(count, 2, generator=generator)
    return torch.tensor([10.0, 0.0]) + 5 * torch.stack([angle.cos(), angle.sin()], 1) + noise


@pytest.fixture(scope="module")
def fitted() -> NeighborMapping:
    prior = NeighborMapping(2, rounds=30)
    prior.fit(ring(400))
    return prior


def test_samples_lie_where_latents_lie_and_reach_all_of_them(fitted: NeighborMapping) -> None:
    torch.manual_seed(0)
    samples, held_out = fitted.sample(torch.randn(2000, 1)), ring(500, seed=1)
    gaussian = FittedGaussian(2)
    gaussian.fit(ring(400))
    center = torch.tensor([10.0, 0.0])
    near = [
        (((z - center).norm(dim=1) - 5).abs() < 0.5).float().mean()
        for z in (samples, gaussian.sample(torch.randn(2000, 2)))
    ]
    assert near[0] > 0.4
    assert near[1] < 0.2, "as a Gaussian's are not"
    assert torch.cdist(held_out, samples).min(1).values.max() < 1.5, "each latent has a sample near it"


def test_it_is_a_function_of_the_latents_and_of_its_noise(fitted: NeighborMapping) -> None:
    again = NeighborMapping(2, rounds=30)
    torch.rand(7)
    before = torch.get_rng_state()
    again.fit(ring(400))
    assert torch.equal(torch.get_rng_state(), before), "torch's random numbers are left alone"
    assert again.fitted == 400
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    loaded = NeighborMapping(2, rounds=30)
    loaded.load_state_dict(fitted.state_dict())
    noise = torch.randn(9, 1)
    assert torch.equal(loaded.sample(noise), fitted.sample(noise))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loaded.sample(noise), fitted.sample(noise))
        again.fit(ring(400))
    assert torch.equal(again.sample(noise), fitted.sample(noise))
    assert fitted.sample(noise.bfloat16()).dtype == torch.bfloat16


def test_a_fit_in_inference_mode_is_the_same(fitted: NeighborMapping) -> None:
    again = NeighborMapping(2, rounds=30)
    with torch.inference_mode():
        again.fit(ring(400))
    assert torch.equal(again.weight_2, fitted.weight_2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dim", "noise_dim"), [(1, 1), (3, 2), (100, 32)])
def test_until_it_is_fitted_it_is_the_noise(dim: int, noise_dim: int) -> None:
    prior, noise = NeighborMapping(dim), torch.randn(20, noise_dim)
    assert prior.noise_dim == noise_dim
    torch.testing.assert_close(prior.sample(noise), torch.cat([noise, torch.zeros(20, dim - noise_dim)], 1))


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])  # powers of 2, which round nothing
def test_latents_of_any_scale(scale: float, fitted: NeighborMapping) -> None:
    prior, noise = NeighborMapping(2, rounds=30), torch.randn(50, 1)
    prior.fit(ring(400) * scale)
    torch.testing.assert_close(prior.sample(noise) / scale, fitted.sample(noise))


def test_a_single_latent_and_equal_ones() -> None:
    for z in (torch.ones(1, 3), torch.ones(40, 3)):
        prior = NeighborMapping(3, rounds=2)
        prior.fit(z)
        torch.testing.assert_close(prior.sample(torch.randn(5, 2)), torch.ones(5, 3), rtol=0, atol=1e-6)


def test_it_has_no_density() -> None:
    with pytest.raises(UserError, match="no density"):
        NeighborMapping(2).log_prob(torch.zeros(1, 2))
    assert not NeighborMapping.has_density
    with pytest.raises(UserError, match="rounds is 0"):
        NeighborMapping(2, rounds=0)


@pytest.mark.slow
def test_its_time_does_not_grow_with_the_latents() -> None:
    """54,000 latents of 32 numbers, as of Fashion-MNIST."""
    began = time.process_time()
    NeighborMapping(32).fit(torch.randn(54_000, 32))
    assert time.process_time() - began < 40, "about 10 seconds of one core when it is idle"
