"""Sliced Wasserstein generator: its samples and images are sorted along random directions and compared there."""

from typing import Any, final

from torch import Tensor
from torch.nn import functional

from encdec.networks import DecoderCallable, FeaturesCallable, MLPDecoder, Pixels
from encdec.objectives.pairs import product
from encdec.paradigms import SetGenerator
from encdec.types import Batch, Losses, require_positive


@final
class SlicedWasserstein(SetGenerator):
    """Sliced Wasserstein generator: minimises D · mean_u W₂²({uᵀx_i}, {uᵀf(z_j)}), z_j ~ N(0, I), u on the unit sphere.

    Of numbers, the optimal transport is known: the smallest goes to the smallest, and so on. So along each of L random
    directions u images and samples are sorted, and W₂² is the mean squared difference. Two distributions are equal
    where they are along all directions, which are drawn anew at each step. D, the number of pixels or features, makes
    it a sum over them as other losses are: two sets that a shift a maps onto each other are ‖a‖² apart.

    Source: Deshpande, Zhang & Schwing 2018, https://arxiv.org/abs/1803.11188, eq. 6 (without their discriminator); the
    distance: Rabin et al. 2011, https://doi.org/10.1007/978-3-642-24785-9_37.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        features: makes what sets are compared in, `Pixels` or `RandomConvolutions`.
        directions: L, of a step.

    Raises:
        UserError: `directions` is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        features: FeaturesCallable = Pixels,
        directions: int = 500,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, features, **kwargs)
        self.directions = directions
        require_positive(self, "directions")

    def losses(self, batch: Batch) -> Losses:
        """`loss` = D times the squared sliced W₂ of the batch's images and as many samples, in squared distance."""
        x, y = self.sets(batch)
        directions = functional.normalize(self.shared_noise(self.directions, x.shape[1]).to(x), dim=1)
        return Losses(x.shape[1] * sliced_wasserstein(x, y, directions))


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """mean_u W₂²({uᵀx_i}, {uᵀy_i}): (N, D), (N, D) and unit vectors (L, D) -> ()."""
    along_x, along_y = (product(directions, points.T).sort(1).values for points in (x, y))  # (L, N)
    return (along_x - along_y).square().mean()
