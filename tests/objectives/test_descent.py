"""Gradient descent on each image's own numbers: its steps, its modes, and gradients through it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from encdec.objectives.descent import descend

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


def quadratic(curvature: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: 0.5 * (curvature * (z - target).square()).sum(1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("differentiable", [False, True])
def test_it_is_sgd_with_momentum_on_every_image(mode: str, differentiable: bool) -> None:
    curvature, target = torch.tensor([1.0, 3.0]), torch.randn(4, 2)
    with MODES[mode]():
        start = torch.zeros(4, 2)
        (found,) = descend(quadratic(curvature, target), [start], 6, 0.1, 0.7, 1e9, differentiable)
    alone = torch.zeros(4, 2, requires_grad=True)
    sgd = torch.optim.SGD([alone], lr=0.1, momentum=0.7)
    for _ in range(6):
        sgd.zero_grad()
        quadratic(curvature, target)(alone).sum().backward()
        sgd.step()
    torch.testing.assert_close(found.detach(), alone.detach())
    assert (start == 0).all()
    assert not found.requires_grad or mode == "grad"
    assert not found.is_inference()


def test_long_gradients_are_scaled_down_for_each_image_and_tensor() -> None:
    a, b = torch.tensor([[30.0, 40.0], [0.3, 0.4]]), torch.tensor([[0.0], [100.0]])
    found = descend(
        lambda u, v: (u * a).sum(1) + (v * b).sum(1), [torch.zeros(2, 2), torch.zeros(2, 1)], 1, 1.0, clip=5
    )
    torch.testing.assert_close(found[0], torch.tensor([[-3.0, -4.0], [-0.3, -0.4]]))
    torch.testing.assert_close(found[1], torch.tensor([[0.0], [-5.0]]))


def test_no_steps_give_the_start_and_its_gradient() -> None:
    start = torch.randn(3, 2, requires_grad=True)
    for differentiable in (False, True):
        (found,) = descend(lambda z: z.square().sum(1), [start], 0, 0.1, differentiable=differentiable)
        assert torch.equal(found, start)
        assert torch.equal(torch.autograd.grad(found.sum(), start)[0], torch.ones(3, 2))


def test_gradients_through_the_steps_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    decoder, x = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 5)).double(), torch.randn(3, 5).double()

    def end(start: Tensor, *_: Tensor) -> Tensor:
        (found,) = descend(lambda z: (decoder(z) - x).square().sum(1), [start], 4, 0.1, clip=1.0, differentiable=True)
        error: Tensor = (decoder(found) - x).square()
        return found.sin().sum() + error.sum()

    start = torch.randn(3, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(end, (start, *decoder.parameters()))


def test_stopped_steps_have_the_start_s_gradient_and_none_of_parameters() -> None:
    curvature = torch.tensor([1.0, 2.0], requires_grad=True)
    start = torch.randn(3, 2, requires_grad=True)
    (found,) = descend(quadratic(curvature, torch.zeros(3, 2)), [start], 3, 0.1)
    of_start, of_curvature = torch.autograd.grad(found.sum(), [start, curvature], allow_unused=True)
    assert torch.equal(of_start, torch.ones(3, 2))
    assert of_curvature is None
    assert not torch.equal(found, start)


def test_gradients_through_a_stationary_start_are_finite() -> None:
    start = torch.zeros(2, 2, requires_grad=True)
    (found,) = descend(lambda z: z.square().sum(1), [start], 3, 0.1, differentiable=True)
    assert torch.autograd.grad(found.sum(), start)[0].isfinite().all()


def test_images_do_not_influence_each_other() -> None:
    target, start = torch.randn(5, 3), torch.zeros(5, 3)
    (together,) = descend(quadratic(torch.ones(3), target), [start], 7, 0.3, clip=0.5)
    for i in range(5):
        (one,) = descend(quadratic(torch.ones(3), target[i : i + 1]), [start[i : i + 1]], 7, 0.3, clip=0.5)
        assert torch.equal(one, together[i : i + 1])
