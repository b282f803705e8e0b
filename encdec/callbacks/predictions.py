"""What `predict` writes."""

from pathlib import Path
from typing import Any

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
        self._parts: list[dict[str, Tensor]] = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the reconstructions."""
        if outputs["reconstruction"] is not None:
            self._parts.append({name: _to_cpu(value) for name, value in outputs.items()})

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files."""
        assert isinstance(pl_module, Paradigm)
        folder = Path(self.output_dir or Path(trainer.log_dir or trainer.default_root_dir, "predictions"))
        folder.mkdir(parents=True, exist_ok=True)
        reconstructions = self._gather(trainer, folder)
        self._parts = []
        if not trainer.is_global_zero:
            return
        written = self._write_samples(pl_module, folder)
        if reconstructions is not None:
            written += _write_reconstructions(reconstructions, folder)
        written += self._write_interpolations(pl_module, folder, reconstructions)
        print(f"{folder}: {', '.join(written)}", flush=True)

    def _gather(self, trainer: pl.Trainer, folder: Path) -> dict[str, Tensor] | None:
        """The reconstructions of all processes in the order of the split, on the first process."""
        part = {name: torch.cat([p[name] for p in self._parts]) for name in self._parts[0]} if self._parts else None
        if trainer.world_size > 1:
            if not trainer.is_global_zero:
                torch.save(part, folder / f".part{trainer.global_rank}.pt")
            trainer.strategy.barrier()
            if trainer.is_global_zero and part is not None:
                files = [folder / f".part{rank}.pt" for rank in range(1, trainer.world_size)]
                parts = [part, *(torch.load(file, weights_only=True) for file in files)]
                part = {name: torch.cat([p[name] for p in parts]) for name in part}
            if trainer.is_global_zero:
                for file in folder.glob(".part*.pt"):
                    file.unlink()
        if part is None:
            return None
        order = part["index"].argsort()
        return {name: value[order] for name, value in part.items()}

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


@torch.no_grad()
def _prior(paradigm: Paradigm, noise: Tensor) -> Tensor:
    return paradigm.prior(noise.to(paradigm.device)).float().cpu()


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.float().cpu() if tensor.is_floating_point() else tensor.cpu()


def _write_reconstructions(reconstructions: dict[str, Tensor], folder: Path) -> list[str]:
    torch.save(reconstructions, folder / "reconstructions.pt")
    rows = [reconstructions["x"][:32], reconstructions["reconstruction"][:32]]
    save_image(enlarge(comparison(rows, columns=8)), folder / "reconstructions.png")
    return ["reconstructions.png", "reconstructions.pt"]
