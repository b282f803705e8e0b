"""Contract checks for paradigms, data modules and networks; plugin authors call them in their own tests.

    from encdec.testing import check_paradigm
    from encdec_plugins.mine import Mine

    def test_mine(tmp_path):
        check_paradigm(Mine, tmp_path, latent_dim=4)

Each raises AssertionError with a sentence that says which part of the contract is broken.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

import encdec
from encdec.cli import quiet
from encdec.data import DataModule, Images, InMemoryImages
from encdec.data.loader import Loader
from encdec.evaluation.context import Context
from encdec.evaluation.latent_space import evaluate_latent
from encdec.evaluation.likelihood import evaluate_likelihood
from encdec.evaluation.reconstruction import evaluate_reconstruction
from encdec.evaluation.view import View
from encdec.networks import Decoder, Encoder
from encdec.objectives.noise import normal
from encdec.paradigms import Paradigm
from encdec.types import Batch, Conditioning, Shape

SHAPES: tuple[Shape, ...] = ((1, 8, 8), (3, 13, 17), (1, 28, 28), (3, 32, 32), (2, 64, 64))
"""Image shapes that a network must handle."""


class _Blobs(DataModule):
    """Small random images of three classes that differ in brightness."""

    def __init__(self, image_shape: Shape = (1, 8, 8), num_images: int = 48, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape, self.num_images = image_shape, num_images

    def load(self) -> tuple[Images, Images]:
        train, test = (self._draw(seed) for seed in (1, 2))
        return train, test

    def _draw(self, seed: int) -> Images:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(self.num_images) % 3
        pixels = torch.randint(0, 100, (self.num_images, *self.shape), generator=generator)
        return InMemoryImages((pixels + 70 * labels.reshape(-1, 1, 1, 1)).to(torch.uint8), labels, ("a", "b", "c"))


class _SaveAt(pl.Callback):
    """Saves a checkpoint after a step: all that is left of a run that is killed there."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            assert not trainer.is_last_batch, "the test must stop within an epoch"
            trainer.save_checkpoint(self.path, weights_only=False)


def check_paradigm(paradigm_class: type[Paradigm], folder: Path, **init_args: Any) -> None:
    """Check everything that a paradigm promises; trains it a few times for a few steps on the CPU.

    Args:
        paradigm_class: the paradigm.
        folder: for checkpoints.
        init_args: its own settings, where the defaults are too large for a test.
    """
    data = _Blobs(batch_size=10)
    make = partial(_make, paradigm_class, data, init_args)
    batch = next(iter(data.val_dataloader()))
    paradigm = make()
    assert paradigm.conditioning in Conditioning, f"{paradigm_class.__name__}.conditioning must be a Conditioning"
    assert paradigm.paired in (True, False), f"{paradigm_class.__name__}.paired must be True or False"
    assert paradigm.latent_dim > 0, f"{paradigm_class.__name__}.latent_dim must be set"
    _check_losses(paradigm, batch)
    _check_gradients(paradigm, next(iter(data.train_dataloader())))
    _check_pictures(paradigm, batch)
    with _quiet_trainer():
        _check_validation(make)
        _check_reproducible(make)
        _check_resume(make, folder)
        _check_checkpoint(make, folder)
        _check_precision(make)
    _check_evaluation(make())


def check_datamodule(data: DataModule) -> None:
    """Check everything that a data module promises.

    Args:
        data: a data module whose files are there.
    """
    name = type(data).__name__
    shape, classes = data.image_shape, data.num_classes
    assert data.num_train == len(data.splits["train"].labels)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader), f"{name}: a loader's length is not the number of its batches"
        for x, y, index, _ in batches:
            assert len(x) <= data.batch_size, f"{name}: a batch is larger than batch_size"
            assert x.shape == (len(y), *shape), f"{name}: x has the shape {tuple(x.shape)}"
            assert x.is_floating_point(), f"{name}: x is {x.dtype}"
            assert 0 <= float(x.min()) <= float(x.max()) <= 1, f"{name}: pixels lie outside [0, 1]"
            assert y.dtype == torch.int64, f"{name}: labels are {y.dtype}"
            assert index.dtype == torch.int64, f"{name}: indices are {index.dtype}"
            assert 0 <= int(y.min()) <= int(y.max()) < classes, f"{name}: labels lie outside 0…{classes - 1}"
    _check_order(data)


