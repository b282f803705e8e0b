"""The ways to train that encdec is compared with, each as its users write it.

`python -m benchmarks.ways NAME ARGUMENT` runs one of them in a process of its own.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import datasets, transforms
from torchvision.utils import save_image

from benchmarks.common import Gate, Task, orders
from encdec.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

LATENT = 32
CLASSES = 10


class Model(nn.Module):
    """A paradigm as a hand-written model: the networks and the loss of encdec's, nothing else."""

    def __init__(self, task: Task, shape: tuple[int, int, int]) -> None:
        super().__init__()
        make_encoder, make_decoder = (ConvEncoder, ConvDecoder) if task.networks == "conv" else (MLPEncoder, MLPDecoder)
        self.paradigm, self.codes = task.paradigm, task.codes
        if task.paradigm in ("AE", "VAE"):
            self.encoder = make_encoder(shape, LATENT if task.paradigm == "AE" else 2 * LATENT)
        conditioning = CLASSES if task.paradigm == "ConditionalDecoder" else 0
        self.decoder = make_decoder(conditioning + LATENT, shape)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch: sums over pixels, mean over images."""
        if self.paradigm == "AE":
            return self._squared_error(self.decoder(self.encoder(x)), x)
        if self.paradigm == "VAE":
            mean, log_var = self.encoder(x).float().chunk(2, dim=1)
            z = mean + (log_var / 2).exp() * torch.randn_like(mean)
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum() / len(x)
            return self._bce(self.decoder(z), x) + kl
        if self.paradigm == "EncoderlessVAE":
            if self.codes == 1:
                return self._bce(self.decoder(torch.randn(len(x), LATENT, device=x.device)), x)
            logits = self.decoder(torch.randn(self.codes, LATENT, device=x.device)).flatten(1).float()
            log_p = x.flatten(1) @ logits.T - F.softplus(logits).sum(1)
            return math.log(self.codes) - log_p.logsumexp(1).mean()
        label = F.one_hot(y, CLASSES).float()
        noise = torch.randn(len(x), LATENT, device=x.device)
        return self._squared_error(self.decoder(torch.cat([label, noise], dim=1)), x)

    def _bce(self, logits: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits.float(), x, reduction="sum") / len(x)

    def _squared_error(self, logits: Tensor, x: Tensor) -> Tensor:
        return F.mse_loss(logits.float().sigmoid(), x, reduction="sum") / len(x)


def bare(task: Task, compilation: str | None = None) -> None:
    """The strongest plain loop: one float tensor in memory, fused Adam, nothing measured."""
    torch.set_flush_denormal(True)  # as encdec does
    device = torch.device("cuda" if task.accelerator == "gpu" else "cpu")
    images, labels = (tensor.to(device) for tensor in _tensors(task))
    model = Model(task, _shape(images)).to(device)
    if compilation is not None:
        model.compile(mode=compilation)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    half = task.precision == "bf16-mixed"
    gate = Gate()
    for _ in range(task.epochs_or_endless):
        order = torch.randperm(len(images), device=device)
        for rows in order.split(task.batch):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = model(images.index_select(0, rows), labels.index_select(0, rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            gate.step()


def bare_compiled(task: Task) -> None:
    """The same loop, with networks and loss compiled together."""
    bare(task, task.compilation)


def bare_beside_lightning(task: Task) -> None:
    """The bare loop in a process that has imported Lightning: what memory the import alone costs."""
    import lightning.pytorch  # noqa: F401

    bare(task)


def script_0(task: Task, num_workers: int = 0) -> None:
    """The script in circulation: torchvision's data set, a DataLoader, Adam, `loss.item()` at each step."""
    device = torch.device("cuda" if task.accelerator == "gpu" else "cpu")
    dataset = datasets.FashionMNIST(task.folder, transform=transforms.ToTensor())
    dataset.data, dataset.targets = dataset.data[: task.images], dataset.targets[: task.images]
    loader = DataLoader(dataset, batch_size=task.batch, shuffle=True, num_workers=num_workers)
    model = Model(task, (1, *dataset.data.shape[1:])).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    gate = Gate()
    for _ in range(task.epochs_or_endless):
        total = 0.0
        for x, y in loader:
            loss = model(x.to(device), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            gate.step()


def script_4(task: Task) -> None:
    """The script in circulation with 4 workers."""
    script_0(task, num_workers=4)


def lightning(task: Task) -> None:
    """Lightning as its tutorials use it: a DataLoader over a TensorDataset, `self.log` at every step, its defaults."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    from benchmarks.hooks import Turns

    class Module(pl.LightningModule):
        def __init__(self, model: Model) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = self.model(*batch)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    images, labels = _tensors(task)
    loader = DataLoader(TensorDataset(images, labels), batch_size=task.batch, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=task.epochs_or_endless,
        accelerator=task.accelerator,
        devices=1,
        precision=task.precision,  # type: ignore[arg-type]
        logger=TensorBoardLogger("."),
        callbacks=[Turns()],
    )
    trainer.fit(Module(Model(task, _shape(images))), loader)


def pythae(task: Task) -> None:
    """pythae's VAE, whose default networks are our MLPs, in its own trainer with its own defaults."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Turns(TrainingCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self._gate = Gate()

        def on_train_step_end(self, training_config: object, **_: object) -> None:
            self._gate.step()

    images, labels = _tensors(task)
    config = BaseTrainerConfig(
        output_dir=".",
        per_device_train_batch_size=task.batch,
        learning_rate=1e-3,
        num_epochs=task.epochs_or_endless,
        no_cuda=task.accelerator == "cpu",
    )
    model = VAE(VAEConfig(input_dim=_shape(images), latent_dim=LATENT, reconstruction_loss="bce"))
    BaseTrainer(model, BaseDataset(images, labels), training_config=config, callbacks=[Turns()]).train()


def _tensors(task: Task) -> tuple[Tensor, Tensor]:
    """The training images, float in [0, 1], (N, 1, H, W), and their labels."""
    split = datasets.FashionMNIST(task.folder)
    pixels, labels = split.data[: task.images], split.targets[: task.images]
    return pixels.unsqueeze(1).float().div_(255), labels


def _shape(images: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


# ---------------------------------------------------------------------- L_K beside its parts


def products(task: Task, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one L_K forward and backward, and of its parts alone: two matrix products and one decoding.

    The parts are the decoding of K codes, x·logitsᵀ, the product that gives the gradient of the logits, and the
    decoding's backward pass; in turns, round by round.
    """
    from encdec.paradigms import EncoderlessVAE
    from encdec.types import Batch

    torch.set_flush_denormal(True)
    images, labels = _tensors(task)
    x, y = images[: task.batch], labels[: task.batch]
    model = EncoderlessVAE(image_shape=_shape(images), num_prior_samples=task.codes)
    batch, weights = Batch(x, y, torch.arange(len(x))), torch.rand(len(x), task.codes)

    def whole() -> None:
        model.zero_grad()
        model.losses(batch)["loss"].mean().backward()

    def parts() -> None:
        model.zero_grad()
        logits = model.decoder(torch.randn(task.codes, LATENT)).flatten(1)
        with torch.no_grad():
            x.flatten(1) @ logits.T
            gradient = weights.T @ x.flatten(1)
        logits.backward(gradient)

    taken: dict[str, list[float]] = {"loss": [], "parts": []}
    functions = {"loss": whole, "parts": parts}
    for _ in range(3):
        whole()
    since = time.perf_counter()
    whole()
    repeats = max(round(seconds / (time.perf_counter() - since)), 1)
    for order in orders(list(functions), rounds):
        for name in order:
            since = time.perf_counter()
            for _ in range(repeats):
                functions[name]()
            taken[name].append((time.perf_counter() - since) / repeats)
    return taken


# ---------------------------------------------------------------------- folders of pictures

_SIZE, _WORKERS = 64, 2


def pictures_encdec(task: Task) -> None:
    """Batches of a folder that is read by workers, because it is said to be larger than memory."""
    from encdec.data import ImageFolder

    folder = ImageFolder(
        task.folder,
        size=_SIZE,
        max_memory_gb=0,
        num_workers=_WORKERS,
        batch_size=task.batch,
        val_fraction=task.val_fraction,
    )
    loader, gate = folder.train_dataloader(), Gate()
    while True:
        for _ in loader:
            gate.step()


def pictures_torchvision(task: Task) -> None:
    """The same batches of the same folder by torchvision and a DataLoader, with the default (bilinear) filter."""
    steps = [transforms.Resize(_SIZE), transforms.CenterCrop(_SIZE), transforms.ToTensor()]
    folder = datasets.ImageFolder(f"{task.folder}/train", transform=transforms.Compose(steps))
    subset = Subset(folder, range(task.images))
    loader, gate = DataLoader(subset, batch_size=task.batch, shuffle=True, num_workers=_WORKERS), Gate()
    while True:
        for _ in loader:
            gate.step()


# ---------------------------------------------------------------------- data


def prepare(folder: str, name: str, data_dir: str) -> dict[str, Any]:
    """Write a data set as the IDX files that torchvision's FashionMNIST reads.

    Args:
        folder: where to.
        name: FashionMNIST, Digits, or nothing: Fashion-MNIST if it is there, else the digits.
        data_dir: where Fashion-MNIST may be.
    """
    from encdec.data import Digits, FashionMNIST, InMemoryImages
    from encdec.data.fashion_mnist import DEBIAN_DIR
    from encdec.data.idx import is_complete

    if not name:
        there = DEBIAN_DIR.exists() or is_complete(Path(data_dir, "FashionMNIST", "raw"))
        name = "FashionMNIST" if there else "Digits"
    train, test = (FashionMNIST(data_dir) if name == "FashionMNIST" else Digits()).load()
    for part, images in (("train", train), ("t10k", test)):
        assert isinstance(images, InMemoryImages)
        rows = slice(None) if images.rows is None else images.rows
        write_idx(folder, part, images.pixels[rows, 0], images.labels)
    return {"data": name, "total": len(train.labels)}


def synthetic(folder: str, total: int, size: int) -> None:
    """Write random pixels as a data set with `total` training images of size × size."""
    for part, count in (("train", total), ("t10k", 100)):
        pixels = torch.randint(256, (count, size, size), dtype=torch.uint8)
        write_idx(folder, part, pixels, torch.arange(count) % CLASSES)


def pictures(folder: str, total: int, ending: str, width: int, height: int) -> None:
    """Write files of pictures, smooth as photographs are, in two classes: `total` to train, a few to test."""
    for part, count in (("train", total), ("test", 4)):
        for label in ("a", "b"):
            Path(folder, part, label).mkdir(parents=True)
        for number in range(count):
            pixels = F.interpolate(torch.rand(1, 3, 10, 12), size=(height, width), mode="bicubic").clamp(0, 1)
            save_image(pixels, Path(folder, part, "ab"[number % 2], f"{number}.{ending}"))


def write_idx(folder: str, part: str, pixels: Tensor, labels: Tensor) -> None:
    """Write the images, uint8, (N, H, W), and labels of a split."""
    raw = Path(folder, "FashionMNIST", "raw")
    raw.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images", pixels), ("labels", labels.to(torch.uint8))):
        header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        path = raw / f"{part}-{kind}-idx{values.ndim}-ubyte"
        path.write_bytes(header + values.contiguous().numpy().tobytes())


if __name__ == "__main__":
    way, argument = sys.argv[1], json.loads(sys.argv[2])
    if way == "prepare":
        print(json.dumps(prepare(*argument)))
    elif way in ("synthetic", "pictures"):
        globals()[way](*argument)
    elif way == "products":
        print(json.dumps(products(Task(**argument[0]), *argument[1:])))
    else:
        globals()[way](Task(**argument))
