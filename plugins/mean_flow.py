"""MeanFlow: the mean velocity of a flow between two times, so that one call of a network makes an image."""

from collections.abc import Callable
from typing import Any, Literal, final

import torch
from torch import Tensor

from encdec.networks import UNet, VelocityCallable
from encdec.objectives.derivatives import along
from encdec.objectives.losses import squared_error
from encdec.paradigms import Flow
from encdec.types import Batch, Losses, UserError

_MEAN, _STD = -0.4, 1.0  # of the logits of logit-normal times
_LEAST = 1e-3  # what is added to an error before it becomes a weight


@final
class MeanFlow(Flow):
    """MeanFlow: minimises E w ‖u(z_t, r, t) − sg(v − (t − r) du/dt)‖², z_t = (1 − t) x + t ε, v = ε − x, r ≤ t.

    x is an image scaled to [−1, 1] and ε ~ N(0, I) noise of as many numbers. u is the mean between the times r and t of
    the velocity of the flow that ends in noise at t = 1, so z_r = z_t − (t − r) u(z_t, r, t), and a sample is
    ε − u(ε, 0, 1). That du/dt = v ∂u/∂z + ∂u/∂t along the flow is the identity which is asked for; it is one
    forward-mode derivative. Times are random, and r = t in a share of the images, where it is flow matching. The
    weight w = 1 / (‖·‖² + c)^p, without gradient, evens out the errors. The target moves with the network, so no loss
    measures progress, and there is no best checkpoint.

    Source: Geng et al. 2025, https://arxiv.org/abs/2505.13447, eq. 6, 9 to 11 and 22, algorithms 1 and 2.

    Args:
        velocity: makes u: (B, C, H, W), (B, 2) -> (B, C, H, W), of r and t; it must be smooth.
        apart: the share of the images with r < t.
        times: how r and t are drawn; the paper's are logit-normal, which seldom comes near t = 1, where samples begin.
        power: p; 0 is the squared error.
        decay: of the moving average of u's weights, at each step; it is evaluated and makes the samples.

    Raises:
        UserError: `apart` is not in [0, 1], `power` is negative, `decay` is not in [0, 1), or there are no such times.
    """

    monitor = None
    num_times = 2

    def __init__(
        self,
        velocity: VelocityCallable = UNet,
        apart: float = 0.75,
        times: Literal["uniform", "logit_normal"] = "uniform",
        power: float = 0.75,
        decay: float = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(velocity, decay, **kwargs)
        if not 0 <= apart <= 1:
            raise UserError(f"MeanFlow: apart is {apart}, but a share must be in [0, 1].", 2)
        if not power >= 0:
            raise UserError(f"MeanFlow: power is {power}, but it can't be negative.", 2)
        self.apart, self.times, self.power = apart, times, power

    def losses(self, batch: Batch) -> Losses:
        """`loss`: weighted; `error` = ‖u − target‖², summed over pixels, of one r, t and ε for each image."""
        x, epsilon, other = self.image_and_noise(batch, 3)
        uniform, of_time = self.times == "uniform", other[:, :2]
        r, t = (torch.special.ndtr(of_time) if uniform else torch.sigmoid(_MEAN + _STD * of_time)).aminmax(dim=1)
        r = torch.where(torch.special.ndtr(other[:, 2]) < self.apart, r, t)
        way = t[:, None, None, None]
        z, v = (1 - way) * x + way * epsilon, epsilon - x
        u, target = mean_velocity(self.current, z, v, r, t)
        error = squared_error(u, target)
        return Losses(error / (error.detach() + _LEAST) ** self.power, {"error": error})

    def end(self, noise: Tensor) -> Tensor:
        """ε − u(ε, 0, 1): one call."""
        one = noise.new_ones(len(noise), 1)
        u: Tensor = self.average(noise, torch.cat([0 * one, one], 1))
        return noise - u


def mean_velocity(
    network: Callable[[Tensor, Tensor], Tensor], z: Tensor, v: Tensor, r: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """u(z, r, t), and v − (t − r) du/dt without a gradient, which it equals if `network` is a flow's mean velocity.

    Args:
        network: u, of z, (B, …), and the times (r, t), (B, 2).
        z: where the flow is at t, (B, …).
        v: its velocity there, (B, …).
        r: the earlier times, (B,).
        t: the later ones, (B,).
    """
    times, later = torch.stack([r, t], 1), torch.stack([torch.zeros_like(r), torch.ones_like(t)], 1)
    u, du_dt = along(network, (z, times), (v, later))
    apart = (t - r).reshape(-1, *[1] * (z.ndim - 1))
    return u, (v - apart * du_dt).detach()
