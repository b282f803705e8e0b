"""What every part of an evaluation works with: the model, the images, how many of them, and where metrics go."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from encdec.data import Images
from encdec.evaluation.processes import Processes
from encdec.evaluation.results import Metrics
from encdec.evaluation.view import View
from encdec.types import Batch, scaled

BLOCK = 1 << 23
"""Numbers that one temporary of an evaluation may hold: blocks of images are cut so that they stay below it."""

_SEED = 0  # of the random order of images: the same in every run

Advance = Callable[[float], None]
"""Takes how much of a part of an evaluation is done, from 0 to 1."""


def _silent(done: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Context:
    """One evaluation of one model.

    Attributes:
        view: the paradigm, in evaluation mode.
        train: the images it was trained on, in the order that their indices refer to.
        test: held-out images.
        num_images: test images, in a random order, to which posteriors are fitted, at most.
        num_samples: samples that are drawn.
        posterior_samples: K of likelihoods by a posterior, or by fitted Gaussians.
        prior_samples: K of likelihoods by the prior.
        posterior_steps: steps of Adam in the search for an image's posterior.
        metrics: where the results are added.
        processes: which share the work.
        advance: takes the progress of the part that runs.
    """

    view: View
    train: Images
    test: Images
    num_images: int = 1_000
    num_samples: int = 10_000
    posterior_samples: int = 64
    prior_samples: int = 10_000
    posterior_steps: int = 200
    metrics: Metrics = field(default_factory=Metrics)
    processes: Processes = field(default_factory=Processes)
    advance: Advance = _silent

    @property
    def numel(self) -> int:
        """Numbers of one image."""
        return math.prod(self.test.image_shape)

    @property
    def chosen(self) -> Tensor:
        """Positions of the test images that are measured where that is expensive, int64, (n,), in all runs alike."""
        return random_order(len(self.test.labels))[: self.num_images]

    def images(self, split: str) -> Images:
        """The images of `train` or `test`."""
        return {"train": self.train, "test": self.test}[split]

    def batches(self, split: str, positions: Tensor, size: int | None = None) -> Iterator[Batch]:
        """The images of a split at `positions` (M,), `size` at a time, in [0, 1] on the model's device."""
        images, device = self.images(split), self.view.device
        parts = positions.split(size or block_size(self.numel))
        for part, pixels in zip(parts, images.stream(parts), strict=True):
            x = scaled(pixels.to(device))
            yield Batch(x, images.labels[part].to(device), part.to(device), split)

    def span(self, start: float, end: float) -> "Context":
        """The same, whose progress from 0 to 1 is this one's from `start` to `end`."""
        return replace(self, advance=lambda done: self.advance(start + (end - start) * done))


def block_size(numel: int, largest: int = 2048) -> int:
    """How many images (or latents) of `numel` numbers are handled at a time."""
    return max(1, min(largest, BLOCK // numel))


def random_order(count: int) -> Tensor:
    """A random order of `count` images, int64, the same in every run: a split may be sorted, so its first ones are no
    sample of it.
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
