"""What every paradigm promises."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

import encdec
from encdec.data import DataModule
from encdec.evaluation.context import Context
from encdec.evaluation.inference import infer
from encdec.evaluation.latent_space import evaluate_latent
from encdec.evaluation.likelihood import evaluate_likelihood
from encdec.evaluation.reconstruction import evaluate_reconstruction
from encdec.evaluation.view import View
from encdec.objectives.noise import normal
from encdec.paradigms import LatentVariable, Paradigm, encodes, has_codes, infers
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.training.gathering import gathered
from encdec.types import Batch, Conditioning, Losses, checked_losses


class _SaveAt(pl.Callback):
    """Saves a checkpoint after a step: all that is left of a run that is killed there."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            assert not trainer.is_last_batch, "the test must stop within an epoch"
            trainer.save_checkpoint(self.path, weights_only=False)


class _RanksAgree(pl.Callback):
    """Compares all that a model holds with that of the other processes when a training ends."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for key, value in pl_module.state_dict().items():
            parts = gathered(value.detach().double().reshape(1, -1))
            assert torch.equal(parts[0], parts[-1]), f"{type(pl_module).__name__}: the processes differ in {key}"


def check_paradigm(paradigm_class: type[Paradigm], folder: Path, processes: int = 2, **init_args: Any) -> None:
    """Check everything that a paradigm promises; trains it a few times for a few steps on the CPU.

    Args:
        paradigm_class: the paradigm.
        folder: for checkpoints.
        processes: how many train it together in one of the checks; 1 leaves it out.
        init_args: its own settings, where the defaults are too large for a test.
    """
    data = Blobs(batch_size=10)
    make = partial(_make, paradigm_class, data, init_args)
    batch = next(iter(data.val_dataloader()))
    paradigm = make()
    name = paradigm_class.__name__
    for conditioning in (paradigm.conditioning, *paradigm.other_conditioning.values()):
        is_one = conditioning is None or isinstance(conditioning, Conditioning)
        assert is_one, (
            f"{name}: the conditioning of an output is {conditioning!r}, but it must be a Conditioning or None"
        )
    assert getattr(paradigm, "noise_dim", 0) > 0, f"{name}.noise_dim must be set"
    assert isinstance(paradigm.monitor, str | None), f"{name}.monitor must be the name of a scalar, or None"
    _check_losses(paradigm, batch)
    _check_players(paradigm, next(iter(data.train_dataloader())))
    _check_images(paradigm, batch)
    with quiet_trainer():
        _check_validation(make)
        _check_reproducible(make)
        _check_resume(make, folder)
        _check_checkpoint(make, folder)
        _check_precision(make)
        if processes > 1:
            _check_processes(make, processes)
    trained = make()
    if isinstance(trained, LatentVariable):
        _check_evaluation(trained)


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
        losses = paradigm.measured_losses(batch)
        parts = [paradigm.measured_losses(batch.rows(slice(i, i + 1))) for i in range(len(batch.x))]
    assert isinstance(losses, Losses), f"{name}.losses gives a {type(losses).__name__}, but it must give Losses"
    outputs = losses.outputs()
    for key, value in _terms(losses).items():
        shape = tuple(value.shape)
        assert shape in ((len(batch.x),), ()), f"{name}: `{key}` has the shape {shape}, neither (B,) nor ()"
        assert torch.isfinite(value).all(), f"{name}: `{key}` is not finite"
        if shape:
            one_by_one = torch.cat([_terms(part)[key] for part in parts])
            assert torch.allclose(value, one_by_one, rtol=1e-3, atol=1e-3), (
                f"{name}: `{key}` of an image depends on the batch it is in; sum over pixels, not over images, or give "
                "one number, (), where it belongs to the set"
            )
    known = {"": paradigm.conditioning} | {f"_{key}": value for key, value in paradigm.other_conditioning.items()}
    missing = [f"logits{suffix}" for suffix, conditioning in known.items() if conditioning and suffix not in outputs]
    assert not missing, f"{name}.losses gives no {', '.join(missing)}, whose conditioning it names"
    for suffix, logits in outputs.items():
        assert suffix in known, f"{name}.other_conditioning does not say what logits{suffix} is conditioned on"
        assert logits.shape == batch.x.shape, f"{name}: `logits{suffix}` has the shape {tuple(logits.shape)}"


def _terms(losses: Losses) -> dict[str, Tensor]:
    return {**losses.terms, "loss": losses.loss}


def _check_players(paradigm: Paradigm, batch: Batch) -> None:
    """Every parameter has one player, whose objective gives it a finite gradient; and gradients have gradients."""
    name = type(paradigm).__name__
    paradigm.train()
    names = {id(parameter): key for key, parameter in paradigm.named_parameters() if parameter.requires_grad}
    seen: list[int] = []
    for player_name, player in paradigm.players().items():
        parts = list(player.groups)
        parameters = [p for part in parts for p in (part["params"] if isinstance(part, dict) else [part])]
        seen += map(id, parameters)
        own = checked_losses(paradigm, player.objective(batch), player_name).loss.mean()
        assert own.requires_grad, f"{name}: the loss of the player {player_name} has no gradient"
        gradients = torch.autograd.grad(own, parameters, allow_unused=True, create_graph=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            key = names.get(id(parameter), "a parameter that is not its own")
            assert gradient is not None, (
                f"{name}: the objective of the player {player_name} gives {key} no gradient, which breaks training "
                "under DDP"
            )
            assert torch.isfinite(gradient).all(), f"{name}: the gradient of {key} is not finite"
        square = sum(gradient.square().sum() for gradient in gradients if gradient is not None)
        assert isinstance(square, Tensor)
        if square.requires_grad:  # a loss that is linear in all parameters has no second gradient
            second = torch.autograd.grad(square, parameters, allow_unused=True)
            finite = all(torch.isfinite(gradient).all() for gradient in second if gradient is not None)
            assert finite, f"{name}: a gradient of the gradients of {player_name} is not finite"
    assert sorted(seen) == sorted(names), f"{name}.players must name every parameter that is trained once"
    paradigm.zero_grad()


def _check_images(paradigm: Paradigm, batch: Batch) -> None:
    name = type(paradigm).__name__
    paradigm.eval()
    noise = normal(1, 1, batch.index, paradigm.noise_dim)
    samples = paradigm.sample(batch.y, noise)
    _are_images(samples, batch, f"{name}.sample")
    assert torch.equal(samples, paradigm.sample(batch.y, noise)), f"{name}.sample is not a function of its noise"
    if not isinstance(paradigm, LatentVariable):
        return
    with torch.no_grad():
        reconstruction = paradigm.predict_step(batch, 0)["reconstruction"]
    if reconstruction is not None:
        _are_images(reconstruction, batch, f"{name}.reconstruct")
    latents = paradigm.sampled.sample(noise)
    assert latents.shape == (len(noise), paradigm.latent_dim), f"{name}: a prior gives the shape {tuple(latents.shape)}"
    if paradigm.sampled.has_density:
        assert torch.isfinite(paradigm.sampled.log_prob(latents)).all(), f"{name}: a prior's sample has no density"
    assert paradigm.decode(latents, batch.y).shape == batch.x.shape, f"{name}.decode: wrong shape"
    shape = (len(batch.x), paradigm.latent_dim)
    if infers(paradigm):
        q = paradigm.posterior(batch)
        assert q.mean.shape == q.log_var.shape == shape, f"{name}.posterior: shape {tuple(q.mean.shape)}"
    if has_codes(paradigm):
        codes = paradigm.codes(batch._replace(split="train"))
        assert codes.shape == shape, f"{name}.codes: shape {tuple(codes.shape)}"
    if encodes(paradigm):
        codes = paradigm.encode(batch)
        assert codes.shape == shape, f"{name}.encode: shape {tuple(codes.shape)}"


def _are_images(images: Tensor, batch: Batch, name: str) -> None:
    assert images.shape == batch.x.shape, f"{name} gives the shape {tuple(images.shape)}"
    assert 0 <= float(images.min()) <= float(images.max()) <= 1, f"{name} gives pixels outside [0, 1]"


def _check_validation(make: partial[Paradigm]) -> None:
    """Units and reduction of the logged scalars, against the plain definition; no effect of the batch size."""
    paradigm = make()
    name = type(paradigm).__name__
    means = []
    for batch_size in (1, 7, 48):
        trainer = small_trainer()
        (scalars,) = trainer.validate(paradigm, Blobs(batch_size=batch_size, val_fraction=0.3), verbose=False)
        means.append({key: value for key, value in scalars.items() if key != "step"})
    data = Blobs(batch_size=48, val_fraction=0.3)
    batch = next(iter(data.val_dataloader()))
    paradigm.eval()
    with torch.no_grad():
        losses = paradigm.measured_losses(batch)
        terms, outputs = _terms(losses), losses.outputs()
    expected = {f"val/{key}": value.double().mean() for key, value in terms.items()}
    for suffix, logits in outputs.items():
        p, x = logits.double().sigmoid(), batch.x.double()
        expected[f"val/mse{suffix}"] = ((p - x) ** 2).mean()
        expected[f"val/bce{suffix}"] = -(x * p.log() + (1 - x) * (-p).log1p()).sum(dim=(1, 2, 3)).mean()
    whole = {f"val/{key}" for key, value in terms.items() if value.ndim == 0}  # of the set, which is the batch
    for scalars in means[1:]:
        for key, value in scalars.items():
            if key in whole:
                continue
            reference = means[0][key]
            assert abs(value - reference) <= 1e-3 * max(1.0, abs(reference)), (
                f"{name}: {key} is {value} or {reference}, depending on the batch size"
            )
    whole_split = means[-1]  # as one batch
    assert whole_split.keys() == expected.keys(), f"{name}: logs {sorted(whole_split)}, not {sorted(expected)}"
    for key, tensor in expected.items():
        logged, wanted = whole_split[key], float(tensor)
        assert abs(logged - wanted) <= 1e-3 * max(1.0, abs(wanted)), f"{name}: {key} is {logged}, not {wanted}"


def _check_reproducible(make: partial[Paradigm]) -> None:
    first, second = make(), make()
    for paradigm in (first, second):
        small_trainer(max_epochs=1).fit(paradigm, Blobs(batch_size=10))
    name = type(first).__name__
    _assert_equal(first.state_dict(), second.state_dict(), f"{name}: two runs with the same seed differ in")


def _check_resume(make: partial[Paradigm], folder: Path) -> None:
    """A run that is interrupted in the middle of an epoch and resumed equals one that is not."""
    whole = make()
    small_trainer(max_epochs=3).fit(whole, Blobs(batch_size=10))
    first, path = make(), folder / "interrupted.ckpt"
    small_trainer(max_epochs=3, callbacks=[_SaveAt(7, path)]).fit(first, Blobs(batch_size=10))
    second = make()
    small_trainer(max_epochs=3).fit(second, Blobs(batch_size=10), ckpt_path=str(path), weights_only=True)
    _assert_equal(
        whole.state_dict(), second.state_dict(), f"{type(whole).__name__}: a resumed run differs from a whole one in"
    )


def _check_checkpoint(make: partial[Paradigm], folder: Path) -> None:
    paradigm = make()
    name = type(paradigm).__name__
    data = Blobs(batch_size=10)
    trainer = small_trainer(max_epochs=1)
    trainer.fit(paradigm, data)
    path = folder / "trained.ckpt"
    trainer.save_checkpoint(path, weights_only=False)
    loaded = encdec.load(path)
    assert type(loaded) is type(paradigm), f"{name}: encdec.load gives a {type(loaded).__name__}"
    assert loaded.hparams == paradigm.hparams, f"{name}: loading changes the hyper-parameters"
    _assert_equal(paradigm.state_dict(), loaded.state_dict(), f"{name}: loading changes")
    y = torch.zeros(4, dtype=torch.int64)
    noise = torch.randn(4, paradigm.noise_dim)
    assert torch.equal(paradigm.eval().sample(y, noise), loaded.sample(y, noise)), f"{name}: loading changes samples"


def _check_precision(make: partial[Paradigm]) -> None:
    paradigm = make()
    trainer = small_trainer(max_epochs=1, precision="bf16-mixed")
    trainer.fit(paradigm, Blobs(batch_size=10))
    for key, value in trainer.callback_metrics.items():
        assert torch.isfinite(value), f"{type(paradigm).__name__}: {key} is {value} in bf16-mixed"
    for key, value in paradigm.state_dict().items():
        assert torch.isfinite(value).all(), f"{type(paradigm).__name__}: {key} is not finite after bf16-mixed"


def _check_processes(make: partial[Paradigm], processes: int) -> None:
    """Processes that train together hold the same weights, tables and permutations."""
    paradigm = make()
    strategy = "ddp_fork" if len(paradigm.players()) == 1 else "ddp_fork_find_unused_parameters_true"
    trainer = small_trainer(max_epochs=2, devices=processes, strategy=strategy, callbacks=[_RanksAgree()])
    trainer.fit(paradigm, Blobs(batch_size=5))


def _check_evaluation(paradigm: LatentVariable) -> None:
    """All parts of `encdec test` but the comparison of samples work on it, and give finite numbers."""
    name = type(paradigm).__name__
    splits = Blobs(val_fraction=0.3).splits
    with torch.no_grad():
        context = Context(
            View(paradigm.eval()),
            splits["train"],
            splits["test"],
            num_images=20,
            num_samples=20,
            posterior_samples=2,
            prior_samples=10,
            posterior_steps=3,
        )
        inferred = infer(context, fit=True)
        evaluate_reconstruction(context, inferred)
        evaluate_likelihood(context, inferred)
        evaluate_latent(context, inferred)
        batch = next(context.batches("train", torch.arange(7)))
        view = context.view
        for kind, found in {"posterior": view.posterior(batch), "codes": [view.codes(batch)]}.items():
            for tensor in found or ():
                assert tensor is None or tensor.shape == (7, paradigm.latent_dim), f"{name}.{kind}: wrong shape"
    assert not context.metrics.undefined, f"{name}: the evaluation leaves out {context.metrics.undefined}"


def _assert_equal(first: dict[str, Tensor], second: dict[str, Tensor], message: str) -> None:
    assert first.keys() == second.keys(), message
    for key, value in first.items():
        assert torch.equal(value, second[key]), f"{message} {key}"
