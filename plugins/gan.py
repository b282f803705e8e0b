"""Generative adversarial network: a generator without an encoder, and a critic of its samples."""

from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.losses import pixel_means
from encdec.paradigms import Paradigm, Player, moving_average
from encdec.types import Batch, Losses, UserError, require_positive


@final
class GAN(Paradigm):
    """GAN with penalized gradients: two players, each with an optimizer of its own; z ~ N(0, I).

    Non-saturating, the critic d minimises E softplus(−d(x)) + E softplus(d(f(z))), and the generator f minimises
    E softplus(−d(f(z))). Relativistic, d minimises E softplus(d(f(z)) − d(x)) and f E softplus(d(x) − d(f(z))), each
    sample judged beside one image, so that no mode of the data can be left out cheaply. To the critic's loss R1 adds
    γ/2 ‖∇d(x)‖² and R2 γ/2 ‖∇d(f(z))‖²; R3GAN is the relativistic loss with both. No latent is paired with an image,
    and no loss measures progress, so there is no best checkpoint. Samples are those of a moving average of f's weights.

    Source: Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, sec. 3; R1, R2: Mescheder, Geiger & Nowozin 2018,
    https://arxiv.org/abs/1801.04406, eq. 9 and 10; R3GAN: Huang et al. 2024, https://arxiv.org/abs/2501.05441, sec. 2;
    the average: Yazıcı et al. 2019, https://arxiv.org/abs/1806.04498.

    Args:
        generator: makes f: (B, latent_dim) -> (B, C, H, W), logits of pixels.
        critic: makes d: (B, C, H, W) -> (B, 1), the logit of being an image.
        latent_dim: size of z.
        objective: which of the two losses.
        penalty: γ, the weight of R1, and of R2 if there is one.
        penalize_samples: whether there is R2 beside R1.
        decay: of the moving average of the generator's weights, at each step.

    Raises:
        UserError: `penalty` is negative, `latent_dim` not positive, `decay` not in [0, 1), or there is no such loss.
    """

    conditioning = None
    monitor = None

    def __init__(
        self,
        generator: DecoderCallable = MLPDecoder,
        critic: EncoderCallable = MLPEncoder,
        latent_dim: int = 32,
        objective: Literal["nonsaturating", "relativistic"] = "nonsaturating",
        penalty: float = 1.0,
        penalize_samples: bool = False,
        decay: float = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not penalty >= 0:
            raise UserError(f"GAN: penalty is {penalty}, but the weight of R1 can't be negative.", 2)
        self.latent_dim = self.noise_dim = latent_dim
        require_positive(self, "latent_dim")
        self.objective, self.penalty, self.penalize_samples = objective, penalty, penalize_samples
        self.generator = generator(latent_dim, self.image_shape)
        self.critic = critic(self.image_shape, 1)
        self.average = moving_average(self.generator, decay)

    def players(self) -> dict[str, Player]:
        """The critic, and then the generator, whose steps are counted."""
        return {
            "critic": Player(self.critic_losses, self.critic.parameters()),
            "generator": Player(self.losses, self.generator.parameters()),
        }

    def losses(self, batch: Batch) -> Losses:
        """The generator's, of one z for each image of the batch, beside which its sample is judged if relativistic."""
        fake = self._judged(self._samples(batch))
        real = self._judged(batch.x) if self.objective == "relativistic" else 0
        return Losses(functional.softplus(real - fake))

    def critic_losses(self, batch: Batch) -> Losses:
        """The critic's, logged as `loss_critic`.

        Its terms are the logits `real` and `fake`, and ‖∇d‖² at the image, `r1`, and at the sample, `r2`.
        """
        if self.is_compiled:
            raise UserError("GAN differentiates a gradient, which torch.compile can't do: leave --compile out.", 2)
        with torch.no_grad():
            samples = self._samples(batch)
        images, samples = batch.x.detach().requires_grad_(), samples.requires_grad_()
        real, fake = self._judged(images), self._judged(samples)
        if self.objective == "relativistic":
            loss = functional.softplus(fake - real)
        else:
            loss = functional.softplus(-real) + functional.softplus(fake)
        terms = {"real": real, "fake": fake}
        penalized = {"r1": (real, images)} | ({"r2": (fake, samples)} if self.penalize_samples else {})
        for name, (judged, x) in penalized.items():
            (gradient,) = torch.autograd.grad(judged.sum(), x, create_graph=True)
            terms[name] = gradient.float().square().flatten(1).sum(1)
            loss = loss + self.penalty / 2 * terms[name]
        return Losses(loss, terms)

    def after_step(self, batch: Batch) -> None:
        """Let the average follow the generator."""
        self.average.update_parameters(self.generator)

    def generate(self, noise: Tensor, y: Tensor) -> Tensor:
        """f(z), by the averaged weights."""
        return pixel_means(self.average(noise))

    def _samples(self, batch: Batch) -> Tensor:
        return pixel_means(self.generator(self.noise(batch.index, self.latent_dim)))

    def _judged(self, images: Tensor) -> Tensor:
        return self.critic(images.to(self.weights_dtype))[:, 0].float()
