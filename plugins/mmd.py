"""Generative moment matching network: a generator trained by the maximum mean discrepancy of its samples and images."""

from typing import Any, final

from encdec.networks import DecoderCallable, FeaturesCallable, MLPDecoder, Pixels
from encdec.objectives.mmd import biased_mmd, gaussian_mixture
from encdec.objectives.pairs import mean_of_others, squared_distances
from encdec.paradigms import SetGenerator
from encdec.types import Batch, Losses, UserError

_LEAST = 1e-6  # of what a root is taken of, and of a unit that is divided by


@final
class MMD(SetGenerator):
    """Generative moment matching network: minimises √ MMD²({x_i}, {f(z_j)}), z_j ~ N(0, I).

    MMD² = mean k(x, x') − 2 mean k(x, f(z)) + mean k(f(z), f(z')), over all pairs of a batch, is how far the means of
    two sets are apart in the space of the kernel k = Σ_s exp(−‖·‖² / 2su): zero of equal sets only. It sees what a
    kernel of its width tells apart, so there are several. u is the mean squared distance of two images of the batch:
    the paper's variances, 2, 5, …, 80 for MNIST, are 0.019, 0.047, …, 0.76 of it. The root keeps steps from fading as
    the sets come close.

    Source: Li, Swersky & Zemel 2015, https://arxiv.org/abs/1502.02761, eq. 1 and sec. 3; also Dziugaite, Roy &
    Ghahramani 2015, https://arxiv.org/abs/1505.03906.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        features: makes what sets are compared in, `Pixels` or `RandomConvolutions`.
        variances: s.
        unit: u, a squared distance; None for the mean of the batch.

    Raises:
        UserError: there are no variances, or one of them or `unit` is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        features: FeaturesCallable = Pixels,
        variances: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
        unit: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, features, **kwargs)
        if not variances or not all(s > 0 for s in variances):
            raise UserError(f"MMD: variances is {list(variances)}, but it must be numbers greater than zero.", 2)
        if unit is not None and not unit > 0:
            raise UserError(f"MMD: unit is {unit}, but it must be greater than zero, or null.", 2)
        self.kernel, self.unit = gaussian_mixture(variances), unit

    def losses(self, batch: Batch) -> Losses:
        """`loss` = √`mmd`; `mmd`: the squared MMD of the batch's images and as many samples, biased."""
        x, y = self.sets(batch)
        unit = mean_of_others(squared_distances(x, x)).clamp(min=_LEAST) if self.unit is None else self.unit
        mmd = biased_mmd(x, y, lambda squares: self.kernel(squares / unit))
        return Losses((mmd.clamp(min=0) + _LEAST).sqrt(), {"mmd": mmd})
