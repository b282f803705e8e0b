"""What `predict` writes."""

import csv
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from encdec.callbacks.evaluate import processes_of
from encdec.callbacks.image_grids import fixed_noise
from encdec.callbacks.prediction_rows import Rows, flushed, interleaved
from encdec.data import DataModule
from encdec.evaluation.context import Context, block_size
from encdec.evaluation.grids import (
    as_png,
    as_rgb,
    comparison,
    drawing,
    eight_bits,
    enlarge,
    grid,
    sample_labels,
    shown_images,
)
from encdec.evaluation.latent_images import strip_latents
from encdec.evaluation.samplers import Sampler, sample_from
from encdec.evaluation.view import View
from encdec.files import claimed, expanded, fault_of
from encdec.messages import say
from encdec.objectives.losses import squared_error
from encdec.paradigms import LatentVariable, Paradigm
from encdec.runs.folders import short
from encdec.types import Batch, UserError, require_positive

_SHOWN = 32  # reconstructed images

Picture = Callable[[], Tensor]
"""Draws one, (3, H, W) in [0, 1]."""
_STEMS = ("samples", "reconstructions", "interpolations", "traversals")
_FILES = [f"{stem}.{ending}" for stem in _STEMS for ending in ("png", "pt")]
_GRID = 400  # samples in a picture
_SINGLE = "samples"  # folder of single files
_PRIOR = 1_000  # latents from the prior whose spread a traversal takes
_REACH = 2.0  # of a traversal, in standard deviations


