"""The residual pair: what it computes before training, its sizes, and that it beats PCA."""

import pytest
import torch

from encdec.data import Digits
from encdec.networks import ResidualDecoder, ResidualEncoder
from encdec.objectives.losses import pixel_means, pixel_squared_error
from encdec.types import UserError


def test_without_convolutions_it_is_a_linear_map_and_back() -> None:
    encoder, decoder = ResidualEncoder((3, 13, 17), 5), ResidualDecoder(5, (3, 13, 17))
    for head in (encoder.head, decoder.layers[-2]):
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
    x, z = torch.rand(4, 3, 13, 17), torch.randn(4, 5)
    assert encoder.linear is not None
    assert decoder.linear is not None
    expected = (2 * x - 1).flatten(1) @ encoder.linear.weight.T + encoder.linear.bias
    torch.testing.assert_close(encoder(x), expected)
    expected = (z @ decoder.linear.weight.T + decoder.linear.bias).reshape(4, 3, 13, 17)
    torch.testing.assert_close(decoder(z), expected)


def test_a_block_is_the_identity_before_training() -> None:
    encoder = ResidualEncoder((3, 32, 32), 8, blocks=2)
    without = ResidualEncoder((3, 32, 32), 8, blocks=0)
    kept = [value for name, value in encoder.state_dict().items() if ".layers." not in name]  # of no block
    without.load_state_dict(dict(zip(without.state_dict(), kept, strict=True)))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder(x), without(x))


def test_the_linear_path_can_be_left_out() -> None:
    encoder = ResidualEncoder((3, 32, 32), 8, linear=False)
    decoder = ResidualDecoder(8, (3, 32, 32), linear=False)
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, 8)
    assert decoder(torch.randn(2, 8)).shape == (2, 3, 32, 32)
    assert not any("linear" in name for network in (encoder, decoder) for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": ()}, "`channels` is empty"),
        ({"channels": (8, 0)}, "every size must be at least 1"),
        ({"blocks": -1}, "blocks is -1, but their number can't be negative"),
        ({"channels": (8, 8, 8, 8, 8)}, "has too many stages for images of 8×8 pixels"),
    ],
)
def test_sizes_that_fit_no_image_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ResidualEncoder((1, 8, 8), 4, **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        ResidualDecoder(4, (1, 8, 8), **settings)  # type: ignore[arg-type]


def test_it_reconstructs_held_out_images_better_than_as_many_principal_components() -> None:
    torch.manual_seed(0)
    data = Digits(batch_size=2000)
    train, held_out = (next(iter(loader)).x for loader in (data.train_dataloader(), data.val_dataloader()))
    mean, axes = train.flatten(1).mean(0), torch.linalg.svd(train.flatten(1) - train.flatten(1).mean(0))[2][:8]
    centered = held_out.flatten(1) - mean
    of_pca = (centered - centered @ axes.T @ axes).square().mean()
    encoder, decoder = ResidualEncoder((1, 8, 8), 8, (8, 16, 32)), ResidualDecoder(8, (1, 8, 8), (32, 16, 8))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-3)
    for _ in range(300):
        x = train[torch.randint(len(train), (128,))]
        optimizer.zero_grad()
        pixel_squared_error(decoder(encoder(x)), x).mean().backward()
        optimizer.step()
    with torch.no_grad():
        of_pair = (pixel_means(decoder(encoder(held_out))) - held_out).square().mean()
    assert of_pair < 0.8 * of_pca
