"""Variational autoencoder."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.losses import free_bits_kl
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian
from encdec.paradigms.latent import LatentVariable
from encdec.paradigms.use import takes_images
from encdec.paradigms.warm_up import kl_weight
from encdec.types import Batch, Losses, require_not_negative


@final
class VAE(LatentVariable):
    """Variational autoencoder: minimises E_q(z|x)[−log p(x|z)] + β KL(q(z|x) ‖ p(z)), q Gaussian.

    Both terms are in nats per image, so β = 1 is the (negative) ELBO.

    Two settings keep q from collapsing to p. `warm_up` lets the weight of the KL rise to β over so many epochs of the
    training (see `encdec.paradigms.warm_up`). `free_bits` replaces the KL in the loss by Σ_j max(λ, KL_j), so that each
    dimension may say λ nats about an image at no cost. With either, the best checkpoint is the one with the highest
    ELBO, `val/elbo`.

    Source: Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, eq. 10; β: Higgins et al. 2017,
    https://openreview.net/forum?id=Sy2fzU9gl, eq. 4; λ: Kingma et al. 2016, https://arxiv.org/abs/1606.04934, eq. 15,
    for each image instead of on average over a minibatch.

    Args:
        encoder: makes q(z|x): (B, C, H, W) -> (B, 2 · latent_dim), mean and log-variance.
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent code.
        beta: weight of the KL; 1 is the ELBO.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.
        warm_up: epochs over which the weight of the KL rises to β; 0 for the full weight from the start.
        free_bits: λ, nats per image and dimension.

    Raises:
        UserError: `beta`, `warm_up` or `free_bits` is negative or `latent_dim` not positive.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        beta: float = 1.0,
        observation: ObservationCallable = Bernoulli,
        warm_up: int = 0,
        free_bits: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.beta, self.observation = beta, observation()
        self.warm_up, self.free_bits = warm_up, free_bits
        require_not_negative(self, "beta", "warm_up", "free_bits")
        if warm_up or free_bits:
            self.monitor = "val/elbo"
        self.encoder = encoder(self.image_shape, 2 * latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + β `kl`; `elbo` = −(reconstruction term + `kl`); nats per image.

        The reconstruction term is `bce` under a Bernoulli observation model, `nll` under a Gaussian one. `kl` and
        `elbo` are those without warm-up and free bits.
        """
        q = self.posterior(batch)
        logits = self.decode(q.sample(self.noise(batch.index, self.latent_dim)), batch.y)
        nll, kl = self.observation.nll(logits, batch.x), q.kl(self.prior)
        cost = free_bits_kl(*q, self.free_bits) if self.free_bits else kl
        loss = nll + kl_weight(self, self.warm_up, self.beta) * cost
        return Losses(loss, {self.observation.term: nll, "kl": kl, "elbo": -(nll + kl)}, logits)

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q(z|x)."""
        return DiagonalGaussian(*self.encoder(batch.x).chunk(2, dim=1))

    @takes_images
    def encode(self, batch: Batch) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(batch).mean
