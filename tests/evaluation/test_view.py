"""What the view of a paradigm says about it."""

from typing import TYPE_CHECKING, Any

import pytest

from encdec import plugins
from encdec.evaluation.view import View
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm
from tests.conftest import ROOT

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.cvae import CVAE
    from plugins.gan import GAN
    from plugins.svi import SVI
else:
    from encdec_plugins.cvae import CVAE
    from encdec_plugins.gan import GAN
    from encdec_plugins.svi import SVI

SHAPE: dict[str, Any] = {"image_shape": (1, 8, 8), "num_classes": 3, "num_train": 24}


@pytest.mark.parametrize(
    ("paradigm", "has_encoder", "reads_labels"),
    [
        (AE(**SHAPE), True, False),
        (AE(encoder_input="zeros", **SHAPE), False, False),
        (VAE(**SHAPE), True, False),
        (CVAE(**SHAPE), True, True),
        (SVI(**SHAPE), False, False),
        (EncoderlessVAE(**SHAPE), False, False),
        (ConditionalDecoder(**SHAPE), False, True),
        (GAN(**SHAPE), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Paradigm) else str(value),
)
def test_encoders_and_labels_are_told_from_what_looks_like_them(
    paradigm: Paradigm, has_encoder: bool, reads_labels: bool
) -> None:
    view = View(paradigm.eval())
    assert (view.has_encoder, view.reads_labels) == (has_encoder, reads_labels)
