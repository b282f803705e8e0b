"""Regularized autoencoder: an autoencoder whose latents and decoder weights are kept small."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.losses import full_precision, pixel_squared_error
from encdec.objectives.priors import FittedGaussian
from encdec.paradigms import LatentVariable
from encdec.paradigms.latent import ExPostCallable
from encdec.types import Batch, Losses, UserError


@final
class RAE(LatentVariable):
    """Regularized autoencoder: minimises (1/N) Σ_i [‖x_i − f(g(x_i))‖² + β ½‖g(x_i)‖²] + λ ‖W‖².

    f is the decoder, g the encoder, W the decoder's weights without its biases. The two penalties take the place of the
    noise of a VAE: the first keeps the latents together, the second the decoder smooth; either alone does little, since
    the other factor of f(z) can grow. Samples decode a density that is fitted to the latents of the training images.

    All terms are per image. So λ‖W‖² is a Gaussian prior of variance 1/(2λN) on W, once for the N images, in the unit
    of the squared error. The paper takes the mean over D pixels, and in its code over d latent numbers: its weights
    β' and λ' (MNIST: 1e-4 and 1e-7, D = 32², d = 16) are β = 2 D/d β' = 0.013 and λ = D λ' = 1e-4 here.

    Source: Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, sec. 3, with the regulariser of RAE-L2 (not the
    gradient penalty or spectral norm); units: https://github.com/ParthaEth/Regularized_autoencoders-RAE-.

    Args:
        encoder: makes g: (B, C, H, W) -> (B, latent_dim).
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        beta: β, the weight of the latents' penalty.
        decoder_l2: λ, the weight of the decoder's penalty.
        ex_post: makes the density that samples are drawn from, such as FittedGaussian or GaussianMixture.

    Raises:
        UserError: a weight is negative.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        beta: float = 0.01,
        decoder_l2: float = 1e-4,
        ex_post: ExPostCallable = FittedGaussian,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.beta, self.decoder_l2, self.ex_post = beta, decoder_l2, ex_post(latent_dim)
        for name in ("beta", "decoder_l2"):
            if not getattr(self, name) >= 0:
                raise UserError(f"RAE: {name} is {getattr(self, name)}, but a penalty's weight can't be negative.", 2)
        self.encoder = encoder(self.image_shape, latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = squared error + β `penalty` + λ `decoder_l2`; `penalty` = ½‖z‖², `decoder_l2` = ‖W‖², per image."""
        z = self.encode(batch)
        logits = self.decode(z, batch.y)
        penalty = 0.5 * full_precision(z).square().sum(1)
        weights = [parameter for parameter in self.decoder.parameters() if parameter.ndim > 1]
        decoder_l2 = sum((weight.square().sum() for weight in weights), penalty.new_zeros(()))
        loss = pixel_squared_error(logits, batch.x) + self.beta * penalty + self.decoder_l2 * decoder_l2
        return Losses(loss, {"penalty": penalty, "decoder_l2": decoder_l2}, logits)

    def encode(self, batch: Batch) -> Tensor:
        """g(x)."""
        return self.encoder(batch.x)
