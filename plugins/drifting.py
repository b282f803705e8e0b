"""Drifting: a generator whose samples are moved, step by step, towards images and away from each other."""

from typing import Any, Literal, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, FeaturesCallable, MLPDecoder, Pixels
from encdec.objectives.pairs import distances, product
from encdec.objectives.sinkhorn import couple
from encdec.paradigms import SetGenerator
from encdec.types import Batch, Losses, UserError

_LEAST, _LEAST_SCALE = 1e-6, 1e-3  # of what is divided by
_ITERATIONS = 20  # of Sinkhorn's algorithm


@final
class Drifting(SetGenerator):
    """Drifting model: minimises E ‖f(z) − sg(f(z) + V(f(z)))‖², z ~ N(0, I), sg: without a gradient.

    V is a mean shift: each sample is attracted by images and repelled by the other samples, the near ones most, by the
    kernel exp(−‖·‖ / τ). It is antisymmetric in the two, so that it is zero where they have the same distribution. The
    decoder follows: what an optimizer of samples would do at generation is done by training instead. Drifts of several
    temperatures τ, each a share of the mean distance, are divided by their root mean square and added. So the loss is
    nearly constant, whatever the samples are: `drift`, before that division, says how far they are from rest, and no
    checkpoint is the best.

    `sinkhorn` couples samples with images, and with samples, by the entropic plan of the same kernel instead: then a
    drift of zero says that the two sets are equal.

    Source: Deng et al. 2026, https://arxiv.org/abs/2602.04770, eq. 6 and algorithm 2; the Sinkhorn coupling:
    https://arxiv.org/abs/2603.12366.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        features: makes what sets are compared in, `Pixels` or `RandomConvolutions`.
        temperatures: τ, as shares of the mean distance of samples to images and to each other.
        coupling: `softmax`, as in the paper, or `sinkhorn`.

    Raises:
        UserError: there are no temperatures, or one is not positive, or there is no such coupling.
    """

    monitor = None

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        features: FeaturesCallable = Pixels,
        temperatures: tuple[float, ...] = (0.02, 0.05, 0.2),
        coupling: Literal["softmax", "sinkhorn"] = "softmax",
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, features, **kwargs)
        if not temperatures or not all(tau > 0 for tau in temperatures):
            raise UserError(
                f"Drifting: temperatures is {list(temperatures)}, but it must be numbers greater than zero.", 2
            )
        self.temperatures, self.coupling = temperatures, coupling

    def losses(self, batch: Batch) -> Losses:
        """`loss`: mean squared drift, of mean square 1 for each τ; `drift`: ‖V‖, root mean square, mean over τ."""
        x, y = self.sets(batch)
        drifts, scale = self._drifts(x, y.detach())
        lengths = torch.stack([v.square().sum(1).mean().sqrt() for v in drifts])
        size = y.shape[1] ** 0.5
        shift = sum(v * (size / length.clamp(min=_LEAST)) for v, length in zip(drifts, lengths, strict=True))
        moved = (y - y.detach()) / scale - shift  # y/S − sg(y/S + V)
        return Losses(moved.square().mean(), {"drift": lengths.mean()})

    @torch.no_grad()
    def _drifts(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
        """V of each temperature at the samples y, by the images x, in units of the features; and the scale S."""
        to_images, to_samples = distances(y, x), distances(y, y)
        mean = (to_images.mean() + to_samples.mean()) / 2
        scale = (mean / y.shape[1] ** 0.5).clamp(min=_LEAST_SCALE)
        field = sinkhorn_drift if self.coupling == "sinkhorn" else drift
        if self.coupling == "softmax":
            to_samples = to_samples.masked_fill(torch.eye(len(y), dtype=torch.bool, device=y.device), torch.inf)
        return [field(to_images, to_samples, x, y, mean * tau) for tau in self.temperatures], scale


def drift(to_images: Tensor, to_samples: Tensor, x: Tensor, y: Tensor, tau: Tensor | float) -> Tensor:
    """V_i = Σ_j c⁺_ij x_j − Σ_j c⁻_ij y_j at points i, algorithm 2: (P, F).

    A = √(softmax over rows · softmax over columns) of −distance / τ, of images and samples side by side; c⁺ = A⁺ times
    the sum of a row of A⁻, c⁻ = A⁻ times that of A⁺. So both weigh the same, and V changes its sign with their roles.
    Distances are (P, N) to images x, (N, F), and (P, M) to samples y, (M, F), infinite where a point is the sample.
    """
    logits = torch.cat([to_images, to_samples], 1) / -tau
    of_columns = logits.softmax(0).nan_to_num(0)  # a column is all infinite where the only point is the sample
    affinity = (logits.softmax(1) * of_columns).sqrt()
    attracted, repelled = affinity[:, : len(x)], affinity[:, len(x) :]
    to_x, to_y = attracted * repelled.sum(1, keepdim=True), repelled * attracted.sum(1, keepdim=True)
    return product(to_x, x) - product(to_y, y)


def sinkhorn_drift(to_images: Tensor, to_samples: Tensor, x: Tensor, y: Tensor, tau: Tensor | float) -> Tensor:
    """V_i = Σ_j P_ij x_j − Σ_j Q_ij y_j at the samples, P and Q entropic plans whose rows sum to 1; see `drift`."""
    plans = (couple(distance, tau, _ITERATIONS).plan for distance in (to_images, to_samples))
    to_x, to_y = (plan / plan.sum(1, keepdim=True) for plan in plans)
    return product(to_x, x) - product(to_y, y)
