"""Inner loops over latents, each image's on its own, the networks fixed: Adam from a start, and a single step."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import overload

import torch
from torch import Tensor

from encdec.types import UserError


@overload
def search(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    lr: float = ...,
    project: Callable[[Tensor], Tensor] | None = ...,
    *,
    cosine: bool = ...,
    keep_best: bool = ...,
) -> Tensor: ...


@overload
def search(
    objective: Callable[..., Tensor],
    start: Sequence[Tensor],
    steps: int,
    lr: float = ...,
    project: Callable[[Tensor], Tensor] | None = ...,
    *,
    cosine: bool = ...,
    keep_best: bool = ...,
) -> tuple[Tensor, ...]: ...


def search(
    objective: Callable[..., Tensor],
    start: Tensor | Sequence[Tensor],
    steps: int,
    lr: float = 0.1,
    project: Callable[[Tensor], Tensor] | None = None,
    *,
    cosine: bool = False,
    keep_best: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """The latents that minimise an objective, by Adam from a start; each image's on their own.

    Gradients are taken of the latents alone, so that no parameter gets one, and wherever the caller is: under
    `torch.no_grad` and in inference mode too. There, what the objective reads besides must be able to take part in a
    gradient: see `out_of_inference`.

    Args:
        objective: of the latents, (B, …) each, as so many arguments, to a value for each image, (B,); a value must
            depend on its own image's latents alone. It is called once before each step, in order, and once more at
            the end with `keep_best`.
        start: where the latents begin, (B, …); a sequence of them where the objective reads several.
        steps: of Adam.
        lr: Adam's learning rate.
        project: what every latent tensor is replaced by at the start and after each step. (Adam scales dimensions, so
            with a ball the end is a point of it that is nearly, and not exactly, the best.)
        cosine: whether the learning rate falls to 0 along a cosine.
        keep_best: whether each image's latents of its lowest value are the result, instead of the last ones.

    Returns:
        The latents, detached: a tensor for a tensor, a tuple for a sequence.

    Raises:
        UserError: the objective gives another shape than (B,).
    """
    with gradients_enabled():
        latents = [z.detach().clone() for z in ((start,) if isinstance(start, Tensor) else start)]
        if project is not None:
            latents = [project(z).detach() for z in latents]
        best, least = latents, torch.full((len(latents[0]),), math.inf, device=latents[0].device)
        latents = [z.clone().requires_grad_() for z in latents]
        adam = torch.optim.Adam(latents, lr=lr)
        for step in range(steps + keep_best):
            values = objective(*latents)
            if values.shape != (len(latents[0]),):
                raise UserError(
                    f"The objective of a search gives the shape {tuple(values.shape)} for {len(latents[0])} images, "
                    "but it must give one value for each image, (B,)."
                )
            if keep_best:
                lower = values.detach() < least
                least = torch.where(lower, values.detach(), least)
                best = [_rows(lower, z.detach(), b) for z, b in zip(latents, best, strict=True)]
            if step == steps:
                break
            # of the sum, so that no image's gradient depends on the others
            for z, gradient in zip(latents, torch.autograd.grad(values.sum(), latents), strict=True):
                z.grad = gradient
            if cosine:
                adam.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            adam.step()
            if project is not None:
                for z in latents:
                    z.detach().copy_(project(z.detach()))
        result = tuple(best if keep_best else (z.detach() for z in latents))
    return result[0] if isinstance(start, Tensor) else result


def gradient_step(
    objective: Callable[[Tensor], Tensor], start: Tensor, step_size: float, *, keep_graph: bool = False
) -> Tensor:
    """The latents after one step of gradient descent, start − step_size · ∇ objective(start).

    Like `search`, it works wherever the caller is.

    Args:
        objective: of the latents, (B, …), to a value for each image, (B,), which depends on its own latents alone.
        start: (B, …).
        step_size: in latents per unit of the gradient, which is not divided by the number of images.
        keep_graph: whether the result can be differentiated with respect to all that the objective reads, which
            takes second derivatives; otherwise it is detached.
    """
    with gradients_enabled():
        start = start.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(start).sum(), start, create_graph=keep_graph)
        z = start.detach() - step_size * gradient
    return z if keep_graph else z.detach()


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Where gradients of latents can be taken, under `torch.no_grad` and in inference mode too."""
    if torch.is_inference_mode_enabled():
        torch.clear_autocast_cache()  # of weights cast in inference mode, which a gradient can't go through
    with torch.inference_mode(False), torch.enable_grad():
        yield


def project_to_ball(z: Tensor) -> Tensor:
    """The nearest latents of the unit ball, z / max(‖z‖, 1): (B, d) -> (B, d).

    Source: Bojanowski et al. 2018 (GLO), https://arxiv.org/abs/1707.05776.
    """
    length: Tensor = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return z / length.clamp(min=1)


def _rows(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """The rows of `yes` where `which` (B,), those of `no` elsewhere."""
    return torch.where(which.view(-1, *[1] * (yes.ndim - 1)), yes, no)


def out_of_inference(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy of it that can take part in a gradient if it was made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()
