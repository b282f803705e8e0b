"""One view of every paradigm, as all evaluations see it."""

import torch
from torch import Tensor

from encdec.objectives.losses import pixel_means
from encdec.objectives.noise import normal
from encdec.paradigms import Paradigm
from encdec.types import Batch

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
