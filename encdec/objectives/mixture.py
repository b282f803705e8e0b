"""A mixture of Gaussians as a prior that is learned beside the decoder, and the priors of its own parameters."""

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from encdec.objectives.losses import full_precision
from encdec.objectives.priors import Prior, chosen_component, log_normal
from encdec.types import require_positive


@final
class LearnedMixture(Prior):
    """Σ_k π_k N(μ_k, diag(σ_k²)), whose parameters are trained with a model's, and have priors themselves.

    The means' is a ball of radius r with a soft wall, 1 / (V_r (1 + exp(a (‖μ‖/r − 1)))), V_r its volume; that of each
    log σ² is N(log s², t²); that of the weights is Dirichlet. At the start the means are drawn from the ball, all
    deviations are s, and all weights are equal. A sample is made of dim + 1 numbers, of which the last chooses the
    component.

    Latents that are trained with the mixture raise their density without a bound by drawing together, where σ follows
    and a decoder undoes the scale; and a component that has most latents takes the others'. Only the priors are
    against it, which are one term for a data set of N latents: a component with n of them moves log σ² by n t²/2 at
    most, and weights stay near each other if K α is not small against N. The published code has t = 1 and α of 1 or 5,
    but counts these priors once for each latent, which comes to t = 1/√N and about N α here.

    Source: Schuster & Krogh 2021 (DGD), https://arxiv.org/abs/2110.06672; the softball, the log-variance's prior and
    the numbers as in https://github.com/Center-for-Health-Data-Science/bulkDGD.

    Args:
        dim: size of a latent, d.
        components: K.
        radius: r.
        sharpness: a, of the ball's wall.
        std: s.
        log_var_std: t.
        concentration: α of the Dirichlet; α − 1 is the number of latents that each component has beforehand.

    Attributes:
        means: μ, (K, d).
        log_vars: log σ², (K, d).
        logits: log π up to a constant, (K,).

    Raises:
        UserError: a value is not positive.
    """

    def __init__(
        self,
        dim: int,
        components: int = 20,
        radius: float = 1.0,
        sharpness: float = 5.0,
        std: float = 0.5,
        log_var_std: float = 0.003,
        concentration: float = 1000.0,
    ) -> None:
        super().__init__(dim, dim + 1)
        self.components, self.radius, self.sharpness = components, radius, sharpness
        self.std, self.log_var_std, self.concentration = std, log_var_std, concentration
        require_positive(self, "components", "radius", "sharpness", "std", "log_var_std", "concentration")
        direction = functional.normalize(torch.randn(components, dim), dim=1)
        self.means = nn.Parameter(radius * torch.rand(components, 1) ** (1 / dim) * direction)
        self.log_vars = nn.Parameter(torch.full((components, dim), 2 * math.log(std)))
        self.logits = nn.Parameter(torch.zeros(components))

    def sample(self, noise: Tensor) -> Tensor:
        """See `Prior.sample`."""
        e = full_precision(noise)
        component = chosen_component(self.logits.detach().to(e).softmax(0), e[:, -1])
        std = (self.log_vars.to(e) / 2).exp()
        return (self.means.to(e)[component] + std[component] * e[:, :-1]).to(noise.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """See `Prior.log_prob`."""
        z = full_precision(z)
        log_std = self.log_vars.to(z) / 2
        e = (z[:, None] - self.means.to(z)) * (-log_std).exp()
        parts = log_normal(e) - log_std.sum(1)
        return torch.logsumexp(self.logits.to(z).log_softmax(0) + parts, dim=1)

    def log_hyperprior(self) -> Tensor:
        """log p(μ) + log p(log σ²) + log p(π), (), in nats: of the model, so *once* for a whole data set."""
        means, log_vars, logits = (full_precision(p) for p in (self.means, self.log_vars, self.logits))
        d, alpha = self.dim, self.concentration
        log_volume = d * (math.log(self.radius) + 0.5 * math.log(math.pi)) - math.lgamma(1 + d / 2)
        outside = self.sharpness * (torch.linalg.vector_norm(means, dim=1) / self.radius - 1)
        softball = -log_volume * self.components - functional.softplus(outside).sum()
        deviation = (log_vars - 2 * math.log(self.std)) / self.log_var_std
        gaussian = -(0.5 * deviation.square() + 0.5 * math.log(2 * math.pi) + math.log(self.log_var_std)).sum()
        dirichlet = (alpha - 1) * logits.log_softmax(0).sum()
        constant = math.lgamma(self.components * alpha) - self.components * math.lgamma(alpha)
        return softball + gaussian + dirichlet + constant
