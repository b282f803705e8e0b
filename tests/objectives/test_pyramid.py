"""The Laplacian pyramid loss against a pyramid in numpy and scipy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from encdec.objectives.pyramid import laplacian_pyramid_loss
from encdec.types import UserError

Array = np.ndarray[Any, np.dtype[np.float64]]


def pyramid(plane: Array, levels: int) -> list[Array]:
    """The levels of one channel (H, W)."""
    binomial = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    found = []
    for _ in range(levels):
        blurred = ndimage.correlate(plane, binomial, mode="nearest")
        found.append(plane - blurred)
        height, width = blurred.shape
        plane = np.array(
            [[blurred[i : i + 2, j : j + 2].mean() for j in range(0, width, 2)] for i in range(0, height, 2)]
        )
    return [*found, plane]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 4, 4), (1, 5, 9), (1, 1, 7)])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 3.0), (1.0,)])
def test_it_is_the_weighted_difference_of_two_pyramids(shape: tuple[int, int, int], weights: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    mean, x = rng.random((3, *shape)), rng.random((3, *shape))
    expected = np.zeros(3)
    for image in range(3):
        levels = [[pyramid(one[image, c], len(weights) - 1) for one in (mean, x)] for c in range(shape[0])]
        for j, weight in enumerate(weights):
            expected[image] += weight * np.mean([np.abs(a[j] - b[j]).mean() for a, b in levels])
    found = laplacian_pyramid_loss(torch.from_numpy(mean), torch.from_numpy(x), weights)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_default_weights_have_the_first_three_levels_and_the_rest() -> None:
    mean, x = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    assert torch.equal(laplacian_pyramid_loss(mean, x), laplacian_pyramid_loss(mean, x, [1, 1, 1, 1]))
    apart = sum(laplacian_pyramid_loss(mean, x, [float(j == k) for k in range(4)]) for j in range(4))
    torch.testing.assert_close(laplacian_pyramid_loss(mean, x), apart)


def test_a_constant_difference_is_in_the_rest_alone() -> None:
    x = torch.rand(2, 3, 12, 10)
    torch.testing.assert_close(laplacian_pyramid_loss(x + 0.25, x, (1, 1, 1, 0)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(laplacian_pyramid_loss(x + 0.25, x, (1, 1, 1, 2)), torch.full((2,), 0.5))


def test_gradients_are_right_and_reduced_precision_is_left_out() -> None:
    mean, x = torch.rand(2, 1, 6, 5, dtype=torch.float64, requires_grad=True), torch.rand(2, 1, 6, 5).double()
    assert torch.autograd.gradcheck(laplacian_pyramid_loss, (mean, x))
    expected = laplacian_pyramid_loss(mean.float(), x.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(laplacian_pyramid_loss(mean.float(), x.float()), expected)
    assert laplacian_pyramid_loss(mean.bfloat16(), x.bfloat16()).dtype == torch.float32


def test_no_weights_are_refused() -> None:
    with pytest.raises(UserError, match="weights is empty"):
        laplacian_pyramid_loss(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4), ())
