"""The VAE without its encoder."""

from typing import Any, Literal, final

from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.noise import normal
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.paradigms.base import Paradigm, require_positive
from encdec.types import Batch, Conditioning, UserError

_FIXED = 1  # which draw of `normal` the fixed codes are; those of evaluations are negative


@final
class EncoderlessVAE(Paradigm):
    """VAE without an encoder: minimises L_K = −log (1/K) Σ_k p(x|z_k), z_k ~ N(0, I), K = `num_prior_samples`.

    K = 1 is the VAE's objective with q(z|x) = N(0, I): each image is paired with a random code, drawn afresh at
    every step, and only the reconstruction term is left. The code says nothing about the image, so the best
    decoder gives the mean image whatever its code. K → ∞ is maximum likelihood: the log of the average over
    the prior instead of the average of the log. The K codes are shared by a batch, so that a step costs one
    decoding of K codes and one matrix product.

    `codes: fixed` pairs each training image with one random code for the whole training instead. The decoder can
    then learn the pairs by heart; held-out images have no code of their own and are paired with a random one.

    Source: K = 1 is the question that encdec answers (see the README); L_K is the importance-weighted bound with
    the prior as proposal, Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the code.
        num_prior_samples: K, the codes that each image is compared with.
        codes: `fresh` draws new codes at every step, `fixed` keeps one for each training image.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: fixed codes are combined with K > 1, or a size is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        num_prior_samples: int = 1,
        codes: Literal["fresh", "fixed"] = "fresh",
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if codes == "fixed" and num_prior_samples != 1:
            raise UserError(
                f"EncoderlessVAE: fixed codes pair each image with one code, so num_prior_samples must be 1, "
                f"not {num_prior_samples}.",
                2,
            )
        self.latent_dim, self.num_prior_samples, self.codes = latent_dim, num_prior_samples, codes
        require_positive(self, "latent_dim", "num_prior_samples")
        self.conditioning = Conditioning.NONE if codes == "fresh" and num_prior_samples == 1 else Conditioning.IMAGE
        self.decoder = decoder(latent_dim, self.image_shape)
        self.observation = observation()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = `nll` = L_K, nats per image; for K > 1, `mse` and `bce` are those of each image's best code."""
        if self.num_prior_samples > 1:
            logits = self.decoder(self.shared_noise(self.num_prior_samples, self.latent_dim))
            bound, least, best = self.observation.prior_nll(logits, batch.x)
            # the measured output's cross-entropy is known already
            known = {"bce": least} if isinstance(self.observation, Bernoulli) else {}
            return {"loss": bound, "nll": bound, **known, "logits": logits.detach().index_select(0, best)}
        logits = self.decoder(self._codes(batch))
        nll = self.observation.nll(logits, batch.x)
        return {"loss": nll, self.observation.term: nll, "logits": logits}

    def _codes(self, batch: Batch) -> Tensor:
        """The random code that each image is paired with, (B, latent_dim); held-out images have no fixed one."""
        fixed = self.paired_codes(batch) if self.training else None
        return self.noise(batch.index, self.latent_dim) if fixed is None else fixed

    def paired_codes(self, batch: Batch) -> Tensor | None:
        """The fixed codes of training images; for K > 1, the most likely of K codes."""
        if self.codes == "fixed":
            return normal(self.seed, _FIXED, batch.index, self.latent_dim).to(self.code_dtype)
        return self.encode(batch)

    def encode(self, batch: Batch) -> Tensor | None:
        """For K > 1, the most likely of K codes from the prior: inference by search. For K = 1 there is no code."""
        if self.num_prior_samples == 1:
            return None
        codes = self.shared_noise(self.num_prior_samples, self.latent_dim)
        return codes[self.observation.nll_matrix(self.decoder(codes), batch.x).argmin(1)]

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """p(x|z)."""
        return self.decoder(z)
