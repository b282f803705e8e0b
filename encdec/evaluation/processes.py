"""How several processes share the images of an evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """How work on images is shared: process `rank` of `count` takes every `count`-th image.

    Attributes:
        rank: which process this is.
        count: how many there are.
        all_gather: the tensors of all processes, of equal shape, in the order of their ranks.
    """

    rank: int = 0
    count: int = 1
    all_gather: Callable[[Tensor], list[Tensor]] = lambda tensor: [tensor]

    def share(self, total: int) -> Tensor:
        """The positions that this process works on, int64."""
        return torch.arange(total)[self.rank :: self.count]

    def merge(self, part: Tensor, total: int) -> Tensor:
        """The rows of all processes' shares in the order of the positions, (total, …), on every process."""
        longest = -(-total // self.count)
        padded = torch.cat([part, part.new_zeros(longest - len(part), *part.shape[1:])]).contiguous()
        return torch.stack(self.all_gather(padded), dim=1).flatten(0, 1)[:total]
