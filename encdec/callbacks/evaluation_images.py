"""What TensorBoard shows of an evaluation: reconstructions, interpolations and latents."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encdec.evaluation import latent_images
from encdec.evaluation.context import Context, block_size
from encdec.evaluation.grids import comparison, drawing, enlarge, thumbnails
from encdec.objectives.losses import pixel_means
from encdec.text import printable
from encdec.types import Batch

_SHOWN = 16  # reconstructed images
_PROJECTED = 2000  # latents in the projector
_LONGEST_NAME = 80  # of a class, there


def draw(writer: SummaryWriter, context: Context, optimized: Tensor | None) -> None:
    """Show the test split; an image that can't be drawn costs a sentence.

    Args:
        writer: TensorBoard's.
        context: the evaluation.
        optimized: latents found by search for the first n test images, (n, d), where they were searched for.
    """
    for name, draw_one in _IMAGES.items():
        with drawing(f"test/{name}"):
            draw_one(name, writer, context, optimized)


def _shown_latents(context: Context, optimized: Tensor | None) -> tuple[Tensor, Batch] | None:
    """Latents to look at, with their images: the encoder's where there is one, else optimised ones."""
    most = block_size(context.numel, _PROJECTED)
    (batch,) = context.batches("test", torch.arange(min(most, len(context.test.labels))), most)
    z = context.view.encode(batch)
    if z is None and optimized is not None:
        z = optimized[: len(batch.x)]
        batch = batch.rows(slice(len(z)))
    return None if z is None else (z.float(), batch)


def _draw_reconstructions(name: str, writer: SummaryWriter, context: Context, optimized: Tensor | None) -> None:
    view, shown = context.view, torch.arange(min(_SHOWN, len(context.test.labels)))
    (batch,) = context.batches("test", shown, _SHOWN)
    rows = [batch.x]
    for z in (view.encode(batch), None if optimized is None else optimized[: len(batch.x)]):
        if z is not None:
            rows.append(pixel_means(view.decode(z, batch.y)))
    if len(rows) > 1:
        writer.add_image(f"test/{name}", enlarge(comparison(rows, columns=8)), view.paradigm.loaded_step)


def _draw_interpolations(name: str, writer: SummaryWriter, context: Context, optimized: Tensor | None) -> None:
    writer.add_image(f"test/{name}", latent_images.interpolations(context), context.view.paradigm.loaded_step)


def _draw_map(name: str, writer: SummaryWriter, context: Context, optimized: Tensor | None) -> None:
    shown = _shown_latents(context, optimized)
    if shown is not None:
        z, batch = shown
        image = latent_images.latent_map(z.cpu(), batch.y.cpu(), context.test.classes)
        writer.add_image(f"test/{name}", image, context.view.paradigm.loaded_step)


def _fill_projector(name: str, writer: SummaryWriter, context: Context, optimized: Tensor | None) -> None:
    shown, step = _shown_latents(context, optimized), context.view.paradigm.loaded_step
    # a second evaluation of a checkpoint would list the same latents twice
    if shown is not None and not Path(writer.log_dir, f"{step:05}", name).exists():
        z, batch = shown
        names = [printable(context.test.classes[label], _LONGEST_NAME) for label in batch.y.tolist()]
        writer.add_embedding(z.cpu(), metadata=names, label_img=thumbnails(batch.x), global_step=step, tag=name)


_IMAGES = {
    "reconstructions": _draw_reconstructions,
    "interpolations": _draw_interpolations,
    "latent_map": _draw_map,
    "codes": _fill_projector,
}
"""What TensorBoard shows of a test split, the projector last."""
