"""Path lengths and Lipschitz constants against numpy and closed forms."""

import numpy as np
import pytest
import torch

from encdec.evaluation.smoothness import add_smoothness, lipschitz, path_lengths
from encdec.evaluation.view import DRAWS, View
from encdec.objectives.noise import normal

from .helpers import Linear, context_of, evaluate_latents, pixels_of, random_images

pytestmark = pytest.mark.usefixtures("no_grad")


def test_paths_of_a_linear_decoder_against_numpy() -> None:
    paradigm = Linear(3, seed=4).eval()
    paradigm.of_label.copy_(torch.randn(3, 12))
    lengths, ends = path_lengths(View(paradigm))
    e = normal(4, DRAWS["interpolations"], torch.arange(128), 3).double().numpy()
    weight, of_label = paradigm.decoder.weight.double().numpy(), paradigm.of_label.double().numpy()
    for line in range(64):
        points = e[line] + np.linspace(0, 1, 33)[:, None] * (e[64 + line] - e[line])
        x = 1 / (1 + np.exp(-(points @ weight.T + of_label[line % 3])))
        assert float(lengths[line]) == pytest.approx(np.linalg.norm(np.diff(x, axis=0), axis=1).sum(), rel=1e-5)
        assert float(ends[line]) == pytest.approx(np.linalg.norm(x[-1] - x[0]), rel=1e-5)


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_lipschitz_constants_of_a_linear_decoder_against_numpy(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    paradigm = Linear(dim, seed=2).eval()
    paradigm.of_label.copy_(torch.randn(3, 12))
    e = normal(2, DRAWS["smoothness"], torch.arange(64), dim).double().numpy()
    weight, of_label = paradigm.decoder.weight.double().numpy(), paradigm.of_label.double().numpy()
    x = 1 / (1 + np.exp(-(e @ weight.T + of_label[np.arange(64) % 3])))
    expected = [np.linalg.norm((p * (1 - p))[:, None] * weight, 2) for p in x]
    np.testing.assert_allclose(lipschitz(View(paradigm)).numpy(), expected, rtol=1e-4)
    monkeypatch.setattr("encdec.evaluation.context.BLOCK", 30)
    monkeypatch.setattr("encdec.evaluation.smoothness.BLOCK", 30)
    np.testing.assert_allclose(lipschitz(View(paradigm)).numpy(), expected, rtol=1e-4)


def test_noise_of_many_numbers_is_not_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 draws of a flow's noise for color images of 32 × 32 would be four hundred thousand images: two hours."""
    metrics = evaluate_latents(Linear(1_000), random_images(30), random_images(40))
    assert metrics.values["lipschitz_mean"].value > 0
    monkeypatch.setattr("encdec.evaluation.smoothness.lipschitz", lambda view: pytest.fail("it is computed"))
    metrics = evaluate_latents(Linear(1_001), random_images(30), random_images(40))
    assert "has 1,001 numbers, more than the 1,000" in metrics.undefined["lipschitz_mean"]
    assert metrics.values["path_length"].value > 0


def test_the_lipschitz_constant_where_the_sigmoid_is_steepest_is_a_quarter_of_the_weights_norm() -> None:
    paradigm = Linear(2)
    paradigm.decoder.weight.mul_(0.02)  # so all pixel means stay near 1/2
    expected = float(torch.linalg.matrix_norm(paradigm.decoder.weight, 2)) / 4
    constants = lipschitz(View(paradigm))
    assert float(constants.max()) == pytest.approx(expected, rel=2e-3)


def test_a_decoder_that_ignores_its_latent_travels_nowhere() -> None:
    paradigm = Linear()
    paradigm.decoder.weight.zero_()
    paradigm.of_label.copy_(torch.randn(3, 12))
    test = random_images(400)
    metrics = evaluate_latents(paradigm, random_images(30), test)
    for name in ("path_length", "lipschitz_mean"):
        assert metrics.values[name].value == 0
    assert "whatever its latent" in metrics.undefined["path_ratio"]
    x = pixels_of(test)
    between = torch.cdist(x, x)[~torch.eye(400, dtype=torch.bool)]
    reference = metrics.values["path_length"].reference
    assert reference == pytest.approx(float(between.mean()), rel=0.05)


def test_the_path_ratio_of_nearly_straight_paths_is_one() -> None:
    paradigm = Linear()
    paradigm.decoder.weight.mul_(0.05)
    assert evaluate_latents(paradigm, random_images(30), random_images(30)).values["path_ratio"].value == pytest.approx(
        1, abs=1e-3
    )


def test_coarse_weights_have_no_lipschitz_constant() -> None:
    context = context_of(View(Linear().to(torch.bfloat16)), random_images(20))
    add_smoothness(context)
    metrics = context.metrics
    assert "bfloat16" in metrics.undefined["lipschitz_mean"]
    assert "path_length" in metrics.values
