"""The inner search finds each image's own optimum, whoever calls it, and leaves everything else alone."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encdec.objectives.search import out_of_inference, project_to_ball, search
from encdec.types import UserError

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


def parabola(target: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: (z - target).square().sum(1)


@pytest.mark.parametrize("mode", MODES)
def test_it_finds_the_minimum_of_each_image_in_every_mode(mode: str) -> None:
    torch.manual_seed(0)
    decoder, images = nn.Linear(2, 8), torch.randn(4, 8)
    with MODES[mode]():
        x = images.clone()
        start = torch.zeros(4, 2)
        z = search(lambda z: (decoder(z) - out_of_inference(x)).square().sum(1), start, 400, cosine=True)
    assert (start == 0).all()
    assert not z.requires_grad
    assert not z.is_inference()
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())
    exact = torch.linalg.lstsq(decoder.weight, (images - decoder.bias).T).solution.T
    torch.testing.assert_close(z, exact, atol=1e-4, rtol=0)


def test_it_is_adam_on_every_latent() -> None:
    target, start = torch.randn(3, 2), torch.randn(3, 2)
    alone = start.clone().requires_grad_()
    adam = torch.optim.Adam([alone], lr=0.3)
    for _ in range(7):
        adam.zero_grad()
        parabola(target)(alone).sum().backward()
        adam.step()
    assert torch.equal(search(parabola(target), start, 7, 0.3), alone)
    assert torch.equal(search(parabola(target), start, 0), start)


def test_images_do_not_influence_each_other() -> None:
    target, start = torch.randn(5, 3), torch.zeros(5, 3)
    together = search(parabola(target), start, 20)
    for i in range(5):
        assert torch.equal(search(parabola(target[i : i + 1]), start[i : i + 1], 20), together[i : i + 1])
    target[2] = math.nan
    with_nan = search(parabola(target), start, 20)
    assert with_nan[2].isnan().all()
    assert torch.equal(with_nan[[0, 1, 3, 4]], together[[0, 1, 3, 4]])


def test_several_latents_are_found_together() -> None:
    a, b = torch.randn(4, 2), torch.randn(4, 3, 2)

    def objective(u: Tensor, v: Tensor) -> Tensor:
        return (u - a).square().sum(1) + (v - b).square().sum((1, 2)) + (u - a).sum(1) * (v - b).sum((1, 2)) * 0.1

    u, v = search(objective, (torch.zeros(4, 2), torch.zeros(4, 3, 2)), 500, cosine=True)
    torch.testing.assert_close(u, a, atol=1e-3, rtol=0)
    torch.testing.assert_close(v, b, atol=1e-3, rtol=0)


def test_the_projection_holds_from_the_start_to_the_end() -> None:
    """The best point of a box, and all that the objective sees lies in it."""
    target, seen = torch.tensor([[3.0, 0.4], [0.1, -2.0]]), []

    def objective(z: Tensor) -> Tensor:
        seen.append(z.detach().abs().max())
        return parabola(target)(z)

    def project(z: Tensor) -> Tensor:
        return z.clamp(-1, 1)

    z = search(objective, torch.full((2, 2), 9.0), 400, 0.05, project, cosine=True)
    torch.testing.assert_close(z, torch.tensor([[1.0, 0.4], [0.1, -1.0]]), atol=1e-3, rtol=0)
    assert max(seen) <= 1
    assert torch.equal(search(objective, torch.full((2, 2), 9.0), 0, 0.05, project), torch.ones(2, 2))


def test_the_best_is_kept_where_the_last_is_worse() -> None:
    """A step of 10 jumps over the minimum of the first image; the second image's goes the right way."""
    target, start = torch.tensor([[0.5], [10.0]]), torch.zeros(2, 1)
    best = search(parabola(target), start, 1, 10.0, keep_best=True)
    torch.testing.assert_close(best, torch.tensor([[0.0], [10.0]]))
    torch.testing.assert_close(search(parabola(target), start, 1, 10.0), torch.tensor([[10.0], [10.0]]))


def test_the_objective_is_called_once_a_step_and_once_more_for_the_best() -> None:
    calls = []

    def objective(z: Tensor) -> Tensor:
        calls.append(1)
        return z.square().sum(1)

    search(objective, torch.ones(2, 1), 6)
    assert len(calls) == 6
    search(objective, torch.ones(2, 1), 6, keep_best=True)
    assert len(calls) == 6 + 7


def test_weights_that_were_cast_in_inference_mode_are_cast_again() -> None:
    decoder, x = nn.Linear(2, 3), torch.ones(4, 3)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        decoder(torch.zeros(4, 2))  # leaves its cast weights in the cache of autocast
        z = search(lambda z: (decoder(z).float() - out_of_inference(x)).square().sum(1), torch.zeros(4, 2), 3)
    assert z.abs().min() > 0


def test_an_objective_of_the_whole_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"gives the shape \(\) for 3 images"):
        search(lambda z: z.square().sum(), torch.ones(3, 1), 1)


def test_the_ball_s_nearest_point() -> None:
    z = torch.tensor([[3.0, 4.0], [0.3, -0.4], [0.0, 0.0], [0.0, -1.0]])
    expected = np.array([row / max(np.sqrt((row**2).sum()), 1) for row in z.numpy()])
    np.testing.assert_allclose(project_to_ball(z).numpy(), expected, rtol=1e-6)
    assert torch.equal(project_to_ball(z)[1:], z[1:]), "what lies in the ball does not move"