def check_encoder(encoder_class: type[Encoder], **init_args: Any) -> None:
    """Check an encoder on images of several shapes: sizes, finite gradients, images treated one by one."""
    for shape in SHAPES:
        encoder = encoder_class(shape, 6, **init_args)
        _check_network(encoder, torch.rand(3, *shape), (3, 6))


def check_decoder(decoder_class: type[Decoder], **init_args: Any) -> None:
    """Check a decoder on images of several shapes: sizes, finite gradients, images treated one by one."""
    for shape in SHAPES:
        decoder = decoder_class(6, shape, **init_args)
        _check_network(decoder, torch.randn(3, 6), (3, *shape))
        outputs = decoder(10 * torch.randn(64, 6)).detach()
        assert float(outputs.min()) < 0, f"{decoder_class.__name__} returns no negative values: it must return logits"


def _make(paradigm_class: type[Paradigm], data: DataModule, init_args: dict[str, Any]) -> Paradigm:
    pl.seed_everything(3, verbose=False)
    return paradigm_class(
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        num_train=data.num_train,
        seed=3,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        **init_args,
    )


def _check_losses(paradigm: Paradigm, batch: Batch) -> None:
    name = type(paradigm).__name__
    paradigm.eval()
    with torch.no_grad():
        terms, outputs = paradigm.outputs(batch)
        parts = [paradigm.outputs(batch.rows(slice(i, i + 1)))[0] for i in range(len(batch.x))]
    assert "loss" in terms, f"{name}.losses gives no `loss`"
    for key, value in terms.items():
        assert value.shape == batch.y.shape, f"{name}: `{key}` has the shape {tuple(value.shape)}, not one per image"
        assert torch.isfinite(value).all(), f"{name}: `{key}` is not finite"
        one_by_one = torch.cat([part[key] for part in parts])
        assert torch.allclose(value, one_by_one, rtol=1e-3, atol=1e-3), (
            f"{name}: `{key}` of an image depends on the batch it is in; sum over pixels, not over images"
        )
    assert outputs or not paradigm.paired, f"{name}.losses gives no `logits`, so it can't be measured"
    for suffix, logits in outputs.items():
        assert logits.shape == batch.x.shape, f"{name}: `logits{suffix}` has the shape {tuple(logits.shape)}"


def _check_gradients(paradigm: Paradigm, batch: Batch) -> None:
    name = type(paradigm).__name__
    paradigm.train()
    terms, _ = paradigm.outputs(batch)
    terms["loss"].mean().backward()
    for key, parameter in paradigm.named_parameters():
        assert parameter.grad is not None, f"{name}: the loss gives {key} no gradient, which breaks training under DDP"
        assert torch.isfinite(parameter.grad).all(), f"{name}: the gradient of {key} is not finite"
    grouped = [id(p) for group in paradigm.parameter_groups() for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, paradigm.parameters())), (
        f"{name}.parameter_groups must name every parameter once"
    )
    paradigm.zero_grad()


def _check_pictures(paradigm: Paradigm, batch: Batch) -> None:
    name = type(paradigm).__name__
    paradigm.eval()
    noise = normal(1, 1, batch.index, paradigm.latent_dim)
    samples = paradigm.sample(batch.y, noise)
    _check_images(samples, batch, f"{name}.sample")
    assert torch.equal(samples, paradigm.sample(batch.y, noise)), f"{name}.sample is not a function of its noise"
    assert paradigm.decode(paradigm.prior(noise), batch.y).shape == batch.x.shape, f"{name}.decode: wrong shape"
    reconstruction, codes = paradigm.reconstruct(batch), paradigm.encode(batch)
    if codes is None:
        assert reconstruction is None
    else:
        assert codes.shape == (len(batch.x), paradigm.latent_dim), f"{name}.encode: shape {tuple(codes.shape)}"
        assert reconstruction is not None
        _check_images(reconstruction, batch, f"{name}.reconstruct")


def _check_images(images: Tensor, batch: Batch, name: str) -> None:
    assert images.shape == batch.x.shape, f"{name} gives the shape {tuple(images.shape)}"
    assert 0 <= float(images.min()) <= float(images.max()) <= 1, f"{name} gives pixels outside [0, 1]"


