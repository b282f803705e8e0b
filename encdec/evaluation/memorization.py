"""Whether samples are copies of training images."""

from collections.abc import Callable

import torch
from torch import Tensor

from encdec.evaluation.context import Context, block_size

_QUERIES = 1 << 25  # numbers of the images whose neighbours are looked for in one pass over the training split
_CANDIDATES = 4  # nearest training images whose distance is taken exactly

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

    ‖q − x‖² = ‖q‖² − 2 qᵀx + ‖x‖² in float32 finds the `_CANDIDATES` nearest ones, whose distances are then taken in
    float64.
    """
    numel, device = context.numel, context.view.device
    share = context.processes.share(total)
    parts = (share if len(share) else torch.zeros(1, dtype=torch.int64)).split(max(1, _QUERIES // numel))
    distances, positions = [], []
    for done, part in enumerate(parts):
        start, end = done / len(parts), (done + 1) / len(parts)
        queries = query(part).flatten(1).float()
        excluded = None if own is None else own[part].to(device)
        candidates = _candidates(context.span(start, end), queries, excluded)
        exact = _exact(context, queries, candidates)
        if excluded is not None:  # among fewer other images than candidates
            exact.masked_fill_(candidates == excluded[:, None], torch.inf)
        found = exact.min(1)
        # one grey level in one pixel is 1.5e-5, so what is below is the rounding of a zero
        distances.append(found.values.masked_fill(found.values < 1e-9, 0))
        positions.append(candidates.gather(1, found.indices[:, None])[:, 0])
    merged = [context.processes.merge(torch.cat(rows)[: len(share)], total) for rows in (distances, positions)]
    return merged[0], merged[1]


def _candidates(context: Context, queries: Tensor, excluded: Tensor | None) -> Tensor:
    """Positions of the training images that are nearest to each query (Q, D), up to rounding: (Q, k), int64."""
    n, device = len(context.train.labels), context.view.device
    k = min(_CANDIDATES, n)
    best = torch.full((len(queries), k), torch.inf, device=device)
    positions = torch.zeros(len(queries), k, dtype=torch.int64, device=device)
    for batch in context.batches("train", torch.arange(n), block_size(max(context.numel, len(queries)))):
        x = batch.x.flatten(1).float()
        found = torch.addmm(x.square().sum(1), queries, x.T, alpha=-2)
        if excluded is not None:
            found.masked_fill_(excluded.unsqueeze(1) == batch.index, torch.inf)
        near = found.topk(min(k, len(x)), largest=False)
        best, which = torch.cat([best, near.values], 1).topk(k, largest=False)
        positions = torch.cat([positions, batch.index[near.indices]], 1).gather(1, which)
        context.advance((int(batch.index[-1]) + 1) / n)
    return positions


def _exact(context: Context, queries: Tensor, candidates: Tensor) -> Tensor:
    """Squared distances to the training images at some positions, (Q, D), (Q, k) -> (Q, k), float64."""
    unique, which = candidates.unique(return_inverse=True)
    distances = torch.zeros(candidates.shape, dtype=torch.float64, device=queries.device)
    done = 0
    for batch in context.batches("train", unique.cpu()):
        for column in range(candidates.shape[1]):
            row = which[:, column] - done
            here = ((row >= 0) & (row < len(batch.x))).nonzero()[:, 0]
            difference = queries[here].double() - batch.x.flatten(1)[row[here]].double()
            distances[here, column] = difference.square().sum(1)
        done += len(batch.x)
    return distances
