"""Importance-weighted autoencoder: a VAE whose bound takes K samples of the posterior."""

import math
from typing import Any, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian
from encdec.paradigms import LatentVariable
from encdec.types import Batch, Losses, require_positive


@final
class IWAE(LatentVariable):
    """Importance-weighted autoencoder: minimises −E log (1/K) Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x).

    K = 1 is the VAE, with its KL estimated by the sample instead of in closed form; the bound falls to −log p(x) as K
    grows. With q = p it is the bound of `EncoderlessVAE` with `num_prior_samples: K`: the pair shows what q buys.

    Source: Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519, eq. 8.

    Args:
        encoder: makes q(z|x): (B, C, H, W) -> (B, 2 · latent_dim), mean and log-variance.
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        num_posterior_samples: K; a step decodes K latents for each image.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: a size is not positive.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        num_posterior_samples: int = 8,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.num_posterior_samples, self.observation = num_posterior_samples, observation()
        require_positive(self, "num_posterior_samples")
        self.encoder = encoder(self.image_shape, 2 * latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss`, the bound of K samples; `elbo` and `kl`, of q alone; nats per image.

        The output that is measured as `mse` and `bce` is that of the first sample, as a VAE's.
        """
        count, q = self.num_posterior_samples, self.posterior(batch)
        noise = self.noise(batch.index, count * self.latent_dim).view(len(batch.x), count, -1)
        of_all = DiagonalGaussian(*(part.repeat_interleave(count, 0) for part in q))
        z = of_all.sample(noise.flatten(0, 1))
        logits = self.decode(z, batch.y.repeat_interleave(count))
        nll = self.observation.nll(logits, batch.x.repeat_interleave(count, 0))
        log_weights = (self.prior.log_prob(z) - of_all.log_prob(z) - nll).view(-1, count)
        bound = math.log(count) - torch.logsumexp(log_weights, dim=1)
        terms = {"elbo": log_weights.mean(1), "kl": q.kl(self.prior)}
        return Losses(bound, terms, logits.unflatten(0, (-1, count))[:, 0])

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q(z|x)."""
        return DiagonalGaussian(*self.encoder(batch.x).chunk(2, dim=1))

    def encode(self, batch: Batch) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(batch).mean
