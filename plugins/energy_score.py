"""A generator trained by the energy score: no encoder, and no latent is paired with an image."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, FeaturesCallable, MLPDecoder, Pixels
from encdec.objectives.losses import pixel_means
from encdec.objectives.pairs import distances, mean_of_others
from encdec.paradigms import SetGenerator
from encdec.types import Batch, Losses, UserError


@final
class EnergyScore(SetGenerator):
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
        features: makes what distances are taken between, `Pixels` or `RandomConvolutions`.
        num_prior_samples: K, the samples of a step; shared by its images.

    Raises:
        UserError: K is below 2, or a size is not positive.
    """

    least_images = 1  # it has the other samples beside it
    # no conditioning: the sample that is measured is the nearest of K, and not one made for the image

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        features: FeaturesCallable = Pixels,
        num_prior_samples: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, features, **kwargs)
        if num_prior_samples < 2:
            raise UserError(
                f"EnergyScore: num_prior_samples is {num_prior_samples}, but samples need others: give 2.", 2
            )
        self.num_prior_samples = num_prior_samples

    def losses(self, batch: Batch) -> Losses:
        """`loss` = energy score, distance of features; `mse` and `bce` are those of each image's nearest sample."""
        _, logits, samples, to_samples = self._drawn(batch)
        apart = mean_of_others(distances(samples, samples))
        return Losses(to_samples.mean(1) - apart / 2, logits=logits[to_samples.argmin(1)])

    def encode(self, batch: Batch) -> Tensor:
        """The latent of the nearest of K samples: inference by search."""
        latents, _, _, to_samples = self._drawn(batch)
        return latents[to_samples.argmin(1)]

    def _drawn(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """K latents, the logits and the features of their samples, and the distances of images to these, (B, K)."""
        latents = self.shared_noise(self.num_prior_samples, self.latent_dim)
        logits = self.decode(latents, batch.y)
        samples = self.features(pixel_means(logits))
        return latents, logits, samples, distances(self.features(batch.x), samples)
