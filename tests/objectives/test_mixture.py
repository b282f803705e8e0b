"""The learned mixture and the priors of its parameters, against torch.distributions and numpy."""

import math

import numpy as np
import pytest
import torch
from torch import distributions

from encdec.objectives.mixture import LearnedMixture
from encdec.types import UserError


def mixture() -> LearnedMixture:
    found = LearnedMixture(3, components=4, radius=2.0, sharpness=5.0, std=0.3, log_var_std=0.5, concentration=2.5)
    with torch.no_grad():
        found.log_vars.add_(torch.randn(4, 3) / 2)
        found.logits.add_(torch.randn(4))
    return found.double()


def reference(prior: LearnedMixture) -> distributions.Distribution:
    parts = distributions.Independent(distributions.Normal(prior.means, (prior.log_vars / 2).exp()), 1)
    return distributions.MixtureSameFamily(distributions.Categorical(logits=prior.logits), parts)


def test_its_density_and_gradients_are_those_of_torch() -> None:
    prior = mixture()
    z = torch.randn(50, 3).double().requires_grad_()
    found, expected = prior.log_prob(z), reference(prior).log_prob(z)
    torch.testing.assert_close(found, expected)
    inputs = [z, *prior.parameters()]
    gradients = [torch.autograd.grad(value.sum(), inputs) for value in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert prior.float().log_prob(z.detach().bfloat16()).dtype == torch.float32


def test_samples_have_the_density() -> None:
    prior = mixture()
    with torch.no_grad():
        z = prior.sample(torch.randn(40_000, prior.noise_dim).double())
        independent = reference(prior).sample((40_000,))
        assert prior.log_prob(z).mean().item() == pytest.approx(prior.log_prob(independent).mean().item(), abs=0.03)
    torch.testing.assert_close(z.mean(0), independent.mean(0), atol=0.04, rtol=0)
    torch.testing.assert_close(z.T.cov(), independent.T.cov(), atol=0.06, rtol=0)


def test_the_hyperprior_by_numpy_and_torch() -> None:
    prior = mixture()
    means = prior.means.detach().numpy()
    volume = math.pi**1.5 * 2.0**3 / math.gamma(2.5)
    assert volume == pytest.approx(4 / 3 * math.pi * 8), "of a ball"
    softball = -np.log(volume * (1 + np.exp(5.0 * (np.linalg.norm(means, axis=1) / 2.0 - 1)))).sum()
    of_log_vars = distributions.Normal(2 * math.log(0.3), 0.5).log_prob(prior.log_vars).sum()
    of_weights = distributions.Dirichlet(torch.full((4,), 2.5).double()).log_prob(prior.logits.softmax(0))
    assert prior.log_hyperprior().item() == pytest.approx(softball + (of_log_vars + of_weights).item())


def test_at_the_start_the_means_fill_the_ball_and_the_rest_is_at_its_priors_mode() -> None:
    prior = LearnedMixture(2, components=4000, radius=3.0, std=0.2)
    radii = prior.means.norm(dim=1)
    assert radii.max() <= 3.0001
    # a quarter of a disk's area is within half its radius
    assert (radii < 1.5).double().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(prior.means.mean(0), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close((prior.log_vars / 2).exp(), torch.full((4000, 2), 0.2))
    torch.testing.assert_close(prior.logits.softmax(0), torch.full((4000,), 1 / 4000))


@pytest.mark.parametrize("name", ["components", "radius", "sharpness", "std", "log_var_std", "concentration"])
def test_what_cannot_be_is_refused(name: str) -> None:
    settings: dict[str, int] = {name: 0}
    with pytest.raises(UserError, match=f"LearnedMixture: {name} is 0, but it must be greater than zero"):
        LearnedMixture(3, **settings)
