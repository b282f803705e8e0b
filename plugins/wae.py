"""Wasserstein autoencoder: an autoencoder whose latents, as a set, are made to look like draws from the prior."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.losses import pixel_squared_error
from encdec.objectives.mmd import inverse_multiquadratic, unbiased_mmd
from encdec.paradigms import LatentVariable
from encdec.types import Batch, Losses, UserError


@final
class WAE(LatentVariable):
    """Wasserstein autoencoder: minimises (1/B) Σ_i ‖x_i − f(g(x_i))‖² + λ MMD²({g(x_i)}, {z_j}), z_j ~ N(0, I).

    f is the decoder, g the encoder, deterministic. MMD² is the unbiased estimate of the squared maximum mean
    discrepancy with the kernel Σ_s C_s / (C_s + ‖z − z'‖²), C_s = 2 d s. Where a VAE makes the posterior of *each*
    image look like the prior, only the latents of *all* images together have to here, so that two images need not share
    latents. Matched are the latents of a batch with as many draws from the prior: a loss of the set. On several
    processes each matches its own share.

    The authors' code weights the squared error by 0.05: its λ of 10 for MNIST is 10 / 0.05 = 200 here.

    Source: Tolstikhin et al. 2018, https://arxiv.org/abs/1711.01558, eq. 4 and algorithm 2 (WAE-MMD); the scales s are
    those of the authors' code, https://github.com/tolstikhin/wae.

    Args:
        encoder: makes g: (B, C, H, W) -> (B, latent_dim).
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent, d.
        mmd_weight: λ.

    Raises:
        UserError: `mmd_weight` is negative.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        mmd_weight: float = 200.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        if not mmd_weight >= 0:
            raise UserError(f"WAE: mmd_weight is {mmd_weight}, but the weight of the MMD can't be negative.", 2)
        self.mmd_weight, self.kernel = mmd_weight, inverse_multiquadratic(2.0 * latent_dim)
        self.encoder = encoder(self.image_shape, latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = mean squared error of an image + λ `mmd`, both of the batch; `mmd`: the MMD² of its latents."""
        z = self.encode(batch)
        logits = self.decode(z, batch.y)
        mmd = unbiased_mmd(z, self.prior.sample(self.noise(batch.index, self.latent_dim)), self.kernel)
        return Losses(pixel_squared_error(logits, batch.x).mean() + self.mmd_weight * mmd, {"mmd": mmd}, logits)

    def encode(self, batch: Batch) -> Tensor:
        """g(x)."""
        return self.encoder(batch.x)
