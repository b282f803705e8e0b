"""Generators whose samples are compared with images as sets."""

from typing import Any

from torch import Tensor

from encdec.networks import DecoderCallable, FeaturesCallable, MLPDecoder, Pixels
from encdec.objectives.losses import pixel_means
from encdec.paradigms.latent import LatentVariable
from encdec.training.gathering import gathered, gathered_with_gradient
from encdec.types import Batch


class SetGenerator(LatentVariable):
    """A decoder of draws from N(0, I), trained by how far its samples, as a set, are from images: write `losses`.

    No latent is paired with an image, so no image has one; samples are what is trained, so that there is no hole
    between the latents of training and those of sampling. On several processes the sets are those of all of them; where
    gradients are accumulated over several batches, each batch is a set of its own.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        features: makes the features that sets are compared in, `Pixels` or `RandomConvolutions`; see
            `encdec.networks.features`.
    """

    conditioning = None
    least_images = 2

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        features: FeaturesCallable = Pixels,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.features = features(self.image_shape)

    def sets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of a batch's images, and of as many samples, each (N, features), in training of all processes.

        Each process has the whole gradient of its own samples, so that several processes make the step that one with
        all their images makes. In evaluation each measures its own images.
        """
        samples = pixel_means(self.decode(self.noise(batch.index, self.latent_dim), batch.y))
        x, y = self.features(batch.x), self.features(samples)
        return (gathered(x), gathered_with_gradient(y)) if self.training else (x, y)
