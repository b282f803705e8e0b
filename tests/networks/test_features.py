"""Fixed features: what they hold, and that nothing of them is trained."""

import pytest
import torch

from encdec.networks import Features, Pixels, RandomConvolutions
from encdec.testing.networks import SHAPES
from encdec.types import Shape, UserError


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_are_of_any_image_and_begin_with_its_pixels(shape: Shape) -> None:
    x = torch.rand(3, *shape)
    found: list[Features] = [Pixels(shape), RandomConvolutions(shape, channels=(4, 6))]
    for features in found:
        assert list(features.parameters()) == []
        assert features(x).shape == (3, features.size)
        assert torch.equal(features(x)[:, : x[0].numel()], x.flatten(1))
        one_by_one = torch.cat([features(image[None]) for image in x])
        torch.testing.assert_close(features(x), one_by_one)


def test_filters_come_from_their_seed_alone() -> None:
    x = torch.rand(2, 1, 8, 8)
    torch.manual_seed(1)
    first = RandomConvolutions((1, 8, 8))
    torch.manual_seed(2)
    assert torch.equal(first(x), RandomConvolutions((1, 8, 8))(x))
    assert not torch.equal(first(x), RandomConvolutions((1, 8, 8), seed=1)(x))


def test_they_are_in_full_precision_under_autocast() -> None:
    x = torch.rand(2, 1, 8, 8)
    features = RandomConvolutions((1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(x), features(x.float()))
        assert features(x.bfloat16()).dtype == torch.float32


def test_sizes_must_be_positive() -> None:
    with pytest.raises(UserError, match=r"RandomConvolutions: channels is \[0\], but every size must be at least 1"):
        RandomConvolutions((1, 8, 8), channels=(0,))
