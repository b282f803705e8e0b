"""What is trained, and the commands that do it: encdec's command line, and the baselines."""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from benchmarks.records import Json
from benchmarks.turns import ROOT, Entrant, environment

CONFIGS = {"AE": "ae", "ConditionalDecoder": "decoder", "VAE": "vae", "EncoderlessVAE": "vae_noenc"}
"""Name of each core paradigm's config."""


@dataclass(frozen=True)
class Task:
    """What is trained, the same for encdec and for all baselines.

    Attributes:
        folder: the data, as torchvision's FashionMNIST wants them; see `data.prepare`.
        data: encdec's data module, FashionMNIST or Digits.
        total: images in `folder` for training, validation included.
        paradigm: one of CONFIGS.
        networks: `mlp` or `conv`.
        batch: images of a batch, on each process.
        samples: K of the encoderless VAE, latents from the prior.
        precision: as Lightning's Trainer calls it; the scripts and pythae train in 32-true in any case.
        accelerator: `cpu` or `gpu`.
        epochs: how long; None is until the worker is stopped, without validation.
    """

    folder: str
    data: str
    total: int
    paradigm: str = "VAE"
    networks: str = "mlp"
    batch: int = 128
    samples: int = 1
    precision: str = "32-true"
    accelerator: str = "cpu"
    epochs: int | None = None

    @property
    def images(self) -> int:
        """Training images: nine tenths, less a few, so that all batches are full."""
        return self.total * 9 // 10 // self.batch * self.batch

    @property
    def val_fraction(self) -> float:
        """The share of images that is held out for validation."""
        return 1 - self.images / self.total

    @property
    def epochs_or_endless(self) -> int:
        """The number of epochs, a large one if there is no end."""
        return 1_000_000 if self.epochs is None else self.epochs

    def described(self) -> Json:
        """What tells it from other tasks, for the record."""
        return {name: value for name, value in asdict(self).items() if name not in ("folder", "total")} | {
            "images": self.images
        }

    def entrant(self, name: str, threads: int) -> Entrant:
        """Who takes turns for encdec or a baseline."""
        return Entrant(self.command(name), threads, ramp=max(1280 // self.batch, 1))

    def command(self, name: str) -> list[str]:
        """The command that trains: the real command line for `encdec`, a function of `baselines` for the others."""
        if name == "encdec":
            return self.encdec() + ["--trainer.callbacks+=benchmarks.callbacks.Turns"] * (self.epochs is None)
        return [sys.executable, "-m", "benchmarks.baselines", name, json.dumps(asdict(self))]

    def encdec(self) -> list[str]:
        """`python -m encdec fit` with everything on that is on by default; an endless run has no validation."""
        fashion = self.data == "FashionMNIST"
        layers = [CONFIGS[self.paradigm], *["data/fashion_mnist"] * fashion]
        command = [sys.executable, "-m", "encdec", "fit"]
        command += [arg for layer in layers for arg in ("--config", str(ROOT / "configs" / f"{layer}.yaml"))]
        command += [f"--data.data_dir={self.folder}"] * fashion
        command += [f"--data.batch_size={self.batch}", f"--data.val_fraction={self.val_fraction}"]
        if self.networks == "conv":
            command += ["--model.decoder=ConvDecoder"]
            command += ["--model.encoder=ConvEncoder"] * (self.paradigm in ("AE", "VAE"))
        command += [f"--model.num_prior_samples={self.samples}"] * (self.samples > 1)
        command += [f"--trainer.max_epochs={self.epochs_or_endless}", f"--trainer.precision={self.precision}"]
        command += ["--trainer.check_val_every_n_epoch=1000000"] * (self.epochs is None)
        return [*command, f"--trainer.accelerator={self.accelerator}", "--trainer.devices=1"]


def add_tasks(arguments: argparse.ArgumentParser) -> None:
    """The options that choose what is trained; see `chosen`."""
    arguments.add_argument("--paradigms", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    arguments.add_argument("--networks", nargs="+", choices=["mlp", "conv"], default=["mlp", "conv"])
    arguments.add_argument("--batch", nargs="+", type=int, default=[128, 1024])


def chosen(arguments: argparse.Namespace, task: Task) -> Iterator[Task]:
    """A task with each of the chosen paradigms, networks and batches."""
    for paradigm, networks, batch in itertools.product(arguments.paradigms, arguments.networks, arguments.batch):
        yield replace(task, paradigm=paradigm, networks=networks, batch=batch)


@contextmanager
def prepared(data: str | None, quick: bool) -> Iterator[Task]:
    """The data as files in a temporary folder, in a task."""
    with tempfile.TemporaryDirectory() as folder:
        name = data or ("Digits" if quick else "")
        yield Task(folder, **json.loads(written("prepare", folder, name, str(ROOT / "data"))))


def written(function: str, *arguments: int | str) -> str:
    """What a function of `benchmarks.data` prints, in a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "benchmarks.data", function, json.dumps(arguments)]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
