"""encdec: do we really need encoders for generative models?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from encdec.paradigms import Paradigm

__version__ = "0.2.0"


def load(checkpoint: str | PathLike[str]) -> Paradigm:
    """The trained paradigm in a checkpoint or an export of one, on the CPU and in evaluation mode, ready to `sample`.

    Only weights and plain values are read, never code; the class must be one that encdec or a plugin defines.

    Raises:
        UserError: there is no such file, it is damaged, or it names a class that is not known.
    """
    from encdec.runs.checkpoints import load_paradigm  # torch is imported only by those who use it

    return load_paradigm(checkpoint)


def export(checkpoint: str | PathLike[str], file: str | PathLike[str] | None = None) -> Path:
    """Write the weights of a checkpoint as safetensors, with all that `load` needs as JSON in the metadata.

    Args:
        checkpoint: a file that `fit` wrote.
        file: where to; beside the checkpoint, with the ending .safetensors, if not given.

    Returns:
        Where the export is.

    Raises:
        UserError: the checkpoint can't be read, or there is another file in that place.
    """
    from encdec.runs.export import export_checkpoint

    return export_checkpoint(checkpoint, file)
