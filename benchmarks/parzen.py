"""A published number of generative moment matching networks: the Parzen log-likelihood of MNIST's test images.

python -m benchmarks.parzen --data_dir data --iterations 2000

Li, Swersky & Zemel 2015, https://arxiv.org/abs/1502.02761, table 1: 147 ± 2 nats per image. With their network, prior,
kernels and batch of 1,000 images and 1,000 samples, but Adam in place of momentum, and as many steps as are asked for,
not 40,000. The likelihood is that of a mixture of equal Gaussians on 10,000 samples, whose width is the best for
validation images.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from benchmarks.records import Json, record
from benchmarks.turns import ROOT
from encdec import plugins
from encdec.data import MNIST, DataModule, Digits, Images
from encdec.networks import Decoder, MLPDecoder
from encdec.objectives.pairs import squared_distances
from encdec.paradigms import Paradigm
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import Shape, scaled

SIGMAS = [round(0.1 + 0.01 * step, 2) for step in range(21)]
"""Widths that are tried."""


class UniformMLP(Decoder):
    """The paper's network, 64-256-256-1024 with ReLU, of uniform latents on [−1, 1]: their normal quantiles come in."""

    def __init__(self, in_features: int, image_shape: Shape) -> None:
        super().__init__(in_features, image_shape)
        self.layers = MLPDecoder(in_features, image_shape, hidden=(64, 256, 256, 1024))

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_features) -> (B, C, H, W), logits."""
        return self.layers(torch.erf(z / math.sqrt(2)))


def log_likelihood(x: Tensor, samples: Tensor, sigma: float) -> Tensor:
    """log (1/M) Σ_j N(x_i; s_j, σ²I), nats per image: (N, D), (M, D) -> (N,)."""
    constant = math.log(len(samples)) + x.shape[1] / 2 * math.log(2 * math.pi * sigma**2)
    parts = [(squared_distances(part, samples) / (-2 * sigma**2)).logsumexp(1) for part in x.split(500)]
    return torch.cat(parts) - constant


def parzen(model: Paradigm, data: DataModule, samples: int) -> Json:
    """The Parzen log-likelihood of the test images, at the width that is best for validation images."""
    drawn = model.eval().sample(torch.zeros(samples, dtype=torch.int64)).flatten(1)
    model.train()
    val, test = (_pixels(data.splits[split], samples) for split in ("val", "test"))
    few = val[:1000]
    sigma = max(SIGMAS, key=lambda width: log_likelihood(few, drawn, width).mean().item())
    values = log_likelihood(test, drawn, sigma)
    error = values.std().item() / math.sqrt(len(values))
    return {"nats_per_image": values.mean().item(), "standard_error": error, "sigma": sigma}


def _pixels(images: Images, count: int) -> Tensor:
    (pixels,) = images.stream([torch.arange(min(count, len(images.labels)))])
    return scaled(pixels).flatten(1)


class Measure(pl.Callback):
    """Measures at some steps, saves a checkpoint to go on from, and keeps what was measured."""

    def __init__(self, data: DataModule, every: int, samples: int, path: Path) -> None:
        self.data, self.every, self.samples, self.path = data, every, samples, path
        self.found: list[Json] = []
        self.seconds, self._since = 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Measure."""
        step = trainer.global_step
        if step % self.every:
            return
        assert isinstance(pl_module, Paradigm)
        self.seconds += time.process_time() - self._since
        self.found.append({"step": step, "cpu_seconds": self.seconds} | parzen(pl_module, self.data, self.samples))
        print(self.found[-1], flush=True)
        trainer.save_checkpoint(self.path)
        self._since = time.process_time()

    def state_dict(self) -> Json:
        """What a resumed run goes on with."""
        return {"found": self.found, "seconds": self.seconds}

    def load_state_dict(self, state_dict: Json) -> None:
        """Go on."""
        self.found, self.seconds = state_dict["found"], state_dict["seconds"]


def main() -> None:
    """Train, or go on training, measure and write the record."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.parzen", description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--data_dir", default="data", help="where MNIST/raw is (%(default)s)")
    arguments.add_argument("--iterations", type=int, default=2000, help="steps of training (%(default)s)")
    arguments.add_argument("--every", type=int, default=500, help="steps between measurements (%(default)s)")
    arguments.add_argument("--batch", type=int, default=1000, help="images of a step (%(default)s)")
    arguments.add_argument("--lr", type=float, default=1e-3, help="Adam's (%(default)s)")
    arguments.add_argument("--checkpoint", default="parzen.ckpt", help="to go on from (%(default)s)")
    arguments.add_argument("--quick", action="store_true", help="digits, to see that it runs")
    arguments.add_argument("--out", type=Path, help="JSON file (benchmarks/results/parzen.json; none if --quick)")
    options = arguments.parse_args()
    plugins.load(ROOT / "plugins")
    mmd: Any = next(cls for cls in plugins.subclasses(Paradigm) if cls.__name__ == "MMD")
    data: DataModule = MNIST(data_dir=options.data_dir, batch_size=options.batch)
    if options.quick:
        data = Digits(batch_size=options.batch)
    pl.seed_everything(0, verbose=False)
    kernels: Json = {"variances": (2.0, 5.0, 10.0, 20.0, 40.0, 80.0), "unit": 1.0}
    adam = partial(torch.optim.Adam, lr=options.lr)
    sizes: Json = {"image_shape": data.image_shape, "num_train": data.num_train, "latent_dim": 10}
    model = mmd(decoder=UniformMLP, optimizer=adam, **sizes, **kernels)
    measure = Measure(data, options.every, 200 if options.quick else 10_000, Path(options.checkpoint))
    before = options.checkpoint if Path(options.checkpoint).exists() else None
    with quiet_trainer():
        trainer = small_trainer(max_steps=options.iterations, max_epochs=-1, limit_val_batches=0, callbacks=[measure])
        trainer.fit(model, data, ckpt_path=before, weights_only=True)
    record(options, "parzen", {"published": {"nats_per_image": 147, "standard_error": 2}, "found": measure.found})


if __name__ == "__main__":
    main()
