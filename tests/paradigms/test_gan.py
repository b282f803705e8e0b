"""GAN: its losses and penalties at the optimum of a critic between two known Gaussians."""

import importlib
import math
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from encdec import plugins
from encdec.evaluation.costs import parameters_training
from encdec.networks import Decoder, MLPDecoder, MLPEncoder
from encdec.testing import check_paradigm
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.types import Batch, Shape, UserError
from tests.conftest import ROOT

SHAPE: Shape = (1, 1, 2)
IMAGES, SAMPLES, DEVIATION, COUNT = torch.tensor([0.55, 0.45]), torch.tensor([0.45, 0.5]), 0.05, 40_000


@final
class _Gaussian(Decoder):
    """z -> the logits of SAMPLES + DEVIATION · z: images that are normally distributed."""

    def forward(self, z: Tensor) -> Tensor:
        return (SAMPLES + DEVIATION * z).clamp(0.01, 0.99).logit().reshape(-1, *SHAPE)


def _class() -> type[Any]:
    plugins.load(ROOT / "plugins")
    gan: type[Any] = importlib.import_module("encdec_plugins.gan").GAN
    return gan


def _gan(**settings: Any) -> Any:
    critic = partial(MLPEncoder, hidden=())
    gan = _class()(image_shape=SHAPE, generator=_Gaussian, critic=critic, latent_dim=2, **settings)
    return gan.eval()  # the same noise at each call


def _batch() -> Batch:
    noise = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0))
    x = (IMAGES + DEVIATION * noise).reshape(-1, *SHAPE)
    return Batch(x, torch.zeros(COUNT, dtype=torch.int64), torch.arange(COUNT), "train")


def _fitted(gan: Any, batch: Batch) -> float:
    """Train a linear critic to its optimum, and give its loss there."""
    torch.nn.init.zeros_(gan.critic.layers[0].weight)
    optimizer = torch.optim.LBFGS(gan.critic.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        gan.randomness.restart()
        optimizer.zero_grad()
        loss = gan.critic_losses(batch).loss.mean()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    return closure()


@pytest.mark.parametrize("objective", ["nonsaturating", "relativistic"])
def test_the_best_critic_is_the_logarithm_of_the_ratio_of_densities(objective: str) -> None:
    """log p(x)/q(x) of two Gaussians of one variance is linear in x; the relativistic one may add any constant."""
    gan = _gan(objective=objective, penalty=0)
    loss = _fitted(gan, _batch())
    weight, bias = (parameter.detach()[0] for parameter in gan.critic.layers[0].parameters())
    expected = (IMAGES - SAMPLES) / DEVIATION**2
    assert (weight - expected).norm() < 0.05 * expected.norm()
    # log p/q is N(±m/2, m) under p and q, m the squared distance of the means in standard deviations
    m = float((IMAGES - SAMPLES).square().sum()) / DEVIATION**2
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    if objective == "nonsaturating":
        assert float(bias) == pytest.approx(-float(expected @ (IMAGES + SAMPLES)) / 2, rel=0.05)
        values = 2 * np.logaddexp(0, -(m / 2 + math.sqrt(m) * nodes))
    else:
        values = np.logaddexp(0, -(m + math.sqrt(2 * m) * nodes))
    assert loss == pytest.approx(float(weights @ values / weights.sum()), rel=0.03)


@pytest.mark.parametrize("penalize_samples", [False, True])
def test_penalties_hold_the_critic_where_the_penalized_optimum_is(penalize_samples: bool) -> None:
    """Of a linear critic w both R1 and R2 are ‖w‖², so one number is left to optimize, which scipy does."""
    gan = _gan(objective="relativistic", penalty=0.02, penalize_samples=penalize_samples)
    _fitted(gan, _batch())
    difference = float((IMAGES - SAMPLES).norm())
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    of_both = 0.02 * (1 + penalize_samples)

    def loss(w: Any) -> float:  # along the difference of the means: d(x) − d(y) is N(w · difference, 2 w² variance)
        margin = w[0] * (difference + math.sqrt(2) * DEVIATION * nodes)
        return float(weights @ np.logaddexp(0, -margin) / weights.sum() + of_both / 2 * w[0] ** 2)

    expected = minimize(loss, [1.0]).x[0]
    assert float(gan.critic.layers[0].weight.detach().norm()) == pytest.approx(expected, rel=0.05)


def test_penalties_are_the_squared_gradients_at_images_and_at_samples() -> None:
    gan = _class()(image_shape=(1, 4, 4), penalty=3.0, penalize_samples=True, objective="relativistic").eval()
    batch = Batch(torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64), torch.arange(3), "train")
    gan.randomness.restart()
    losses = gan.critic_losses(batch)
    gan.randomness.restart()
    samples = gan.generator(gan.noise(batch.index, gan.latent_dim)).sigmoid().detach()
    of_images = torch.func.vmap(torch.func.grad(lambda x: gan.critic(x[None])[0, 0]))(batch.x)
    of_samples = torch.func.vmap(torch.func.grad(lambda x: gan.critic(x[None])[0, 0]))(samples)
    torch.testing.assert_close(losses.terms["r1"], of_images.square().sum((1, 2, 3)))
    torch.testing.assert_close(losses.terms["r2"], of_samples.square().sum((1, 2, 3)))
    margin = gan.critic(batch.x)[:, 0] - gan.critic(samples)[:, 0]
    expected = (-margin).exp().log1p() + 1.5 * losses.terms["r1"] + 1.5 * losses.terms["r2"]
    torch.testing.assert_close(losses.loss, expected)
    gan.randomness.restart()
    torch.testing.assert_close(gan.losses(batch).loss, margin.exp().log1p())


