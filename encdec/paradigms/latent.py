"""Latent-variable models: a decoder, a prior and an observation model."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.losses import pixel_means
from encdec.objectives.observations import Observation
from encdec.objectives.priors import DiagonalGaussian, FittedPrior, Prior, StandardNormal
from encdec.paradigms.base import Paradigm
from encdec.types import Batch, Losses, require_positive

ExPostCallable = Callable[[int], FittedPrior]
"""Makes a density for latents of a size, to be fitted to those of the training images."""


class LatentVariable(Paradigm):
    """z ~ p(z), x ~ p(x|z): write `losses`, inherit sampling and decoding.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent code z.

    Raises:
        UserError: `latent_dim` is not positive.
    """

    decodes_labels: ClassVar[bool] = False
    """Whether the decoder reads the label, one-hot, beside the latent code."""
    prior: Prior
    """p(z); N(0, I) unless `__init__` sets another."""
    observation: Observation
    """p(x|z), where the objective has one."""
    ex_post: FittedPrior | None
    """A density that is fitted to the codes of the training images, from which samples are drawn in place of the prior
    (Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, sec. 4); `__init__` sets it where images have codes."""

    def __init__(self, decoder: DecoderCallable = MLPDecoder, latent_dim: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.latent_dim = latent_dim
        require_positive(self, "latent_dim")
        labels = self.num_classes if self.decodes_labels else 0
        self.decoder = decoder(labels + latent_dim, self.image_shape)
        self.prior, self.ex_post = StandardNormal(latent_dim), None

    @property
    def noise_dim(self) -> int:  # type: ignore[override]  # an attribute of other paradigms
        """How many standard normal numbers make a latent code of a sample."""
        return self.sampled.noise_dim

    @property
    def sampled(self) -> Prior:
        """What the latent codes of samples are drawn from."""
        return self.prior if self.ex_post is None else self.ex_post

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits of p(x|z), or of p(x|z, y): (B, latent_dim), (B,) -> (B, C, H, W)."""
        if self.decodes_labels:
            z = torch.cat([F.one_hot(y, self.num_classes).to(z.dtype), z], dim=1)
        return self.decoder(z)

    def elbo_losses(self, q: DiagonalGaussian, batch: Batch, kl_weight: float = 1.0) -> Losses:
        """The negative ELBO of a posterior, at one sample of it, (B,): −log p(x|z) + `kl_weight` · KL(q ‖ p(z)).

        Its terms are the reconstruction term, `kl`, and `elbo` with the full weight; all in nats per image.
        """
        logits = self.decode(q.sample(self.noise(batch.index, self.latent_dim)), batch.y)
        nll, kl = self.observation.nll(logits, batch.x), q.kl(self.prior)
        return Losses(nll + kl_weight * kl, {self.observation.term: nll, "kl": kl, "elbo": -(nll + kl)}, logits)

    def generate(self, noise: Tensor, y: Tensor) -> Tensor:
        """See `Paradigm.generate`."""
        return pixel_means(self.decode(self.sampled.sample(noise), y))
