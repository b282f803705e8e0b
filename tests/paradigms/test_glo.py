"""GLO's latents start at the images' principal components."""

import importlib

import numpy as np
import torch
from sklearn.decomposition import PCA

from encdec import plugins
from encdec.data import Digits
from encdec.paradigms import LatentTable, LatentVariable
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import scaled
from tests.conftest import ROOT

RATE = 1e-9  # at which nothing moves


def make(latent_dim: int = 8, rate: float = RATE) -> LatentVariable:
    plugins.load(ROOT / "plugins")
    torch.manual_seed(0)
    model: LatentVariable = importlib.import_module("encdec_plugins.glo").GLO(
        image_shape=(1, 8, 8),
        num_train=1294,
        latent_dim=latent_dim,
        latent_lr=rate,
        optimizer=lambda parameters: torch.optim.Adam(parameters, RATE),
    )
    return model


def table(model: LatentVariable) -> LatentTable:
    assert isinstance(model.table, LatentTable)
    return model.table


def latents(model: LatentVariable, epochs: int = 1) -> np.ndarray:
    with quiet_trainer():
        small_trainer(max_epochs=epochs, limit_val_batches=0).fit(model, Digits(batch_size=128))
    return table(model).values.numpy().copy()


def test_latents_start_at_scores_of_unit_length() -> None:
    data = Digits()
    data.setup("fit")
    (pixels,) = data.splits["train"].stream([torch.arange(1294)])
    scores = PCA(8, svd_solver="full").fit_transform(scaled(pixels).flatten(1).numpy().astype(np.float64))
    scores /= np.sqrt((scores**2).sum(1).mean())
    scores /= np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1)
    rows = latents(make())
    signs = np.sign((rows * scores).sum(0))  # an axis has no direction
    np.testing.assert_allclose(rows, scores * signs, atol=1e-4)


def test_more_latents_than_components_start_at_zero() -> None:
    rows = latents(make(latent_dim=70))
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows[:, 64:], 0, atol=1e-6)
    assert rows[:, :8].std() > 0.1


def test_latents_that_moved_are_not_started_again() -> None:
    model = make(rate=0.05)
    first = latents(model)
    table(model).lr = RATE
    np.testing.assert_allclose(latents(model), first, atol=1e-4)
