"""Auto-decoder: a decoder with a table of latents, one for each training image."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.search import out_of_inference, search
from encdec.paradigms import LatentTable, LatentVariable
from encdec.types import Batch, Losses, UserError, require_positive


@final
class AutoDecoder(LatentVariable):
    """Auto-decoder: minimises (1/N) Σ_i [−log p(x_i|z_i) + λ ½‖z_i‖²] over the decoder and all latents z_i.

    With λ = 1 the bracket is −log p(x_i, z_i) under the prior z ~ N(0, I), up to a constant: latents and decoder are
    found together by maximum a posteriori. A held-out image gets its latent by minimising the same bracket over z
    alone, from z = 0, the decoder fixed; so validation costs `code_steps` decodings.

    The latents are a table of N × latent_dim numbers that every process and every checkpoint holds; only the rows of a
    batch move.

    Source: Park et al. 2019 (DeepSDF), https://arxiv.org/abs/1901.05103, eq. 9 and 10; without λ, on images:
    Bojanowski et al. 2017 (GLO), https://arxiv.org/abs/1707.05776.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        penalty: λ, the weight of the prior on the latents.
        code_lr: learning rate of the table in training, which has an Adam of its own.
        code_steps: Adam steps of the search for a held-out image's latent.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `penalty` is negative, or another value is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        penalty: float = 1.0,
        code_lr: float = 0.02,
        code_steps: int = 50,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        if not penalty >= 0:
            raise UserError(f"AutoDecoder: penalty is {penalty}, but the weight of the prior can't be negative.", 2)
        self.penalty, self.code_lr, self.code_steps, self.observation = penalty, code_lr, code_steps, observation()
        require_positive(self, "code_lr", "code_steps")
        self.table = LatentTable(self.num_train, latent_dim, code_lr)

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + λ `penalty`; `penalty` = ½‖z‖²; nats per image."""
        return self._joint(self.codes(batch) if self.training else self.encode(batch), batch)

    def codes(self, batch: Batch) -> Tensor:
        """The latents of training images."""
        return self.table.rows(batch.index)

    def encode(self, batch: Batch) -> Tensor:
        """The latents that minimise the loss of a batch, the decoder fixed; each image's on its own."""
        batch = batch._replace(x=out_of_inference(batch.x))
        start = batch.x.new_zeros(len(batch.x), self.latent_dim)
        return search(lambda z: self._joint(z, batch).loss, start, self.code_steps)

    def after_step(self, batch: Batch) -> None:
        """Move the latents of the batch."""
        self.table.step(self.gradient_scale)

    def _joint(self, z: Tensor, batch: Batch) -> Losses:
        logits = self.decode(z, batch.y)
        nll, penalty = self.observation.nll(logits, batch.x), 0.5 * z.float().square().sum(1)
        return Losses(nll + self.penalty * penalty, {self.observation.term: nll, "penalty": penalty}, logits)
