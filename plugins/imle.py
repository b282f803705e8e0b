"""Implicit maximum likelihood estimation: every image draws the nearest of m samples towards itself."""

from typing import Any, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.losses import pixel_means, squared_error_matrix
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.paradigms import LatentVariable
from encdec.training.gathering import gathered
from encdec.types import Batch, Conditioning, Losses, UserError, require_positive


@final
class IMLE(LatentVariable):
    """Implicit maximum likelihood estimation: minimises E_{z_1…z_m ~ N(0, I)} (1/N) Σ_i min_j −log p(x_i|z_j).

    The latent of an image is the one among m from the prior whose decoding is nearest to it. So every image must have
    a sample near it, and no mode of the data is dropped; a sample that is near no image costs nothing. m = 1 is the
    encoderless VAE. The m latents are drawn afresh for each batch and shared by it, and found without gradients; the
    paper draws them once in several epochs, for all images.

    Winners among many are no typical draws of the prior, so samples look worse than reconstructions. RS-IMLE leaves
    out the latents whose decoding lies within ε of *any* image of the batch, so that those are chosen that fit nobody
    yet. Where that leaves none, none is left out. In evaluation all take part.

    Source: Li & Malik 2018, https://arxiv.org/abs/1809.09087, sec. 2; rejection: Vashist, Peng & Li 2024 (RS-IMLE),
    https://arxiv.org/abs/2409.17439.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        num_prior_samples: m, the latents among which each image chooses, in training and in evaluation.
        reject: ε, as squared error per pixel, the unit of `val/mse`; 0 rejects none.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: m is not positive, or ε negative or combined with m = 1.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        num_prior_samples: int = 512,
        reject: float = 0.0,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.num_prior_samples, self.reject, self.observation = num_prior_samples, reject, observation()
        require_positive(self, "num_prior_samples")
        if not reject >= 0:
            raise UserError(f"IMLE: reject is {reject}, but a squared error per pixel can't be negative.", 2)
        if num_prior_samples == 1:
            if reject:
                raise UserError(f"IMLE: reject is {reject}, but of num_prior_samples = 1 none can be left out.", 2)
            self.conditioning, self.lacks = Conditioning.NONE, frozenset({"encode"})

    def losses(self, batch: Batch) -> Losses:
        """`loss`: that of each image's nearest, nats per image; `rejected`: how many of the m latents were left out."""
        z, rejected = self._nearest(batch)
        logits = self.decode(z, batch.y)
        nll = self.observation.nll(logits, batch.x)
        return Losses(nll, {self.observation.term: nll, **rejected}, logits)

    def encode(self, batch: Batch) -> Tensor:
        """The most likely of m latents from the prior."""
        return self._nearest(batch)[0]

    @torch.no_grad()
    def _nearest(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pool = self.shared_noise(self.num_prior_samples, self.latent_dim)
        logits = self.decode(pool, batch.y)
        cost, terms = self.observation.nll_matrix(logits, batch.x), dict[str, Tensor]()
        if self.reject and self.training:
            error = squared_error_matrix(pixel_means(logits), batch.x) / batch.x[0].numel()
            near = gathered((error < self.reject).any(0, keepdim=True).int()).any(0)  # to an image of any process
            cost = cost.masked_fill(near & ~near.all(), torch.inf)
            terms = {"rejected": near.sum().to(cost)}
        torch.clear_autocast_cache()  # of weights that were cast here, without gradients
        return pool[cost.argmin(1)], terms
