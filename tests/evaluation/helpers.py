"""What the tests of the evaluation share: small contexts, images and models, and processes that take turns."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encdec.data import Images, InMemoryImages
from encdec.evaluation.context import Context
from encdec.evaluation.features import FeatureSpace
from encdec.evaluation.inference import Fitted, infer
from encdec.evaluation.latent_space import evaluate_latent
from encdec.evaluation.processes import Processes
from encdec.evaluation.proposals import Proposal, latent_space
from encdec.evaluation.results import Metrics
from encdec.evaluation.samples import evaluate_samples
from encdec.evaluation.view import View
from encdec.networks import Decoder
from encdec.objectives import losses
from encdec.paradigms import LatentVariable, Paradigm
from encdec.types import Batch, Losses, Shape

CPU = torch.device("cpu")
SHAPE: Shape = (1, 3, 4)
ALONE = Processes()
PIXELS = FeatureSpace("pixels", 64, "the pixels", None, lambda x: x.flatten(1), 50)


def context_of(view: View, train: Images, test: Images | None = None, **changes: Any) -> Context:
    """An evaluation with sizes for tests, where `changes` does not say otherwise."""
    sizes = {"num_images": 10_000, "num_samples": 80, "posterior_samples": 16, "prior_samples": 500}
    settings = sizes | {"posterior_steps": 100} | changes
    return Context(view, train, train if test is None else test, **settings)


def random_images(count: int, classes: int = 3, shape: Shape = SHAPE, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return InMemoryImages(pixels, torch.arange(count) % classes, tuple("abc"[:classes]))


def some(count: int, seed: int = 0, classes: int = 2) -> InMemoryImages:
    """Random images of 8×8 pixels, those of class y brighter the larger y is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 128, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    pixels += (labels * 127 // max(1, classes - 1)).to(torch.uint8).view(-1, 1, 1, 1)
    return InMemoryImages(pixels, labels, tuple(map(str, range(classes))))


def floats(images: Images) -> Tensor:
    """All pixels in [0, 1], float32, (N, C, H, W)."""
    return next(images.stream([torch.arange(len(images.labels))])).float().div(255)


def pixels_of(images: Images) -> Tensor:
    """All pixels in [0, 1], float64, (N, D)."""
    (pixels,) = images.stream([torch.arange(len(images.labels))])
    return pixels.flatten(1).double() / 255


class LinearLogits(Decoder):
    """logits = W z."""

    def __init__(self, in_features: int, image_shape: Shape) -> None:
        super().__init__(in_features, image_shape)
        self.weight = nn.Linear(in_features, math.prod(image_shape), bias=False).weight

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = (z @ self.weight.T).unflatten(1, self.image_shape)
        return logits


class Linear(LatentVariable):
    """logits = W z + V onehot(y), the squared error, and a table of latents for its training images."""

    decoder: LinearLogits

    def __init__(self, latent_dim: int = 2, own_codes: bool = False, **kwargs: Any) -> None:
        super().__init__(LinearLogits, latent_dim, image_shape=SHAPE, num_classes=3, **kwargs)
        self.lacks = frozenset() if own_codes else frozenset({"codes"})
        self.of_label = nn.Parameter(torch.zeros(3, math.prod(SHAPE)))
        self.table = nn.Parameter(torch.randn(self.num_train, latent_dim))

    def losses(self, batch: Batch) -> Losses:
        logits = self.decode(self.table[batch.index], batch.y)
        return Losses(losses.squared_error(losses.pixel_means(logits), batch.x), logits=logits)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        of_label: Tensor = self.of_label[y].unflatten(1, self.image_shape)
        return self.decoder(z) + of_label

    def codes(self, batch: Batch) -> Tensor:
        return self.table[batch.index]


@torch.no_grad()
def evaluate_latents(
    paradigm: Paradigm, train: Images, test: Images, fitted: Tensor | None = None, **changes: Any
) -> Metrics:
    """The metrics of the latent space; `fitted` are the means of posteriors, of the first images in their order."""
    done = list[float]()
    context = context_of(View(paradigm.eval()), train, test, advance=done.append, **changes)
    inferred = infer(replace(context, advance=lambda done: None), fit=False)
    if fitted is not None:
        q = Proposal(fitted, torch.zeros_like(fitted))
        inferred = replace(inferred, fitted=Fitted(q, latent_space(context.view)))
    evaluate_latent(context, inferred)
    assert done == sorted(done)
    assert done[-1] == 1
    return context.metrics


class Gallery(View):
    """A "decoder" whose i-th sample is the i-th of some images, again from the first after the last."""

    def __init__(self, gallery: Tensor) -> None:
        self.gallery, self.device, self.reads_labels = gallery, CPU, False

    def noise(self, draw: int, index: Tensor, dim: int | None = None) -> Tensor:
        return index.double().unsqueeze(1)

    def images(self, e: Tensor, y: Tensor) -> Tensor:
        return self.gallery[e[:, 0].long() % len(self.gallery)]


def evaluate_drawn(
    view: View, train: Images, test: Images, count: int, space: FeatureSpace = PIXELS,
    processes: Processes = ALONE,
) -> Metrics:  # fmt: skip
    """The metrics of `count` samples."""
    progress = [0.0]
    context = context_of(view, train, test, num_samples=count, processes=processes, advance=progress.append)
    evaluate_samples(context, space)
    assert progress == sorted(progress)
    assert all(np.isfinite(metric.value) for metric in context.metrics.values.values())
    return context.metrics


def in_turns(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` returns to each of `count` processes: threads of which one runs at a time, as they share an RNG."""
    turn, barrier, gathered = threading.Lock(), threading.Barrier(count, timeout=60), [torch.empty(0)] * count

    def process(rank: int) -> Any:
        def all_gather(tensor: Tensor) -> list[Tensor]:
            gathered[rank] = tensor
            turn.release()
            barrier.wait()
            everything = list(gathered)
            barrier.wait()
            turn.acquire()
            assert len({part.shape for part in everything}) == 1
            return everything

        with turn:
            return work(Processes(rank, count, all_gather))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(process, range(count)))
