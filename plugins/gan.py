"""Generative adversarial network: a generator without an encoder, and a critic of its samples."""

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives.losses import pixel_means
from encdec.paradigms import Paradigm, Player, moving_average
from encdec.types import Batch, Losses, UserError, require_positive


@final
class GAN(Paradigm):
    """GAN with the non-saturating loss and the R1 penalty: two players, each with an optimizer of its own.

    The critic d minimises E_x[softplus(−d(x)) + γ/2 ‖∇d(x)‖²] + E_z[softplus(d(f(z)))], the generator f minimises
    E_z[softplus(−d(f(z)))], z ~ N(0, I). No latent is paired with an image, and no loss measures progress, so there is
    no best checkpoint. Samples are those of a moving average of the generator's weights.

    Source: Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, sec. 3; R1: Mescheder, Geiger & Nowozin 2018,
    https://arxiv.org/abs/1801.04406, eq. 9; the average: Yazıcı et al. 2019, https://arxiv.org/abs/1806.04498.

    Args:
        generator: makes f: (B, latent_dim) -> (B, C, H, W), logits of pixels.
        critic: makes d: (B, C, H, W) -> (B, 1), the logit of being an image.
        latent_dim: size of z.
        penalty: γ, the weight of R1.
        decay: of the moving average of the generator's weights, at each step.

    Raises:
        UserError: `penalty` is negative, `latent_dim` not positive, or `decay` not in [0, 1).
    """

    conditioning = None
    monitor = None

    def __init__(
        self,
        generator: DecoderCallable = MLPDecoder,
        critic: EncoderCallable = MLPEncoder,
        latent_dim: int = 32,
        penalty: float = 1.0,
        decay: float = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not penalty >= 0:
            raise UserError(f"GAN: penalty is {penalty}, but the weight of R1 can't be negative.", 2)
        self.latent_dim = self.noise_dim = latent_dim
        require_positive(self, "latent_dim")
        self.penalty = penalty
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
        """The generator's: `loss` = softplus(−d(f(z))), one z for each image of the batch."""
        return Losses(functional.softplus(-self._judged(self._samples(batch))))

    def critic_losses(self, batch: Batch) -> Losses:
        """The critic's: logged as `loss_critic`; `r1` = ‖∇d(x)‖² of an image, `real` and `fake` the mean logits."""
        with torch.no_grad():
            samples = self._samples(batch)
        images = batch.x.detach().requires_grad_()
        real, fake = self._judged(images), self._judged(samples)
        (gradient,) = torch.autograd.grad(real.sum(), images, create_graph=True)
        r1 = gradient.float().square().flatten(1).sum(1)
        loss = functional.softplus(-real) + functional.softplus(fake) + self.penalty / 2 * r1
        return Losses(loss, {"r1": r1, "real": real, "fake": fake})

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
