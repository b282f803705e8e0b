"""Variational autoencoder."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives import losses
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.paradigms.base import Paradigm, require_positive
from encdec.types import Batch, Conditioning, UserError


@final
class VAE(Paradigm):
    """Variational autoencoder: minimises E_q(z|x)[−log p(x|z)] + β KL(q(z|x) ‖ N(0, I)), q Gaussian.

    Both terms are in nats per image, so β = 1 is the (negative) ELBO.

    Source: Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, eq. 10; β: Higgins et al. 2017,
    https://openreview.net/forum?id=Sy2fzU9gl, eq. 4.

    Args:
        encoder: makes q(z|x): (B, C, H, W) -> (B, 2 · latent_dim), mean and log-variance.
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the code.
        beta: weight of the KL; 1 is the ELBO.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `beta` is negative or `latent_dim` not positive.
    """

    conditioning = Conditioning.IMAGE

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        beta: float = 1.0,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not beta >= 0:
            raise UserError(f"VAE: beta is {beta}, but the weight of the KL can't be negative.", 2)
        self.latent_dim, self.beta = latent_dim, beta
        require_positive(self, "latent_dim")
        self.encoder = encoder(self.image_shape, 2 * latent_dim)
        self.decoder = decoder(latent_dim, self.image_shape)
        self.observation = observation()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = reconstruction term + β `kl`; `elbo` = −(reconstruction term + `kl`); nats per image.

        The reconstruction term is `bce` under a Bernoulli observation model, `nll` under a Gaussian one.
        """
        mean, log_var = self.posterior(batch)
        z = mean + (log_var / 2).exp() * self.noise(batch.index, self.latent_dim)
        logits = self.decoder(z)
        nll = self.observation.nll(logits, batch.x)
        kl = losses.gaussian_kl(mean, log_var)
        terms = {"loss": nll + self.beta * kl, self.observation.term: nll, "kl": kl, "elbo": -(nll + kl)}
        return {**terms, "logits": logits}

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """q(z|x): mean and log-variance, both (B, latent_dim)."""
        mean, log_var = self.encoder(batch.x).chunk(2, dim=1)
        return mean, log_var

    def encode(self, batch: Batch) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(batch)[0]

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """p(x|z)."""
        return self.decoder(z)
