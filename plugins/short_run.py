"""Short-run inference and alternating back-propagation: latents by Langevin dynamics, without an encoder."""

from typing import Any, final

from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.langevin import langevin
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.search import out_of_inference
from encdec.paradigms import LatentVariable, StoredLatents
from encdec.types import Batch, Losses, require_positive


@final
class ShortRun(LatentVariable):
    """Maximum likelihood with latents from a chain of Langevin steps: minimises −log p(x|z_T) over the decoder, where

    z_0 ~ N(0, I),  z_{t+1} = z_t − (s²/2) ∇_z [−log p(x|z_t) + ½‖z_t‖²] + s e_t,  e_t ~ N(0, I).

    Long chains of small steps sample p(z|x), and the decoder's gradient is then that of log p(x). Short-run inference
    takes T steps from the prior at each training step, and the same T for any image afterwards: the chain is the
    model's inference, converged or not. With `persistent` the chain of a training image goes on from where it
    was left, in the table `chains` (alternating back-propagation); held-out images begin at the prior.

    Source: Nijkamp et al. 2020 (short-run inference), https://arxiv.org/abs/1912.01909; Han, Lu, Zhu & Wu 2017
    (alternating back-propagation), https://arxiv.org/abs/1606.08571.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        latent_steps: T, of Langevin dynamics; each costs a decoding and its gradient.
        step_size: s, in units of the prior's standard deviation, for −log p(x|z) in nats per image.
        persistent: whether training images keep their chains.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: a value is not positive.
    """

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        latent_steps: int = 25,
        step_size: float = 0.3,
        persistent: bool = False,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.latent_steps, self.step_size, self.observation = latent_steps, step_size, observation()
        require_positive(self, "latent_steps", "step_size")
        self.chains = StoredLatents(self.num_train, latent_dim, self.seed) if persistent else None
        self.lacks = frozenset() if persistent else frozenset({"codes"})

    def losses(self, batch: Batch) -> Losses:
        """`loss`: the reconstruction term of the chain's last latent, nats per image."""
        if self.chains is not None and self.training:
            z = self._chain(batch, self.codes(batch))
            self.chains.write(batch.index, z)
        else:
            z = self.encode(batch)
        logits = self.decode(z, batch.y)
        nll = self.observation.nll(logits, batch.x)
        return Losses(nll, {self.observation.term: nll}, logits)

    def encode(self, batch: Batch) -> Tensor:
        """The end of a chain from the prior, the decoder fixed."""
        return self._chain(batch, self.noise(batch.index, self.latent_dim))

    def codes(self, batch: Batch) -> Tensor:
        """Where the chains of training images are."""
        assert self.chains is not None, "only persistent chains are stored"
        return self.chains.rows(batch.index).to(self.weights_dtype)

    def _chain(self, batch: Batch, start: Tensor) -> Tensor:
        batch = batch._replace(x=out_of_inference(batch.x))

        def energy(z: Tensor) -> Tensor:
            nll = self.observation.nll(self.decode(z, batch.y), batch.x)
            return nll - self.prior.log_prob(z)

        def noise() -> Tensor:
            return self.noise(batch.index, self.latent_dim)

        return langevin(energy, start, self.latent_steps, self.step_size, noise)
