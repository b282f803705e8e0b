"""Gradient origin networks: their latents against a Jacobian, their gradients against finite differences."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from encdec import plugins
from encdec.data import Digits
from encdec.networks import ConvDecoder, MLPDecoder
from encdec.objectives.observations import Bernoulli, Gaussian, ObservationCallable
from encdec.testing import check_paradigm
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import Batch, UserError
from tests.conftest import ROOT

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.gon import GON, VGON
else:
    from encdec_plugins.gon import GON, VGON

SHAPE = (1, 8, 8)
ELU = partial(MLPDecoder, hidden=(20,), activation="elu")
SIGMA, ALPHA = 0.3, 0.7


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=16).val_dataloader()))
    return first._replace(x=first.x.double())


def made(cls: Any = GON, **settings: Any) -> Any:
    return cls(image_shape=SHAPE, latent_dim=3, step_size=ALPHA, **({"decoder": ELU} | settings)).double().eval()


def at_origin(model: Any, of: str) -> tuple[Tensor, Tensor]:
    """Pixel means at z = 0, and the Jacobian there of `means` or `logits`, by differences: (D,), (D, d)."""

    def values(z: Tensor) -> Tensor:
        logits: Tensor = model.decoder(z)[0].flatten().detach()
        return logits.sigmoid() if of == "means" else logits

    zero, step = torch.zeros(1, 3).double(), 1e-5 * torch.eye(3).double()
    columns = [(values(zero + step[i : i + 1]) - values(zero - step[i : i + 1])) / 2e-5 for i in range(3)]
    return model.decoder(zero)[0].flatten().sigmoid().detach(), torch.stack(columns, dim=1)


@pytest.mark.parametrize("decoder", [ELU, MLPDecoder, partial(ConvDecoder, channels=(4,), activation="silu")])
def test_the_latent_under_squared_error_is_the_residual_times_the_jacobian(decoder: Any, batch: Batch) -> None:
    model = made(decoder=decoder, observation=lambda: Gaussian(SIGMA))
    means, jacobian = at_origin(model, "means")
    expected = ALPHA / SIGMA**2 * (batch.x.flatten(1) - means) @ jacobian
    torch.testing.assert_close(model.encode(batch), expected, rtol=1e-6, atol=1e-8)


def test_the_latent_under_bernoulli_pixels_is_the_residual_times_the_jacobian_of_the_logits(batch: Batch) -> None:
    model = made()
    means, jacobian = at_origin(model, "logits")
    torch.testing.assert_close(
        model.encode(batch), ALPHA * (batch.x.flatten(1) - means) @ jacobian, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("observation", [Bernoulli, partial(Gaussian, sigma=SIGMA)], ids=["Bernoulli", "Gaussian"])
def test_the_latent_is_affine_in_the_image_and_knows_no_batch(observation: ObservationCallable, batch: Batch) -> None:
    model = made(observation=observation)
    z = model.encode(batch)
    mixed = 0.3 * batch.x + 0.7 * batch.x.roll(1, 0)
    torch.testing.assert_close(model.encode(batch._replace(x=mixed)), 0.3 * z + 0.7 * z.roll(1, 0))
    torch.testing.assert_close(model.encode(batch.rows(slice(2, 3))), z[2:3])


def by_differences(model: Any, batch: Batch, weight: Tensor, places: list[tuple[int, int]]) -> list[float]:
    found = []
    for place in places:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-5
                losses.append(model.losses(batch).loss.mean().item())
                weight[place] -= sign * 1e-5
        found.append((losses[0] - losses[1]) / 2e-5)
    return found


PLACES = [(0, 0), (3, 1), (7, 2), (15, 0)]


@pytest.mark.parametrize("decoder", [ELU, partial(ConvDecoder, channels=(4, 3), activation="elu")])
def test_the_loss_is_differentiated_through_the_latent(decoder: Any, batch: Batch) -> None:
    """Finite differences move the latents too; they are the gradient unless it is detached."""
    model = made(decoder=decoder).train()
    weight = next(model.decoder.parameters() if decoder is ELU else model.decoder.head.parameters())
    gradients = {}
    for detach in (False, True):
        model.detach = detach
        model.zero_grad()
        model.losses(batch).loss.mean().backward()
        gradients[detach] = [weight.grad[place].item() for place in PLACES]
    assert by_differences(model, batch, weight, PLACES) == pytest.approx(gradients[False], rel=1e-5, abs=1e-8)
    assert gradients[True] != pytest.approx(gradients[False], rel=0.01)
    model.zero_grad()
    z = model.encode(batch)
    assert not z.requires_grad
    model.observation.nll(model.decode(z, batch.y), batch.x).mean().backward()
    assert [weight.grad[place].item() for place in PLACES] == pytest.approx(gradients[True])


def test_the_second_order_pays() -> None:
    smooth, losses = partial(MLPDecoder, activation="elu"), []
    for detach in (False, True):
        torch.manual_seed(1)
        model = GON(image_shape=SHAPE, detach=detach, decoder=smooth, optimizer=partial(torch.optim.Adam, lr=1e-3))
        with quiet_trainer():
            trainer = small_trainer(max_epochs=5)
            trainer.fit(model, Digits(batch_size=128))
        losses.append(trainer.callback_metrics["val/loss"].item())
    assert losses[0] < losses[1] - 0.2


def test_the_posterior_is_that_of_the_elbos_gradient_at_the_origin(batch: Batch) -> None:
    """By hand: ∇_u of −log p(x|f(Au + a)) + KL(Au + a, Cu + c) at 0, with differences for the decoder's Jacobian."""
    model = made(VGON, observation=lambda: Gaussian(SIGMA))
    to_mean, a, to_log_var, c = (p.detach() for p in (*model.mean.parameters(), *model.log_var.parameters()))
    step = 1e-5 * torch.eye(3).double()
    means = model.decoder(a[None])[0].flatten().sigmoid().detach()
    around = [[model.decoder(a[None] + sign * row).sigmoid().flatten() for sign in (1, -1)] for row in step]
    jacobian = torch.stack([(above - below) / 2e-5 for above, below in around], dim=1).detach()
    of_mean = -(batch.x.flatten(1) - means) @ jacobian / SIGMA**2 + a
    u = -ALPHA * (of_mean @ to_mean + (c.exp() - 1) / 2 @ to_log_var)
    q = model.posterior(batch)
    torch.testing.assert_close(q.mean, u @ to_mean.T + a, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(q.log_var, u @ to_log_var.T + c, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(model.encode(batch), q.mean)


def test_the_variational_loss_is_the_negative_elbo_and_differentiated_through_the_latent(batch: Batch) -> None:
    model = made(VGON).train()

    def begin() -> None:
        model.randomness.begin_step(3, 0, 1, torch.device("cpu"))

    begin()
    found = model.losses(batch)
    begin()
    q = model.posterior(batch)
    law = torch.distributions.Normal(q.mean, (q.log_var / 2).exp())
    kl = torch.distributions.kl_divergence(law, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(found.terms["kl"], kl)
    torch.testing.assert_close(found.loss, found.terms["bce"] + found.terms["kl"])
    torch.testing.assert_close(found.terms["elbo"], -found.loss)
    begin()
    model.losses(batch).loss.mean().backward()
    for weight in (model.mean.weight, model.log_var.weight, model.decoder.layers[0].weight):
        places = [(0, 0), (2, 1)]
        expected = []
        for place in places:
            values = []
            for sign in (1, -1):
                begin()
                with torch.no_grad():
                    weight[place] += sign * 1e-5
                    values.append(model.losses(batch).loss.mean().item())
                    weight[place] -= sign * 1e-5
            expected.append((values[0] - values[1]) / 2e-5)
        assert [weight.grad[place].item() for place in places] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("cls", [GON, VGON])
def test_the_step_is_made_in_inference_mode_too(cls: Any, batch: Batch) -> None:
    model = made(cls)
    expected = model.encode(batch).detach()
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(batch._replace(x=batch.x.clone())), expected)
    with torch.no_grad():
        found = model.encode(batch)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_the_latents_of_mixed_precision_are_nearly_those_of_full(batch: Batch) -> None:
    model = made(decoder=MLPDecoder).float()
    batch = batch._replace(x=batch.x.float())
    exact = model.encode(batch)
    with torch.autocast("cpu", torch.bfloat16):
        z = model.encode(batch)
    assert z.dtype == torch.float32
    assert (z - exact).norm() < 0.02 * exact.norm()


def test_a_detached_gradient_keeps_the_contract(tmp_path: Path) -> None:
    check_paradigm(GON, tmp_path, latent_dim=4, detach=True)


def test_what_cannot_be_is_refused(batch: Batch) -> None:
    for cls in (GON, VGON):
        with pytest.raises(UserError, match=f"{cls.__name__}: step_size is 0, but it must be greater than zero"):
            cls(image_shape=SHAPE, step_size=0)
        model = made(cls)
        model.is_compiled = True
        model.losses(batch)
        with pytest.raises(UserError, match=r"which torch\.compile can't do: leave --compile out"):
            model.train().losses(batch)
    with pytest.raises(UserError, match="activation is 'gelu', but it must be one of relu, elu, silu"):
        MLPDecoder(3, SHAPE, activation="gelu")  # type: ignore[arg-type]
