"""Sinkhorn generative model: a generator trained by the entropic optimal transport of its samples to images."""

from typing import Any, final

from encdec.networks import DecoderCallable, FeaturesCallable, MLPDecoder, Pixels
from encdec.objectives.pairs import mean_of_others
from encdec.objectives.sinkhorn import costs, sinkhorn_divergence
from encdec.paradigms import SetGenerator
from encdec.types import Batch, Losses, UserError, require_positive

_LEAST = 1e-6  # of the unit of ε, where all images are equal


@final
class Sinkhorn(SetGenerator):
    """Sinkhorn generative model: minimises S_ε = OT_ε(x, f(z)) − ½ OT_ε(x, x) − ½ OT_ε(f(z), f(z)), z ~ N(0, I).

    OT_ε(x, y) = min_P Σ_ij P_ij ‖x_i − y_j‖^p + ε KL(P ‖ 1/NM) moves samples to images at the least cost, blurred by
    ε so that a few matrix products find it. Its minimum alone shrinks samples to means; the other two terms take that
    back. S_ε lies between the Wasserstein distance W_p^p of the sets, at ε → 0, and half their energy distance, at
    ε → ∞. The gradient is that of the costs at the plan found.

    Source: Genevay, Peyré & Cuturi 2018, https://arxiv.org/abs/1706.00292, sec. 2; the value with its entropy, whose
    gradient this is: Feydy et al. 2019, https://arxiv.org/abs/1810.08278, eq. 3.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the latent.
        features: makes what sets are compared in, `Pixels` or `RandomConvolutions`.
        epsilon: ε, as a share of the mean cost between two images of the batch.
        power: p, of the distance.
        iterations: of Sinkhorn's algorithm, at each step.

    Raises:
        UserError: `epsilon` or `iterations` is not positive, or `power` not in (0, 2].
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        features: FeaturesCallable = Pixels,
        epsilon: float = 0.1,
        power: float = 2.0,
        iterations: int = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, features, **kwargs)
        self.epsilon, self.power, self.iterations = epsilon, power, iterations
        require_positive(self, "epsilon", "iterations")
        if not 0 < power <= 2:  # above 2 the divergence may be negative
            raise UserError(f"Sinkhorn: power is {power}, but it must be greater than 0 and at most 2.", 2)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = S_ε of the batch's images and as many samples, in squared distance where p = 2."""
        x, y = self.sets(batch)
        epsilon = self.epsilon * mean_of_others(costs(x, x, self.power)).clamp(min=_LEAST)
        return Losses(sinkhorn_divergence(x, y, epsilon, self.iterations, self.power))
