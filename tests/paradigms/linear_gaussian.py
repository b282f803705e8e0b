"""The latent-variable model that can be solved: x = W z + b + σ ε, z ~ N(0, I)."""

from typing import Any, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn

from encdec.networks import MLPDecoder
from encdec.objectives.observations import Observation
from encdec.paradigms import LatentVariable
from encdec.types import Batch, Shape

SHAPE: Shape = (1, 1, 6)
SIGMA = 0.5
P = TypeVar("P", bound=LatentVariable)


@final
class LinearGaussian(Observation):
    """Gaussian pixels whose mean is the decoder's output itself, and not its sigmoid."""

    term = "nll"

    def __init__(self, sigma: float = SIGMA) -> None:
        self.sigma = sigma

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """−log N(x; logits, σ²I)."""
        log_p: Tensor = torch.distributions.Normal(logits, self.sigma).log_prob(x)
        return -log_p.flatten(1).sum(1)

    def nll_matrix(self, logits: Tensor, x: Tensor) -> Tensor:
        """Of all pairs."""
        return torch.stack([self.nll(logits, one.expand_as(logits)) for one in x])


class Exact(NamedTuple):
    """Closed forms for images (B, …): the posterior, its best diagonal Gaussian, log p(x), and its ELBO."""

    mean: Tensor
    covariance: Tensor
    log_var: Tensor
    log_evidence: Tensor
    elbo: Tensor


def make(cls: type[P], dim: int = 2, orthogonal: bool = False, **settings: Any) -> P:
    """A paradigm with a linear decoder of fixed weights, orthogonal columns or not."""
    made = cls(image_shape=SHAPE, latent_dim=dim, decoder=linear_decoder, observation=LinearGaussian, **settings)
    layer = _layer(made)
    weight = torch.randn(6, dim, generator=torch.Generator().manual_seed(1))
    if orthogonal:
        weight = torch.linalg.qr(weight).Q * torch.linspace(0.5, 1.5, dim)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.linspace(-0.5, 0.5, 6))
    return made


def linear_decoder(in_features: int, image_shape: Shape) -> MLPDecoder:
    """One linear layer."""
    return MLPDecoder(in_features, image_shape, hidden=())


def solve(paradigm: LatentVariable, x: Tensor) -> Exact:
    """The closed forms, by torch.distributions and linear algebra in float64."""
    layer = _layer(paradigm)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    x = x.flatten(1).double()
    precision = torch.eye(weight.shape[1], dtype=torch.float64) + weight.T @ weight / SIGMA**2
    mean = (x - bias) @ weight @ torch.linalg.inv(precision) / SIGMA**2
    marginal = weight @ weight.T + SIGMA**2 * torch.eye(len(bias), dtype=torch.float64)
    log_evidence = torch.distributions.MultivariateNormal(bias, marginal).log_prob(x)
    best = torch.distributions.MultivariateNormal(mean, torch.diag(1 / precision.diagonal()))
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    gap = torch.distributions.kl_divergence(best, posterior)
    return Exact(mean, torch.linalg.inv(precision), -precision.diagonal().log(), log_evidence, log_evidence - gap)


def _layer(paradigm: LatentVariable) -> nn.Linear:
    layer = next(module for module in paradigm.decoder.modules() if isinstance(module, nn.Linear))
    return layer


def copies(count: int, images: int = 2) -> tuple[Batch, Tensor]:
    """Each of a few images many times, so that means over the copies have little noise; and the images, (images, …)."""
    x = torch.randn(images, *SHAPE, generator=torch.Generator().manual_seed(2)) + 0.5
    x = x.repeat_interleave(count, 0)
    index = torch.arange(len(x))
    return Batch(x, torch.zeros_like(index), index, "val"), x[::count]
