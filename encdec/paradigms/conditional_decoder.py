"""A decoder alone, told the label."""

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives import losses
from encdec.paradigms.base import Paradigm, require_positive
from encdec.types import Batch, Conditioning


@final
class ConditionalDecoder(Paradigm):
    """Decoder of labels and noise: minimises (1/N) Σ_i ‖x_i − f(onehot(y_i), z_i)‖², z_i ~ N(0, I) drawn afresh.

    The noise says nothing about x_i, so the best the decoder can do is to ignore it and to give the class mean
    E[x | y]: the loss ends at the variance within the classes.

    Source: case 3 of the ablations that encdec reproduces (see the README).

    Args:
        decoder: makes f: (B, num_classes + latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the noise.
    """

    conditioning = Conditioning.LABEL

    def __init__(self, decoder: DecoderCallable = MLPDecoder, latent_dim: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.latent_dim = latent_dim
        require_positive(self, "latent_dim")
        self.decoder = decoder(self.num_classes + latent_dim, self.image_shape)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: ‖x − f(onehot(y), z)‖², summed over pixels."""
        logits = self.decode(self.noise(batch.index, self.latent_dim), batch.y)
        return {"loss": losses.pixel_squared_error(logits, batch.x), "logits": logits}

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """f(onehot(y), z)."""
        return self.decoder(torch.cat([F.one_hot(y, self.num_classes).to(z.dtype), z], dim=1))
