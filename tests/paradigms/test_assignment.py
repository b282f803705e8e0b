"""Assignment: its permutation against a direct computation of all costs, and what it is at the start and in batches."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.distributions import Bernoulli as Pixels
from torch.distributions import Normal

from encdec import plugins
from encdec.data import DataModule, Digits
from encdec.networks import MLPDecoder
from encdec.objectives.observations import Gaussian, Observation
from encdec.objectives.search import search
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import Batch, UserError
from tests.conftest import ROOT

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.assignment import Assignment
else:
    from encdec_plugins.assignment import Assignment

GAUSSIAN = partial(Gaussian, sigma=0.3)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_trainer():
        yield


def digits() -> Digits:
    return Digits(batch_size=100)


def images() -> Batch:
    """All digits that are trained on, in order."""
    data = digits()
    split = data.splits["train"]
    (pixels,) = split.stream([torch.arange(len(split.labels))])
    return Batch(pixels.float() / 255, split.labels, torch.arange(len(split.labels)), "train")


def made(**settings: Any) -> Assignment:
    pl.seed_everything(0, verbose=False)
    return Assignment(
        **{"decoder": partial(MLPDecoder, hidden=(64,)), "image_shape": (1, 8, 8), "num_train": digits().num_train,
           "latent_dim": 4, "latent_steps": 3, "optimizer": partial(torch.optim.Adam, lr=3e-3), **settings}
    )  # fmt: skip


class Watches(pl.Callback):
    """Notes the permutation at each step, and the mean cost of the training images before and after each exchange."""

    def __init__(self) -> None:
        self.permutations: list[Tensor] = []
        self.costs: list[tuple[float, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Assignment)
        batch, before_epoch = images(), pl_module.before_epoch

        def watched(given: Any) -> None:
            before = mean_cost(pl_module, batch)
            before_epoch(given)
            self.costs.append((before, mean_cost(pl_module, batch)))

        pl_module.before_epoch = watched  # type: ignore[method-assign, assignment]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, Assignment)
        self.permutations.append(pl_module.permutation.of.clone())


@torch.no_grad()
def mean_cost(model: Assignment, batch: Batch) -> float:
    """−log p of the training images at their latents, by torch.distributions."""
    logits = model.decode(model.codes(batch), batch.y).double()
    observation = model.observation
    if isinstance(observation, Gaussian):
        law: Any = Normal(logits.sigmoid(), observation.sigma)
    else:
        law = Pixels(logits=logits, validate_args=False)
    return -float(law.log_prob(batch.x.double()).flatten(1).sum(1).mean())


def fit(model: pl.LightningModule, *callbacks: pl.Callback, data: DataModule | None = None, **settings: Any) -> None:
    settings = {"max_epochs": 3, "limit_val_batches": 0, **settings}
    small_trainer(callbacks=[*callbacks], **settings).fit(model, datamodule=data or digits())


@pytest.mark.parametrize(
    "settings",
    [{}, {"observation": GAUSSIAN}, {"solver": "exact"}, {"pairing": "batch"}],
    ids=str,
)
def test_the_permutation_stays_one_and_its_cost_never_rises_at_a_fixed_decoder(settings: dict[str, Any]) -> None:
    """Digits have as many pixels as there are axes, so the scores' cost is the true one."""
    model, watches = made(**settings), Watches()
    fit(model, watches, max_epochs=4)
    count = len(model.permutation.of)
    for permutation in watches.permutations:
        assert torch.equal(permutation.sort().values, torch.arange(count))
    changed = [not torch.equal(a, b) for a, b in zip(watches.permutations, watches.permutations[1:], strict=False)]
    if model.pairing == "batch":
        assert any(changed)
    else:
        per_epoch = len(watches.permutations) // 4
        assert [k + 1 for k, one in enumerate(changed) if one] == [per_epoch, 2 * per_epoch, 3 * per_epoch]
        for before, after in watches.costs[1:]:  # the first is for a linear decoder
            assert after < before


