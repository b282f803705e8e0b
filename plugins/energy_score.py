"""A generator trained by the energy score: no encoder, and no latent is paired with an image."""

from typing import Any, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.losses import pixel_means, squared_error_matrix
from encdec.paradigms import LatentVariable
from encdec.types import Batch, Losses, UserError


@final
class EnergyScore(LatentVariable):
    """Generator: minimises (1/K) Σ_k ‖x − f(z_k)‖ − ½ 1/(K(K−1)) Σ_{j≠k} ‖f(z_j) − f(z_k)‖, z_k ~ N(0, I).

    The first term draws samples to the images, the second drives them apart. Its expectation over images is half the
    energy distance between data and samples, up to a constant, and smallest where the two distributions are equal.
    As in a GAN, samples are compared with images as a set, and no latent has to be found for an image; unlike
    in a GAN, nothing is learned that compares them.

    Source: Gneiting & Raftery 2007, https://doi.org/10.1198/016214506000001437, eq. 22; for generators: Bouchacourt,
    Mudigonda & Nowozin 2016 (DISCO Nets), https://arxiv.org/abs/1606.02556, eq. 7.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        num_prior_samples: K, the samples of a step; shared by its images.

    Raises:
        UserError: K is below 2, or a size is not positive.
    """

    conditioning = None  # the sample that is measured is the nearest of K, and not one made for the image

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        num_prior_samples: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        if num_prior_samples < 2:
            raise UserError(
                f"EnergyScore: num_prior_samples is {num_prior_samples}, but samples need others: give 2.", 2
            )
        self.num_prior_samples = num_prior_samples

    def losses(self, batch: Batch) -> Losses:
        """`loss` = energy score, L2 distance of images; `mse` and `bce` are those of each image's nearest sample."""
        logits = self.decode(self.shared_noise(self.num_prior_samples, self.latent_dim), batch.y)
        samples = pixel_means(logits)
        to_images = _distances(samples, batch.x)
        count = self.num_prior_samples
        apart = _distances(samples, samples)[~torch.eye(count, dtype=torch.bool, device=samples.device)]
        return Losses(to_images.mean(1) - apart.mean() / 2, logits=logits[to_images.argmin(1)])

    def encode(self, batch: Batch) -> Tensor:
        """The latent of the nearest of K samples: inference by search."""
        latents = self.shared_noise(self.num_prior_samples, self.latent_dim)
        return latents[_distances(pixel_means(self.decode(latents, batch.y)), batch.x).argmin(1)]


def _distances(samples: Tensor, x: Tensor) -> Tensor:
    """‖x_b − sample_k‖: (K, …), (B, …) -> (B, K)."""
    return squared_error_matrix(samples, x).clamp(min=1e-6).sqrt()  # the gradient of a root at 0 is infinite
