"""Stochastic variational inference: a Gaussian posterior for each image, found by gradient steps; no encoder."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.descent import descend
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian
from encdec.objectives.search import out_of_inference
from encdec.paradigms import LatentVariable, kl_weight
from encdec.types import Batch, Losses, require_not_negative, require_positive


@final
class SVI(LatentVariable):
    """Minimises (1/N) Σ_i min_{μ, σ} { E_q[−log p(x_i|z)] + KL(q ‖ p(z)) }, q = N(μ, diag σ²) of image i alone.

    For each batch μ and log σ² begin at the same numbers, T steps of gradient descent lead them towards the minimum,
    the decoder fixed; then the decoder makes one step, μ and σ fixed. Nothing is stored for an image, and held-out
    images are inferred as training images are, so nothing is lost by amortisation, but only by too few steps.

    Source: Hoffman et al. 2013, https://arxiv.org/abs/1206.7051; for decoders: Kim et al. 2018,
    https://arxiv.org/abs/1802.02550.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        latent_steps: T, steps on each image's μ and log σ².
        latent_lr: rate of these steps; momentum and clip are those of `descend`.
        start_log_var: where log σ² begins; μ begins at 0.
        warm_up: epochs over which the weight of the KL rises to 1.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `warm_up` is negative, or another value is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        latent_steps: int = 20,
        latent_lr: float = 0.1,
        start_log_var: float = -1.0,
        warm_up: int = 0,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.latent_steps, self.latent_lr, self.start_log_var = latent_steps, latent_lr, start_log_var
        self.warm_up, self.observation = warm_up, observation()
        require_positive(self, "latent_steps", "latent_lr")
        require_not_negative(self, "warm_up")

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + `kl` of the posterior that was found; `elbo` is minus that."""
        return self._free_energy(self.posterior(batch), batch)

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q(z|x), by T steps on each image's own ELBO."""
        batch = batch._replace(x=out_of_inference(batch.x))
        mean = batch.x.new_zeros(len(batch.x), self.latent_dim)
        return DiagonalGaussian(
            *descend(
                lambda *q: self._free_energy(DiagonalGaussian(*q), batch).loss,
                (mean, mean + self.start_log_var),
                self.latent_steps,
                self.latent_lr,
            )
        )

    def encode(self, batch: Batch) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(batch).mean

    def _free_energy(self, q: DiagonalGaussian, batch: Batch) -> Losses:
        return self.elbo_losses(q, batch, kl_weight(self, self.warm_up))
