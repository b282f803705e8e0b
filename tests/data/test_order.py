"""Which images an epoch draws: balanced, mirrored, in whole batches; the same on any number of processes."""

import math
import signal
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from encdec.callbacks import LogFloors
from encdec.data import Digits, InMemoryImages
from encdec.data.loader import Cursor, Loader
from encdec.data.order import Order
from encdec.paradigms import AE, EncoderlessVAE, LatentTable
from encdec.testing import check_datamodule
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import UserError
from tests import killing
from tests.conftest import RunCLI, events, refused

from .helpers import Mine, in_memory

LABELS = torch.tensor([0] * 50 + [1] * 7 + [3] + [4] * 3)
"""61 images, none of class 2."""


def images(labels: Tensor = LABELS) -> InMemoryImages:
    """Each with pixels of its own, and no image its own mirror image."""
    pixels = torch.arange(len(labels))[:, None, None, None] + torch.tensor([0, 50, 100]).reshape(1, 1, 1, 3)
    return InMemoryImages(pixels.expand(-1, 2, 2, -1).to(torch.uint8), labels, tuple("abcde"))


def epochs(count: int, size: int = 8, rank: int = 0, processes: int = 1, **order: Any) -> list[list[Any]]:
    loader = Loader(images(), size, rank, processes, Order(3, **order), Cursor())
    return [list(loader) for _ in range(count)]


def indices(batches: list[Any]) -> Tensor:
    return torch.cat([batch.index for batch in batches])


def test_a_balanced_epoch_draws_as_many_of_each_class_and_images_of_one_class_as_often() -> None:
    for batches in epochs(20, class_balanced=True):
        drawn = indices(batches)
        assert len(drawn) == 61, "as many as there are"
        of_class = torch.bincount(LABELS[drawn], minlength=5).tolist()
        assert sorted(of_class) == [0, 15, 15, 15, 16]
        often = torch.bincount(drawn, minlength=61)
        for label in (0, 1, 3, 4):
            among = often[torch.eq(LABELS, label)]
            assert among.max() - among.min() <= 1
        assert often[57] == of_class[3], "the only image of its class"
        assert torch.equal(torch.cat([batch.y for batch in batches]), LABELS[drawn])


def test_over_epochs_all_images_of_a_large_class_come_up_and_no_class_is_preferred() -> None:
    drawn = [indices(batches) for batches in epochs(200, class_balanced=True)]
    often = torch.bincount(torch.cat(drawn), minlength=61)
    counts = torch.bincount(LABELS[torch.cat(drawn)], minlength=5)[[0, 1, 3, 4]]
    assert (counts - 200 * 61 / 4).abs().max() < 60, "the one left over of 61 goes to each class by chance"
    share = often[:50] / (200 * 15.25)
    assert share.min() > 0.4 / 50
    assert share.max() < 1.7 / 50
    assert not torch.equal(drawn[0], drawn[1])


