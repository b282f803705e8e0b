"""The deep generative decoder on data of a known mixture, and how often the mixture's own priors count."""

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from encdec import plugins
from encdec.networks import Decoder
from encdec.objectives.mixture import LearnedMixture
from encdec.objectives.observations import Gaussian
from encdec.objectives.priors import StandardNormal
from encdec.types import Batch, Shape, UserError
from tests.conftest import ROOT

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.dgd import DGD
else:
    from encdec_plugins.dgd import DGD


class Identity(Decoder):
    """Pixel means sigmoid(z), so that z = logit(x) where the pixels' noise is small."""

    def __init__(self, in_features: int, image_shape: Shape) -> None:
        super().__init__(in_features, image_shape)
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = z.unflatten(1, self.image_shape) + 0 * self.unused
        return logits


MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.8], [0.2, -1.2]])
STDS = torch.tensor([[0.2, 0.3], [0.15, 0.2], [0.3, 0.1]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
COUNT = 1000


def images() -> tuple[Batch, Tensor]:
    """Points of a known mixture, seen through a sigmoid, and which component each is of."""
    generator = torch.Generator().manual_seed(4)
    of = torch.multinomial(WEIGHTS, COUNT, replacement=True, generator=generator)
    z = MEANS[of] + STDS[of] * torch.randn(COUNT, 2, generator=generator)
    return Batch(z.sigmoid().reshape(-1, 1, 1, 2), torch.zeros(COUNT).long(), torch.arange(COUNT), "train"), of


def made(**settings: Any) -> DGD:
    prior = partial(LearnedMixture, components=3, radius=2.0, std=0.5, log_var_std=1.0, concentration=1.0)
    defaults: dict[str, Any] = {"decoder": Identity, "prior": prior, "observation": partial(Gaussian, sigma=0.002)}
    return DGD(image_shape=(1, 1, 2), num_train=COUNT, latent_dim=2, **(defaults | settings))


def test_a_known_mixture_is_recovered_and_held_out_images_get_its_latents() -> None:
    torch.manual_seed(1)
    batch, of = images()
    model = made(prior_lr=0.03, latent_lr=0.05, latent_steps=150).train()
    player = model.players()["model"]
    adam = torch.optim.Adam(player.groups, lr=1e-3)
    assert [group["lr"] for group in adam.param_groups] == [1e-3, 0.03]
    for _ in range(300):
        adam.zero_grad()
        model.losses(batch).loss.mean().backward()
        adam.step()
        model.table.step()
    prior = model.prior
    order = [int((prior.means - mean).norm(dim=1).argmin()) for mean in MEANS]
    assert sorted(order) == [0, 1, 2]
    latents = batch.x.logit().flatten(1)
    for k, found in enumerate(order):
        own = latents[of == k]
        torch.testing.assert_close(prior.means[found].detach(), own.mean(0), atol=0.03, rtol=0)
        torch.testing.assert_close((prior.log_vars[found].detach() / 2).exp(), own.std(0), atol=0.02, rtol=0)
    shares = torch.stack([(of == k).float().mean() for k in range(3)])
    torch.testing.assert_close(prior.logits.softmax(0).detach()[order], shares, atol=0.02, rtol=0)
    torch.testing.assert_close(model.codes(batch), latents, atol=0.02, rtol=0)
    held_out = batch.rows(slice(0, 40))._replace(split="test")
    torch.testing.assert_close(model.eval().encode(held_out), latents[:40], atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [COUNT, 250])
def test_the_priors_of_the_mixture_count_once_for_the_data_set(size: int) -> None:
    """An epoch's gradients, each weighted by its batch, add up to that of −Σ log p(x, z|φ) − log p(φ)."""
    batch, _ = images()
    model = made(observation=partial(Gaussian, sigma=0.3)).double().eval()
    model.table.values += torch.randn(COUNT, 2)
    model.train()
    for start in range(0, COUNT, size):
        loss = model.losses(batch.rows(slice(start, start + size))).loss
        (loss.mean() * size).backward()
    found = [parameter.grad for parameter in model.prior.parameters()]
    law = torch.distributions.Independent(
        torch.distributions.Normal(model.prior.means, (model.prior.log_vars / 2).exp()), 1
    )
    weights = torch.distributions.Categorical(logits=model.prior.logits)
    log_p = torch.distributions.MixtureSameFamily(weights, law).log_prob(model.table.values).sum()
    whole = -log_p - model.prior.log_hyperprior()
    for one, expected in zip(found, torch.autograd.grad(whole, [*model.prior.parameters()]), strict=True):
        torch.testing.assert_close(one, expected)


def test_the_loss_is_the_joint_density() -> None:
    batch, _ = images()
    model = made().eval()
    found = model.losses(batch.rows(slice(0, 30)))
    terms = found.terms
    torch.testing.assert_close(found.loss, terms["nll"] + terms["prior"] + terms["hyperprior"])
    assert terms["hyperprior"].item() == pytest.approx(-model.prior.log_hyperprior().item() / COUNT)
    assert set(terms) == {"nll", "prior", "hyperprior"}


def test_a_search_from_all_components_finds_what_one_from_the_nearest_to_nothing_misses() -> None:
    """A prior of two narrow components: the latent is that of the likelier one, whichever is first."""
    batch, _ = images()
    for place in (0, 1):
        prior = partial(LearnedMixture, components=2, std=0.05)
        model = made(prior=prior, observation=partial(Gaussian, sigma=0.05), latent_steps=100).eval()
        with torch.no_grad():
            model.prior.means[:] = torch.tensor([[-1.5, -1.5], [-1.5, -1.5]])
            model.prior.means[place] = torch.tensor([1.5, 1.5])
        near = torch.tensor([1.5, 1.5]).sigmoid().reshape(1, 1, 1, 2).expand(3, -1, -1, -1)
        z = model.encode(Batch(near, batch.y[:3], batch.index[:3], "test"))
        torch.testing.assert_close(z, torch.full((3, 2), 1.5), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prior_lr": 0}, "DGD: prior_lr is 0, but it must be greater than zero"),
        ({"latent_lr": -1}, "DGD: latent_lr is -1, but it must be greater than zero"),
        ({"latent_steps": 0}, "DGD: latent_steps is 0, but it must be greater than zero"),
        ({"start_steps": -1}, "DGD: start_steps is -1, but a number of steps can't be negative"),
        ({"prior": StandardNormal}, "DGD learns its prior, but StandardNormal has nothing to learn"),
        ({"prior": partial(LearnedMixture, components=0)}, "LearnedMixture: components is 0, but it must be greater"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        made(**settings)
    assert caught.value.exit_code == 2
