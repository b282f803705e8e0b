"""Gradient origin networks, plain and variational: an image's latent is a step down the gradient at the origin."""

from typing import Any, final

from torch import Tensor, nn

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import DiagonalGaussian, FittedGaussian
from encdec.objectives.search import gradient_step, out_of_inference
from encdec.paradigms import LatentVariable
from encdec.paradigms.latent import ExPostCallable
from encdec.types import Batch, Losses, UserError, require_positive


@final
class GON(LatentVariable):
    """Gradient origin network: minimises (1/N) Σ_i L(x_i, f(z_i)) with z_i = −α ∇_z L(x_i, f(z)) at z = 0.

    L is −log p(x|z), summed over pixels, in nats per image, so that z depends on no mean over a batch. All images
    share the origin, so z is affine in x: α/σ² Jᵀ(x − m(0)) under a Gaussian observation model, where m are the pixel
    means and J = ∂m/∂z at 0; under a Bernoulli one the same without σ, J that of the logits. So the decoder is an
    encoder too, and becomes a good one since the loss is differentiated through z, which takes second derivatives.
    `detach` takes z for a constant instead, to show what they buy.

    A test image gets its latent by the same step. Samples decode a density that is fitted to the latents.

    Source: Bond-Taylor & Willcocks 2021, https://arxiv.org/abs/2007.02798, sec. 3. In its code
    (https://github.com/cwkx/GON) L is a mean over batch and pixels, and α is 1.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        step_size: α, in latents per nat.
        detach: whether the gradient of the loss takes z for a constant.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.
        ex_post: makes the density that samples are drawn from, such as FittedGaussian or GaussianMixture.

    Raises:
        UserError: `step_size` or `latent_dim` is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        step_size: float = 1.0,
        detach: bool = False,
        observation: ObservationCallable = Bernoulli,
        ex_post: ExPostCallable = FittedGaussian,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.step_size, self.detach, self.observation = step_size, detach, observation()
        require_positive(self, "step_size")
        self.ex_post = ex_post(latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss`: −log p(x|z), nats per image."""
        logits = self.decode(self.encode(batch), batch.y)
        nll = self.observation.nll(logits, batch.x)
        return Losses(nll, {self.observation.term: nll}, logits)

    def encode(self, batch: Batch) -> Tensor:
        """−α ∇_z L(x, f(z)) at z = 0."""
        x = out_of_inference(batch.x)
        origin = x.new_zeros(len(x), self.latent_dim)
        keep_graph = self.training and not self.detach and _has_second_derivatives(self)
        return gradient_step(
            lambda z: self.observation.nll(self.decode(z, batch.y), x), origin, self.step_size, keep_graph=keep_graph
        )


@final
class VGON(LatentVariable):
    """Variational gradient origin network: minimises the negative ELBO of q(z|x) = N(A u + a, diag(exp(C u + c))).

    u = −α ∇_u of the same negative ELBO at u = 0, in nats per image; the linear maps are trained with the decoder. In
    training the gradient is that at a sample of q, in evaluation that at its mean. Samples decode z ~ N(0, I).

    Source: Bond-Taylor & Willcocks 2021, https://arxiv.org/abs/2007.02798, sec. 3, and its code.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of z and u.
        step_size: α, in units of u per nat.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `step_size` or `latent_dim` is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        step_size: float = 1.0,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.step_size, self.observation = step_size, observation()
        require_positive(self, "step_size")
        self.mean, self.log_var = nn.Linear(latent_dim, latent_dim), nn.Linear(latent_dim, latent_dim)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + `kl` = −`elbo`; nats per image."""
        return self.elbo_losses(self.posterior(batch), batch)

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """q(z|x)."""
        x = out_of_inference(batch.x)
        origin = out_of_inference(x.new_zeros(len(x), self.latent_dim))
        noise = self.noise(batch.index, self.latent_dim) if self.training else origin

        def negative_elbo(u: Tensor) -> Tensor:
            q = self._at(u)
            return self.observation.nll(self.decode(q.sample(noise), batch.y), x) + q.kl(self.prior)

        keep_graph = self.training and _has_second_derivatives(self)
        return self._at(gradient_step(negative_elbo, origin, self.step_size, keep_graph=keep_graph))

    def encode(self, batch: Batch) -> Tensor:
        """The mean of q(z|x)."""
        return self.posterior(batch).mean

    def _at(self, u: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean(u), self.log_var(u))


def _has_second_derivatives(model: LatentVariable) -> bool:
    if model.is_compiled:
        raise UserError(
            f"{type(model).__name__} differentiates a gradient, which torch.compile can't do: leave --compile out.", 2
        )
    return True
