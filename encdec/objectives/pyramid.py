"""The Laplacian pyramid loss, which compares images scale by scale."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from encdec.objectives.losses import full_precision
from encdec.types import UserError

_KERNEL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # Burt & Adelson's weights, nearly a Gaussian's


def laplacian_pyramid_loss(mean: Tensor, x: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Lap₁, Σ_j w_j mean|L_j(mean) − L_j(x)|, for each image: (B, C, H, W), (B, C, H, W) -> (B,), mean over pixels.

    A level L_j is the image less its blurred copy, by a 5×5 Gaussian kernel with replicated borders; the next image is
    the mean of the blurred one over 2×2 pixels, or over what is left of these at a border of an odd size. The last
    level is the image that is left. The mean over a level's pixels and channels stands for the factor 2^(2j) in the
    paper, where levels are summed: the paper's loss is, with weights of 1, this one times C · H · W.

    Source: Bojanowski et al. 2018 (GLO), https://arxiv.org/abs/1707.05776, after Ling & Okada 2006 (CVPR); kernel:
    Burt & Adelson 1983, https://doi.org/10.1109/TCOM.1983.1095851.

    Args:
        mean: pixel means, in [0, 1].
        x: pixels.
        weights: w_j of each level, from fine to coarse, of which the last is that of the remaining image.

    Raises:
        UserError: there are no weights.
    """
    if not weights:
        raise UserError("laplacian_pyramid_loss: weights is empty, but each level has one, at least the last.", 2)
    # levels are linear, so that of a difference is the difference of two; and a convolution in reduced precision would
    # lose what the levels are about
    with torch.autocast(mean.device.type, enabled=False):
        rest, total = full_precision(mean) - full_precision(x), torch.zeros((), device=mean.device)
        for weight in weights[:-1]:
            blurred = _blur(rest)
            total = total + weight * (rest - blurred).abs().flatten(1).mean(1)
            rest = F.avg_pool2d(blurred, 2, ceil_mode=True)
        return total + weights[-1] * rest.abs().flatten(1).mean(1)


def _blur(images: Tensor) -> Tensor:
    """Each channel convolved with the 5×5 kernel: (B, C, H, W) -> (B, C, H, W).

    Two products with small matrices: on a CPU, convolutions of one channel took 40 times as long on images of 28×28.
    """
    height, width = (_blurring(size, images) for size in images.shape[2:])
    return height @ images @ width.T


def _blurring(size: int, like: Tensor) -> Tensor:
    """The kernel along one dimension, with replicated borders, as a matrix: (size, size)."""
    places = torch.arange(size, device=like.device)
    taps = (places[:, None] + torch.arange(-2, 3, device=like.device)).clamp(0, size - 1)
    return (_KERNEL.to(like)[:, None] * (taps[:, :, None] == places)).sum(1)
