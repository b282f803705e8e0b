"""The regularized autoencoder: its optimum where it is known, what its weights are worth, and its settings."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encdec import plugins
from encdec.networks import Decoder, MLPEncoder
from encdec.paradigms import LatentVariable
from encdec.types import Batch, Shape, UserError
from tests.conftest import ROOT

SHAPE: Shape = (1, 2, 3)


class LinearMeans(Decoder):
    """Pixel means 0.5 + W z."""

    def __init__(self, in_features: int, image_shape: Shape) -> None:
        super().__init__(in_features, image_shape)
        self.linear = nn.Linear(in_features, 6, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        means: Tensor = 0.5 + self.linear(z)
        logits: Tensor = means.logit(eps=1e-6).unflatten(1, self.image_shape)
        return logits


def make(**settings: Any) -> LatentVariable:
    plugins.load(ROOT / "plugins")
    torch.manual_seed(0)
    model: LatentVariable = importlib.import_module("encdec_plugins.rae").RAE(
        image_shape=SHAPE, num_train=40, latent_dim=3, **settings
    )
    return model


def batch() -> Batch:
    """40 images around grey, whose variance falls from pixel to pixel."""
    torch.manual_seed(1)
    deviations = torch.randn(40, 6) * torch.tensor([0.16, 0.12, 0.08, 0.05, 0.03, 0.02])
    x = (0.5 + deviations - deviations.mean(0)).clamp(0, 1).reshape(40, *SHAPE)
    return Batch(x.double(), torch.zeros(40, dtype=torch.int64), torch.arange(40), "train")


@pytest.mark.parametrize(("beta", "decoder_l2"), [(0.02, 0.01), (0.2, 0.1)])
def test_the_optimum_of_a_linear_one_is_a_soft_threshold_of_singular_values(beta: float, decoder_l2: float) -> None:
    """min over W, Z of (1/N)‖X − ZWᵀ‖² + (β/2N)‖Z‖² + λ‖W‖² cuts √(βλN/2) from each singular value of X.

    Because the least of a‖Z‖² + b‖W‖² with ZWᵀ = M is 2√(ab) times the sum of M's singular values.
    """
    model = make(
        beta=beta, decoder_l2=decoder_l2, decoder=LinearMeans, encoder=lambda s, d: MLPEncoder(s, d, hidden=())
    ).double()
    images = batch()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model.losses(images).loss.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    n = len(images.x)
    centered = images.x.flatten(1) - 0.5
    values = torch.linalg.svdvals(centered)
    cut = (beta * decoder_l2 * n / 2) ** 0.5
    kept = (values[:3] - cut).clamp(min=0)  # three latent numbers
    least = (values[:3] - kept).square().sum() + values[3:].square().sum() + 2 * cut * kept.sum()
    assert model.losses(images).loss.mean().item() == pytest.approx(least.item() / n, rel=1e-5)
    assert 0 < (kept > 0).sum() < 4
    with torch.no_grad():
        outputs = model.reconstruct(images).flatten(1) - 0.5
    torch.testing.assert_close(torch.linalg.svdvals(outputs)[:3], kept, rtol=1e-2, atol=1e-3)


def test_a_penalty_of_the_decoder_is_counted_once_for_each_image() -> None:
    """So the mean over images has λ‖W‖² once, whatever the batch; biases are not in it."""
    model, images = make(beta=0.5, decoder_l2=0.25), batch()
    images = images._replace(x=images.x.float())
    weights = [layer.weight for layer in model.decoder.modules() if isinstance(layer, nn.Linear)]
    assert len(weights) == 2
    norm = sum(float(weight.detach().square().sum()) for weight in weights)
    losses = model.losses(images)
    z = model.encode(images)
    error = (model.reconstruct(images) - images.x).square().sum((1, 2, 3))
    torch.testing.assert_close(losses.loss, error + 0.25 * z.square().sum(1) + 0.25 * norm)
    alone = model.losses(images.rows(slice(3, 4)))
    torch.testing.assert_close(alone.loss, losses.loss[3:4])


def test_without_its_penalties_it_is_an_autoencoder() -> None:
    from encdec.paradigms import AE

    torch.manual_seed(0)
    plain = AE(image_shape=SHAPE, num_train=40, latent_dim=3)
    model, images = make(beta=0.0, decoder_l2=0.0), batch()
    model.load_state_dict(plain.state_dict())
    images = images._replace(x=images.x.float())
    torch.testing.assert_close(model.losses(images).loss, plain.losses(images).loss)


@pytest.mark.parametrize("name", ["beta", "decoder_l2"])
def test_weights_must_not_be_negative(name: str) -> None:
    with pytest.raises(UserError, match=f"RAE: {name} is -1.0") as error:
        make(**{name: -1.0})
    assert error.value.exit_code == 2
