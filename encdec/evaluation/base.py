"""What all evaluations share: one view of every paradigm, figures with units, and the work of several processes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from encdec.data import Images
from encdec.objectives.losses import pixel_means
from encdec.objectives.noise import normal
from encdec.paradigms import Paradigm
from encdec.types import Batch, scaled

BLOCK = 1 << 23
"""Numbers that one temporary of an evaluation may hold: blocks of images are cut so that they stay below it."""


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation, with all that is needed to read it.

    Attributes:
        value: the number; always finite.
        unit: its unit and how it was reduced.
        standard_error: of a mean over images (the spread over images divided by √N), where it is one.
        reference: what to compare it with: a floor, chance, or what real images score.
        reference_name: what that is.
    """

    value: float
    unit: str
    standard_error: float | None = None
    reference: float | None = None
    reference_name: str = ""


@dataclass
class Figures:
    """The figures of an evaluation by name, and a sentence for each that is not defined for this run."""

    values: dict[str, Figure] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        value: float | Tensor,
        unit: str,
        *,
        reference: float | None = None,
        reference_name: str = "",
        undefined: str = "it is not finite",
    ) -> None:
        """Add a figure; a tensor (N,) of one value for each image becomes its mean with its standard error.

        A value that is not finite never becomes a figure: it is listed with the sentence `undefined`.
        """
        standard_error = None
        if isinstance(value, Tensor) and value.ndim == 1:
            values = value.double()
            if len(values) > 1:
                standard_error = float(values.std() / math.sqrt(len(values)))
            value = values.mean()
        if not math.isfinite(value):
            self.undefined[name] = undefined
            return
        self.values[name] = Figure(float(value), unit, standard_error, reference, reference_name)


@dataclass(frozen=True)
class Processes:
    """How work on images is shared: process `rank` of `count` takes every `count`-th image.

    Attributes:
        rank: which process this is.
        count: how many there are.
        all_gather: the tensors of all processes, of equal shape, in the order of their ranks.
    """

    rank: int = 0
    count: int = 1
    all_gather: Callable[[Tensor], list[Tensor]] = lambda tensor: [tensor]

    def share(self, total: int) -> Tensor:
        """The positions that this process works on, int64."""
        return torch.arange(total)[self.rank :: self.count]

    def merge(self, part: Tensor, total: int) -> Tensor:
        """The rows of all processes' shares in the order of the positions, (total, …), on every process."""
        longest = -(-total // self.count)
        padded = torch.cat([part, part.new_zeros(longest - len(part), *part.shape[1:])]).contiguous()
        return torch.stack(self.all_gather(padded), dim=1).flatten(0, 1)[:total]


class View:
    """A paradigm as every evaluation sees it: noise e ~ N(0, I) → code z = prior(e) → p(x|z, y).

    All of it runs without gradients unless a caller enables them, in evaluation mode, in the weights' precision.
    """

    def __init__(self, paradigm: Paradigm) -> None:
        self.paradigm = paradigm
        self.device, self.dim = paradigm.device, paradigm.latent_dim
        self.reads_labels = self._reads_labels()

    def noise(self, draw: int, index: Tensor) -> Tensor:
        """Standard normal noise, (B, dim), a function of the run's seed, `draw` and `index` (B,) alone."""
        return normal(self.paradigm.seed, draw, index.to(self.device), self.dim).to(self.paradigm.code_dtype)

    def prior(self, e: Tensor) -> Tensor:
        """Codes from noise: (B, dim) -> (B, dim)."""
        return self.paradigm.prior(e.to(self.paradigm.code_dtype))

    def encode(self, batch: Batch) -> Tensor | None:
        """The codes of images, (B, dim), the same at every call; None where images have no code."""
        self.paradigm.restart_noise()
        return self.paradigm.encode(self._as_weights(batch))

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Mean and log-variance of q(z|x), both (B, dim); None without a q."""
        self.paradigm.restart_noise()
        return self.paradigm.posterior(self._as_weights(batch))

    def paired_codes(self, batch: Batch) -> Tensor | None:
        """The codes that training images were trained with, (B, dim); None where they were drawn afresh."""
        self.paradigm.restart_noise()
        return self.paradigm.paired_codes(self._as_weights(batch))

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits: (B, dim), (B,) -> (B, C, H, W)."""
        return self.paradigm.decode(z.to(self.paradigm.code_dtype), y)

    def images(self, e: Tensor, y: Tensor) -> Tensor:
        """Samples from noise: (B, dim), (B,) -> (B, C, H, W), pixel means in [0, 1]."""
        return pixel_means(self.decode(self.prior(e), y))

    def _as_weights(self, batch: Batch) -> Batch:
        return batch._replace(x=batch.x.to(self.paradigm.code_dtype))

    @torch.no_grad()
    def _reads_labels(self) -> bool:
        """Whether the label changes what is decoded; where not, codes are decoded once for all labels."""
        if self.paradigm.num_classes == 1:
            return False
        z = self.prior(self.noise(DRAWS["labels"], torch.arange(4)))
        y = torch.zeros(4, dtype=torch.int64, device=self.device)
        return not torch.equal(self.decode(z, y), self.decode(z, y + 1))


Advance = Callable[[float], None]
"""Told how much of an evaluation is done, from 0 to 1."""

DRAWS = {
    "labels": 1001,
    "samples": 1002,
    "prior_codes": 1003,
    "start_codes": 1004,
    "interpolations": 1005,
    "smoothness": 1006,
    "pairings": 1007,
    "fit": 10_000,
    "posterior": 20_000,
}
"""Which draw of `encdec.objectives.noise.normal` each evaluation uses; the last two count up from there."""


def block_size(numel: int, largest: int = 2048) -> int:
    """How many images (or codes) of `numel` numbers are handled at a time."""
    return max(1, min(largest, BLOCK // numel))


def batches(images: Images, positions: Tensor, device: torch.device, size: int) -> Iterator[Batch]:
    """The images at `positions` (M,), `size` at a time, as float in [0, 1] on a device."""
    parts = positions.split(size)
    for part, pixels in zip(parts, images.stream(parts), strict=True):
        x = scaled(pixels.to(device))
        yield Batch(x, images.labels[part].to(device), part.to(device))
