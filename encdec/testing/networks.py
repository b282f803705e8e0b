"""What every network promises."""

from typing import Any

import torch
from torch import Tensor, nn

from encdec.networks import Decoder, Encoder, Velocity
from encdec.objectives.derivatives import along
from encdec.types import Shape

SHAPES: tuple[Shape, ...] = ((1, 8, 8), (3, 13, 17), (1, 28, 28), (3, 32, 32), (2, 64, 64))
"""Image shapes that a network must handle."""


def check_encoder(encoder_class: type[Encoder], **init_args: Any) -> None:
    """Check an encoder on images of several shapes: sizes, finite gradients, images treated one by one."""
    for shape in SHAPES:
        encoder = encoder_class(shape, 6, **init_args)
        _check_network(encoder, torch.rand(3, *shape), (3, 6))


def check_decoder(decoder_class: type[Decoder], **init_args: Any) -> None:
    """Check a decoder on images of several shapes: sizes, finite gradients, images treated one by one."""
    for shape in SHAPES:
        decoder = decoder_class(6, shape, **init_args)
        _check_network(decoder, torch.randn(3, 6), (3, *shape))
        outputs = decoder(10 * torch.randn(64, 6)).detach()
        assert float(outputs.min()) < 0, f"{decoder_class.__name__} returns no negative values: it must return logits"


def check_velocity(velocity_class: type[Velocity], **init_args: Any) -> None:
    """Check a velocity on images of several shapes and one or two times: sizes, gradients also by time, no mixing."""
    for shape in SHAPES:
        for times in (1, 2):
            velocity = velocity_class(shape, times, **init_args)
            t = torch.rand(3, times)
            _check_network(velocity, torch.randn(3, *shape), (3, *shape), t)
            inputs = torch.randn(3, *shape), t
            _, derivative = along(velocity, inputs, (torch.randn(3, *shape), torch.ones_like(t)))
            assert torch.isfinite(derivative).all(), f"{velocity_class.__name__}: the derivative by time is not finite"


def _check_network(network: nn.Module, inputs: Tensor, expected: tuple[int, ...], *others: Tensor) -> None:
    name = type(network).__name__
    outputs = network(inputs, *others)
    assert outputs.shape == expected, f"{name}: {tuple(inputs.shape)} -> {tuple(outputs.shape)}, not {expected}"
    outputs.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name}: {key} has no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{name}: the gradient of {key} is not finite"
    network.eval()
    with torch.no_grad():
        one_by_one = torch.cat([network(*(one[i : i + 1] for one in (inputs, *others))) for i in range(len(inputs))])
        torch.testing.assert_close(
            network(inputs, *others),
            one_by_one,
            rtol=1e-4,
            atol=1e-5,
            msg=lambda m: f"{name} mixes images of a batch\n{m}",
        )
