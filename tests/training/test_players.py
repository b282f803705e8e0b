"""Several players: each objective moves its own parameters, in turns; the steps of the last one are those of a run."""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from encdec import plugins
from encdec.paradigms import Paradigm, Player
from encdec.testing import check_paradigm
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.types import Batch, Losses, UserError
from tests import killing
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_trainer():
        yield


def data() -> Blobs:
    return Blobs(batch_size=5)  # 9 batches in an epoch, the last one smaller


class Saddle(Paradigm):
    """min over a, max over b of (a · mean(x) − b)² b: what each does depends on the other."""

    conditioning = None
    monitor = None
    noise_dim = 1

    def __init__(self, rate: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a, self.b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([0.5]))
        self.rate = rate
        self.after: list[tuple[Tensor, Tensor]] = []

    def players(self) -> dict[str, Player]:
        return {
            "first": Player(self.first, [self.a], partial(SGD, lr=self.rate)),
            "second": Player(self.losses, [self.b]),
        }

    def value(self, batch: Batch) -> Tensor:
        x = batch.x.flatten(1).mean(1)
        return (self.a.sum() * x - self.b).square() * (1 + self.b.square())

    def first(self, batch: Batch) -> Losses:
        return Losses(self.value(batch), {"size": self.a.square().sum()})

    def losses(self, batch: Batch) -> Losses:
        return Losses(-self.value(batch))

    def after_step(self, batch: Batch) -> None:
        self.after.append((self.a.detach().clone(), self.b.detach().clone()))

    def generate(self, noise: Tensor, y: Tensor) -> Tensor:
        return noise[:, :, None, None].expand(-1, *self.image_shape).sigmoid()


class CountingSaddle(Saddle):
    """Notes at which step the run is in each turn."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[int] = []

    def value(self, batch: Batch) -> Tensor:
        if self.training:
            self.seen.append(self.trainer.global_step)
        return super().value(batch)


class ForgetfulSaddle(Saddle):
    """Forgets a player."""

    def players(self) -> dict[str, Player]:
        return {"second": Player(self.losses, [self.b])}


def saddle(**settings: Any) -> Saddle:
    return Saddle(image_shape=(1, 8, 8), **{"optimizer": partial(SGD, lr=0.02), **settings})


def by_hand(epochs: int, accumulate: int) -> list[tuple[Tensor, Tensor]]:
    """The weights after each step, by plain torch: a turn of each player for each batch."""
    model, found = saddle(), list[tuple[Tensor, Tensor]]()
    optimizers = [SGD([model.a], lr=0.1), SGD([model.b], lr=0.02)]
    loader = data().train_dataloader()
    for _ in range(epochs):
        batches = list(loader)
        for number, batch in enumerate(batches):
            for objective, optimizer in zip((model.first, model.losses), optimizers, strict=True):
                (parameter,) = optimizer.param_groups[0]["params"]
                if number % accumulate == 0:
                    optimizer.zero_grad()
                (gradient,) = torch.autograd.grad(objective(batch).loss.mean() / accumulate, [parameter])
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
                if (number + 1) % accumulate == 0 or number + 1 == len(batches):
                    optimizer.step()
            if (number + 1) % accumulate == 0 or number + 1 == len(batches):
                found.append((model.a.detach().clone(), model.b.detach().clone()))
    return found


class OneByOne(pl.Callback):
    """Counts batches, and reads gradients, so that no way of making steps is left out."""

    def on_train_batch_end(self, *args: Any) -> None:
        """Count."""

    def on_after_backward(self, *args: Any) -> None:
        """Read."""


@pytest.mark.parametrize("callbacks", [[], [OneByOne()]], ids=["several at a time", "one by one"])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_each_player_moves_its_own_parameters_in_turns(accumulate: int, callbacks: list[pl.Callback]) -> None:
    model = saddle()
    trainer = small_trainer(max_epochs=2, accumulate_grad_batches=accumulate, callbacks=callbacks)
    trainer.fit(model, datamodule=data())
    expected = by_hand(2, accumulate)
    assert trainer.global_step == len(model.after) == len(expected) == 2 * -(-9 // accumulate)
    for found, wanted in zip(model.after, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(model.after[0][0], model.after[-1][0])
    assert all(parameter.requires_grad for parameter in model.parameters()), "as before"


@pytest.mark.parametrize(("frozen", "moves"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_player_without_a_rate_keeps_its_parameters(frozen: str, moves: str, accumulate: int) -> None:
    model = saddle(**({"rate": 0.0} if frozen == "a" else {"optimizer": partial(SGD, lr=0.0)}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small_trainer(max_epochs=1, accumulate_grad_batches=accumulate).fit(model, datamodule=data())
    assert torch.equal(model.state_dict()[frozen], before[frozen])
    assert not torch.equal(model.state_dict()[moves], before[moves])


@pytest.mark.parametrize("callbacks", [[], [OneByOne()]], ids=["several at a time", "one by one"])
def test_a_step_is_counted_after_the_last_players_turn(callbacks: list[pl.Callback]) -> None:
    model = CountingSaddle(image_shape=(1, 8, 8), optimizer=partial(SGD, lr=0.02))
    small_trainer(max_epochs=1, callbacks=callbacks).fit(model, datamodule=data())
    assert model.seen == [step for step in range(9) for _ in range(2)]


def test_max_steps_counts_the_last_players_steps() -> None:
    model, trainer = saddle(), small_trainer(max_steps=7)
    trainer.fit(model, datamodule=data())
    assert trainer.global_step == len(model.after) == 7


def test_each_players_optimizer_has_a_schedule() -> None:
    model = saddle(lr_scheduler=partial(StepLR, step_size=1, gamma=0.5))
    trainer = small_trainer(max_epochs=3)
    trainer.fit(model, datamodule=data())
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([0.1 / 8, 0.02 / 8])


def test_clipping_is_of_each_players_gradient() -> None:
    model, expected = saddle(rate=1.0, optimizer=partial(SGD, lr=1.0)), saddle()
    small_trainer(max_steps=1, gradient_clip_val=0.001).fit(model, datamodule=data())
    moved = [
        float((one.detach() - other.detach()).norm()) for one, other in ((model.a, expected.a), (model.b, expected.b))
    ]
    assert moved == pytest.approx([0.001, 0.001], rel=1e-2)


def test_both_losses_and_their_terms_are_logged(tmp_path: Path) -> None:
    model = saddle()
    logger = CSVLogger(tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, log_every_n_steps=1, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data())
    with open(Path(logger.log_dir, "metrics.csv")) as file:
        points = [point for point in csv.DictReader(file) if point["train/loss"]]
    assert [int(point["step"]) for point in points] == [*range(1, 10)]
    assert float(points[0]["train/size"]) == 5
    assert float(points[0]["train/loss_first"]) == pytest.approx(-float(points[0]["train/loss"]), rel=0.5)
    assert [float(points[0][f"lr-SGD/pg{number}"]) for number in (1, 2)] == [0.1, 0.02]


def test_a_state_is_each_optimizers_own_and_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    def settings() -> dict[str, Any]:
        return {"optimizer": partial(Adam, lr=0.02)}

    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "5.ckpt", weights_only=False)

    whole, second = saddle(**settings()), saddle(**settings())
    small_trainer(max_epochs=2, callbacks=[Saves()]).fit(whole, datamodule=data())
    small_trainer(max_epochs=2).fit(second, datamodule=data(), ckpt_path=str(tmp_path / "5.ckpt"), weights_only=True)
    assert torch.equal(whole.a, second.a)
    assert torch.equal(whole.b, second.b)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gans_critic_learns_nothing_from_the_generators_loss(accumulate: int, tmp_path: Path) -> None:
    """Its loss reaches the critic's parameters too; a generator that stays where it is changes nothing for them."""
    plugins.load(ROOT / "plugins")
    cls = next(cls for cls in plugins.subclasses(Paradigm) if cls.__name__ == "GAN")

    def made() -> Any:
        pl.seed_everything(1, verbose=False)
        return cls(image_shape=(1, 8, 8), latent_dim=2, seed=1, optimizer=partial(SGD, lr=0.05))  # type: ignore[call-arg]

    both, alone = made(), made()
    alone.players = lambda: {
        "critic": Player(alone.critic_losses, alone.critic.parameters()),
        "generator": Player(alone.losses, alone.generator.parameters(), partial(SGD, lr=0.0)),
    }
    for model in (both, alone):
        small_trainer(max_steps=1, accumulate_grad_batches=accumulate).fit(model, datamodule=data())
    start = made()
    # after one step the critic has seen the same samples in both, and its own loss only
    for key, value in both.critic.state_dict().items():
        assert torch.equal(value, alone.critic.state_dict()[key])
        assert not torch.equal(value, start.critic.state_dict()[key])
    for key, value in start.generator.state_dict().items():
        assert torch.equal(value, alone.generator.state_dict()[key])
    assert any(not torch.equal(v, both.generator.state_dict()[k]) for k, v in start.generator.state_dict().items())