def test_the_start_is_better_than_none() -> None:
    """For a linear decoder, the cost that it is made for, and for one that is trained on it."""
    first, trained = made(), {}
    fit(first, max_steps=1)
    order = first.permutation.of
    assert not torch.equal(order, torch.arange(len(order)))
    x = images().x.flatten(1).double()
    for name, of in (("start", order), ("identity", torch.arange(len(order)))):
        model = made()
        model.permutation.of.copy_(of)
        z = model.codes(images()).double()
        z = torch.cat([z, torch.ones(len(z), 1)], 1)
        trained[name] = float((z @ torch.linalg.lstsq(z, x).solution - x).square().sum(1).mean())
    variance = float((x - x.mean(0)).square().sum(1).mean())
    pca = float(torch.linalg.svdvals(x - x.mean(0))[4:].square().sum()) / len(x)
    assert trained["identity"] > 0.99 * variance
    assert pca < trained["start"] < pca + 0.2 * (variance - pca)


@pytest.mark.parametrize("observation", [None, GAUSSIAN], ids=["Bernoulli", "Gaussian"])
@pytest.mark.parametrize("pairing", ["batch", "fresh"])
def test_within_a_batch_the_loss_is_that_of_the_exact_assignment(pairing: str, observation: Any) -> None:
    model = made(pairing=pairing, **({} if observation is None else {"observation": observation}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    batch = images().rows(torch.arange(20, 60))
    generator = torch.get_rng_state()
    z = model.codes(batch) if pairing == "batch" else torch.randn(40, 4)
    torch.set_rng_state(generator)
    logits = model.decode(z, batch.y)
    cost = torch.stack([one_cost(model.observation, logits, x) for x in batch.x]).detach()
    rows, columns = linear_sum_assignment(cost.numpy())
    before = None if pairing == "fresh" else model.permutation[batch.index]
    loss = model.losses(batch).loss
    torch.testing.assert_close(loss.double(), cost[rows, columns], rtol=1e-4, atol=1e-3)
    assert loss.mean() < cost.diagonal().mean() - 1
    if before is not None:
        assert torch.equal(model.permutation[batch.index], before[torch.from_numpy(columns)])
        torch.testing.assert_close(model.losses(batch).loss, loss)


def one_cost(observation: Observation, logits: Tensor, x: Tensor) -> Tensor:
    """−log p of one image at each latent."""
    law: Any = Pixels(logits=logits.double(), validate_args=False)
    if isinstance(observation, Gaussian):
        law = Normal(logits.double().sigmoid(), observation.sigma)
    found: Tensor = -law.log_prob(x.double()).flatten(1).sum(1)
    return found


def test_latents_are_the_priors_whatever_the_permutation_is() -> None:
    model = made(latent_dim=3)
    before = model.codes(images())
    fit(model, max_epochs=2)
    after = model.codes(images())
    assert not torch.equal(before, after)
    assert torch.equal(before.sort(0).values, after.sort(0).values)
    assert after.mean().abs() < 0.05
    assert abs(float(after.std()) - 1) < 0.05


def test_any_image_gets_the_latent_that_the_best_draw_leads_to() -> None:
    model = made(num_prior_samples=30, latent_steps=15)
    fit(model, max_epochs=3)
    model.eval()
    batch = images().rows(torch.arange(5))
    model.randomness.restart()
    found = model.encode(batch)
    model.randomness.restart()
    drawn = model.shared_noise(30, 4)
    for row, x in enumerate(batch.x):
        joint = partial(joint_cost, model, x)
        start = drawn[joint(drawn).argmin()][None]
        ours, other = joint(found[row : row + 1]).detach(), joint(search(joint, start, 15)).detach()
        assert ours < joint(start)
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-2)


def joint_cost(model: Assignment, x: Tensor, z: Tensor) -> Tensor:
    """−log p(x, z) of one image at each latent."""
    logits = model.decode(z, torch.zeros(len(z), dtype=torch.int64))
    penalty: Tensor = 0.5 * z.double().square().sum(1)
    return one_cost(model.observation, logits, x) + penalty


def test_the_axes_and_the_permutation_are_in_checkpoints_and_fresh_latents_have_none() -> None:
    assert set(made().state_dict()) >= {"axes", "permutation.of"}
    assert made(pairing="fresh").permutation.of.shape == (1,)
    assert made(pairing="batch").axes.numel() == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"leaf": 1}, "leaf is 1, but it takes 2 images"),
        ({"passes": 0}, "passes is 0"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"num_prior_samples": 0}, "num_prior_samples is 0"),
        ({"latent_steps": -1}, "latent_steps is -1"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made(**settings)


def test_another_number_of_images_is_refused() -> None:
    with pytest.raises(UserError, match="Assignment was made with num_train 7, but it is trained on Digits"):
        fit(made(num_train=7))
