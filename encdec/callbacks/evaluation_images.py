"""What TensorBoard shows of an evaluation: reconstructions, interpolations and latents."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encdec.evaluation import latent_images
from encdec.evaluation.context import Context, block_size, random_order
from encdec.evaluation.grids import comparison, drawing, enlarge, shown_images, thumbnails
from encdec.evaluation.inference import Inferred
from encdec.objectives.losses import pixel_means
from encdec.paradigms import encodes
from encdec.text import printable
from encdec.types import Batch

_SHOWN, _COLUMNS = 20, 10  # reconstructed images
_PROJECTED = 2000  # latents in the projector
_LONGEST_NAME = 80  # of a class, there


def draw(writer: SummaryWriter, context: Context, inferred: Inferred) -> None:
    """Show the test split; an image that can't be drawn costs a sentence.

    Args:
        writer: TensorBoard's.
        context: the evaluation.
        inferred: latents of the test images, and the posteriors that were fitted to some.
    """
    for name, draw_one in _IMAGES.items():
        with drawing(f"test/{name}"):
            draw_one(name, writer, context, inferred)


def reconstructions(context: Context, inferred: Inferred, most: int) -> list[Tensor]:
    """Test images, and below them what their own latents and the means of fitted posteriors decode to.

    Each (n, C, H, W) in [0, 1]; the images alone where there are no latents.
    """
    view, shown = context.view, shown_images(context.test.labels, most, context.chosen)
    batches = list(context.batches("test", shown))
    x, y = torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])
    rows = [x]
    if inferred.latents is not None:
        rows.append(pixel_means(view.decode(inferred.latents[shown.to(view.device)], y)))
    elif view.is_latent and encodes(view.paradigm):
        rows.append(torch.cat([view.latent.reconstruct(batch) for batch in batches]))
    if inferred.fitted is not None:
        place = (context.chosen[None] == shown[:, None]).int().argmax(1).to(view.device)
        rows.append(pixel_means(view.decode(inferred.fitted.latents[place], y)))
    return rows


def _shown_latents(context: Context, inferred: Inferred) -> tuple[Tensor, Batch] | None:
    """Latents to look at, with their images: the model's own where it has some, else fitted ones."""
    most = block_size(context.numel, _PROJECTED)
    if inferred.latents is not None:
        positions = random_order(len(context.test.labels))[:most]
        z = inferred.latents[positions.to(context.view.device)]
    elif inferred.fitted is not None:
        positions = context.chosen[:most]
        z = inferred.fitted.latents[: len(positions)]
    else:
        return None
    (batch,) = context.batches("test", positions, most)
    return z.float(), batch


def _draw_reconstructions(name: str, writer: SummaryWriter, context: Context, inferred: Inferred) -> None:
    rows = reconstructions(context, inferred, _SHOWN)
    if len(rows) > 1:
        writer.add_image(f"test/{name}", enlarge(comparison(rows, columns=_COLUMNS)), context.view.paradigm.loaded_step)


def _draw_interpolations(name: str, writer: SummaryWriter, context: Context, inferred: Inferred) -> None:
    writer.add_image(f"test/{name}", latent_images.interpolations(context), context.view.paradigm.loaded_step)


def _draw_map(name: str, writer: SummaryWriter, context: Context, inferred: Inferred) -> None:
    shown = _shown_latents(context, inferred)
    if shown is not None:
        z, batch = shown
        image = latent_images.latent_map(z.cpu(), batch.y.cpu(), context.test.classes)
        writer.add_image(f"test/{name}", image, context.view.paradigm.loaded_step)


def _fill_projector(name: str, writer: SummaryWriter, context: Context, inferred: Inferred) -> None:
    shown, step = _shown_latents(context, inferred), context.view.paradigm.loaded_step
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
