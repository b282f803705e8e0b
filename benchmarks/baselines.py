"""The baselines that encdec is compared with, each as its users write it.

`python -m benchmarks.baselines NAME ARGUMENT` runs one of them in a process of its own.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import datasets, transforms

from benchmarks.tasks import Task
from benchmarks.turns import Gate
from encdec.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

LATENT = 32
CLASSES = 10


class Model(nn.Module):
    """A paradigm as a hand-written model: the networks and the loss of encdec's, nothing else."""

    def __init__(self, task: Task, shape: tuple[int, int, int]) -> None:
        super().__init__()
        make_encoder, make_decoder = (ConvEncoder, ConvDecoder) if task.networks == "conv" else (MLPEncoder, MLPDecoder)
        self.paradigm, self.samples = task.paradigm, task.samples
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
            if self.samples == 1:
                return self._bce(self.decoder(torch.randn(len(x), LATENT, device=x.device)), x)
            logits = self.decoder(torch.randn(self.samples, LATENT, device=x.device)).flatten(1).float()
            log_p = x.flatten(1) @ logits.T - F.softplus(logits).sum(1)
            return math.log(self.samples) - log_p.logsumexp(1).mean()
        label = F.one_hot(y, CLASSES).float()
        noise = torch.randn(len(x), LATENT, device=x.device)
        return self._squared_error(self.decoder(torch.cat([label, noise], dim=1)), x)

    def _bce(self, logits: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits.float(), x, reduction="sum") / len(x)

    def _squared_error(self, logits: Tensor, x: Tensor) -> Tensor:
        return F.mse_loss(logits.float().sigmoid(), x, reduction="sum") / len(x)


def bare(task: Task) -> None:
    """The strongest plain loop: one float tensor in memory, fused Adam, nothing measured."""
    torch.set_flush_denormal(True)  # as encdec does
    device = torch.device("cuda" if task.accelerator == "gpu" else "cpu")
    images, labels = (tensor.to(device) for tensor in _tensors(task))
    model = Model(task, _shape(images)).to(device)
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


def bare_with_lightning(task: Task) -> None:
    """The bare loop in a process that has imported Lightning: what memory the import alone costs."""
    import lightning.pytorch  # noqa: F401

    bare(task)


def script(task: Task) -> None:
    """The script in circulation: torchvision's data set, a DataLoader with 4 workers, `loss.item()` at each step."""
    device = torch.device("cuda" if task.accelerator == "gpu" else "cpu")
    dataset = datasets.FashionMNIST(task.folder, transform=transforms.ToTensor())
    dataset.data, dataset.targets = dataset.data[: task.images], dataset.targets[: task.images]
    loader = DataLoader(dataset, batch_size=task.batch, shuffle=True, num_workers=4)
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


def lightning(task: Task) -> None:
    """Lightning as its tutorials use it: a DataLoader over a TensorDataset, `self.log` at every step, its defaults."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    from benchmarks.callbacks import Turns

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


if __name__ == "__main__":
    name, argument = sys.argv[1], json.loads(sys.argv[2])
    globals()[name](Task(**argument))
