"""Deep generative decoder: a table of latents, and a mixture of Gaussians that is learned as their prior."""

from typing import Any, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.mixture import LearnedMixture
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.priors import PriorCallable
from encdec.objectives.search import out_of_inference, search
from encdec.paradigms import LatentTable, LatentVariable, Player
from encdec.types import Batch, Losses, UserError, require_positive


@final
class DGD(LatentVariable):
    """Deep generative decoder: minimises (1/N) { Σ_i [−log p(x_i|z_i) − log p(z_i|φ)] − log p(φ) } over all of it.

    The decoder, the latents z_i and the parameters φ of p(z|φ), a mixture of Gaussians, are found together by maximum
    a posteriori. p(φ) belongs to the model, so it is counted once for the data set. The latents are a table and begin
    near 0; each moves once in an epoch, which is the paper's step, by an Adam of its own. A held-out image gets its
    latent with decoder and mixture fixed: a short search from the mean of each component, then a longer one from
    the best end.

    Source: Schuster & Krogh 2021, https://arxiv.org/abs/2110.06672; Schuster & Krogh 2023,
    https://doi.org/10.1093/bioinformatics/btad497.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        prior: makes p(z|φ): a LearnedMixture.
        prior_lr: learning rate of the mixture's parameters, a group of the optimizer; no weight decay applies to them.
        latent_lr: learning rate of the table in training, which has an Adam of its own, and of the search.
        start_steps: Adam steps of the search from each component.
        latent_steps: Adam steps of the search from the best of these.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `start_steps` is negative, or another value is not positive.
    """

    prior: LearnedMixture

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        prior: PriorCallable = LearnedMixture,
        prior_lr: float = 0.01,
        latent_lr: float = 0.1,
        start_steps: int = 2,
        latent_steps: int = 50,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.prior_lr, self.latent_lr, self.start_steps = prior_lr, latent_lr, start_steps
        self.latent_steps = latent_steps
        require_positive(self, "prior_lr", "latent_lr", "latent_steps")
        if start_steps < 0:
            raise UserError(f"DGD: start_steps is {start_steps}, but a number of steps can't be negative.", 2)
        mixture = prior(latent_dim)
        if not isinstance(mixture, LearnedMixture):
            raise UserError(
                f"DGD learns its prior, but {type(mixture).__name__} has nothing to learn: LearnedMixture.", 2
            )
        self.prior, self.observation = mixture, observation()
        self.table = LatentTable(self.num_train, latent_dim, latent_lr)

    def players(self) -> dict[str, Player]:
        """One, whose decoder and mixture have rates of their own."""
        of_prior = {"params": [*self.prior.parameters()], "lr": self.prior_lr, "weight_decay": 0.0}
        return {"model": Player(self.losses, [{"params": [*self.decoder.parameters()]}, of_prior])}

    def losses(self, batch: Batch) -> Losses:
        """`loss` = reconstruction term + `prior` + `hyperprior`: −log p(z|φ), −log p(φ) / N; nats per image."""
        z = self.codes(batch) if self.training else self.encode(batch)
        logits = self.decode(z, batch.y)
        nll, prior = self.observation.nll(logits, batch.x), -self.prior.log_prob(z)
        hyperprior = -self.prior.log_hyperprior() / self.num_train
        terms = {self.observation.term: nll, "prior": prior, "hyperprior": hyperprior}
        return Losses(nll + prior + hyperprior, terms, logits)

    def codes(self, batch: Batch) -> Tensor:
        """The latents of training images."""
        return self.table.rows(batch.index)

    def encode(self, batch: Batch) -> Tensor:
        """The latents that minimise −log p(x|z) − log p(z|φ), the decoder and the mixture fixed."""
        x = out_of_inference(batch.x)

        def joint(z: Tensor) -> Tensor:
            return self.observation.nll(self.decode(z, batch.y), x) - self.prior.log_prob(z)

        starts = [mean.detach().expand(len(x), -1) for mean in self.prior.means]
        ends = torch.stack([search(joint, z, self.start_steps, self.latent_lr) for z in starts])
        with torch.no_grad():
            best = torch.stack([joint(z) for z in ends]).argmin(0)
        z = ends[best, torch.arange(len(x), device=x.device)]
        return search(joint, z, self.latent_steps, self.latent_lr, cosine=True)

    def after_step(self, batch: Batch) -> None:
        """Move the latents of the batch."""
        self.table.step(self.gradient_scale)
