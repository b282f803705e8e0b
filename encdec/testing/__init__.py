"""Contract checks for paradigms, data modules and networks; plugin authors call them in their own tests.

    from encdec.testing import check_paradigm
    from encdec_plugins.mine import Mine

    def test_mine(tmp_path):
        check_paradigm(Mine, tmp_path, latent_dim=4)

Each raises AssertionError with a sentence that says which part of the contract is broken.
"""

from encdec.testing.data import check_datamodule
from encdec.testing.networks import SHAPES, check_decoder, check_encoder, check_velocity
from encdec.testing.paradigms import check_paradigm

__all__ = ["SHAPES", "check_datamodule", "check_decoder", "check_encoder", "check_paradigm", "check_velocity"]
