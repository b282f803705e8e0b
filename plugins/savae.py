"""Semi-amortised VAE: an encoder's posterior, made better for each image by a few gradient steps."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.descent import descend
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian
from encdec.objectives.search import out_of_inference
from encdec.paradigms import LatentVariable, kl_weight
from encdec.types import Batch, Losses, UserError, require_not_negative, require_positive


@final
class SAVAE(LatentVariable):
    """Semi-amortised VAE: minimises E_q_T[−log p(x|z)] + KL(q_T ‖ p(z)), q_T after T steps from the encoder's q_0.

    Each step moves an image's mean and log-variance along the gradient of its own ELBO. The loss is differentiated
    through the steps, so that the encoder learns where to start, and the decoder to be one in which T steps lead far.
    T = 0 is the VAE; with many steps the start no longer matters, and it is SVI.

    With `differentiable: false` the steps are constants that are added to q_0: encoder and decoder get the gradients
    that they would get in a VAE whose encoder gave q_T, and no second derivatives are taken.

    Source: Kim, Wiseman, Miller, Sontag & Rush 2018, https://arxiv.org/abs/1802.02550.

    Args:
        encoder: makes q_0(z|x): (B, C, H, W) -> (B, 2 · latent_dim), mean and log-variance.
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        latent_steps: T.
        latent_lr: rate of the steps; momentum and clip are those of `descend`.
        differentiable: whether the loss is differentiated through the steps.
        warm_up: epochs over which the weight of the KL rises to 1.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `latent_steps` or `warm_up` is negative, or `latent_lr` or `latent_dim` not positive; or, in
            training, the networks are compiled and the steps are differentiated.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        latent_steps: int = 5,
        latent_lr: float = 0.05,
        differentiable: bool = True,
        warm_up: int = 0,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.latent_steps, self.latent_lr, self.differentiable = latent_steps, latent_lr, differentiable
        self.warm_up, self.observation = warm_up, observation()
        require_positive(self, "latent_lr")
        require_not_negative(self, "latent_steps", "warm_up")
        self.encoder = encoder(self.image_shape, 2 * latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + `kl` of q_T; `elbo` is minus that; nats per image."""
        return self._free_energy(self.posterior(batch), batch)

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q_T(z|x)."""
        if self.is_compiled and self.differentiable:
            raise UserError(
                "SAVAE differentiates through its steps, which torch.compile can't do: leave --compile out, or set "
                "model.differentiable to false.",
                2,
            )
        batch = batch._replace(x=out_of_inference(batch.x))
        return DiagonalGaussian(
            *descend(
                lambda *q: self._free_energy(DiagonalGaussian(*q), batch).loss,
                self.encoder(batch.x).chunk(2, dim=1),
                self.latent_steps,
                self.latent_lr,
                differentiable=self.differentiable,
            )
        )

    def encode(self, batch: Batch) -> Tensor:
        """The mean of q_T(z|x)."""
        return self.posterior(batch).mean

    def _free_energy(self, q: DiagonalGaussian, batch: Batch) -> Losses:
        return self.elbo_losses(q, batch, kl_weight(self, self.warm_up))
