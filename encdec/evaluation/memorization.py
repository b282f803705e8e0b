"""Whether samples are copies of training images."""

from collections.abc import Callable

import torch
from torch import Tensor

from encdec.evaluation.context import Context, block_size

_QUERIES = 1 << 25  # numbers of the images whose neighbours are looked for in one pass over the training split

Query = Callable[[Tensor], Tensor]
"""The images at some positions, (Q,) -> (Q, C, H, W)."""


def memorized(context: Context, query: Query, total: int) -> Tensor:
    """Whether each of `total` images is nearer to a training image than that is to its nearest other one, (total,).

    Distances are those of pixels. An image nearest to one that the training split has twice does not count,
    since nothing is nearer than its copy.

    Args:
        context: its training split has two images or more.
        query: the images.
        total: how many there are.
    """
    distances, nearest = _nearest(context.span(0, 0.5), query, total)
    unique, which = nearest.unique(return_inverse=True)
    seen = unique.cpu()

    def image(positions: Tensor) -> Tensor:
        return torch.cat([batch.x for batch in context.batches("train", seen[positions])])

    own, _ = _nearest(context.span(0.5, 1), image, len(seen), seen)
    return (distances < own[which]).double()


def _nearest(context: Context, query: Query, total: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest training image and its position, (total,); query i is not compared with own[i].

    Exact: ‖q − x‖² = ‖q‖² − 2 qᵀx + ‖x‖² in float64.
    """
    n, numel, device = len(context.train.labels), context.numel, context.view.device
    share = context.processes.share(total)
    parts = (share if len(share) else torch.zeros(1, dtype=torch.int64)).split(max(1, _QUERIES // numel))
    distances, positions = [], []
    for done, part in enumerate(parts):
        queries = query(part).flatten(1).double()
        best = torch.full((len(part),), torch.inf, dtype=torch.float64, device=device)
        position = torch.zeros(len(part), dtype=torch.int64, device=device)
        for batch in context.batches("train", torch.arange(n), block_size(max(numel, len(part)))):
            x = batch.x.flatten(1).double()
            found = torch.addmm(x.square().sum(1), queries, x.T, alpha=-2)
            if own is not None:
                found.masked_fill_(own[part].to(device).unsqueeze(1) == batch.index, torch.inf)
            smallest, column = found.min(1)
            nearer = smallest < best
            best, position = torch.where(nearer, smallest, best), torch.where(nearer, batch.index[column], position)
            context.advance((done + (int(batch.index[-1]) + 1) / n) / len(parts))
        best += queries.square().sum(1)
        # one grey level in one pixel is 1.5e-5, so what is below is the rounding of a zero
        distances.append(best.masked_fill(best < 1e-9, 0))
        positions.append(position)
    merged = [context.processes.merge(torch.cat(rows)[: len(share)], total) for rows in (distances, positions)]
    return merged[0], merged[1]
