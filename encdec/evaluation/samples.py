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
from encdec.evaluation.context import Context, block_size, random_order
from encdec.evaluation.distances import (
    OF_SAMPLERS,
    PAIRWISE,
    add_distances,
    feature_scores,
    neighbour_radii,
)
from encdec.evaluation.diversity import Moments, add_diversity
from encdec.evaluation.features import FeatureSpace
from encdec.evaluation.frechet import Frechet
from encdec.evaluation.kernel import means_within
from encdec.evaluation.memorization import memorized
from encdec.evaluation.references import Cache, References
from encdec.evaluation.results import Metrics
from encdec.evaluation.samplers import Drawn
from encdec.evaluation.view import DRAWS
from encdec.types import Batch

MEMORIZED = 2000
"""Samples, and test images, whose nearest training image is looked for."""


@torch.no_grad()
def evaluate_samples(
    context: Context,
    space: FeatureSpace,
    samplers: Mapping[str, Drawn] = MappingProxyType({}),
    cache: Cache | None = None,
) -> None:
    """Add the metrics of `num_samples` samples, each with what as many real training images score.

    In the feature space, and named after it: `frechet_…`, `kernel_…`, `precision_…`, `recall_…`, `density_…` and
    `coverage_…`. In pixels: `sample_variance`, `sample_variance_z`, `sample_mean_distance` and `memorised`.

    Of other samplers than the model's own the Fréchet distance, recall and coverage, with their names at the end.

    Args:
        context: the evaluation.
        space: the feature space.
        samplers: by name; one that is the model's own is not measured again.
        cache: where what real images score is kept; None computes it.
    """
    view, processes, advance = context.view, context.processes, context.advance
    device, numel, classes = view.device, context.numel, len(context.test.classes)
    num_samples, num_train = context.num_samples, len(context.train.labels)
    # a split may be sorted by class, so that its first images would not be a sample of it
    test_order = random_order(len(context.test.labels))
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
    references = _references(context.span(0.1, 0.4), space, frechet, test_features, cache)
    frechet.next_set()
    blocks = sampled.watch(drawn(processes.share(num_samples)))
    features = _collect(context.span(0.4, 0.5), frechet, space, blocks, num_samples)
    sampled.gather(processes)
    if not sampled.squares.isfinite().all():
        names = [*(f"{name}_{space.name}" for name in distances.NAMES), *diversity.NAMES, "memorised"]
        names += [f"{name}_{space.name}_{sampler}" for sampler in samplers for name in OF_SAMPLERS]
        context.metrics.undefined |= dict.fromkeys(names, "the decoder's samples are not finite numbers")
        return
    scores = feature_scores(frechet, features, test_features, processes, references)
    advance(0.6)
    counts = (num_samples, len(test_order), min(num_samples, num_train))
    add_distances(context.metrics, space, scores, references.scores, counts)
    of_samplers = partial(add_distances, context.metrics, space, names=OF_SAMPLERS)
    for name, sampler in samplers.items():
        if sampler.ex_post is view.latent.ex_post:
            of_sampler = scores
        else:
            with view.sampling_from(sampler.ex_post):
                frechet.next_set()
                blocks = drawn(processes.share(num_samples))
                features = _collect(context.span(0.6, 0.7), frechet, space, blocks, num_samples)
            of_sampler = feature_scores(frechet, features, test_features, processes, references, OF_SAMPLERS)
        of_samplers(of_sampler, references.scores, counts, suffix=f"_{name}", source=sampler.source)
    advance(0.7)

    for _ in seen.watch(real("train", torch.arange(num_train))):
        pass
    seen.gather(processes)
    held_out.gather(processes)
    add_diversity(context.metrics, sampled, held_out, seen)
    advance(0.75)

    if references.held_out is None:
        context.metrics.undefined["memorised"] = "it needs at least 2 training images"
        return
    queries = min(num_samples, MEMORIZED)
    context.metrics.add(
        "memorised",
        memorized(context.span(0.75, 1), lambda positions: torch.cat([b.x for b in drawn(positions)]), queries),
        f"share of {queries:,} samples nearer to a training image than that is to its nearest other one",
        reference=references.held_out,
        reference_name=f"{min(MEMORIZED, len(test_order)):,} held-out images",
    )


def _references(
    context: Context, space: FeatureSpace, frechet: Frechet, test: Tensor, cache: Cache | None
) -> References:
    """What real images score; `test` are the features of the test images, which `frechet` has been given."""
    count = min(context.num_samples, len(context.train.labels))

    def compute() -> References:
        return _computed(context, space, frechet, test, count)

    if cache is None:
        return compute()
    key = f"{space.name} {space.key}, {count} training images, k = {distances.NEIGHBOURS}"
    key += f", {PAIRWISE} in pairs, {MEMORIZED} held-out images"
    return cache.get(key, context.processes, context.view.device, compute)


def _computed(context: Context, space: FeatureSpace, frechet: Frechet, test: Tensor, count: int) -> References:
    processes, order = context.processes, random_order(len(context.train.labels))[:count]
    empty = torch.zeros(0, device=test.device)
    radii = neighbour_radii(test, processes) if len(test) > distances.NEIGHBOURS else empty
    kernel = means_within(test, processes) if len(test) > 1 else empty.double()
    known = References(radii, kernel, {}, None)
    frechet.next_set()
    share = order[processes.share(count)]
    blocks = context.batches("train", share) if len(share) else iter(())
    features = _collect(context.span(0, 0.4), frechet, space, blocks, count)
    scored = Metrics()
    for name, values in feature_scores(frechet, features, test, processes, known).items():
        scored.add(name, values, "")
    context.advance(0.6)
    held_out = None
    if len(context.train.labels) > 1:
        others = random_order(len(context.test.labels))[:MEMORIZED]

        def query(positions: Tensor) -> Tensor:
            return torch.cat([batch.x for batch in context.batches("test", others[positions])])

        held_out = float(memorized(context.span(0.6, 1), query, len(others)).mean())
    return References(radii, kernel, {name: metric.value for name, metric in scored.values.items()}, held_out)


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