class WritePredictions(pl.Callback):
    """Writes samples, reconstructions, interpolations and traversals, each as a PNG grid and as tensors.

    Small images are enlarged by a whole factor, without blur. The tensors, to be read by
    `torch.load(path, weights_only=True)`, are dictionaries; images are float32 in [0, 1]:

    - `samples.pt`: `images` (N, C, H, W), `y` (N,), `noise`, and `z` (N, latent_dim), the latents made of it, if any;
    - `reconstructions.pt`: `x` and `reconstruction` (N, C, H, W) of the whole test split, `y`, `index`, `z`;
      not written by a paradigm in which images have no code;
    - `interpolations.pt`: `images` (rows, steps, C, H, W) and `z` (rows, steps, latent_dim), on straight lines
      between the codes of test images where images have codes, between codes from the prior otherwise (or, where
      there are no latent codes at all, between noise);
    - `traversals.pt`: `images` (rows, steps, C, H, W), `z` (rows, steps, latent_dim) and `dimension` (rows,): a test
      image's latent, or where images have none one from the prior, in which one number runs from two standard
      deviations below its mean to two above it, over the test images' latents or the prior; those that vary most come
      first. Not written by a paradigm without latents.

    Of a folder of new pictures `pictures.csv` and `pictures.npz` list each one's file, its squared error per pixel, the
    terms of the objective, and its latent.

    All files are written before the first of them takes its place; until then, and after an error or a kill, those of
    an earlier call are what they were.

    Args:
        output_dir: folder; `predictions` in the run's folder if not given.
        num_rows: how many interpolations, and traversals.
        num_steps: images of an interpolation or a traversal, both ends included.
        num_samples: how many samples; the grid shows the first 400 of them. Eight of each class, or 64, if not given.
        single_files: whether each sample is also a PNG file of its own, `samples/00000.png` and so on, in its own size.

    Attributes:
        sampler: what latents of samples are drawn from, set by `predict --sampler`.
        written: the files that are in their place.

    Raises:
        UserError: a number is not positive.
    """

    def __init__(
        self,
        output_dir: str | None = None,
        num_rows: int = 8,
        num_steps: int = 9,
        num_samples: int | None = None,
        single_files: bool = False,
    ) -> None:
        self.output_dir, self.num_rows, self.num_steps = output_dir, num_rows, num_steps
        self.num_samples, self.single_files = num_samples, single_files
        require_positive(self, "num_rows", *(["num_samples"] if num_samples is not None else []))
        if num_steps < 2:
            raise UserError(f"WritePredictions: num_steps is {num_steps}, but a line has both of its ends.", 2)
        self.sampler: Sampler = "model"
        self.written: list[Path] = []
        self._folder, self._parts, self._rows = Path(), Path(), Rows(Path())
        self._cleanup = ExitStack()
        self._names: tuple[str, ...] = ()
        self._terms: list[str] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder.

        Raises:
            UserError: it can't be made, or another process writes its predictions into it.
        """
        self.written = []
        usual = Path(trainer.log_dir or trainer.default_root_dir, "predictions", self._subfolder(trainer))
        folder = expanded(self.output_dir or usual)
        self._folder = Path(short(folder))
        self._parts = self._folder / ".predict.tmp"
        if trainer.is_global_zero:
            with fault_of(self._folder):
                self._prepare()
        trainer.strategy.barrier()
        self._rows = Rows(self._parts / str(trainer.global_rank))

    def _subfolder(self, trainer: pl.Trainer) -> str:
        """Predictions of new pictures do not take the place of those of the test split."""
        data = getattr(trainer, "datamodule", None)
        self._names = data.predicted if isinstance(data, DataModule) else ()
        return Path(data.hparams["path"]).resolve().name if self._names and data is not None else ""

    def _prepare(self) -> None:
        if not self._folder.exists():
            self._folder.mkdir(parents=True)
            self._cleanup.callback(_remove_if_empty, self._folder)
        lock = self._folder / ".predict.lock"
        try:
            self._cleanup.enter_context(claimed(lock, wait=False))
        except BlockingIOError:
            raise UserError(
                f"Another process writes its predictions into {self._folder}: wait for its end, or choose another "
                "folder by --predictions.output_dir."
            ) from None
        self._cleanup.callback(lock.unlink, missing_ok=True)
        self._cleanup.callback(shutil.rmtree, self._parts, ignore_errors=True)
        shutil.rmtree(self._parts, ignore_errors=True)  # of a call that was killed
        self._parts.mkdir()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the reconstructions on the disk: in memory they would take eight times the split's pixels."""
        if outputs["reconstruction"] is None:
            return
        if self._names:
            assert isinstance(pl_module, Paradigm)
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                losses = pl_module.measured_losses(batch)
            terms = {"loss": losses.loss, **losses.terms}
            self._terms = [name for name, value in terms.items() if value.ndim]
            outputs = {**outputs, **{name: terms[name] for name in self._terms}}
        with fault_of(self._folder):
            self._rows.append(outputs)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no parts of files behind."""
        self._rows.abandon()
        self._cleanup.close()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files, and put them in their place.

        Raises:
            UserError: they can't be written, for example because the disk is full.
        """
        assert isinstance(pl_module, Paradigm)
        with fault_of(self._folder):
            self._rows.close()
        trainer.strategy.barrier()
        data = getattr(trainer, "datamodule", None)
        if self.sampler != "model" and isinstance(data, DataModule):
            with torch.inference_mode(False), torch.no_grad():  # latents that are searched for need gradients
                images = data.splits["train"], data.splits["test"]
                sample_from(Context(View(pl_module), *images, processes=processes_of(trainer)), self.sampler)
        if trainer.is_global_zero:
            with fault_of(self._folder):
                files = self._write(pl_module, trainer.world_size)
            for name in files:
                with fault_of(self._folder / name):
                    os.replace(self._parts / name, self._folder / name)
                self.written.append(self._folder / name)
            self._cleanup.close()
            print(f"{self._folder}: {', '.join(_named(files))}", flush=True)
            there = [name for name in _FILES if (self._folder / name).exists()]
            there += sorted(f"{_SINGLE}/{path.name}" for path in (self._folder / _SINGLE).glob("*.png"))
            left = _named([name for name in there if name not in files])
            if left:
                only = len(left) == 1 and left[0] in _FILES
                say(f"{', '.join(left)} in {self._folder} {'is' if only else 'are'} of an earlier call.")

    def _write(self, paradigm: Paradigm, processes: int) -> list[str]:
        """Write all files into the folder of parts; their names, in the order in which they are put in place."""
        reconstructions = None
        if self._rows.formats:
            parts = [self._rows.read(self._parts / str(rank)) for rank in range(processes)]
            reconstructions = parts[0] if processes == 1 else interleaved(parts, self._parts / "whole")
        samples = self._samples(paradigm)
        contents: dict[str, tuple[dict[str, Tensor], Picture] | None] = {"samples": samples}
        names = self._single(samples[0]["images"]) if self.single_files else []
        if reconstructions is not None:
            if self._names:
                names += self._listed(reconstructions)
            contents["reconstructions"] = reconstructions, _reconstructed(reconstructions)
        contents["interpolations"] = self._interpolations(paradigm, reconstructions)
        contents["traversals"] = self._traversals(paradigm, reconstructions)
        written = [_written(self._parts / stem, *content) for stem, content in contents.items() if content is not None]
        return [name for of_stem in written for name in of_stem] + names

    def _samples(self, paradigm: Paradigm) -> tuple[dict[str, Tensor], Picture]:
        y, columns = sample_labels(paradigm.num_classes)
        if self.num_samples is not None:
            y = torch.arange(self.num_samples) % columns % paradigm.num_classes
        noise = fixed_noise(len(y), paradigm.noise_dim)
        images = paradigm.sample(y, noise).cpu()
        tensors = {"images": images, "y": y, "noise": noise}
        if isinstance(paradigm, LatentVariable):
            tensors["z"] = _latents(paradigm, noise)
        if len(y) > 20 * columns:
            columns = max(columns, 20 // columns * columns)
        return tensors, lambda: grid(images[:_GRID], columns)

    def _single(self, images: Tensor) -> list[str]:
        """Write each sample as a file; their names."""
        for folder in (self._parts, self._folder):
            (folder / _SINGLE).mkdir(exist_ok=True)
        names = [f"{_SINGLE}/{number:05}.png" for number in range(len(images))]
        for name, image in zip(names, images, strict=True):
            (self._parts / name).write_bytes(as_png(as_rgb(image[None])[0]))
        return names

    def _listed(self, found: dict[str, Tensor]) -> list[str]:
        """Write the files, errors and latents of new pictures as a table and as arrays; their names."""
        files = [self._names[index] for index in found["index"].tolist()]
        errors = {"mse": torch.empty(len(files))}
        at_once = block_size(found["x"][0].numel())
        for start in range(0, len(files), at_once):
            x, of_latent = (found[name][start : start + at_once] for name in ("x", "reconstruction"))
            errors["mse"][start : start + len(x)] = squared_error(of_latent, x) / x[0].numel()
        errors |= {name: found[name] for name in self._terms}
        names = [*errors, *(f"z_{number}" for number in range(found["z"].shape[1]))]
        with (self._parts / "pictures.csv").open("w", encoding="utf-8", newline="") as table:
            writer = csv.writer(table)
            writer.writerow(["file", *names])
            for row, file in enumerate(files):
                writer.writerow([file, *(value[row].item() for value in errors.values()), *found["z"][row].tolist()])
        arrays: dict[str, Any] = {name: value.numpy() for name, value in {**errors, "z": found["z"]}.items()}
        with flushed(self._parts / "pictures.npz") as file:
            np.savez(file, files=np.array(files), **arrays)
        return ["pictures.csv", "pictures.npz"]

    def _traversals(
        self, paradigm: Paradigm, reconstructions: dict[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], Picture] | None:
        if not isinstance(paradigm, LatentVariable):
            return None
        if reconstructions is None:
            of_split, y = _latents(paradigm, fixed_noise(_PRIOR, paradigm.noise_dim)), torch.zeros(1, dtype=torch.int64)
        else:
            of_split, y = reconstructions["z"], reconstructions["y"][:1]
        mean, deviation = of_split.mean(0), of_split.std(0, correction=0)
        dimension = deviation.argsort(descending=True, stable=True)[: self.num_rows]
        z = of_split[0].repeat(len(dimension), self.num_steps, 1)
        for row, number in zip(z, dimension.tolist(), strict=True):
            row[:, number] = mean[number] + deviation[number] * torch.linspace(-_REACH, _REACH, self.num_steps)
        images = paradigm.from_latents(z.flatten(0, 1), y.expand(len(dimension) * self.num_steps)).cpu()
        tensors = {"images": images.unflatten(0, z.shape[:2]), "z": z, "y": y, "dimension": dimension}
        return tensors, lambda: grid(images, self.num_steps)

    def _interpolations(
        self, paradigm: Paradigm, reconstructions: dict[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], Picture] | None:
        if reconstructions is None:
            ends = fixed_noise(2 * self.num_rows, paradigm.noise_dim)
            if isinstance(paradigm, LatentVariable):
                ends = _latents(paradigm, ends)
            y = torch.arange(self.num_rows) % paradigm.num_classes
        else:
            ends, y = reconstructions["z"], reconstructions["y"]
        rows = min(self.num_rows, len(ends) // 2)
        if rows == 0:
            return None
        y, z = y[:rows], strip_latents(ends[: 2 * rows], self.num_steps)
        images = paradigm.from_latents(z.flatten(0, 1), y.repeat_interleave(self.num_steps)).cpu()
        tensors = {"images": images.reshape(rows, self.num_steps, *images.shape[1:]), "z": z, "y": y}
        return tensors, lambda: grid(images, self.num_steps)


def _named(files: list[str]) -> list[str]:
    """The names of files, those of single samples as one."""
    singles = sum(name.startswith(f"{_SINGLE}/") for name in files)
    others = [name for name in files if not name.startswith(f"{_SINGLE}/")]
    return [*others, f"{singles:,} files in {_SINGLE}/"] if singles else others


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _written(stem: Path, tensors: dict[str, Tensor], picture: Picture) -> list[str]:
    """Write the tensors and their picture; the files' names. One that can't be drawn costs a sentence."""
    names = []
    with drawing(f"{stem.name}.png"):
        png = as_png(enlarge(eight_bits(picture())))
        names.append(f"{stem.name}.png")
    if names:
        with flushed(stem.with_suffix(".png")) as file:
            file.write(png)
    with flushed(stem.with_suffix(".pt")) as file:
        torch.save(tensors, file)
    return [*names, f"{stem.name}.pt"]


@torch.no_grad()
def _latents(paradigm: LatentVariable, noise: Tensor) -> Tensor:
    return paradigm.sampled.sample(noise.to(paradigm.device)).float().cpu()


def _reconstructed(reconstructions: dict[str, Tensor]) -> Picture:
    shown = shown_images(reconstructions["y"], _SHOWN)
    rows = [reconstructions["x"][shown], reconstructions["reconstruction"][shown]]
    return lambda: comparison(rows, columns=8)
