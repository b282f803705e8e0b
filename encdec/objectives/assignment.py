"""Assignments of latents to images: a permutation of draws of the prior that is improved at a fixed decoder.

N images and N latents are paired one to one, and which image has which latent is what is optimized: the discrete Monge
problem between the images and the decodings. Where −log p(x|z) is A(η) − xᵀη up to what depends on x alone, the sum of
all A is the same for every permutation, so only −Σ_i x_iᵀη_π(i) counts: the costs of all pairs are one matrix product,
and images a and b that exchange their latents save −(x_a − x_b)ᵀ(η_a − η_b).

Images and η enter as *scores*, their products with the first principal axes of the images. With as many axes as pixels
the scores' cost is the true one; with fewer, it is that of the images' projections. Exchanges are looked for among
similar images only, in the leaves of a random k-d tree: a partner that is drawn at random is useless once the pairing
has some order. A pass over N images takes O(N · (leaf · rounds + axes + log² N)) operations.
"""

import math

import torch
from torch import Tensor

AXES = 64
"""How many principal axes scores have: on Fashion-MNIST they hold .88 of the images' variance."""

_ROUNDS = 8  # of exchanges in a leaf; the few pairs that are left then are found in the next tree
_BLOCK = 1 << 19  # costs that are looked at at a time: 2 MB, which stay in a processor's cache
_LEAST = 1e-6  # what an exchange must gain, as a part of the largest cost: more than rounding errors


def principal_axes(x: Tensor, count: int = AXES) -> Tensor:
    """The first principal axes of images, orthonormal: (n, D) -> (D, count); zeros where n or D is less than count."""
    centered = x.float() - x.float().mean(0)
    axes = torch.linalg.svd(centered, full_matrices=False)[2][:count].T
    return torch.nn.functional.pad(axes, (0, count - axes.shape[1]))


def linear_outputs(z: Tensor, scores: Tensor) -> Tensor:
    """Scores of what the best linear decoder makes of z ~ N(0, I): (N, d), (N, k) -> (N, k).

    It is probabilistic PCA without noise (Tipping & Bishop 1999): the k-th latent is the k-th score, in units of its
    standard deviation; the scores that no latent is left for are 0.
    """
    shared = min(z.shape[1], scores.shape[1])
    outputs = torch.zeros_like(scores)
    outputs[:, :shared] = z[:, :shared] * scores[:, :shared].std(0, correction=0)
    return outputs


def tree_leaves(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The leaves of a k-d tree with random directions: (N, k) -> (L, m), int64, the m points of each of L leaves.

    At each level all nodes are halved along one random direction: in one half of the trees at the median, and in the
    other half at a random place of the order and opposite to it, as if the order were a ring. Medians give the most
    similar points; but they are much the same in all trees, and hardly a latent would get beyond them. L is the power
    of 2 for which m is nearest to `size`. The N − L m < L points that would make leaves of unequal sizes are in none,
    other ones each time.

    Args:
        points: scores of images.
        size: of a leaf, about.
        generator: of the directions, on the CPU.
    """
    depth = max(round(math.log2(len(points) / size)), 0)
    directions = torch.randn(points.shape[1], depth, generator=generator)
    places = points @ directions.to(points)
    order = torch.randperm(len(points), generator=generator).to(points.device)
    nodes = order[: len(points) >> depth << depth][None]
    is_ring = int(torch.randint(2, (), generator=generator))
    for level in range(depth):
        nodes = nodes.gather(1, places[:, level][nodes].argsort(1))
        cut = is_ring * int(torch.randint(nodes.shape[1], (), generator=generator))
        nodes = nodes.roll(cut, 1).reshape(2 * len(nodes), -1)
    return nodes


def exchange(images: Tensor, outputs: Tensor, leaves: Tensor, exact: bool = False) -> Tensor:
    """Exchanges within leaves that lower −Σ_i images_i · outputs_i: (N, k), (N, k), (L, m) -> (N,), int64.

    A round exchanges all pairs of which each is the other's best partner, so the cost falls at each round.

    Args:
        images: scores of images.
        outputs: scores of η, at first of the latents that the images have.
        leaves: different images.
        exact: give each leaf its best permutation instead, by `match`.

    Returns:
        Whose output each image gets, a permutation.
    """
    result = torch.arange(len(images), device=images.device)
    size = leaves.shape[1]
    for block in leaves.split(max(_BLOCK // size**2, 1)):
        cost = -images[block] @ outputs[block].mT
        if exact:
            result[block] = block.gather(1, torch.stack([match(one) for one in cost]))
            continue
        least = _LEAST * cost.abs().max()
        here = torch.arange(size, device=block.device).expand_as(block)
        owner = here  # of the output that each image of a leaf has
        for _ in range(_ROUNDS):
            saved = cost.diagonal(dim1=1, dim2=2)[:, :, None] - cost
            gain, best = (saved + saved.mT).max(2)  # symmetric to the last bit, so that partners agree
            partner = torch.where((best.gather(1, best) == here) & (gain > least), best, here)
            if torch.equal(partner, here):
                break
            cost = cost.gather(2, partner[:, None, :].expand_as(cost))
            owner = owner.gather(1, partner)
        result[block] = block.gather(1, owner)
    return result


def improve(
    images: Tensor, outputs: Tensor, leaf: int, passes: int, generator: torch.Generator, exact: bool = False
) -> Tensor:
    """Passes of `exchange`, each in a tree of its own: (N, k), (N, k) -> (N,), int64, whose output each image gets."""
    owner = torch.arange(len(images), device=images.device)
    with torch.autocast(images.device.type, enabled=False):
        for _ in range(passes):
            owner = owner[exchange(images, outputs[owner], tree_leaves(images, leaf, generator), exact)]
    return owner


def match(cost: Tensor) -> Tensor:
    """The permutation π of least Σ_b cost[b, π(b)], exactly: (B, B) -> (B,), int64; O(B³), on the CPU.

    Where a cost is not finite there is none, and each has its own.

    Source: Crouse 2016, https://doi.org/10.1109/TAES.2016.140952, as in scipy.
    """
    from scipy.optimize import linear_sum_assignment  # 0.4 s to import, and the other solver does without

    if not cost.isfinite().all():
        return torch.arange(len(cost), device=cost.device)
    return torch.from_numpy(linear_sum_assignment(cost.double().cpu().numpy())[1]).to(cost.device)
