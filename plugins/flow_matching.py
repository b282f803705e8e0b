"""Flow matching: noise becomes images along the velocity field of a network, without encoder and decoder."""

from typing import Any, Literal, final

import torch
from torch import Tensor

from encdec.networks import UNet, VelocityCallable
from encdec.objectives.assignment import match
from encdec.objectives.losses import squared_error, squared_error_matrix
from encdec.paradigms import Flow
from encdec.training.gathering import gathered
from encdec.types import Batch, Losses, require_positive


@final
class FlowMatching(Flow):
    """Conditional flow matching on straight paths: minimises E ‖v(x_t, t) − (x_1 − x_0)‖², x_t = (1 − t) x_0 + t x_1.

    x_1 is an image scaled to [−1, 1], x_0 ~ N(0, I) is noise of as many numbers, t ~ U(0, 1). At its minimum v is the
    velocity of a flow from noise to images: a sample is the end of dx/dt = v(x, t), x(0) = x_0, by fixed steps of the
    midpoint method. `pairing: batch` gives each image of a batch that noise for which Σ ‖x_1 − x_0‖² is least, by the
    exact solver of the assignment; paths then cross less, and fewer steps do. No image has a latent of few numbers.

    Source: Lipman et al. 2023, https://arxiv.org/abs/2210.02747, eq. 23 with σ_min = 0; pairing: Tong et al. 2024,
    https://arxiv.org/abs/2302.00482, sec. 3.2; the average: Yazıcı et al. 2019, https://arxiv.org/abs/1806.04498.

    Args:
        velocity: makes v: (B, C, H, W), (B, 1) -> (B, C, H, W).
        pairing: whether noise is paired with images at random, or within each batch.
        steps: of the sampler, two calls of v each.
        decay: of the moving average of v's weights, at each step; it is evaluated and makes the samples.

    Raises:
        UserError: `steps` is not positive, `decay` is not in [0, 1), or there is no such pairing.
    """

    def __init__(
        self,
        velocity: VelocityCallable = UNet,
        pairing: Literal["random", "batch"] = "random",
        steps: int = 20,
        decay: float = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(velocity, decay, **kwargs)
        self.pairing, self.steps = pairing, steps
        require_positive(self, "steps")

    def losses(self, batch: Batch) -> Losses:
        """`loss`: squared error of the velocity, summed over pixels, for one t and one noise for each image.

        It belongs to the set of images where they are paired, in training those of all processes.
        """
        x1, x0, other = self.image_and_noise(batch, 1)
        t = torch.special.ndtr(other)  # uniform
        if self.pairing == "batch":
            x0 = self._paired(x0, x1)
        way = t[:, :, None, None]
        loss = squared_error(self.current((1 - way) * x0 + way * x1, t), x1 - x0)
        return Losses(loss.mean() if self.pairing == "batch" else loss)

    def _paired(self, x0: Tensor, x1: Tensor) -> Tensor:
        """For each of these images its noise, of the noise of all images: (B, …), (B, …) -> (B, …)."""
        noises, images = (gathered(x0), gathered(x1)) if self.training else (x0, x1)
        first = self.global_rank * len(x1) if self.training else 0
        return noises[match(squared_error_matrix(noises, images))[first : first + len(x1)]]

    def end(self, noise: Tensor) -> Tensor:
        """The end of dx/dt = v(x, t), by the midpoint method."""
        x, step = noise, 1 / self.steps
        for k in range(self.steps):
            t = noise.new_full((len(noise), 1), k * step)
            middle = x + step / 2 * self.average(x, t)
            x = x + step * self.average(middle, t + step / 2)
        return x
