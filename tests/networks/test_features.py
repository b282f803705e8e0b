"""Fixed features: what they hold, and that nothing of them is trained."""

from typing import Any

import pytest
import torch

from encdec.networks import Features, Pixels, RandomConvolutions, UNet
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


REFUSED: list[tuple[object, Shape, str]] = [
    ((0,), (1, 8, 8), r"channels is \[0\], but every size must be at least 1"),
    ((4, -1), (1, 8, 8), r"channels is \[4, -1\], but every size must be at least 1"),
    ((4, 1.5), (1, 8, 8), r"channels is \[4, 1.5\], but every size must be an integer"),
    (16, (1, 8, 8), "channels is 16, but it must be a list of integers"),
    ((), (1, 8, 8), "RandomConvolutions: channels is empty, and without a stage its features would be the pixels"),
    ((4,) * 4, (1, 8, 8), "has too many stages for images of 8×8 pixels: each stage halves the size, so use at most 3"),
    ((4,), (3, 1, 1), "has too many stages for images of 1×1 pixels: each stage halves the size, and one pixel has no"),
]


@pytest.mark.parametrize(("channels", "shape", "sentence"), REFUSED)
def test_sizes_that_make_no_features_are_refused(channels: Any, shape: Shape, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        RandomConvolutions(shape, channels=channels)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("shape", "channels"), [((1, 8, 8), (2, 3, 4)), ((1, 1, 2), (2,)), ((2, 3, 1), (2, 2))])
def test_the_smallest_pictures_have_features_that_see_neighbors(shape: Shape, channels: tuple[int, ...]) -> None:
    """The last stage that is allowed has one number for each map, and pixels that change places change it."""
    features = RandomConvolutions(shape, channels)
    x = torch.rand(4, *shape)
    found, mirrored = features(x), features(x.flip(2, 3))
    assert found.shape == (4, features.size)
    assert not torch.allclose(found[:, -channels[-1] :], mirrored[:, -channels[-1] :])


def test_a_unet_of_more_resolutions_than_the_image_has_is_refused() -> None:
    assert UNet((1, 3, 2), 1)(torch.rand(2, 1, 3, 2), torch.rand(2, 1)).shape == (2, 1, 3, 2)
    for settings, sentence in (
        ({"channels": (8,) * 5}, r"UNet: channels \[8, 8, 8, 8, 8\] and patch 2 make .* 32×32, but images have 8×8"),
        ({"patch": 16}, "patch 16 make the lowest resolution one pixel for 32×32"),
        ({"patch": 1.5}, r"UNet: patch is \[1.5\], but every size must be an integer"),
    ):
        with pytest.raises(UserError, match=sentence):
            UNet((1, 8, 8), 1, **settings)
