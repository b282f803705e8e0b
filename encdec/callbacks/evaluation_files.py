"""Pictures that `test` leaves beside its report: samples and reconstructions, the same choice for every run."""

from collections.abc import Iterator
from pathlib import Path

import torch

from encdec.callbacks.evaluation_images import reconstructions
from encdec.callbacks.image_grids import fixed_noise
from encdec.evaluation.context import Context
from encdec.evaluation.grids import as_png, comparison, drawing, grid
from encdec.evaluation.inference import Inferred
from encdec.files import written_whole

_SIDE = 8  # samples in a row, and rows
_SHOWN, _COLUMNS = 20, 10  # reconstructed images


def write_pictures(context: Context, inferred: Inferred, folder: Path, stem: str) -> Iterator[Path]:
    """Write STEM.samples.png, and STEM.reconstructions.png where images have latents; each when asked for.

    Samples are of the same noise in all runs, one class after the other where the model knows classes. Of the test
    images, fixed ones of each class, the upper rows are as they are, the lower ones decodings of their own latents, or
    else of the means of the posteriors that were fitted to them. A picture that can't be drawn costs a sentence.
    """
    paradigm = context.view.paradigm
    path = folder / f"{stem}.samples.png"
    with drawing(path.name):
        y = torch.arange(_SIDE**2, device=paradigm.device) % paradigm.num_classes
        noise = fixed_noise(_SIDE**2, paradigm.noise_dim)
        content = as_png(grid(paradigm.sample(y, noise.to(paradigm.device)), _SIDE))
        yield _written(path, content)
    path = folder / f"{stem}.reconstructions.png"
    with drawing(path.name):
        rows = reconstructions(context, inferred, _SHOWN)
        if len(rows) > 1:
            yield _written(path, as_png(comparison(rows[:2], _COLUMNS)))


def _written(path: Path, content: bytes) -> Path:
    with written_whole(path) as file:
        file.write(content)
    return path
