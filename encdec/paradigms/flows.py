"""Generators that lead noise of as many numbers as an image has to an image, by a network of an image and of times."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, final

from torch import Tensor

from encdec.networks import Velocity, VelocityCallable
from encdec.objectives.losses import full_precision
from encdec.paradigms.averages import moving_average
from encdec.paradigms.base import Paradigm
from encdec.types import Batch


class Flow(Paradigm):
    """A flow from noise to images, without an encoder and a decoder: write `losses` and `end`.

    Images are scaled to [−1, 1] within. No image has a latent of few numbers. The network that is trained,
    `velocity`, is followed by a moving average of its weights, which is evaluated and makes the samples.

    Source of the average: Yazıcı et al. 2019, https://arxiv.org/abs/1806.04498.

    Args:
        velocity: makes the network: (B, C, H, W), (B, num_times) -> (B, C, H, W).
        decay: of the moving average of its weights, at each step.

    Raises:
        UserError: `decay` is not in [0, 1).
    """

    conditioning = None
    num_times: ClassVar[int] = 1
    """How many times the network reads."""

    def __init__(self, velocity: VelocityCallable, decay: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise_dim = math.prod(self.image_shape)
        self.velocity: Velocity = velocity(self.image_shape, self.num_times)
        self.average = moving_average(self.velocity, decay)

    @abstractmethod
    def end(self, noise: Tensor) -> Tensor:
        """Where the flow that begins at `noise` ends, by the averaged weights: (B, C, H, W) -> (B, C, H, W), scaled."""

    @final
    def image_and_noise(self, batch: Batch, more: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images of a batch, scaled, and for each noise of its shape and `more` further standard normal numbers."""
        numbers = self.noise(batch.index, more + self.noise_dim)
        x = (2 * batch.x - 1).to(numbers)
        return x, numbers[:, more:].reshape(x.shape), numbers[:, :more]

    @property
    def current(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The network that is trained in training, and its average in evaluation."""
        return self.velocity if self.training else self.average

    def after_step(self, batch: Batch) -> None:
        """Let the average follow the network."""
        self.average.update_parameters(self.velocity)

    def generate(self, noise: Tensor, y: Tensor) -> Tensor:
        """See `Paradigm.generate`."""
        return (full_precision(self.end(noise.reshape(-1, *self.image_shape))) / 2 + 0.5).clamp(0, 1)
