"""Auto-decoder: a decoder whose codes are parameters, one for each training image."""

from typing import Any, final

import torch
from torch import Tensor, nn

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.search import out_of_inference, search
from encdec.paradigms.base import Paradigm, require_positive
from encdec.types import Batch, Conditioning, UserError


@final
class AutoDecoder(Paradigm):
    """Auto-decoder: minimises (1/N) Σ_i [−log p(x_i|z_i) + λ ½‖z_i‖²] over the decoder and all codes z_i.

    With λ = 1 the bracket is −log p(x_i, z_i) under the prior z ~ N(0, I), up to a constant: codes and decoder are
    found together by maximum a posteriori. A held-out image gets its code by minimising the same bracket over z
    alone, from z = 0, the decoder fixed; so validation costs `code_steps` decodings.

    The codes are one table of N × latent_dim parameters: every process holds it, DDP averages its gradients like
    those of any parameter, and checkpoints contain it. Images that are not in a batch have a gradient of zero,
    so an optimizer with momentum goes on moving their codes a little.

    Source: Park et al. 2019 (DeepSDF), https://arxiv.org/abs/1901.05103, eq. 9 and 10; without λ, on images:
    Bojanowski et al. 2017 (GLO), https://arxiv.org/abs/1707.05776.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a code.
        penalty: λ, the weight of the prior on the codes.
        code_lr: learning rate of the table of codes in training.
        code_steps: Adam steps of the search for a held-out image's code.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `penalty` is negative, or another value is not positive.
    """

    conditioning = Conditioning.IMAGE

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
        super().__init__(**kwargs)
        if not penalty >= 0:
            raise UserError(f"AutoDecoder: penalty is {penalty}, but the weight of the prior can't be negative.", 2)
        self.latent_dim, self.penalty, self.code_lr, self.code_steps = latent_dim, penalty, code_lr, code_steps
        require_positive(self, "latent_dim", "code_lr", "code_steps")
        self.decoder = decoder(latent_dim, self.image_shape)
        self.observation = observation()
        self.codes = nn.Parameter(0.01 * torch.randn(self.num_train, latent_dim))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = reconstruction term + λ `penalty`; `penalty` = ½‖z‖²; nats per image."""
        return self._joint(self.codes[batch.index] if self.training else self.encode(batch), batch.x)

    def encode(self, batch: Batch) -> Tensor:
        """The codes that minimise the loss of a batch, the decoder fixed; each image's on its own."""
        x = out_of_inference(batch.x)
        start = x.new_zeros(len(x), self.latent_dim)
        return search(lambda z: self._joint(z, x)["loss"], start, self.code_steps)

    def paired_codes(self, batch: Batch) -> Tensor:
        """The codes that were trained."""
        return self.codes[batch.index]

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """p(x|z)."""
        return self.decoder(z)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The decoder, and the codes with their own learning rate."""
        return [{"params": list(self.decoder.parameters())}, {"params": [self.codes], "lr": self.code_lr}]

    def _joint(self, z: Tensor, x: Tensor) -> dict[str, Tensor]:
        logits = self.decoder(z)
        nll = self.observation.nll(logits, x)
        penalty = 0.5 * z.float().square().sum(1)
        terms = {"loss": nll + self.penalty * penalty, self.observation.term: nll, "penalty": penalty}
        return {**terms, "logits": logits}
