"""The Wasserstein autoencoder: a loss of the set, and latents that look like the prior's."""

import importlib
from typing import Any

import pytest
import torch

from encdec import plugins
from encdec.data import Digits
from encdec.objectives.mmd import inverse_multiquadratic, unbiased_mmd
from encdec.paradigms import LatentVariable
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import Batch, UserError
from tests.conftest import ROOT


def make(**settings: Any) -> LatentVariable:
    plugins.load(ROOT / "plugins")
    torch.manual_seed(0)
    sizes = {"image_shape": (1, 8, 8), "num_train": 1294, "latent_dim": 4}
    model: LatentVariable = importlib.import_module("encdec_plugins.wae").WAE(**sizes, **settings)
    return model


def held_out() -> Batch:
    batch: Batch = next(iter(Digits(batch_size=300).test_dataloader()))
    return batch


def test_the_loss_is_of_the_set() -> None:
    model, images = make(mmd_weight=7.0), held_out()
    model.eval()
    losses = model.measured_losses(images)
    assert losses.loss.shape == losses.terms["mmd"].shape == ()
    z = model.encode(images)
    error = (model.reconstruct(images) - images.x).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(losses.loss, error + 7 * losses.terms["mmd"])
    # against other draws from the prior: equal within the spread of such draws
    kernel = inverse_multiquadratic(2 * 4.0)
    others = torch.stack([unbiased_mmd(z, torch.randn(300, 4), kernel) for _ in range(50)]).detach()
    assert abs(losses.terms["mmd"] - others.mean()) < 4 * others.std()
    assert model.measured_losses(images.rows(slice(1))).terms["mmd"] == 0, "one latent is no set"


@pytest.mark.slow
def test_latents_of_held_out_images_become_the_prior_s() -> None:
    """Their MMD to the prior falls towards that of the prior to itself, and their moments to 0 and 1."""
    found = {}
    for weight in (0.0, 200.0):
        model = make(mmd_weight=weight, optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3))
        with quiet_trainer():
            small_trainer(max_epochs=40).fit(model, Digits(batch_size=128))
        model.eval()
        with torch.no_grad():
            z = model.encode(held_out())
        kernel = inverse_multiquadratic(2 * 4.0)
        mmd = torch.stack([unbiased_mmd(z, torch.randn(300, 4), kernel) for _ in range(20)]).mean()
        found[weight] = float(mmd), float(z.mean(0).norm()), z.std(0)
    assert found[200.0][0] < 0.05 * found[0.0][0]
    assert found[200.0][0] < 0.02
    assert found[200.0][1] < 0.3
    assert (found[200.0][2] - 1).abs().max() < 0.25


def test_the_weight_must_not_be_negative() -> None:
    with pytest.raises(UserError, match=r"WAE: mmd_weight is -1\.0") as error:
        make(mmd_weight=-1.0)
    assert error.value.exit_code == 2