def test_images_are_mirrored_by_chance_anew_in_each_epoch() -> None:
    flipped = []
    for batches in epochs(40, horizontal_flips=True):
        drawn, x = indices(batches), torch.cat([batch.x for batch in batches])
        own = images().pixels[drawn].float() / 255
        mirrored = (x == own.flip(-1)).flatten(1).all(1)
        assert ((x == own).flatten(1).all(1) ^ mirrored).all(), "each is one or the other"
        flipped.append(mirrored[drawn.argsort()])
        assert torch.equal(drawn.sort().values, torch.arange(61)), "each once"
    chance = torch.stack(flipped).double().mean(0)
    assert abs(chance.mean() - 0.5) < 4 * 0.5 / math.sqrt(40 * 61)
    assert chance.min() > 0.1
    assert chance.max() < 0.9
    plain = [indices(batches) for batches in epochs(2)]
    assert [torch.equal(indices(a), b) for a, b in zip(epochs(2, horizontal_flips=True), plain, strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("processes", [1, 2])
def test_whole_batches_only(processes: int) -> None:
    """61 images make 7 batches of 8; on 2 processes 3 of 16."""
    seen = set()
    for batches in epochs(10, processes=processes, drop_last=True):
        assert [len(batch.x) for batch in batches] == [8] * (7 if processes == 1 else 3)
        seen |= set(indices(batches).tolist())
    assert seen == set(range(61)) or processes == 2, "others are left out each time"
    loader = Loader(images(), 8, 0, processes, Order(3, drop_last=True), Cursor())
    assert loader.num_batches * 8 == loader.share == (56 if processes == 1 else 24)


ALL = {"class_balanced": True, "horizontal_flips": True, "drop_last": True}


@pytest.mark.parametrize("order", [{name: True} for name in ALL] + [ALL])
def test_processes_share_the_same_images_and_a_resumed_epoch_goes_on(order: dict[str, bool]) -> None:
    (one,) = epochs(1, 12, **order)
    shards = [epochs(1, 6, rank, 2, **order)[0] for rank in range(2)]
    for whole, first, second in zip(one, *shards, strict=False):  # one of 61 images can't be shared
        for part in ("x", "y", "index"):
            both = torch.stack([getattr(first, part), getattr(second, part)], 1).flatten(0, 1)
            assert torch.equal(both, getattr(whole, part)[: len(both)])
    loader = Loader(images(), 12, 0, 1, Order(3, **order), Cursor(epoch=0, position=2, resumed=True))
    for whole, resumed in zip(one[2:], loader, strict=True):
        assert torch.equal(whole.x, resumed.x)
        assert torch.equal(whole.index, resumed.index)


def test_validation_and_test_images_are_as_they_are() -> None:
    plain, drawn = Digits(), Digits(**ALL)
    for name in ("val", "test", "predict"):
        for a, b in zip(*(getattr(data, f"{name}_dataloader")() for data in (plain, drawn)), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.index, b.index)


def test_what_promises_hold_in_whole_batches_and_mirrored() -> None:
    check_datamodule(Mine((images(), images()), batch_size=8, drop_last=True, horizontal_flips=True))


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--data.drop_last=true", "--data.batch_size=1295"), "there are 1294 training images, and a batch has 1295"),
        (("--data=ImageFolder", "--data.path=data/pictures", "--data.labels=none", "--data.class_balanced=true"),
         "data.class_balanced draws as many images of each class, but the training images are of one class"),
        (("--config=configs/glo.yaml", "--data.horizontal_flips=true"),
         "GLO has a latent for each training image, and data.horizontal_flips would make it stand for the image and"),
        (("--model.latents=fixed", "--data.horizontal_flips=true"), "EncoderlessVAE has a latent for each training"),
        (("--config=configs/assignment.yaml", "--data.class_balanced=true"),
         "Assignment gives each training image a latent that it takes once in an epoch, but data.class_balanced"),
        (("--model=ShortRun", "--model.persistent=true", "--data.class_balanced=true"), "ShortRun gives each training"),
    ],
)  # fmt: skip
def test_what_can_not_be_drawn_is_refused_before_the_run_has_a_folder(
    flags: tuple[str, ...], expected: str, project: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [flag for flag in flags if flag.startswith(("--config", "--model="))] or ["--config=configs/vae_noenc.yaml"]
    assert expected in refused(capsys, "fit", *own, *[flag for flag in flags if flag not in own])
    assert not list(project.rglob("version_0"))


def test_two_processes_need_images_for_a_batch_of_both() -> None:
    with pytest.raises(UserError, match="61 training images, and a batch of all 2 processes has 80"):
        Loader(images(), 40, 0, 2, Order(drop_last=True), Cursor())


def test_a_last_batch_that_is_left_out_is_no_place_to_go_on_from(project: Any) -> None:
    command = ("fit", "--config=configs/ae.yaml", "--data.batch_size=600", "--trainer.max_epochs=1")
    code, output = killing.run(project, *command, moment="a step", call=2, number=signal.SIGTERM)
    assert code == 143, output
    last = "--ckpt_path=lightning_logs/ae/version_0/checkpoints/last.ckpt"
    code, output = killing.run(project, *command, last, "--data.drop_last=true")
    assert code == 1, output
    assert "saved before the last batch of an epoch, which data.drop_last now leaves out" in output


def test_a_trainer_refuses_it_too() -> None:
    data = Mine((images(), images()), horizontal_flips=True)
    model = EncoderlessVAE(image_shape=data.image_shape, num_train=data.num_train, latents="fixed")
    with quiet_trainer(), pytest.raises(UserError, match="EncoderlessVAE has a latent for each training image"):
        small_trainer(max_epochs=1).fit(model, data)


def test_a_row_of_a_table_gets_the_sum_of_the_gradients_of_its_image() -> None:
    """An image that is drawn twice in a batch counts twice in the mean over the batch."""
    tables = [LatentTable(4, 2, 0.1, start=torch.ones(4, 2)) for _ in range(2)]
    for table, index, weight in zip(tables, ([1, 3, 3], [1, 3]), ([1, 1, 1], [1, 2]), strict=True):
        rows = table.rows(torch.tensor(index))
        (rows.square().sum(1) * torch.tensor(weight)).sum().div(len(index)).backward()
        table.step()
    for name in ("values", "first_moment", "second_moment", "steps"):
        torch.testing.assert_close(getattr(tables[0], name), getattr(tables[1], name))


@pytest.mark.slow
def test_two_processes_train_like_one(cli: RunCLI, project: Any) -> None:
    args = ["--config=configs/autodecoder.yaml", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=3",
            "--data.class_balanced=true", "--data.drop_last=true"]  # fmt: skip
    mirrored = ["--config=configs/ae.yaml", *args[1:], "--data.horizontal_flips=true"]
    for number, flags in enumerate((args, mirrored)):
        cli("fit", *flags, "--data.batch_size=70", f"--name=one{number}")
        code, output = killing.on_two(project, "fit", *flags, "--data.batch_size=35", f"--name=two{number}")
        assert code == 0, output
        one, two = (events(f"lightning_logs/{name}{number}/version_0") for name in ("one", "two"))
        for tag in one.Tags()["scalars"]:
            if tag.startswith(("val/", "train/")):
                a, b = ([(e.step, e.value) for e in run.Scalars(tag)] for run in (one, two))
                assert np.allclose(a, b, rtol=2e-3, atol=1e-4), tag


def test_an_autoencoder_that_is_fed_zeros_ends_on_the_floor_of_what_is_drawn() -> None:
    """Bright images on the left of one class, dark ones of the other: mirrored and balanced, the mean is another."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(400) % 10 == 0).long()
    pixels = torch.randint(0, 60, (400, 1, 3, 4), generator=generator) + 180 * labels.reshape(-1, 1, 1, 1)
    pixels[:, :, :, 0] = 200 - pixels[:, :, :, 0].clamp(max=200)
    data = Mine((in_memory(400, pixels=pixels.to(torch.uint8), labels=labels),) * 2, batch_size=40,
                class_balanced=True, horizontal_flips=True)  # fmt: skip
    model = AE(image_shape=(1, 3, 4), num_train=data.num_train, encoder_input="zeros", latent_dim=2,
               optimizer=partial(torch.optim.Adam, lr=0.02))  # fmt: skip
    with quiet_trainer():
        trainer = small_trainer(max_epochs=40, callbacks=[LogFloors()])
        trainer.fit(model, data)
    x, val = (
        next(images.stream([torch.arange(len(images.labels))])).double() / 255
        for images in (data.splits["train"], data.splits["val"])
    )
    y = data.splits["train"].labels
    mean = torch.stack([x[y == label].mean(0) for label in (0, 1)]).mean(0)
    mean = (mean + mean.flip(-1)) / 2
    floor = ((val - mean) ** 2).mean().item()
    found = trainer.callback_metrics
    assert found["val/mse_floor"].item() == pytest.approx(floor, rel=1e-5)
    assert found["val/mse_zeros"].item() == pytest.approx(floor, rel=0.02)
    assert abs(((val - x.mean(0)) ** 2).mean().item() / floor - 1) > 0.2, "that of the images as they are is another"
