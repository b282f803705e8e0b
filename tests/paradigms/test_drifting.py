"""Drifting: its field against the formula pair by pair, its symmetry, where it rests, and where it leads."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from encdec import plugins
from encdec.objectives.pairs import distances, mean_of_others
from encdec.testing import check_paradigm
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from tests.conftest import ROOT

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.drifting import Drifting, drift, sinkhorn_drift
else:
    from encdec_plugins.drifting import Drifting, drift, sinkhorn_drift


def points(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def field(at: Tensor, x: Tensor, y: Tensor, tau: float = 0.7) -> Tensor:
    """V at points that are none of the samples."""
    return drift(distances(at, x), distances(at, y), x, y, tau)


def test_it_is_the_formula_pair_by_pair() -> None:
    """Algorithm 2: A_ij = √(k_ij / Σ_j k_ij · k_ij / Σ_i k_ij), over images and samples j and points i."""
    at, x, y, tau = points(4, 0), points(5, 1), points(3, 2), 0.7
    both = torch.cat([x, y])
    k = [[float(torch.exp(-(p - q).norm() / tau)) for q in both] for p in at]
    a = [[(k[i][j] ** 2 / sum(k[i]) / sum(row[j] for row in k)) ** 0.5 for j in range(8)] for i in range(4)]
    for i in range(4):
        plus, minus = sum(a[i][:5]), sum(a[i][5:])
        expected = sum(a[i][j] * minus * x[j] for j in range(5)) - sum(a[i][5 + j] * plus * y[j] for j in range(3))
        torch.testing.assert_close(field(at, x, y, tau)[i], expected)


def test_images_and_samples_that_change_places_turn_it_round() -> None:
    at, x, y = points(6, 0), points(40, 1), points(30, 2, 1.0)
    assert field(at, x, y).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(field(at, x, y), -field(at, y, x))


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_it_is_zero_where_both_are_equal(tau: float) -> None:
    """Of equal sets; and of two draws from one distribution on average, the sample itself left out."""
    at, x = points(6, 0), points(40, 1)
    torch.testing.assert_close(field(at, x, x.flip(0), tau), torch.zeros_like(at), atol=1e-12, rtol=0)
    own, flipped = distances(x, x), distances(x, x.flip(0))
    torch.testing.assert_close(sinkhorn_drift(flipped, own, x.flip(0), x, tau), torch.zeros_like(x), atol=1e-9, rtol=0)
    itself = torch.eye(40, dtype=torch.bool)
    means = []
    for seed in range(400):
        x, y = points(40, 2 * seed + 10), points(40, 2 * seed + 11)
        means.append(drift(distances(y, x), distances(y, y).masked_fill(itself, torch.inf), x, y, tau).mean(0))
    found = torch.stack(means)
    assert (found.mean(0).abs() < 4 * found.std(0) / 20).all()


@pytest.mark.parametrize("kind", ["softmax", "sinkhorn"])
def test_samples_that_follow_it_become_as_the_images(kind: str) -> None:
    """Without a decoder: steps along V, from a shifted and shrunk set."""
    x, y = points(100, 0), 0.2 * points(100, 1) + 1.5
    itself = torch.eye(100, dtype=torch.bool)

    def energy() -> Tensor:
        own = mean_of_others(distances(x, x)) + mean_of_others(distances(y, y))
        return 2 * distances(x, y).mean() - own

    before = energy()
    for _ in range(150):
        to_images, to_samples = distances(y, x), distances(y, y)
        if kind == "sinkhorn":
            v = sinkhorn_drift(to_images, to_samples, x, y, 0.5)
        else:
            v = drift(to_images, to_samples.masked_fill(itself, torch.inf), x, y, 0.5)
        y = y + 0.5 * v
    assert energy() < 0.02 * before


def test_its_loss_is_constant_and_its_drift_is_not() -> None:
    """Of one temperature the loss is 1 whatever the samples are, so there is no best checkpoint."""
    model = Drifting(
        image_shape=(1, 8, 8), latent_dim=4, temperatures=(0.5,), optimizer=partial(torch.optim.Adam, lr=1e-2)
    )
    assert model.monitor is None
    data = Blobs(batch_size=36, num_images=72, val_fraction=0.5)
    batch = next(iter(data.val_dataloader()))
    found = []
    for _ in range(2):
        with torch.no_grad():
            found.append(model.eval().measured_losses(batch))
        with quiet_trainer():
            small_trainer(max_epochs=60).fit(model.train(), data)
    assert [one.loss.item() for one in found] == pytest.approx([1, 1], rel=1e-4)
    assert abs(found[1].terms["drift"] / found[0].terms["drift"] - 1) > 0.2


def test_a_batch_of_one_image_has_no_drift_and_not_nan() -> None:
    """There is no other sample: the last batch of an epoch may be such a one, and its step changes nothing."""
    model = Drifting(image_shape=(1, 8, 8), latent_dim=4)
    batch = next(iter(Blobs(batch_size=1, num_images=8).train_dataloader()))
    losses = model.losses(batch)
    losses.loss.backward()
    assert (losses.loss.item(), losses.terms["drift"].item()) == (0, 0)
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_the_sinkhorn_coupling_keeps_the_contract(tmp_path: Path) -> None:
    check_paradigm(Drifting, tmp_path, latent_dim=4, coupling="sinkhorn")