def test_the_critic_counts_in_what_a_training_takes() -> None:
    settings: dict[str, Any] = {
        "image_shape": (1, 4, 4),
        "latent_dim": 3,
        "generator": partial(MLPDecoder, hidden=(5,)),
    }
    generator = 3 * 5 + 5 + 5 * 16 + 16
    numbers = {
        hidden: parameters_training(_class()(**settings, critic=partial(MLPEncoder, hidden=(hidden,))))
        for hidden in (7, 8)
    }
    averages = 1  # how many steps it has averaged
    assert numbers[7] == 2 * generator + averages + 16 * 7 + 7 + 7 + 1
    assert numbers[8] - numbers[7] == 16 + 1 + 1


def test_a_compiled_gan_is_refused() -> None:
    gan = _gan()
    gan.is_compiled = True
    with pytest.raises(UserError, match=r"GAN differentiates a gradient, which torch\.compile can't do: leave"):
        gan.critic_losses(_batch())


def test_the_average_follows_steps_and_not_batches_whose_gradients_are_accumulated() -> None:
    """Both players' gradients are clipped and accumulated; 5 batches of two are 3 steps."""
    gan = _class()(image_shape=(1, 8, 8), latent_dim=4, optimizer=partial(torch.optim.SGD, lr=0.1))
    before = {name: value.detach().clone() for name, value in gan.named_parameters()}
    with quiet_trainer():
        trainer = small_trainer(max_epochs=1, accumulate_grad_batches=2, gradient_clip_val=1e-3)
        trainer.fit(gan, Blobs(batch_size=9))
    assert int(gan.average.n_averaged) == trainer.global_step == 3
    for player in ("generator", "critic"):
        moved = sum(float((value.detach() - before[name]).square().sum()) for name, value in gan.named_parameters()
                    if name.startswith(f"{player}."))  # fmt: skip
        assert 0 < moved**0.5 <= 3 * 0.1 * 1e-3 * (1 + 1e-4), "a step is at most the rate times the clipped norm"


def test_r3gan_keeps_the_contract(tmp_path: Path) -> None:
    check_paradigm(_class(), tmp_path, latent_dim=4, objective="relativistic", penalize_samples=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "hinge"}, "objective is 'hinge', but it must be one of 'nonsaturating', 'relativistic'"),
        ({"penalty": -1.0}, "penalty is -1.0, but the weight of R1 can't be negative"),
    ],
)
def test_settings_of_no_gan_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _class()(image_shape=SHAPE, **settings)
