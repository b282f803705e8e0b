"""encdec: do we really need encoders for generative models?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from encdec.paradigms import Paradigm

__version__ = "0.1.0"


def load(checkpoint: str | PathLike[str]) -> Paradigm:
    """The trained paradigm in a checkpoint, on the CPU and in evaluation mode, ready to `sample`.

    Only weights and plain values are read, never code; the class must be one that encdec or a plugin defines.

    Raises:
        UserError: there is no such file, it is damaged, or its class is not a known paradigm.
    """
    from encdec.checkpoints import load_paradigm  # torch is imported only by those who use it

    return load_paradigm(checkpoint)
