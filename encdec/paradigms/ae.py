"""Autoencoder, and its ablation in which the encoder is shown nothing."""

from typing import Any, Literal, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.losses import pixel_squared_error
from encdec.objectives.priors import FittedGaussian
from encdec.paradigms.latent import ExPostCallable, LatentVariable
from encdec.paradigms.use import takes_images
from encdec.types import Batch, Conditioning, Losses


@final
class AE(LatentVariable):
    """Autoencoder: minimises L = (1/N) Σ_i ‖x_i − f(g(x_i))‖², f the decoder, g the encoder.

    With `encoder_input: zeros` the encoder is shown g(0) while x_i stays the target. Then f(g(0)) carries no
    information about x_i, and L is a quadratic whose minimum is the mean image: the loss ends at the variance of
    the data. Such a model is evaluated twice: fed with the original images (`val/mse`) and fed with zeros, as in
    training (`val/mse_zeros`; `val/loss` is the objective and therefore fed with zeros too).

    An autoencoder has no prior. Its samples decode a density that is fitted to the codes of the training images.

    Source: Hinton & Salakhutdinov 2006, https://doi.org/10.1126/science.1127647.

    Args:
        encoder: makes g: (B, C, H, W) -> (B, latent_dim).
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the code.
        encoder_input: what the encoder is shown in training, the image or zeros.
        ex_post: makes the density that samples are drawn from, such as FittedGaussian or GaussianMixture.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        encoder_input: Literal["image", "zeros"] = "image",
        ex_post: ExPostCallable = FittedGaussian,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.encoder_input, self.ex_post = encoder_input, ex_post(latent_dim)
        self.encoder = encoder(self.image_shape, latent_dim)
        if encoder_input == "zeros":
            self.conditioning, self.other_conditioning = Conditioning.NONE, {"zeros": Conditioning.NONE}

    def losses(self, batch: Batch) -> Losses:
        """`loss`: ‖x − f(g(x))‖², summed over pixels; see the class for what zero-fed training reports."""
        if self.encoder_input == "image":
            logits = self.decode(self.encode(batch), batch.y)
            return Losses(pixel_squared_error(logits, batch.x), logits=logits)
        of_zeros = self.decode(self.encoder(torch.zeros_like(batch.x)), batch.y)
        loss = pixel_squared_error(of_zeros, batch.x)
        if self.training:
            return Losses(loss, others={"zeros": of_zeros})
        others = {"zeros": of_zeros.clone()}  # a compiled decoder may write its next output into the same memory
        return Losses(loss, logits=self.decode(self.encode(batch), batch.y), others=others)

    @takes_images
    def encode(self, batch: Batch) -> Tensor:
        """g(x)."""
        return self.encoder(batch.x)
