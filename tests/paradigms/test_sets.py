"""Generators whose samples are compared with images as sets: what all of them share."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from encdec import plugins
from encdec.data import Digits
from encdec.networks import Pixels, RandomConvolutions
from encdec.objectives.pairs import distances, mean_of_others
from encdec.paradigms import SetGenerator, encodes
from encdec.testing import check_paradigm
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.types import Batch, UserError
from tests.conftest import ROOT, shipped

plugins.load(ROOT / "plugins")
SHAPE = (1, 8, 8)
SETS: list[type[SetGenerator]] = shipped(SetGenerator)


def named(name: str) -> type[SetGenerator]:
    return next(cls for cls in SETS if cls.__name__ == name)


def made(cls: type[SetGenerator], **settings: Any) -> SetGenerator:
    torch.manual_seed(0)
    return cls(image_shape=SHAPE, **({"latent_dim": 4} | settings))


def images(count: int = 300) -> Batch:
    batch: Batch = next(iter(Digits(batch_size=count).train_dataloader()))
    return batch


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖, unbiased."""
    x, y = x.flatten(1), y.flatten(1)
    own = mean_of_others(distances(x, x)) + mean_of_others(distances(y, y))
    return float(2 * distances(x, y).mean() - own)


def test_there_are_five() -> None:
    names = {cls.__name__ for cls in SETS}
    assert names >= {"MMD", "EnergyScore", "Sinkhorn", "SlicedWasserstein", "Drifting"}
    for cls in SETS:
        assert cls.conditioning is None, "no output is paired with an image"
        assert encodes(made(cls)) == (cls.__name__ == "EnergyScore")


@pytest.mark.parametrize("cls", SETS, ids=lambda cls: cls.__name__)
def test_two_processes_train_the_weights_that_one_does(cls: type[SetGenerator]) -> None:
    """Each has the gradient of its own samples in the loss of all; by steps of plain descent, which show its size."""
    trained = []
    for batch_size, more in ((12, {}), (6, {"devices": 2, "strategy": "ddp_fork"})):
        model = made(cls, optimizer=partial(torch.optim.SGD, lr=0.05), features=RandomConvolutions)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        with quiet_trainer():
            small_trainer(max_epochs=2, **more).fit(model, Blobs(batch_size=batch_size, val_fraction=0.25))
        trained.append([parameter.detach() for parameter in model.parameters()])
    for old, one, two in zip(before, *trained, strict=True):
        moved = (one - old).abs().max()
        assert moved > 1e-5
        assert (two - one).abs().max() < 0.01 * moved


@pytest.mark.parametrize("cls", SETS, ids=lambda cls: cls.__name__)
def test_training_brings_samples_to_images(cls: type[SetGenerator]) -> None:
    """Measured by the energy distance of new samples to held-out images, which other losses do not minimise."""
    model = made(cls, optimizer=partial(torch.optim.Adam, lr=1e-2))
    test = next(iter(Digits(batch_size=300).test_dataloader())).x

    def distance() -> float:
        return energy_distance(model.eval().sample(torch.zeros(300, dtype=torch.int64)), test)

    before = distance()
    with quiet_trainer():
        small_trainer(max_epochs=12).fit(model.train(), Digits(batch_size=128))
    of_mean_image = energy_distance(images().x.mean(0).expand(300, *SHAPE), test)
    assert distance() < 0.25 * min(before, of_mean_image)


@pytest.mark.parametrize("cls", SETS, ids=lambda cls: cls.__name__)
def test_features_keep_the_contract(cls: type[SetGenerator], tmp_path: Any) -> None:
    check_paradigm(cls, tmp_path, processes=1, latent_dim=4, features=partial(RandomConvolutions, channels=(4,)))


