"""The latent space as images: interpolations, and a map of latents."""

import warnings

import numpy as np
import torch
from torch import Tensor

from encdec.evaluation.context import Context, random_order
from encdec.evaluation.grids import enlarge, grid
from encdec.evaluation.view import DRAWS
from encdec.objectives.losses import pixel_means
from encdec.text import printable

_WIDTH, _HEIGHT, _DPI = 800, 700, 100
_MOST_CLASSES = 20  # more colors than these can't be told apart
_LONGEST_NAME = 20


def strip_latents(ends: Tensor, steps: int) -> Tensor:
    """Latents on straight lines from each latent of the first half to its partner in the second half.

    Args:
        ends: (2R, d).
        steps: latents of a line, both ends included.

    Returns:
        (R, steps, d), in the precision of `ends`.
    """
    first, last = ends.chunk(2)
    weights = torch.linspace(0, 1, steps, dtype=ends.dtype, device=ends.device)[:, None]
    return torch.lerp(first[:, None], last[:, None], weights)


def interpolations(context: Context, rows: int = 8, steps: int = 9) -> Tensor:
    """Decodings along straight lines between latents, one line in each row, (3, H', W') in [0, 1].

    The ends are the latents of random test images, the same in all runs, where images have latents, and latents from
    the prior otherwise; of a model without latents, the noise that images are made of. A decoder that reads labels is
    given that of the line's first image.
    """
    view = context.view
    positions = random_order(len(context.test.labels))[: 2 * rows]
    positions = positions[: len(positions) // 2 * 2]
    ends = None
    if len(positions):
        batch = next(context.batches("test", positions, len(positions)))
        ends, labels = view.encode(batch), batch.y
    if ends is None:
        ends = view.noise(DRAWS["interpolations"], torch.arange(2 * rows))
        ends = view.prior(ends) if view.is_latent else ends
        labels = torch.arange(2 * rows, device=view.device) % view.paradigm.num_classes
    z = strip_latents(ends, steps)
    y = labels[: len(z)].repeat_interleave(steps)
    points = z.flatten(0, 1)
    return enlarge(grid(pixel_means(view.decode(points, y)) if view.is_latent else view.images(points, y), steps))


def latent_map(latents: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Latents in a plane, colored by class, with a legend: (3, 700, 800) in [0, 1].

    Two numbers are drawn as they are. Of longer latents the first two principal components are drawn, with the share
    of the latents' variance that each has; a single number is drawn with one row for each class.

    Args:
        latents: (n, d).
        labels: int64, (n,).
        classes: name of each label; those after the twentieth are drawn in grey.
    """
    import matplotlib  # slow to import, and only needed where a map is drawn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    points, axis_names = _plane(latents.detach().double().cpu(), labels.cpu())
    palette = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]
    colors = np.array([palette(i) if i < _MOST_CLASSES else (0.6, 0.6, 0.6, 1.0) for i in range(len(classes))])
    names = [_short(name) for name in classes[:_MOST_CLASSES]]
    if len(classes) > _MOST_CLASSES:
        names.append(f" {len(classes) - _MOST_CLASSES} others")

    figure = Figure(figsize=(_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # one call for all classes, so that none is drawn on top of the others
    size = float(np.clip(20_000 / max(len(points), 1), 4, 30))
    x, y = points.T.numpy()
    axes.scatter(x, y, s=size, c=colors[labels.cpu().numpy()], alpha=0.7, linewidths=0)
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    axes.margins(0.03)
    if latents.shape[1] == 1:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(classes) > 1:
        dots = [Line2D([], [], linestyle="", marker="o", color=colors[i]) for i in range(len(names))]
        legend = figure.legend(dots, names, loc="outside right center", frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be called $x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is drawn as a box
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _short(name: str) -> str:
    # a space first, because matplotlib leaves names that start with an underscore out of a legend
    name = printable(name)
    return " " + (name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…")


def _plane(z: Tensor, labels: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """What to draw of latents (n, d), (n, 2), and what to write at both axes."""
    if z.shape[1] == 1:
        return torch.stack([z[:, 0], labels.double()], dim=1), ("latent", "class")
    if z.shape[1] == 2:
        return z, ("first number of the latent", "second number of the latent")
    centred = z - z.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)[:, :2]
    # a direction is found up to its sign: its largest entry is made positive
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    total = float(variances.sum())
    first, second = (f"{float(v) / total:.0%} of the variance" if total > 0 else "no variance" for v in variances[:2])
    return centred @ directions, (f"first principal component ({first})", f"second principal component ({second})")
