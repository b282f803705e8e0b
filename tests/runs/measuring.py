"""Runs to be measured, for the tests of runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from encdec.data.fingerprints import KEY

SHORT = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1", "--floors.enabled=false",
         "--trainer.limit_train_batches=1", "--images.every_n_epochs=9",
         "--trainer.enable_progress_bar=false")  # fmt: skip
MODEL = ("--model=VAE", "--model.latent_dim=2", "--model.encoder.hidden=[4]", "--model.decoder.hidden=[4]")
PICTURES = (
    "--data=ImageFolder",
    "--data.path=pictures",
    "--data.size=8",
    "--data.mode=grey",
    "--data.val_fraction=0.2",
)
STREAMED = ("--data.max_memory_gb=0", "--data.num_workers=0")
RUN = "lightning_logs/vae/version_0"
BEST = f"{RUN}/checkpoints/best.ckpt"
ON_CPU = SHORT[:2]
Call = Callable[..., tuple[int, str]]


def write_pictures(folder: Path, *numbers: int) -> None:
    """A picture of 9×9 grey pixels for each number, which is its name and its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def refused(result: tuple[int, str], code: int = 1) -> str:
    """The one sentence of a refusal."""
    assert result[0] == code, result
    assert len(result[1].splitlines()) == 1, result[1]
    return result[1]


def edit(change: Callable[[dict[str, Any]], None], run: str = RUN) -> None:
    """Change the config that a run has saved."""
    path = Path(run, "config.yaml")
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def without_record() -> None:
    """Make a run's checkpoints what encdec 0.1 wrote."""
    for path in Path(RUN, "checkpoints").glob("*.ckpt"):
        contents = torch.load(path, weights_only=True)
        del contents[KEY]
        torch.save(contents, path)
