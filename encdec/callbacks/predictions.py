"""What `predict` writes."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import lightning.pytorch as pl
import torch
from torch import Tensor

from encdec.callbacks.evaluate import processes_of
from encdec.callbacks.image_grids import fixed_noise
from encdec.data import DataModule
from encdec.evaluation.context import Context, block_size
from encdec.evaluation.grids import as_png, comparison, drawing, enlarge, grid, sample_labels, shown_images
from encdec.evaluation.latent_images import strip_latents
from encdec.evaluation.samplers import Sampler, sample_from
from encdec.evaluation.view import View
from encdec.files import claimed, expanded, fault_of
from encdec.messages import say
from encdec.objectives.losses import pixel_means
from encdec.paradigms import LatentVariable, Paradigm
from encdec.runs.folders import short
from encdec.types import Batch, UserError

_SHOWN = 32  # reconstructed images

Picture = Callable[[], Tensor]
"""Draws one, (3, H, W) in [0, 1]."""
_FILES = [f"{stem}.{ending}" for stem in ("samples", "reconstructions", "interpolations") for ending in ("png", "pt")]


class WritePredictions(pl.Callback):
    """Writes samples, reconstructions and interpolations, each as a PNG grid and as tensors.

    The tensors, to be read by `torch.load(path, weights_only=True)`, are dictionaries; images are float32 in [0, 1]:

    - `samples.pt`: `images` (N, C, H, W), `y` (N,), `noise`, and `z` (N, latent_dim), the latents made of it, if any;
    - `reconstructions.pt`: `x` and `reconstruction` (N, C, H, W) of the whole test split, `y`, `index`, `z`;
      not written by a paradigm in which images have no code;
    - `interpolations.pt`: `images` (rows, steps, C, H, W) and `z` (rows, steps, latent_dim), on straight lines
      between the codes of test images where images have codes, between codes from the prior otherwise (or, where
      there are no latent codes at all, between noise).

    All files are written before the first of them takes its place; until then, and after an error or a kill, those of
    an earlier call are what they were.

    Args:
        output_dir: folder; `predictions` in the run's folder if not given.
        num_rows: how many interpolations.
        num_steps: images of an interpolation, both ends included.

    Attributes:
        sampler: what latents of samples are drawn from, set by `predict --sampler`.
        written: the files that are in their place.
    """

    def __init__(self, output_dir: str | None = None, num_rows: int = 8, num_steps: int = 9) -> None:
        self.output_dir, self.num_rows, self.num_steps = output_dir, num_rows, num_steps
        self.sampler: Sampler = "model"
        self.written: list[Path] = []
        self._folder, self._parts, self._rows = Path(), Path(), _Rows(Path())
        self._cleanup = ExitStack()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder.

        Raises:
            UserError: it can't be made, or another process writes its predictions into it.
        """
        self.written = []
        folder = expanded(self.output_dir or Path(trainer.log_dir or trainer.default_root_dir, "predictions"))
        self._folder = Path(short(folder))
        self._parts = self._folder / ".predict.tmp"
        if trainer.is_global_zero:
            with fault_of(self._folder):
                self._prepare()
        trainer.strategy.barrier()
        self._rows = _Rows(self._parts / str(trainer.global_rank))

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
        if outputs["reconstruction"] is not None:
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
            print(f"{self._folder}: {', '.join(files)}", flush=True)
            left = [name for name in _FILES if name not in files and (self._folder / name).exists()]
            if left:
                say(f"{', '.join(left)} in {self._folder} {'is' if len(left) == 1 else 'are'} of an earlier call.")

    def _write(self, paradigm: Paradigm, processes: int) -> list[str]:
        """Write all files into the folder of parts; their names, in the order in which they are put in place."""
        reconstructions = None
        if self._rows.formats:
            parts = [self._rows.read(self._parts / str(rank)) for rank in range(processes)]
            reconstructions = parts[0] if processes == 1 else _interleaved(parts, self._parts / "whole")
        contents = {"samples": self._samples(paradigm)}
        if reconstructions is not None:
            contents["reconstructions"] = reconstructions, _reconstructed(reconstructions)
        interpolations = self._interpolations(paradigm, reconstructions)
        if interpolations is not None:
            contents["interpolations"] = interpolations
        return [name for stem, content in contents.items() for name in _written(self._parts / stem, *content)]

    def _samples(self, paradigm: Paradigm) -> tuple[dict[str, Tensor], Picture]:
        y, columns = sample_labels(paradigm.num_classes)
        noise = fixed_noise(len(y), paradigm.noise_dim)
        images = paradigm.sample(y.to(paradigm.device), noise.to(paradigm.device)).cpu()
        tensors = {"images": images, "y": y, "noise": noise}
        if isinstance(paradigm, LatentVariable):
            tensors["z"] = _latents(paradigm, noise)
        return tensors, lambda: grid(images, columns)

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
        with torch.no_grad():
            on_device = z.flatten(0, 1).to(paradigm.device).to(paradigm.weights_dtype)
            labels = y.repeat_interleave(self.num_steps).to(paradigm.device)
            if isinstance(paradigm, LatentVariable):
                images = pixel_means(paradigm.decode(on_device, labels)).cpu()
            else:
                images = paradigm.generate(on_device, labels).cpu()
        tensors = {"images": images.reshape(rows, self.num_steps, *images.shape[1:]), "z": z, "y": y}
        return tensors, lambda: grid(images, self.num_steps)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _written(stem: Path, tensors: dict[str, Tensor], picture: Picture) -> list[str]:
    """Write the tensors and their picture; the files' names. One that can't be drawn costs a sentence."""
    names = []
    with drawing(f"{stem.name}.png"):
        png = as_png(enlarge(picture()))
        names.append(f"{stem.name}.png")
    if names:
        with _flushed(stem.with_suffix(".png")) as file:
            file.write(png)
    with _flushed(stem.with_suffix(".pt")) as file:
        torch.save(tensors, file)
    return [*names, f"{stem.name}.pt"]


@contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    """A file whose content is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


class _Rows:
    """Rows of named tensors, written to one file each as they come, so that memory holds no more than one batch.

    Args:
        stem: beginning of the files' paths.

    Attributes:
        formats: size of a row and type, by name; empty before the first rows.
    """

    def __init__(self, stem: Path) -> None:
        self.formats: dict[str, tuple[torch.Size, torch.dtype]] = {}
        self._stem = stem
        self._files: dict[str, BinaryIO] = {}

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Add rows, (B, …) each."""
        for name, value in rows.items():
            value = (value.float() if value.is_floating_point() else value).cpu().contiguous()
            if name not in self._files:
                self._files[name] = open(_path(self._stem, name), "wb")  # noqa: SIM115  # closed by close()
                self.formats[name] = value.shape[1:], value.dtype
            self._files[name].write(value.numpy().data)

    def close(self) -> None:
        """Nothing more will come."""
        with ExitStack() as stack:  # all of them, even if one can't be
            for file in self._files.values():
                stack.callback(file.close)

    def read(self, stem: Path) -> dict[str, Tensor]:
        """What lies in another process's files (or these), (n, …) each, mapped into memory as far as it is read."""
        return {name: _mapped(_path(stem, name), shape, dtype) for name, (shape, dtype) in self.formats.items()}

    def abandon(self) -> None:
        """Close what will not be read."""
        with suppress(OSError):  # on a full disk, closing fails as writing did
            self.close()


def _path(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}")


def _mapped(path: Path, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A file as a tensor (rows, …), mapped into memory."""
    size = path.stat().st_size // dtype.itemsize
    return torch.from_file(str(path), shared=False, size=size, dtype=dtype).reshape(-1, *shape)


def _interleaved(parts: list[dict[str, Tensor]], stem: Path) -> dict[str, Tensor]:
    """The rows of all processes in the order of the split, of which each process had every `len(parts)`-th."""
    whole = {}
    for name, first in parts[0].items():
        path = _path(stem, name)
        of_all = [part[name] for part in parts]
        at_once = block_size(max(first[0].numel() * len(parts), 1))
        # written, not assigned to a mapped file: on a full disk that would be a fatal signal
        with path.open("wb") as file:
            for start in range(0, len(first), at_once):
                blocks = [part[start : start + at_once] for part in of_all]
                block = first.new_empty((sum(map(len, blocks)), *first.shape[1:]))
                for rank, rows in enumerate(blocks):
                    block[rank :: len(parts)] = rows
                file.write(block.numpy().data)
        whole[name] = _mapped(path, first.shape[1:], first.dtype)
    return whole


@torch.no_grad()
def _latents(paradigm: LatentVariable, noise: Tensor) -> Tensor:
    return paradigm.sampled.sample(noise.to(paradigm.device)).float().cpu()


def _reconstructed(reconstructions: dict[str, Tensor]) -> Picture:
    shown = shown_images(reconstructions["y"], _SHOWN)
    rows = [reconstructions["x"][shown], reconstructions["reconstruction"][shown]]
    return lambda: comparison(rows, columns=8)