@pytest.mark.parametrize("cls", SETS, ids=lambda cls: cls.__name__)
def test_autocast_rounds_no_distance(cls: type[SetGenerator]) -> None:
    """Of the same samples the loss is the same in bf16-mixed; costs, plans and drifts too."""
    model, batch = made(cls, features=RandomConvolutions).eval(), images(40)
    logits = torch.randn(128, *SHAPE, generator=torch.Generator().manual_seed(0))
    setattr(model, "decode", lambda z, y: logits[: len(z)])  # noqa: B010
    found = model.measured_losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.measured_losses(batch)
    assert rounded.loss.dtype == torch.float32
    for one, other in ((found.loss, rounded.loss), *((of, rounded.terms[name]) for name, of in found.terms.items())):
        torch.testing.assert_close(other, one, rtol=2e-5, atol=1e-6)  # bfloat16 has three digits


@pytest.mark.parametrize("cls", SETS, ids=lambda cls: cls.__name__)
def test_one_image_is_no_set(cls: type[SetGenerator]) -> None:
    """Refused before the first step; a batch of two processes has two. The energy score judges each image by itself."""
    alone = Blobs(batch_size=1, num_images=8, val_fraction=0.25)  # 6 to train on
    last = Blobs(batch_size=5, num_images=8, val_fraction=0.25)
    with quiet_trainer():
        for data, sentence in ((alone, "batch_size 1 on 1 process is no set"), (last, "of an epoch would have 1: set")):
            model = made(cls)
            if cls.__name__ == "EnergyScore":
                small_trainer(max_epochs=1).fit(model, data)
                continue
            with pytest.raises(UserError, match=f"{cls.__name__} compares sets of images, but .*{sentence}") as caught:
                small_trainer(max_epochs=1).fit(model, data)
            assert caught.value.exit_code == 2
        small_trainer(max_epochs=1).fit(made(cls), Blobs(batch_size=5, num_images=8, val_fraction=0.25, drop_last=True))


def test_two_processes_of_one_image_each_are_a_set() -> None:
    data = Blobs(batch_size=1, num_images=8, val_fraction=0.25)
    with quiet_trainer():
        trainer = small_trainer(max_epochs=1, devices=2, strategy="ddp_fork")
        trainer.fit(made(named("MMD")), data)
    assert trainer.state.finished


def test_the_nearest_draw_that_is_measured_is_the_one_that_is_encoded() -> None:
    model, batch = made(named("EnergyScore")).eval(), images(20)
    with torch.no_grad():
        losses, z = model.measured_losses(batch), model.encode(batch.x)
        torch.testing.assert_close(model.decode(z, batch.y), losses.logits)


def shuffled(x: Tensor) -> Tensor:
    """The same values of each pixel, dealt out anew among the images: noise, with every pixel's own distribution."""
    order = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).argsort(0)
    return x.gather(0, order)


def test_pixels_hardly_see_noise_that_random_convolutions_see() -> None:
    """What the energy score in pixels left in its samples: see docs/paradigms/energy_score.md."""
    shape, seen = (1, 20, 20), dict[str, float]()
    smooth = torch.nn.functional.interpolate(torch.rand(1200, 1, 4, 4), shape[1:], mode="bilinear")
    x, other = smooth.split(600)
    for features in (Pixels(shape), RandomConvolutions(shape)):
        noise, mean = (
            energy_distance(features(x), features(wrong)) for wrong in (shuffled(other), x.mean(0).expand_as(x))
        )
        seen[type(features).__name__] = noise / mean
        assert energy_distance(features(x), features(other)) < 0.2 * noise, "sets of one distribution"
    total = [one.flatten(1).var(0).sum() for one in (other, shuffled(other))]
    torch.testing.assert_close(*total, msg="their sample variance is the same")
    assert seen["Pixels"] < 0.1, "next to the distance of a collapsed model"
    assert seen["RandomConvolutions"] > 3 * seen["Pixels"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("MMD", {"variances": ()}, r"MMD: variances is \[\], but it must be numbers greater than zero"),
    ("MMD", {"variances": (1.0, 0.0)}, r"MMD: variances is \[1.0, 0.0\]"),
    ("MMD", {"unit": 0.0}, "MMD: unit is 0.0, but it must be greater than zero, or null"),
    ("Sinkhorn", {"epsilon": 0.0}, "Sinkhorn: epsilon is 0.0, but it must be greater than zero"),
    ("Sinkhorn", {"power": 2.5}, "Sinkhorn: power is 2.5, but it must be greater than 0 and at most 2"),
    ("Sinkhorn", {"iterations": 0}, "Sinkhorn: iterations is 0"),
    ("SlicedWasserstein", {"directions": 0}, "SlicedWasserstein: directions is 0"),
    ("Drifting", {"temperatures": (-1.0,)}, r"Drifting: temperatures is \[-1.0\], but it must be"),
    ("Drifting", {"temperatures": ()}, r"Drifting: temperatures is \[\]"),
    ("Drifting", {"coupling": "tree"}, "Drifting: coupling is 'tree', but it must be one of 'softmax', 'sinkhorn'"),
    ("EnergyScore", {"num_prior_samples": 1}, "EnergyScore: num_prior_samples is 1, but samples need others"),
]


