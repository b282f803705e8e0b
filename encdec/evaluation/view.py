"""One view of every paradigm, as all evaluations see it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from encdec.objectives.noise import normal
from encdec.objectives.priors import FittedPrior
from encdec.paradigms import LatentVariable, Paradigm, encodes, has_codes, infers
from encdec.types import Batch, Conditioning

DRAWS = {
    "labels": 1001,
    "samples": 1002,
    "prior_codes": 1003,
    "start_codes": 1004,
    "interpolations": 1005,
    "smoothness": 1006,
    "pairings": 1007,
    "moments": 1008,
    "fit": 10_000,
    "posterior": 20_000,
}
"""Which draw of `encdec.objectives.noise.normal` each evaluation uses; the last two count up from there."""


class View:
    """A paradigm as every evaluation sees it: noise e ~ N(0, I) → latent z → p(x|z, y), or at once → image.

    All of it runs without gradients unless a caller enables them, in evaluation mode, in the weights' precision.

    """

    def __init__(self, paradigm: Paradigm) -> None:
        self.paradigm = paradigm
        self.device = paradigm.device
        self.reads_labels = paradigm.reads_labels

    @property
    def is_latent(self) -> bool:
        """Whether images come from latents by a decoder."""
        return isinstance(self.paradigm, LatentVariable)

    @property
    def has_encoder(self) -> bool:
        """Whether a trained network of its own reads an image and gives its latent; a table or a search is none.

        An encoder that sees zeros in place of the image does not count.
        """
        encoder = getattr(self.paradigm, "encoder", None)
        return isinstance(encoder, nn.Module) and self.paradigm.conditioning is Conditioning.IMAGE

    @property
    def latent(self) -> LatentVariable:
        """The paradigm, whose evaluation needs latents."""
        assert isinstance(self.paradigm, LatentVariable), "ask for latents of latent-variable models only"
        return self.paradigm

    @property
    def dim(self) -> int:
        """How many standard normal numbers make an image."""
        return self.paradigm.noise_dim

    @contextmanager
    def sampling_from(self, ex_post: FittedPrior | None) -> Iterator[None]:
        """Draw latents from a density in place of the model's own, for a while; None for its prior."""
        own, self.latent.ex_post = self.latent.ex_post, ex_post
        try:
            yield
        finally:
            self.latent.ex_post = own

    @property
    def smooth_dim(self) -> int:
        """How many of the numbers of noise an image changes smoothly with; the others choose: see `Prior`."""
        return min(self.dim, self.latent.latent_dim) if self.is_latent else self.dim

    def noise(self, draw: int, index: Tensor, dim: int | None = None) -> Tensor:
        """Standard normal noise, (B, dim), a function of the run's seed, `draw` and `index` (B,) alone."""
        noise = normal(self.paradigm.seed, draw, index.to(self.device), dim or self.dim)
        return noise.to(self.paradigm.weights_dtype)

    def prior(self, e: Tensor) -> Tensor:
        """Latents from noise: (B, dim) -> (B, latent_dim)."""
        return self.latent.sampled.sample(e.to(self.paradigm.weights_dtype))

    def encode(self, batch: Batch) -> Tensor | None:
        """The latent codes of images, (B, latent_dim), the same at every call; None where images have none."""
        self.paradigm.randomness.restart()
        return self.paradigm.encode(self._as_weights(batch)) if encodes(self.paradigm) else None

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Mean and log-variance of q(z|x), both (B, latent_dim); None without a q."""
        self.paradigm.randomness.restart()
        if not infers(self.paradigm):
            return None
        q = self.paradigm.posterior(self._as_weights(batch))
        return q.mean, q.log_var

    def codes(self, batch: Batch) -> Tensor | None:
        """The latents that training images were trained with, (B, latent_dim); None where they were resampled."""
        self.paradigm.randomness.restart()
        return self.paradigm.codes(self._as_weights(batch)) if has_codes(self.paradigm) else self.encode(batch)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits: (B, latent_dim), (B,) -> (B, C, H, W)."""
        return self.latent.decode(z.to(self.paradigm.weights_dtype), y)

    def images(self, e: Tensor, y: Tensor) -> Tensor:
        """Samples from noise: (B, dim), (B,) -> (B, C, H, W), pixel means in [0, 1]."""
        return self.paradigm.generate(e.to(self.paradigm.weights_dtype), y)

    def _as_weights(self, batch: Batch) -> Batch:
        return batch._replace(x=batch.x.to(self.paradigm.weights_dtype))
