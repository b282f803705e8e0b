"""The VAE without its encoder."""

from typing import Any, Literal, final

from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.noise import normal
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.paradigms.latent import LatentVariable
from encdec.paradigms.use import takes_images
from encdec.types import Batch, Conditioning, Losses, UserError, require_positive

_FIXED = 1  # which draw of `normal` the fixed latents are; those of evaluations are negative


@final
class EncoderlessVAE(LatentVariable):
    """VAE without an encoder: minimises L_K = −log (1/K) Σ_k p(x|z_k), z_k ~ N(0, I), K = `num_prior_samples`.

    K = 1 is the VAE's objective with q(z|x) = N(0, I): each image is paired with a random latent, drawn afresh at
    every step, and only the reconstruction term is left. The latent says nothing about the image, so the best
    decoder gives the mean image whatever its latent. K → ∞ is maximum likelihood: the log of the average over
    the prior instead of the average of the log. The K latents are shared by a batch, so that a step costs one
    decoding of K latents and one matrix product.

    `latents: fixed` pairs each training image with one random latent for the whole training instead. The decoder can
    then memorise the pairs; held-out images have no latent of their own and are paired with a random one.

    Source: K = 1 is the question that encdec answers (docs/why.md); L_K is the importance-weighted bound with the
    prior as proposal (IWAE with q = p), Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        num_prior_samples: K, the latents that each image is compared with.
        latents: `resampled` draws new latents at every step, `fixed` keeps one for each training image.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: fixed latents are combined with K > 1, or a size is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        num_prior_samples: int = 1,
        latents: Literal["resampled", "fixed"] = "resampled",
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        if latents == "fixed" and num_prior_samples != 1:
            raise UserError(
                f"EncoderlessVAE: fixed latents pair each image with one latent, so num_prior_samples must be 1, "
                f"not {num_prior_samples}.",
                2,
            )
        self.num_prior_samples, self.latents, self.observation = num_prior_samples, latents, observation()
        require_positive(self, "num_prior_samples")
        if latents == "resampled" and num_prior_samples == 1:
            self.conditioning = Conditioning.NONE
        self.lacks = frozenset(
            name
            for name, is_there in (("codes", latents == "fixed"), ("encode", num_prior_samples > 1))
            if not is_there
        )

    def losses(self, batch: Batch) -> Losses:
        """`loss` = `nll` = L_K, nats per image; for K > 1, `mse` and `bce` are those of each image's best latent."""
        if self.num_prior_samples > 1:
            logits = self.decode(self.shared_noise(self.num_prior_samples, self.latent_dim), batch.y)
            bound, least, best = self.observation.prior_nll(logits, batch.x)
            # the measured output's cross-entropy is known already
            known = {"bce": least} if isinstance(self.observation, Bernoulli) else {}
            return Losses(bound, {"nll": bound, **known}, logits.detach().index_select(0, best))
        paired = self.training and self.latents == "fixed"
        logits = self.decode(self.codes(batch) if paired else self.noise(batch.index, self.latent_dim), batch.y)
        nll = self.observation.nll(logits, batch.x)
        return Losses(nll, {self.observation.term: nll}, logits)

    def codes(self, batch: Batch) -> Tensor:
        """The fixed latents of training images."""
        return normal(self.seed, _FIXED, batch.index, self.latent_dim).to(self.weights_dtype)

    @takes_images
    def encode(self, batch: Batch) -> Tensor:
        """For K > 1, the most likely of K latents from the prior: inference by search."""
        latents = self.shared_noise(self.num_prior_samples, self.latent_dim)
        return latents[self.observation.nll_matrix(self.decode(latents, batch.y), batch.x).argmin(1)]
