"""Generative latent optimization: a decoder with a table of latents on the unit ball, and a loss of image pyramids."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.assignment import principal_axes
from encdec.objectives.losses import pixel_means
from encdec.objectives.priors import FittedGaussian
from encdec.objectives.pyramid import laplacian_pyramid_loss
from encdec.objectives.search import out_of_inference, project_to_ball, search
from encdec.paradigms import LatentTable, LatentVariable
from encdec.paradigms.latent import ExPostCallable
from encdec.training.images import TrainingImages
from encdec.types import Batch, Losses, require_positive

_FOR_AXES = 5000  # images that the principal components are found from


@final
class GLO(LatentVariable):
    """Generative latent optimization: minimises (1/N) Σ_i Lap₁(f(z_i), x_i) over f and all z_i with ‖z_i‖ ≤ 1.

    Lap₁ is the L1 distance of Laplacian pyramids. The latents are a table, of which the rows of a batch move and are
    then projected onto the unit ball. Samples decode a density that is fitted to the table. A held-out image gets its
    latent by the same search, the decoder fixed, so validation costs `latent_steps` decodings.

    The latents start at the images' principal components, as in the paper: divided by their root mean square length and
    projected. Where there are fewer components than `latent_dim`, the other numbers start at 0.

    Source: Bojanowski, Joulin, Lopez-Paz & Szlam 2017, https://arxiv.org/abs/1707.05776, eq. 2 and sec. 2.

    Args:
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits of pixels.
        latent_dim: size of a latent.
        latent_lr: learning rate of the table in training, which has an Adam of its own, and of the search.
        latent_steps: Adam steps of the search for a held-out image's latent.
        ex_post: makes the density that samples are drawn from, such as FittedGaussian or GaussianMixture.

    Raises:
        UserError: a value is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        latent_lr: float = 0.1,
        latent_steps: int = 50,
        ex_post: ExPostCallable = FittedGaussian,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.latent_lr, self.latent_steps, self.ex_post = latent_lr, latent_steps, ex_post(latent_dim)
        require_positive(self, "latent_lr", "latent_steps")
        self.table = LatentTable(self.num_train, latent_dim, latent_lr, project=project_to_ball)

    def losses(self, batch: Batch) -> Losses:
        """`loss`: Lap₁ of the decoded latents."""
        return self._of(self.codes(batch) if self.training else self.encode(batch), batch)

    def before_epoch(self, images: TrainingImages) -> None:
        """Before the first epoch, start the latents at the images' principal components."""
        if self.table.steps.any():
            return
        axes = principal_axes(images.some(_FOR_AXES).flatten(1), self.latent_dim)
        scores = images.map(lambda batch: batch.x.flatten(1).float() @ axes)
        scores -= scores.mean(0)
        length = scores.square().sum(1).mean().sqrt()
        self.table.values.copy_(project_to_ball(scores / length))

    def codes(self, batch: Batch) -> Tensor:
        """The latents of training images."""
        return self.table.rows(batch.index)

    def encode(self, batch: Batch) -> Tensor:
        """The latents of the unit ball that minimise the loss of a batch, the decoder fixed; from 0."""
        batch = batch._replace(x=out_of_inference(batch.x))
        start = batch.x.new_zeros(len(batch.x), self.latent_dim)
        return search(lambda z: self._of(z, batch).loss, start, self.latent_steps, self.latent_lr, project_to_ball)

    def after_step(self, batch: Batch) -> None:
        """Move the latents of the batch, and project them."""
        self.table.step(self.gradient_scale)

    def _of(self, z: Tensor, batch: Batch) -> Losses:
        logits = self.decode(z, batch.y)
        return Losses(laplacian_pyramid_loss(pixel_means(logits), batch.x), logits=logits)
