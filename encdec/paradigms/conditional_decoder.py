"""A decoder alone, conditioned on the label."""

from typing import final

from encdec.objectives.losses import pixel_squared_error
from encdec.paradigms.latent import LatentVariable
from encdec.types import Batch, Conditioning, Losses


@final
class ConditionalDecoder(LatentVariable):
    """Decoder of labels and noise: minimises (1/N) Σ_i ‖x_i − f(onehot(y_i), z_i)‖², z_i ~ N(0, I) drawn afresh.

    The noise says nothing about x_i, so the best the decoder can do is to ignore it and to give the class mean
    E[x | y]: the loss ends at the variance within the classes.

    Source: case 3 of the ablations that encdec reproduces (docs/original-experiments.md).

    Args:
        decoder: makes f: (B, num_classes + latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the noise.
    """

    conditioning = Conditioning.LABEL
    decodes_labels = True

    def losses(self, batch: Batch) -> Losses:
        """`loss`: ‖x − f(onehot(y), z)‖², summed over pixels."""
        logits = self.decode(self.noise(batch.index, self.latent_dim), batch.y)
        return Losses(pixel_squared_error(logits, batch.x), logits=logits)
