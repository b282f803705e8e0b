"""Variational autoencoder."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian
from encdec.paradigms.latent import LatentVariable
from encdec.types import Batch, Losses, UserError


@final
class VAE(LatentVariable):
    """Variational autoencoder: minimises E_q(z|x)[−log p(x|z)] + β KL(q(z|x) ‖ p(z)), q Gaussian.

    Both terms are in nats per image, so β = 1 is the (negative) ELBO.

    Source: Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, eq. 10; β: Higgins et al. 2017,
    https://openreview.net/forum?id=Sy2fzU9gl, eq. 4.

    Args:
        encoder: makes q(z|x): (B, C, H, W) -> (B, 2 · latent_dim), mean and log-variance.
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent code.
        beta: weight of the KL; 1 is the ELBO.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `beta` is negative or `latent_dim` not positive.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        beta: float = 1.0,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        if not beta >= 0:
            raise UserError(f"VAE: beta is {beta}, but the weight of the KL can't be negative.", 2)
        self.beta, self.observation = beta, observation()
        self.encoder = encoder(self.image_shape, 2 * latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + β `kl`; `elbo` = −(reconstruction term + `kl`); nats per image.

        The reconstruction term is `bce` under a Bernoulli observation model, `nll` under a Gaussian one.
        """
        q = self.posterior(batch)
        logits = self.decode(q.sample(self.noise(batch.index, self.latent_dim)), batch.y)
        nll, kl = self.observation.nll(logits, batch.x), q.kl(self.prior)
        return Losses(nll + self.beta * kl, {self.observation.term: nll, "kl": kl, "elbo": -(nll + kl)}, logits)

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q(z|x)."""
        return DiagonalGaussian(*self.encoder(batch.x).chunk(2, dim=1))

    def encode(self, batch: Batch) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(batch).mean