def _trainer(**kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **kwargs,
    )


def _check_validation(make: partial[Paradigm]) -> None:
    """Units and reduction of the logged scalars, against the plain definition; no effect of the batch size."""
    paradigm = make()
    name = type(paradigm).__name__
    means = []
    for batch_size in (1, 7, 48):
        trainer = _trainer()
        (scalars,) = trainer.validate(paradigm, _Blobs(batch_size=batch_size, val_fraction=0.3), verbose=False)
        means.append({key: value for key, value in scalars.items() if key != "step"})
    for scalars in means[1:]:
        for key, value in scalars.items():
            reference = means[0][key]
            assert abs(value - reference) <= 1e-3 * max(1.0, abs(reference)), (
                f"{name}: {key} is {value} or {reference}, depending on the batch size"
            )
    data = _Blobs(batch_size=48, val_fraction=0.3)
    batch = next(iter(data.val_dataloader()))
    paradigm.eval()
    with torch.no_grad():
        terms, outputs = paradigm.outputs(batch)
    expected = {f"val/{key}": value.double().mean() for key, value in terms.items()}
    for suffix, logits in outputs.items():
        p, x = logits.double().sigmoid(), batch.x.double()
        expected[f"val/mse{suffix}"] = ((p - x) ** 2).mean()
        expected[f"val/bce{suffix}"] = -(x * p.log() + (1 - x) * (-p).log1p()).sum(dim=(1, 2, 3)).mean()
    assert means[0].keys() == expected.keys(), f"{name}: logs {sorted(means[0])}, not {sorted(expected)}"
    for key, tensor in expected.items():
        logged, wanted = means[0][key], float(tensor)
        assert abs(logged - wanted) <= 1e-3 * max(1.0, abs(wanted)), f"{name}: {key} is {logged}, not {wanted}"


def _check_reproducible(make: partial[Paradigm]) -> None:
    first, second = make(), make()
    for paradigm in (first, second):
        _trainer(max_epochs=1).fit(paradigm, _Blobs(batch_size=10))
    name = type(first).__name__
    _assert_equal(first.state_dict(), second.state_dict(), f"{name}: two runs with the same seed differ in")


def _check_resume(make: partial[Paradigm], folder: Path) -> None:
    """A run that is interrupted in the middle of an epoch and resumed equals one that is not."""
    whole = make()
    _trainer(max_epochs=3).fit(whole, _Blobs(batch_size=10))
    first, path = make(), folder / "interrupted.ckpt"
    _trainer(max_epochs=3, callbacks=[_SaveAt(7, path)]).fit(first, _Blobs(batch_size=10))
    second = make()
    _trainer(max_epochs=3).fit(second, _Blobs(batch_size=10), ckpt_path=str(path), weights_only=True)
    _assert_equal(
        whole.state_dict(), second.state_dict(), f"{type(whole).__name__}: a resumed run differs from a whole one in"
    )


def _check_checkpoint(make: partial[Paradigm], folder: Path) -> None:
    paradigm = make()
    name = type(paradigm).__name__
    data = _Blobs(batch_size=10)
    trainer = _trainer(max_epochs=1)
    trainer.fit(paradigm, data)
    path = folder / "trained.ckpt"
    trainer.save_checkpoint(path, weights_only=False)
    loaded = encdec.load(path)
    assert type(loaded) is type(paradigm), f"{name}: encdec.load gives a {type(loaded).__name__}"
    assert loaded.hparams == paradigm.hparams, f"{name}: loading changes the hyper-parameters"
    _assert_equal(paradigm.state_dict(), loaded.state_dict(), f"{name}: loading changes")
    y = torch.zeros(4, dtype=torch.int64)
    noise = torch.randn(4, paradigm.latent_dim)
    assert torch.equal(paradigm.eval().sample(y, noise), loaded.sample(y, noise)), f"{name}: loading changes samples"


def _check_precision(make: partial[Paradigm]) -> None:
    paradigm = make()
    trainer = _trainer(max_epochs=1, precision="bf16-mixed")
    trainer.fit(paradigm, _Blobs(batch_size=10))
    for key, value in trainer.callback_metrics.items():
        assert torch.isfinite(value), f"{type(paradigm).__name__}: {key} is {value} in bf16-mixed"
    for key, value in paradigm.state_dict().items():
        assert torch.isfinite(value).all(), f"{type(paradigm).__name__}: {key} is not finite after bf16-mixed"


