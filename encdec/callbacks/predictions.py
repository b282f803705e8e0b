"""What `predict` writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchvision.utils import save_image

from encdec.callbacks.images import fixed_noise
from encdec.evaluation.pictures import strip_codes
from encdec.losses import pixel_means
from encdec.paradigms import Paradigm
from encdec.pictures import comparison, enlarge, grid, sample_labels
from encdec.types import Batch


class WritePredictions(pl.Callback):
    """Writes samples, reconstructions and interpolations, each as a PNG grid and as tensors.

    The tensors, to be read by `torch.load(path, weights_only=True)`, are dictionaries; images are float32 in [0, 1]:

    - `samples.pt`: `images` (N, C, H, W), `y` (N,), `z` (N, latent_dim), and `noise`, from which `prior` made z;
    - `reconstructions.pt`: `x` and `reconstruction` (N, C, H, W) of the whole test split, `y`, `index`, `z`;
      not written by a paradigm in which images have no code;
    - `interpolations.pt`: `images` (rows, steps, C, H, W) and `z` (rows, steps, latent_dim), on straight lines
      between the codes of test images where images have codes, between codes from the prior otherwise.

    Args:
        output_dir: folder; `predictions` in the run's folder if not given.
        num_rows: how many interpolations.
        num_steps: images of an interpolation, both ends included.
    """

    def __init__(self, output_dir: str | None = None, num_rows: int = 8, num_steps: int = 9) -> None:
        self.output_dir, self.num_rows, self.num_steps = output_dir, num_rows, num_steps
        self._folder, self._rows = Path(), _Rows(Path())

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder."""
        self._folder = Path(self.output_dir or Path(trainer.log_dir or trainer.default_root_dir, "predictions"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rows = _Rows(self._folder / f".part{trainer.global_rank}")

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
            self._rows.append(outputs)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no parts of files behind."""
        self._rows.delete()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files."""
        assert isinstance(pl_module, Paradigm)
        self._rows.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._write(pl_module, trainer.world_size)
            for part in self._folder.glob(".part*"):
                part.unlink()

    def _write(self, paradigm: Paradigm, processes: int) -> None:
        reconstructions = None
        if self._rows.formats:
            parts = [self._rows.read(self._folder / f".part{rank}") for rank in range(processes)]
            reconstructions = parts[0] if processes == 1 else _interleaved(parts, self._folder / ".whole")
        written = self._write_samples(paradigm, self._folder)
        if reconstructions is not None:
            written += _write_reconstructions(reconstructions, self._folder)
        written += self._write_interpolations(paradigm, self._folder, reconstructions)
        print(f"{self._folder}: {', '.join(written)}", flush=True)

    def _write_samples(self, paradigm: Paradigm, folder: Path) -> list[str]:
        y, columns = sample_labels(paradigm.num_classes)
        noise = fixed_noise(len(y), paradigm.latent_dim)
        images = paradigm.sample(y.to(paradigm.device), noise.to(paradigm.device)).cpu()
        torch.save({"images": images, "y": y, "z": _prior(paradigm, noise), "noise": noise}, folder / "samples.pt")
        save_image(enlarge(grid(images, columns)), folder / "samples.png")
        return ["samples.png", "samples.pt"]

    def _write_interpolations(
        self, paradigm: Paradigm, folder: Path, reconstructions: dict[str, Tensor] | None
    ) -> list[str]:
        if reconstructions is None:
            ends = _prior(paradigm, fixed_noise(2 * self.num_rows, paradigm.latent_dim))
            y = torch.arange(self.num_rows) % paradigm.num_classes
        else:
            ends, y = reconstructions["z"], reconstructions["y"]
        rows = min(self.num_rows, len(ends) // 2)
        if rows == 0:
            return []
        y, z = y[:rows], strip_codes(ends[: 2 * rows], self.num_steps)
        with torch.no_grad():
            on_device = z.flatten(0, 1).to(paradigm.device).to(paradigm.code_dtype)
            logits = paradigm.decode(on_device, y.repeat_interleave(self.num_steps).to(paradigm.device))
        images = pixel_means(logits).cpu()
        save_image(enlarge(grid(images, self.num_steps)), folder / "interpolations.png")
        images = images.reshape(rows, self.num_steps, *images.shape[1:])
        torch.save({"images": images, "z": z, "y": y}, folder / "interpolations.pt")
        return ["interpolations.png", "interpolations.pt"]


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
        for file in self._files.values():
            file.close()

    def read(self, stem: Path) -> dict[str, Tensor]:
        """What lies in another process's files (or these), (n, …) each, mapped into memory as far as it is read."""
        return {name: _mapped(_path(stem, name), -1, shape, dtype) for name, (shape, dtype) in self.formats.items()}

    def delete(self) -> None:
        """Delete these files."""
        self.close()
        for name in self._files:
            _path(self._stem, name).unlink(missing_ok=True)


def _path(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}")


def _mapped(path: Path, rows: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A file as a tensor (rows, …); all rows that it has for -1, else it is made that long."""
    size = path.stat().st_size // dtype.itemsize if rows == -1 else rows * shape.numel()
    return torch.from_file(str(path), rows != -1, size, dtype=dtype).reshape(-1, *shape)


def _interleaved(parts: list[dict[str, Tensor]], stem: Path) -> dict[str, Tensor]:
    """The rows of all processes in the order of the split, of which each process had every `len(parts)`-th."""
    whole = {}
    for name, first in parts[0].items():
        path = _path(stem, name)
        whole[name] = _mapped(path, sum(len(part[name]) for part in parts), first.shape[1:], first.dtype)
        for rank, part in enumerate(parts):
            whole[name][rank :: len(parts)] = part[name]
        path.unlink()  # the memory stays mapped
    return whole


@torch.no_grad()
def _prior(paradigm: Paradigm, noise: Tensor) -> Tensor:
    return paradigm.prior(noise.to(paradigm.device)).float().cpu()


def _write_reconstructions(reconstructions: dict[str, Tensor], folder: Path) -> list[str]:
    torch.save(reconstructions, folder / "reconstructions.pt")
    rows = [reconstructions["x"][:32], reconstructions["reconstruction"][:32]]
    save_image(enlarge(comparison(rows, columns=8)), folder / "reconstructions.png")
    return ["reconstructions.png", "reconstructions.pt"]
