"""What a paradigm may be able to do beside training and generating; evaluations ask for these."""

from typing import Protocol, TypeGuard, runtime_checkable

from torch import Tensor

from encdec.objectives.losses import pixel_means
from encdec.objectives.priors import DiagonalGaussian
from encdec.types import Batch


@runtime_checkable
class Encodes(Protocol):
    """A paradigm in which any image has a latent code."""

    def encode(self, batch: Batch) -> Tensor:
        """The latent codes whose decodings reconstruct a batch, (B, latent_dim)."""

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits of an image for each latent code and label, (B, C, H, W)."""


@runtime_checkable
class Infers(Protocol):
    """A paradigm with an approximate posterior."""

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q(z|x) of a batch, where the prior is N(0, I)."""


@runtime_checkable
class HasCodes(Protocol):
    """A paradigm whose training images have latent codes that `encode` does not give."""

    def codes(self, batch: Batch) -> Tensor:
        """The latent codes that these *training* images are trained with, (B, latent_dim)."""


def encodes(paradigm: object) -> TypeGuard[Encodes]:
    """Whether any image has a latent code."""
    return isinstance(paradigm, Encodes) and "encode" not in getattr(paradigm, "lacks", ())


def infers(paradigm: object) -> TypeGuard[Infers]:
    """Whether there is an approximate posterior."""
    return isinstance(paradigm, Infers) and "posterior" not in getattr(paradigm, "lacks", ())


def has_codes(paradigm: object) -> TypeGuard[HasCodes]:
    """Whether training images have latent codes of their own."""
    return isinstance(paradigm, HasCodes) and "codes" not in getattr(paradigm, "lacks", ())


def reconstructed(paradigm: object, batch: Batch) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The latent codes of a batch and their decodings, pixel means in [0, 1]; None where images have no codes."""
    if not encodes(paradigm):
        return None, None
    z = paradigm.encode(batch)
    return z, pixel_means(paradigm.decode(z, batch.y))