def test_two_processes_need_a_ddp_that_finds_unused_parameters(project: Path) -> None:
    code, output = killing.on_two(project, "fit", "--config=configs/gan.yaml", "--trainer.max_epochs=1")
    assert code == 2, output
    errors = {line for line in output.splitlines() if line.startswith("encdec: error: ")}
    (error,) = errors
    assert "critic and generator in turns" in error
    assert "set trainer.strategy to ddp_find_unused_parameters_true" in error
    assert "Traceback" not in output


def test_two_processes_train_both_players_as_one_does(project: Path) -> None:
    flags = ("--config=configs/gan.yaml", "--trainer.max_epochs=2", "--trainer.precision=64-true")
    code, output = killing.run(project, "fit", *flags, "--data.batch_size=64", "--name=one")
    assert code == 0, output
    code, output = killing.on_two(
        project,
        "fit",
        *flags,
        "--data.batch_size=32",
        "--trainer.strategy=ddp_find_unused_parameters_true",
        "--name=two",
    )
    assert code == 0, output
    one, two = (
        torch.load(project / f"lightning_logs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
        for name in ("one", "two")
    )
    assert one["global_step"] == two["global_step"] == 2 * 21
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, rtol=1e-5, atol=1e-7, msg=key)


def test_parameters_of_no_player_are_found() -> None:
    with pytest.raises(AssertionError, match="players must name every parameter that is trained once"):
        check_paradigm(ForgetfulSaddle, Path())


@pytest.mark.parametrize("name", ["configure_optimizers", "training_step", "optimizer_step", "sample"])
def test_what_belongs_to_encdec_is_refused_where_the_class_is_defined(name: str) -> None:
    with pytest.raises(UserError, match=rf"Own\w+ overrides {name}, which belongs to encdec: write `losses`"):
        type(f"Own{name.title().replace('_', '')}", (Saddle,), {name: lambda self, *args: None})
