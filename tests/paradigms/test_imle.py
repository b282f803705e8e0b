"""IMLE: its winners and rejected latents against a search image by image, and m = 1 against the encoderless VAE."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from encdec import plugins
from encdec.data import Digits
from encdec.objectives.observations import Bernoulli, Gaussian, ObservationCallable
from encdec.paradigms import EncoderlessVAE, LatentVariable, encodes
from encdec.testing import check_paradigm
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.types import Batch, Conditioning, UserError
from tests.conftest import ROOT

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.imle import IMLE
else:
    from encdec_plugins.imle import IMLE

SHAPE, POOL = (1, 8, 8), 40


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=32).val_dataloader()))
    return first


def made(**settings: Any) -> IMLE:
    """Untrained, with wide weights, so that decodings differ."""
    model = IMLE(image_shape=SHAPE, latent_dim=3, **({"num_prior_samples": POOL} | settings)).train()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(4)
    model.randomness.begin_step(7, 0, 1, torch.device("cpu"))
    return model


def pool_of(model: IMLE) -> Tensor:
    """The latents that the next call chooses from."""
    pool = model.shared_noise(POOL, 3)
    model.randomness.begin_step(7, 0, 1, torch.device("cpu"))
    return pool


def log_probabilities(model: IMLE, pool: Tensor, x: Tensor) -> Tensor:
    """log p(x|z_j) of one image, each latent decoded on its own, in float64."""
    values = []
    for z in pool:
        logits = model.decoder(z[None])[0].double()
        law: torch.distributions.Distribution = torch.distributions.Bernoulli(logits=logits, validate_args=False)
        if isinstance(model.observation, Gaussian):
            law = torch.distributions.Normal(logits.sigmoid(), model.observation.sigma)
        values.append(law.log_prob(x.double()).sum())
    return torch.stack(values)


@pytest.mark.parametrize("observation", [Bernoulli, partial(Gaussian, sigma=0.3)], ids=["Bernoulli", "Gaussian"])
def test_the_winner_is_the_most_likely_of_the_pool(observation: ObservationCallable, batch: Batch) -> None:
    model = made(observation=observation)
    pool = pool_of(model)
    found = model.losses(batch)
    winners = set()
    for image in range(len(batch.x)):
        log_p = log_probabilities(model, pool, batch.x[image])
        torch.testing.assert_close(found.loss[image].double(), -log_p.max(), rtol=1e-4, atol=1e-3)
        winners.add(int(log_p.argmax()))
    assert len(winners) >= 3, "images choose different latents"
    assert "rejected" not in found.terms


def test_only_the_winners_have_gradients(batch: Batch) -> None:
    """It is the gradient of the loss at fixed latents."""
    model = made()
    pool = pool_of(model)
    choices = torch.stack([log_probabilities(model, pool, x).argmax() for x in batch.x])
    found = torch.autograd.grad(model.losses(batch).loss.mean(), [*model.decoder.parameters()])
    nll = model.observation.nll(model.decoder(pool[choices]), batch.x)
    for one, expected in zip(found, torch.autograd.grad(nll.mean(), [*model.decoder.parameters()]), strict=True):
        torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_latents_near_any_image_of_the_batch_are_left_out(share: float, batch: Batch) -> None:
    model = made()
    pool = pool_of(model)
    samples = model.decoder(pool).sigmoid().detach()
    least = torch.stack([torch.stack([((sample - x) ** 2).mean() for x in batch.x]).min() for sample in samples])
    model.reject = least.quantile(share).item()
    kept = [j for j in range(POOL) if least[j] >= model.reject]
    assert 0 < len(kept) < POOL
    found = model.losses(batch)
    assert found.terms["rejected"] == POOL - len(kept)
    for image in range(len(batch.x)):
        log_p = log_probabilities(model, pool[kept], batch.x[image])
        torch.testing.assert_close(found.loss[image].double(), -log_p.max(), rtol=1e-4, atol=1e-3)


def test_where_all_are_rejected_none_is_and_evaluation_rejects_none(batch: Batch) -> None:
    model, plain = made(reject=1.0), made()
    plain.load_state_dict(model.state_dict())
    found = model.losses(batch)
    assert found.terms["rejected"] == POOL
    assert torch.equal(found.loss, plain.losses(batch).loss)
    some = made(reject=0.26)
    some.load_state_dict(model.state_dict())
    assert not torch.equal(some.losses(batch).loss, plain.losses(batch).loss)
    evaluated = [one.eval().measured_losses(batch) for one in (some, plain)]
    assert torch.equal(evaluated[0].loss, evaluated[1].loss)
    assert "rejected" not in evaluated[0].terms
    torch.testing.assert_close(some.reconstruct(batch), plain.reconstruct(batch))


def test_one_latent_is_the_encoderless_vae() -> None:
    """With a batch of one image they draw the same latent, and so train the same decoder."""
    models: list[LatentVariable] = []
    for make in (partial(IMLE, num_prior_samples=1), EncoderlessVAE):
        torch.manual_seed(3)
        models.append(make(image_shape=SHAPE, latent_dim=3, num_train=22))
        with quiet_trainer():
            small_trainer(max_epochs=1).fit(models[-1], Blobs(batch_size=1, num_images=24))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert models[0].conditioning is Conditioning.NONE
    assert not encodes(models[0])


def test_rejection_keeps_the_contract(tmp_path: Path) -> None:
    """Also on two processes, which must leave out the same latents."""
    check_paradigm(IMLE, tmp_path, latent_dim=4, num_prior_samples=30, reject=0.08)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_prior_samples": 0}, "IMLE: num_prior_samples is 0, but it must be greater than zero."),
        ({"reject": -0.1}, "IMLE: reject is -0.1, but a squared error per pixel can't be negative."),
        ({"reject": float("nan")}, "IMLE: reject is nan, but"),
        ({"num_prior_samples": 1, "reject": 0.1}, "of num_prior_samples = 1 none can be left out."),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        made(**settings)
    assert caught.value.exit_code == 2
