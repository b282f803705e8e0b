"""Variational auto-decoder: a decoder with a table of Gaussian posteriors, one for each training image; no encoder."""

from typing import Any, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian
from encdec.objectives.search import out_of_inference, search
from encdec.paradigms import LatentTable, LatentVariable, kl_weight
from encdec.types import Batch, Losses, require_not_negative, require_positive


@final
class VAD(LatentVariable):
    """Variational auto-decoder: minimises (1/N) Σ_i { E_q_i[−log p(x_i|z)] + KL(q_i ‖ p(z)) } over decoder and all q_i.

    q_i = N(μ_i, diag σ_i²) has a row (μ_i, log σ_i²) in a table, of which the rows of a batch move at each step: the
    objective of a VAE whose encoder is a table. A held-out image gets its q by minimising the same bracket over
    (μ, log σ²) alone, the decoder fixed; so validation costs `latent_steps` decodings.

    Source: Zadeh et al. 2019, https://arxiv.org/abs/1903.00840. There the reconstruction term is a mean over pixels;
    here it is their sum, in nats, so that the sum with the KL is the ELBO.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        latent_lr: learning rate of the table in training, which has an Adam of its own.
        start_log_var: where log σ² begins; the means begin near 0.
        latent_steps: Adam steps of the search for a held-out image's q.
        warm_up: epochs over which the weight of the KL rises to 1.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `warm_up` is negative, or another value but `start_log_var` is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        latent_lr: float = 0.5,
        start_log_var: float = -3.0,
        latent_steps: int = 50,
        warm_up: int = 0,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.latent_lr, self.start_log_var, self.latent_steps = latent_lr, start_log_var, latent_steps
        self.warm_up, self.observation = warm_up, observation()
        require_positive(self, "latent_lr", "latent_steps")
        require_not_negative(self, "warm_up")
        means = 0.01 * torch.randn(self.num_train, latent_dim)
        start = torch.cat([means, torch.full_like(means, start_log_var)], dim=1)
        self.table = LatentTable(self.num_train, 2 * latent_dim, latent_lr, start=start)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + `kl`; `elbo` is minus that; nats per image."""
        return self._free_energy(self._own(batch) if self.training else self.posterior(batch), batch)

    def codes(self, batch: Batch) -> Tensor:
        """The means of training images' own q."""
        return self._own(batch).mean

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """The q that maximises the ELBO of any image, the decoder fixed; each image's on its own."""
        batch = batch._replace(x=out_of_inference(batch.x))
        mean = batch.x.new_zeros(len(batch.x), self.latent_dim)
        return DiagonalGaussian(
            *search(
                lambda *q: self._free_energy(DiagonalGaussian(*q), batch).loss,
                (mean, mean + self.start_log_var),
                self.latent_steps,
            )
        )

    def encode(self, batch: Batch) -> Tensor:
        """The mean of the q that is found for any image."""
        return self.posterior(batch).mean

    def after_step(self, batch: Batch) -> None:
        """Move the rows of the batch."""
        self.table.step(self.gradient_scale)

    def _own(self, batch: Batch) -> DiagonalGaussian:
        return DiagonalGaussian(*self.table.rows(batch.index).chunk(2, dim=1))

    def _free_energy(self, q: DiagonalGaussian, batch: Batch) -> Losses:
        return self.elbo_losses(q, batch, kl_weight(self, self.warm_up))
