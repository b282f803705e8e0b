"""Moving averages of a network's weights."""

import functools

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from encdec.types import UserError


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of `network` that follows it: w̄ ← decay · w̄ + (1 − decay) · w, its buffers too.

    Its parameters require no gradient, so that it is no part of what is optimized, and all of it is in checkpoints.
    Call `average.update_parameters(network)` after each optimizer step, in `after_step`; the first call copies the
    weights. Apply it as the network itself: `average(z)`.

    Source: Polyak & Juditsky 1992, https://doi.org/10.1137/0330046, with exponential weights.

    Args:
        network: which is averaged.
        decay: the share of the average that is kept at each update; 0.999 averages over about 1,000 steps.

    Raises:
        UserError: `decay` is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(f"The decay of a moving average is {decay}, but it must be at least 0 and less than 1.", 2)
    average = AveragedModel(network, avg_fn=functools.partial(_follow, 1 - decay), use_buffers=True)
    average.requires_grad_(False)
    return average


def _follow(share: float, average: Tensor, current: Tensor, steps: Tensor) -> Tensor:
    """The average, moved by a share towards the current weights; torch's own such function can't be copied."""
    return average.lerp(current, share) if average.is_floating_point() else current