@pytest.mark.parametrize(("name", "settings", "sentence"), REFUSED)
def test_settings_that_cannot_be_are_refused(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        made(named(name), **settings)
    assert caught.value.exit_code == 2


def test_the_mmd_is_rooted_and_its_unit_is_the_images_mean_squared_distance() -> None:
    model, batch = made(named("MMD"), variances=(0.1, 0.5)).eval(), images(50)
    found = model.measured_losses(batch)
    model.randomness.restart()
    with torch.no_grad():
        y = model.decoder(model.noise(batch.index, 4)).sigmoid().flatten(1).double()
    x = batch.x.flatten(1).double()
    squares = [torch.cdist(one, other) ** 2 for one, other in ((x, x), (y, y), (x, y))]
    unit = squares[0].sum() / (50 * 49)
    xx, yy, xy = (sum((-square / (2 * s * unit)).exp().mean() for s in (0.1, 0.5)) for square in squares)
    assert found.terms["mmd"].item() == pytest.approx(float(xx + yy - 2 * xy), rel=1e-4)
    assert found.loss.item() == pytest.approx(float(xx + yy - 2 * xy) ** 0.5, rel=1e-4)
    fixed = made(named("MMD"), variances=(0.1, 0.5), unit=float(unit)).eval()
    assert fixed.measured_losses(batch).loss.item() == pytest.approx(found.loss.item(), rel=1e-4)


sliced: Callable[[Tensor, Tensor, Tensor], Tensor] = importlib.import_module(
    "encdec_plugins.sliced_wasserstein"
).sliced_wasserstein


def test_along_one_direction_it_is_the_wasserstein_distance() -> None:
    """Of numbers, by scipy's optimal assignment."""
    from scipy.optimize import linear_sum_assignment

    x, y = torch.randn(30, 5, dtype=torch.float64), torch.rand(30, 5, dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(4, 5, dtype=torch.float64))
    exact = []
    for u in directions:
        cost = ((x @ u)[:, None] - (y @ u)[None]) ** 2
        exact.append(cost[linear_sum_assignment(cost.numpy())].mean().item())
    assert sliced(x, y, directions).item() == pytest.approx(sum(exact) / 4, rel=1e-9)


def test_a_shift_costs_its_square() -> None:
    """Along u it is (uᵀa)² exactly, and D times that is ‖a‖² on average: that is the loss."""
    model, batch = made(named("SlicedWasserstein"), directions=20_000).eval(), images(40)
    x, a = batch.x.flatten(1), torch.linspace(-1, 1, 64)
    u = torch.nn.functional.normalize(torch.randn(3, 64))
    assert sliced(x, x.flip(0) + a, u).item() == pytest.approx((u @ a).square().mean().item(), rel=1e-3)
    setattr(model, "sets", lambda batch: (x, x.flip(0) + a))  # noqa: B010
    # the spread of D (uᵀa)² over directions is √2 ‖a‖²
    assert model.losses(batch).loss.item() == pytest.approx(a.square().sum().item(), rel=5 * (2 / 20_000) ** 0.5)
