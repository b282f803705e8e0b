"""Conditional VAE: a variational autoencoder that is told the label."""

from typing import Any, final

from torch import Tensor, nn

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian
from encdec.paradigms import LatentVariable
from encdec.types import Batch, Losses, UserError


@final
class CVAE(LatentVariable):
    """Conditional VAE: minimises E_q(z|x,y)[−log p(x|z, y)] + β KL(q(z|x, y) ‖ p(z)), y the label.

    With β = 1 it is the negative ELBO of log p(x|y). The decoder reads the label, one-hot, beside the latent, which
    is then free to hold what the label does not say; samples are of a class that is asked for. Any encoder will do: it
    reads the image alone, and the label shifts the mean and the log-variance by numbers that are learned.

    Source: Kingma, Rezende, Mohamed & Welling 2014 (M2), https://arxiv.org/abs/1406.5298, eq. 6; Sohn, Lee & Yan
    2015, whose prior depends on what is given, too.

    Args:
        encoder: makes mean and log-variance of q(z|x, y), before their shift: (B, C, H, W) -> (B, 2 · latent_dim).
        decoder: makes p(x|z, y): (B, num_classes + latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        beta: weight of the KL; 1 is the ELBO.
        observation: makes the observation model, Bernoulli or Gaussian.

    Raises:
        UserError: `beta` is negative or `latent_dim` not positive, or the images have no labels.
    """

    decodes_labels = True

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
            raise UserError(f"CVAE: beta is {beta}, but the weight of the KL can't be negative.", 2)
        if self.num_classes < 2:
            raise UserError("CVAE reads labels, but these data have none: take images with labels, or VAE.", 2)
        self.beta, self.observation = beta, observation()
        self.encoder = encoder(self.image_shape, 2 * latent_dim)
        self.shift = nn.Embedding(self.num_classes, 2 * latent_dim)
        nn.init.zeros_(self.shift.weight)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + β `kl`; `elbo` = −(reconstruction term + `kl`); nats per image."""
        return self.elbo_losses(self.posterior(batch), batch, self.beta)

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q(z|x, y)."""
        return DiagonalGaussian(*(self.encoder(batch.x) + self.shift(batch.y)).chunk(2, dim=1))

    def encode(self, batch: Batch) -> Tensor:
        """The mean of q(z|x, y)."""
        return self.posterior(batch).mean
