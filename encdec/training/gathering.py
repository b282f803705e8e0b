"""The processes of a training, as far as a model has to know of them."""

import torch
from torch import Tensor


def gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks: (B, …) -> (processes · B, …), without a gradient.

    All processes call it together, with tensors of one shape.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)
