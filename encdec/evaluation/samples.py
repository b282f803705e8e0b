"""How good the samples are: distances to real images, precision and recall, diversity, and memorisation.

Sample i has noise e_i, a function of the run's seed and i alone, and the label of a test image, so that labels are
distributed as in the test split, with which samples are compared. All is drawn and measured in blocks.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from encdec.evaluation import distances, diversity
from encdec.evaluation.context import Context, block_size
from encdec.evaluation.distances import (
    OF_SAMPLERS,
    PAIRWISE,
    Frechet,
    add_distances,
    feature_scores,
    neighbour_radii,
)
from encdec.evaluation.diversity import Moments, add_diversity
from encdec.evaluation.features import FeatureSpace
from encdec.evaluation.memorization import memorized
from encdec.evaluation.samplers import Drawn
from encdec.evaluation.view import DRAWS
from encdec.types import Batch

MEMORIZED = 2000
"""Samples, and test images, whose nearest training image is looked for."""

_SEED = 0  # of the random order of images: the same in every run


@torch.no_grad()
def evaluate_samples(
    context: Context, space: FeatureSpace, samplers: Mapping[str, Drawn] = MappingProxyType({})
) -> None:
    """Add the metrics of `num_samples` samples, each with what as many real training images score.

    In the feature space, and named after it: `frechet_…`, `kernel_…`, `precision_…`, `recall_…`, `density_…` and
    `coverage_…`. In pixels: `sample_variance`, `sample_variance_z`, `sample_mean_distance` and `memorised`.

    Of other samplers than the model's own the Fréchet distance, recall and coverage, with their names at the end.

    Args:
        context: the evaluation.
        space: the feature space.
        samplers: by name; one that is the model's own is not measured again.
    """
    view, processes, advance = context.view, context.processes, context.advance
    device, numel, classes = view.device, context.numel, len(context.test.classes)
    num_samples, num_train = context.num_samples, len(context.train.labels)
    # a split may be sorted by class, so that its first images would not be a sample of it
    test_order, train_order = _order(len(context.test.labels)), _order(num_train)
    labels = context.test.labels[test_order[torch.arange(num_samples) % len(test_order)]]

    def drawn(positions: Tensor) -> Iterator[Batch]:
        for part in positions.split(block_size(numel)) if len(positions) else ():
            y = labels[part].to(device)
            yield Batch(view.images(view.noise(DRAWS["samples"], part), y), y, part.to(device))

    def looked_up(split: str, positions: Tensor) -> Iterator[Batch]:
        return context.batches(split, positions) if len(positions) else iter(())

    def real(split: str, order: Tensor) -> Iterator[Batch]:
        return looked_up(split, order[processes.share(len(order))])

    # a decoder that does not read labels has no classes within which z could vary
    sampled = Moments(classes if view.reads_labels else 1, numel, device)
    held_out, seen = Moments(1, numel, device), Moments(classes, numel, device)
    frechet = Frechet(space.dim, device)

    blocks = held_out.watch(real("test", test_order))
    test_features = _collect(context.span(0, 0.1), frechet, space, blocks, len(test_order))
    frechet.next_set()
    blocks = sampled.watch(drawn(processes.share(num_samples)))
    features = _collect(context.span(0.1, 0.25), frechet, space, blocks, num_samples)
    sampled.gather(processes)
    if not sampled.squares.isfinite().all():
        names = [*(f"{name}_{space.name}" for name in distances.NAMES), *diversity.NAMES, "memorised"]
        names += [f"{name}_{space.name}_{sampler}" for sampler in samplers for name in OF_SAMPLERS]
        context.metrics.undefined |= dict.fromkeys(names, "the decoder's samples are not finite numbers")
        return
    test_radii = neighbour_radii(test_features, processes) if len(test_features) > distances.NEIGHBOURS else None
    scores = feature_scores(frechet, features, test_features, processes, test_radii)
    advance(0.4)
    frechet.next_set()
    references = train_order[:num_samples]
    blocks = real("train", references)
    real_features = _collect(context.span(0.4, 0.5), frechet, space, blocks, len(references))
    real_scores = feature_scores(frechet, real_features, test_features, processes, test_radii)
    advance(0.55)
    counts = (num_samples, len(test_order), len(references))
    add_distances(context.metrics, space, scores, real_scores, counts)
    of_samplers = partial(add_distances, context.metrics, space, names=OF_SAMPLERS)
    for name, sampler in samplers.items():
        if sampler.ex_post is view.latent.ex_post:
            of_sampler = scores
        else:
            with view.sampling_from(sampler.ex_post):
                frechet.next_set()
                blocks = drawn(processes.share(num_samples))
                features = _collect(context.span(0.55, 0.65), frechet, space, blocks, num_samples)
            of_sampler = feature_scores(frechet, features, test_features, processes, test_radii, OF_SAMPLERS)
        of_samplers(of_sampler, real_scores, counts, suffix=f"_{name}", source=sampler.source)
    advance(0.65)

    for _ in seen.watch(real("train", torch.arange(num_train))):
        pass
    seen.gather(processes)
    held_out.gather(processes)
    add_diversity(context.metrics, sampled, held_out, seen)
    advance(0.7)

    queries, others = min(num_samples, MEMORIZED), test_order[:MEMORIZED]

    def query(positions: Tensor) -> Tensor:
        first, second = positions[positions < queries], positions[positions >= queries] - queries
        return torch.cat([batch.x for batch in (*drawn(first), *looked_up("test", others[second]))])

    if num_train < 2:
        context.metrics.undefined["memorised"] = "it needs at least 2 training images"
        return
    closer = memorized(context.span(0.7, 1), query, queries + len(others))
    context.metrics.add(
        "memorised",
        closer[:queries],
        f"share of {queries:,} samples nearer to a training image than that is to its nearest other one",
        reference=float(closer[queries:].mean()),
        reference_name=f"{len(others):,} held-out images",
    )


def _order(count: int) -> Tensor:
    """A random order of `count` images, the same in every run."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))


def _collect(context: Context, frechet: Frechet, space: FeatureSpace, blocks: Iterator[Batch], total: int) -> Tensor:
    """The first features of a set of `total` images, (≤ PAIRWISE, dim), float64; `frechet` is given all of them.

    `blocks` are the images of this process's share, `block_size` at a time. The shares of all processes interleave, so
    their n-th blocks together are a contiguous part of the set.
    """
    kept, step = [], block_size(context.numel) * context.processes.count
    for start in range(0, total, step):
        batch = next(blocks, None)  # of the last part this process may have no share
        part = torch.zeros(0, space.dim, device=frechet.device) if batch is None else space.features(batch.x)
        features = context.processes.merge(part, min(step, total - start)).double()
        frechet.update(features)
        if start < PAIRWISE:
            kept.append(features[: PAIRWISE - start].clone())  # not a view, which would keep all of the part
        context.advance(min(1.0, (start + step) / total))
    return torch.cat(kept)
