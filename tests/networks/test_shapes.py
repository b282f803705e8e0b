"""What networks return is checked, and so are the names of what they are made of."""

from typing import Any

import pytest
import torch
from torch import Tensor

from encdec.data import Digits
from encdec.networks import Decoder, Encoder, MLPDecoder, MLPVelocity, Velocity
from encdec.paradigms import VAE
from encdec.types import UserError


class _FlatDecoder(Decoder):
    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), 64)


class _WideEncoder(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.out_features + 1)


class _FlatVelocity(Velocity):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x.flatten(1)


def test_a_wrong_shape_is_said_of_the_network() -> None:
    with pytest.raises(UserError, match=r"_FlatDecoder returns \(5, 64\), but it must return \(B, 1, 8, 8\)"):
        _FlatDecoder(3, (1, 8, 8))(torch.zeros(5, 3))
    with pytest.raises(UserError, match=r"_WideEncoder returns \(5, 4\), but it must return \(B, 3\)"):
        _WideEncoder((1, 8, 8), 3)(torch.zeros(5, 1, 8, 8))
    with pytest.raises(UserError, match=r"_FlatVelocity returns \(5, 64\), but it must return \(B, 1, 8, 8\)"):
        _FlatVelocity((1, 8, 8), 1)(torch.zeros(5, 1, 8, 8), torch.zeros(5, 1))


@pytest.mark.parametrize(
    ("cls", "settings", "sentence"),
    [
        (VAE, {"image_shape": (1, 8, 8), "latent_dm": 8}, "VAE has no setting 'latent_dm'; did you mean latent_dim"),
        (Digits, {"batchsize": 3}, "Digits has no setting 'batchsize'; did you mean batch_size"),
        (MLPDecoder, {"in_features": 3, "image_shape": (1, 8, 8), "hiden": [3]}, "MLPDecoder has no setting 'hiden'"),
        (MLPVelocity, {"image_shape": (1, 8, 8), "time": 1}, "MLPVelocity has no setting 'time'; did you mean times"),
    ],
)
def test_a_setting_of_another_name_is_refused(cls: type[Any], settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cls(**settings)
