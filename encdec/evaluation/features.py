"""Feature spaces in which samples are compared with images: each metric is named after the space it is taken in."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3

from encdec.data import Images
from encdec.evaluation.context import Context, block_size
from encdec.files import written_whole
from encdec.objectives.pca import principal_components
from encdec.types import Shape, UserError

SpaceKind = Literal["auto", "classifier", "inception", "pca"]

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The weights of the published FID, under the name that torch-fidelity gives them in torch.hub's folder."""

_RECIPE = 1  # of the classifier; to be counted up when its network or training changes, so that no cache is mistaken
_SEED = 0
_BATCH, _EPOCHS, _MIN_STEPS, _MAX_STEPS, _RATE = 128, 3, 400, 1500, 6e-3
_FEATURES = 128
_COMPONENTS = 64  # of the pixels


@final
@dataclass(frozen=True)
class FeatureSpace:
    """A fixed function from images to vectors, whose distances mean more than those of pixels.

    Attributes:
        name: `classifier`, `inception` or `pca`; part of the names of its metrics.
        dim: size of a vector.
        description: one sentence on where it comes from, for the table.
        accuracy: share of the test split that its classifier gets right; None where it has no classifier.
        network: (B, C, H, W) in [0, 1] -> (B, dim).
        block: images that `network` is given at a time, which bounds the memory of its layers.
        key: names the network's weights where they are not a function of the data alone.
    """

    name: str
    dim: int
    description: str
    accuracy: float | None
    network: Callable[[Tensor], Tensor]
    block: int
    key: str = ""

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Vectors of images in [0, 1]: (B, C, H, W) -> (B, dim), float32."""
        return torch.cat([self.network(part) for part in x.float().split(self.block)]).float()


def find_space(context: Context, kind: SpaceKind, cache_dir: Path, fingerprint: str) -> FeatureSpace:
    """The feature space of a kind, the same on all processes.

    Args:
        context: the evaluation.
        kind: `inception` is the space of the published FID, if its weights are at hand; `classifier` a small CNN
            trained on the training split; `pca` the principal components of its pixels; `auto` the first of these
            that is possible.
        cache_dir: where a trained classifier is kept.
        fingerprint: of the data (hexadecimal): a classifier is only used for the data it was trained on.

    Raises:
        UserError: what was asked for is not possible; the sentence says what is missing.
    """
    train = context.train
    labelled = len(train.labels.unique()) > 1
    problem = _inception_problem(train.image_shape)
    if kind == "auto":
        kind = "inception" if problem is None else "classifier" if labelled else "pca"
    if kind == "inception":
        if problem is not None:
            raise UserError(problem)
        return _inception(context.view.device)
    if kind == "pca":
        return _pca(context)
    if not labelled:
        raise UserError("A classifier's features need training images of two classes or more: use pca.", 2)
    return _classifier(context, cache_dir / f"classifier-{fingerprint}-v{_RECIPE}.pt")


# ---------------------------------------------------------------------- Inception


def _inception_file() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)


def _inception_problem(image_shape: Shape) -> str | None:
    """Why Inception's features can't be had; None if they can."""
    if importlib.util.find_spec("torch_fidelity") is None:
        return "Inception's features need the package torch-fidelity: run `pip install torch-fidelity`."
    if not _inception_file().is_file():
        return (
            f"Inception's features need the weights {_inception_file()}, which are not there: download them from "
            "torch-fidelity's releases on GitHub, or use the classifier's features."
        )
    if image_shape[0] not in (1, 3):
        return f"Inception's features are defined for grey and color images, not for {image_shape[0]} channels."
    return None


def _inception(device: torch.device) -> FeatureSpace:
    """The pooled layer of Inception-v3 with the weights, and the resizing, of the published FID.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500.
    """
    try:
        # antialias=False is how the original implementation resized images
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(_inception_file()), antialias=False)
    except Exception as error:  # a damaged pickle raises many kinds
        raise UserError(
            f"{_inception_file()} can't be read as the weights of Inception ({type(error).__name__}): delete it and "
            "download it anew."
        ) from error
    network.to(device)

    def features(x: Tensor) -> Tensor:
        pixels = x.mul(255).round().to(torch.uint8)
        values = network(pixels.expand(-1, 3, -1, -1))
        assert isinstance(values, Tensor)
        return values

    description = "pooled layer of Inception-v3 trained on ImageNet, as for the published FID."
    return FeatureSpace("inception", 2048, description, None, features, block=32)


# ---------------------------------------------------------------------- a small classifier


class _Classifier(nn.Module):
    """Two convolutions and two linear layers; the penultimate one gives the features."""

    def __init__(self, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, *size = image_shape
        height, width = (-(-side // 4) for side in size)  # after two strides of 2
        pool = (-(-height // 7), -(-width // 7))
        rows, columns = -(-height // pool[0]), -(-width // pool[1])
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(pool, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(32 * rows * columns, _FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(_FEATURES, num_classes)

    def penultimate(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(2 * x - 1)  # centred inputs are learnt faster
        return features

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.penultimate(x))
        return logits


def _classifier(context: Context, path: Path) -> FeatureSpace:
    train, device = context.train, context.view.device
    network = _new_classifier(train)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # the first process trains, the others load
            accuracy = _load(network, path)
            if accuracy is None:
                network.to(device)
                _fit(network, context)
                accuracy = _accuracy(network, context)
                _save(network, accuracy, path)
    except OSError as error:
        raise UserError(f"The classifier's features can't be kept in {path.parent} ({error}).") from error
    network.to(device).requires_grad_(False)
    # processes that do not share a file system have trained one each: all use the first one's
    own = torch.cat([nn.utils.parameters_to_vector(network.parameters()), torch.tensor([accuracy], device=device)])
    first = context.processes.all_gather(own)[0]
    nn.utils.vector_to_parameters(first[:-1], network.parameters())
    accuracy = first[-1].item()
    description = (
        "penultimate layer of a small CNN trained on the training split, "
        f"{100 * accuracy:.1f} % accurate on the test split."
    )
    _, height, width = train.image_shape
    block = block_size(4 * height * width)  # the first layer: 16 channels at half the height and width
    key = hashlib.sha256(first.cpu().numpy().tobytes()).hexdigest()
    return FeatureSpace("classifier", _FEATURES, description, accuracy, network.penultimate, block, key)


def _new_classifier(train: Images) -> _Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        return _Classifier(train.image_shape, len(train.classes))


def _fit(network: _Classifier, context: Context) -> None:
    """Three epochs, but neither so few steps that a small data set is not learnt nor more than a minute's."""
    n = len(context.train.labels)
    steps = min(max(_EPOCHS * n // _BATCH, _MIN_STEPS), _MAX_STEPS)
    generator = torch.Generator().manual_seed(_SEED)
    epochs = -(-steps * _BATCH // n)
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(epochs)])[: steps * _BATCH]
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
    for step, batch in enumerate(context.batches("train", order, _BATCH)):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        with torch.enable_grad():
            loss = F.cross_entropy(network(batch.x), batch.y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        context.advance((step + 1) / steps)


@torch.no_grad()
def _accuracy(network: _Classifier, context: Context) -> float:
    n, correct = len(context.test.labels), 0
    for batch in context.batches("test", torch.arange(n), block_size(context.numel, 512)):
        correct += int((network(batch.x).argmax(1) == batch.y).sum())
    return correct / n


def _save(network: _Classifier, accuracy: float, path: Path) -> None:
    weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    with written_whole(path) as file:
        torch.save({"weights": weights, "accuracy": accuracy}, file)


def _load(network: _Classifier, path: Path) -> float | None:
    """Load the cached weights; None if there are none or they are damaged."""
    if not path.is_file():
        return None
    try:
        cached = torch.load(path, map_location="cpu", weights_only=True)
        accuracy = float(cached["accuracy"])
        network.load_state_dict(cached["weights"])
    except Exception:  # a damaged file raises many kinds; the classifier is then trained anew
        return None
    return accuracy


# ---------------------------------------------------------------------- principal components


def _pca(context: Context) -> FeatureSpace:
    processes, device = context.processes, context.view.device

    def add_up(tensor: Tensor) -> Tensor:
        return torch.stack(processes.all_gather(tensor.to(device))).sum(0).cpu()

    found = principal_components(context.train, _COMPONENTS, processes.rank, processes.count, add_up)
    mean, axes = found.mean.float().to(device), found.axes.float().contiguous().to(device)
    axes = processes.all_gather(axes)[0]  # the sign of an axis is the solver's choice: all use the first one's
    dim = axes.shape[1]
    description = f"first {dim} principal components of the training images' pixels, without labels."
    block = block_size(context.numel)
    return FeatureSpace("pca", dim, description, None, lambda x: (x.flatten(1) - mean) @ axes, block)
