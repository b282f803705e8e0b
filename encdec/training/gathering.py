"""The processes of a training, as far as a model has to know of them."""

import torch
from torch import Tensor


def gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks: (B, …) -> (processes · B, …), without a gradient.

    All processes call it together, with tensors of one shape.
    """
    return torch.cat(_parts(tensor)) if _are_several() else tensor.detach()


def gathered_with_gradient(tensor: Tensor) -> Tensor:
    """The same with the gradient of this process's own rows, times the number of processes.

    Where all processes compute one loss of all rows, and the gradients of weights are averaged over processes, as DDP
    does, that average is then the gradient of the loss: each process has the share of it that its own rows make.
    """
    if not _are_several():
        return tensor
    parts, own = _parts(tensor), tensor.clone()
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * len(parts))
    parts[torch.distributed.get_rank()] = own
    return torch.cat(parts)


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _parts(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.detach().contiguous())
    return parts
