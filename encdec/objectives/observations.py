"""Observation models p(x|z): how a decoder's output becomes a likelihood and a picture."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

from torch import Tensor

from encdec.objectives import losses
from encdec.types import UserError


class Observation(ABC):
    """p(x|z) with pixel means sigmoid(logits), so that means lie in [0, 1] as pixels do."""

    term: ClassVar[str]
    """Name under which its reconstruction term −log p(x|z) is logged."""

    @abstractmethod
    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z): (B, C, H, W), (B, C, H, W) -> (B,), in nats per image."""

    @abstractmethod
    def nll_matrix(self, logits: Tensor, x: Tensor) -> Tensor:
        """−log p(x_b|z_k) of all pairs: (K, C, H, W), (B, C, H, W) -> (B, K), in nats per image."""

    def natural(self, logits: Tensor) -> Tensor:
        """η of −log p(x|z) = A(η) − xᵀη + h(x): (B, C, H, W) -> (B, C, H, W).

        Raises:
            UserError: p(x|z) is not written in this form.
        """
        raise UserError(f"{type(self).__name__} has no method `natural`, which gives η of −log p(x|z) = A(η) − xᵀη.")

    def prior_nll(self, logits: Tensor, x: Tensor) -> losses.PriorNLL:
        """The importance-weighted bound of K latents, and each image's most likely one.

        (K, C, H, W), (B, C, H, W) -> (B,), in nats per image.
        """
        return losses.prior_nll(self.nll_matrix(logits, x))


@final
class Bernoulli(Observation):
    """Independent Bernoulli pixels; its reconstruction term is the binary cross-entropy."""

    term = "bce"

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """See `Observation.nll`."""
        return losses.bernoulli_nll(logits, x)

    def nll_matrix(self, logits: Tensor, x: Tensor) -> Tensor:
        """See `Observation.nll_matrix`."""
        return losses.bernoulli_nll_matrix(logits, x)

    def natural(self, logits: Tensor) -> Tensor:
        """See `Observation.natural`."""
        return losses.full_precision(logits)

    def prior_nll(self, logits: Tensor, x: Tensor) -> losses.PriorNLL:
        """See `Observation.prior_nll`."""
        return losses.bernoulli_prior_nll(logits, x)


@final
class Gaussian(Observation):
    """Gaussian pixels of one fixed standard deviation.

    Args:
        sigma: standard deviation of a pixel, on the scale where pixels lie in [0, 1].

    Raises:
        UserError: `sigma` is not positive.
    """

    term = "nll"

    def __init__(self, sigma: float = 0.1) -> None:
        if not sigma > 0:
            raise UserError(f"Gaussian: sigma is {sigma}, but a standard deviation must be positive.", 2)
        self.sigma = sigma

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """See `Observation.nll`."""
        return losses.gaussian_nll(logits, x, self.sigma)

    def nll_matrix(self, logits: Tensor, x: Tensor) -> Tensor:
        """See `Observation.nll_matrix`."""
        return losses.gaussian_nll_matrix(losses.pixel_means(logits), x, self.sigma)

    def natural(self, logits: Tensor) -> Tensor:
        """See `Observation.natural`."""
        return losses.pixel_means(logits) / self.sigma**2

    def prior_nll(self, logits: Tensor, x: Tensor) -> losses.PriorNLL:
        """See `Observation.prior_nll`."""
        return losses.gaussian_prior_nll(losses.pixel_means(logits), x, self.sigma)


ObservationCallable = Callable[[], Observation]