def _check_evaluation(paradigm: Paradigm) -> None:
    """All parts of `encdec test` but the comparison of samples work on it, and give finite numbers."""
    name = type(paradigm).__name__
    splits = _Blobs(val_fraction=0.3).splits
    with torch.no_grad():
        context = Context(
            View(paradigm.eval()),
            splits["train"],
            splits["test"],
            num_images=20,
            num_samples=20,
            posterior_samples=2,
            prior_samples=10,
            search_steps=3,
            sigma=0.1,
        )
        latents = evaluate_reconstruction(context)
        means = evaluate_likelihood(context)
        evaluate_latent(context, latents, means)
        batch = next(context.batches("train", torch.arange(7)))
        view = context.view
        for kind, found in {"posterior": view.posterior(batch), "paired_codes": [view.paired_codes(batch)]}.items():
            for tensor in found or ():
                assert tensor is None or tensor.shape == (7, paradigm.latent_dim), f"{name}.{kind}: wrong shape"
    assert not context.metrics.undefined, f"{name}: the evaluation leaves out {context.metrics.undefined}"


def _check_order(data: DataModule) -> None:
    """Every image once in each epoch, in an order of the seed and the epoch; shards and resuming fit together."""
    name, train = type(data).__name__, data.splits["train"]

    def epochs(loader: Loader, count: int) -> list[Tensor]:
        return [torch.cat([batch.index for batch in loader]) for _ in range(count)]

    def loader(size: int, rank: int = 0, processes: int = 1) -> Loader:
        fresh = type(data._cursor)()
        return Loader(train, size, rank, processes, seed=data.seed, cursor=fresh)

    first, second = epochs(loader(7), 2)
    everything = torch.arange(len(train.labels))
    assert torch.equal(first.sort().values, everything), f"{name}: an epoch does not hold every image once"
    assert len(everything) < 5 or not torch.equal(first, second), f"{name}: two epochs have the same order"
    assert torch.equal(first, epochs(loader(5), 1)[0]), f"{name}: the order depends on the batch size"
    if len(everything) >= 4:
        both = [list(loader(3, rank, 2)) for rank in range(2)]
        one = list(loader(6))
        for a, b, whole in zip(*both, one, strict=False):
            together = torch.cat([a.index, b.index]).sort().values
            known = whole.index.sort().values
            assert set(together.tolist()) <= set(known.tolist()), f"{name}: 2 processes see other batches than 1"
            assert len(a.index) == len(b.index), f"{name}: shards of a batch differ in size"
    whole_epoch, half = list(loader(4)), loader(4)
    taken = [next(iterator) for iterator in [iter(half)] for _ in range(len(whole_epoch) // 2)]
    assert half.cursor is not None
    half.cursor.resumed = bool(taken)
    rest = list(half)
    for a, b in zip(whole_epoch, taken + rest, strict=True):
        assert torch.equal(a.index, b.index), f"{name}: a resumed epoch goes on with other images"
        assert torch.equal(a.x, b.x), f"{name}: the same index gives other pixels"


def _check_network(network: nn.Module, inputs: Tensor, expected: tuple[int, ...]) -> None:
    name = type(network).__name__
    outputs = network(inputs)
    assert outputs.shape == expected, f"{name}: {tuple(inputs.shape)} -> {tuple(outputs.shape)}, not {expected}"
    outputs.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name}: {key} has no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{name}: the gradient of {key} is not finite"
    network.eval()
    with torch.no_grad():
        one_by_one = torch.cat([network(inputs[i : i + 1]) for i in range(len(inputs))])
        torch.testing.assert_close(
            network(inputs), one_by_one, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name} mixes images of a batch\n{m}"
        )


def _assert_equal(first: dict[str, Tensor], second: dict[str, Tensor], message: str) -> None:
    assert first.keys() == second.keys(), message
    for key, value in first.items():
        assert torch.equal(value, second[key]), f"{message} {key}"


@contextmanager
def _quiet_trainer() -> Iterator[None]:
    """Lightning's remarks about trainers without loggers and the like do not matter in a check."""
    quiet.install()
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            quiet.install()
            yield
    finally:
        logger.setLevel(level)
