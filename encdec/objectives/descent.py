"""Gradient descent on each image's own numbers, through whose steps gradients can flow."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from encdec.objectives.search import gradients_enabled, out_of_inference


def descend(
    objective: Callable[..., Tensor],
    start: Sequence[Tensor],
    steps: int,
    lr: float,
    momentum: float = 0.5,
    clip: float = 5.0,
    differentiable: bool = False,
) -> tuple[Tensor, ...]:
    """A few steps of gradient descent with momentum from a start; each image's on their own.

    v ← momentum · v − g, z ← z + lr · v, where g is the gradient, scaled down to the norm `clip` for each image and
    tensor where it is longer. Like `search`, it works under `torch.no_grad` and in inference mode too, without a graph
    then, and gives no parameter a gradient while it runs. Unlike Adam's, its steps get smaller towards the minimum, so
    few of them end nearer to it where the objective is noisy.

    Source: Kim et al. 2018, https://arxiv.org/abs/1802.02550; momentum and clip as in
    https://github.com/harvardnlp/sa-vae, whose loss is a mean over the batch: its rate of 1 is 1/B for an image.

    Args:
        objective: of the numbers, (B, …) each, as so many arguments, to a value for each image, (B,); a value must
            depend on its own image's numbers alone.
        start: where the numbers begin, (B, …) each.
        steps: how many.
        lr: the rate.
        momentum: the share of the last step that is made again.
        clip: largest norm of a gradient, of each image and tensor.
        differentiable: whether the result is a differentiable function of the start and all that the objective reads,
            which takes second derivatives and the memory of all steps. If not, the steps are constants that are added
            to the start, and the result has the start's gradient.

    Returns:
        The numbers, one tensor for each of `start`.
    """
    has_graph = torch.is_grad_enabled()
    with gradients_enabled():
        keeps = differentiable and has_graph
        begin = [out_of_inference(z) for z in start]
        numbers = [z if keeps and z.requires_grad else z.detach().requires_grad_() for z in begin]
        speeds = [torch.zeros_like(z) for z in numbers]
        for _ in range(steps):
            values = objective(*numbers)
            gradients = torch.autograd.grad(values.sum(), numbers, create_graph=keeps)
            speeds = [momentum * v - _clipped(g, clip) for v, g in zip(speeds, gradients, strict=True)]
            numbers = [z + lr * v for z, v in zip(numbers, speeds, strict=True)]
            if not keeps:
                numbers = [z.detach().requires_grad_() for z in numbers]
        if keeps:
            return tuple(numbers)
        if not has_graph:
            return tuple(z.detach() for z in numbers)
        ends = zip(begin, [z.detach() for z in numbers], strict=True)
        return tuple(z + (end - z).detach() if z.requires_grad else end for z, end in ends)


def _clipped(gradient: Tensor, most: float) -> Tensor:
    """Rows scaled down to the norm `most`, (B, …) -> (B, …)."""
    norm = gradient.flatten(1).square().sum(1).add(1e-12).sqrt()  # the root's own gradient is infinite at 0
    return gradient * (most / norm).clamp(max=1).view(-1, *[1] * (gradient.ndim - 1))
