"""Assignment: draws of the prior, one for each training image, and which image has which is what is learned."""

from typing import Any, Literal, final

import torch
from torch import Tensor

from encdec.networks import DecoderCallable, MLPDecoder
from encdec.objectives.assignment import AXES, improve, linear_outputs, match, principal_axes
from encdec.objectives.noise import normal, step_seed
from encdec.objectives.observations import Bernoulli, ObservationCallable
from encdec.objectives.search import out_of_inference, search
from encdec.paradigms import LatentVariable, Permutation
from encdec.training.images import TrainingImages
from encdec.types import Batch, Losses, UserError, require_positive

_FIXED = 1  # which draw of `normal` the latents are
_FOR_AXES = 2048  # images that the principal axes are found from
_START_PASSES = 15  # after which the cost of a linear decoder hardly falls


@final
class Assignment(LatentVariable):
    """Minimises (1/N) Σ_i −log p(x_i|z_π(i)) over the decoder and the permutation π; z_1, …, z_N ~ N(0, I) are fixed.

    The latents of the training images are the prior's own draws, whatever π is, so there is no hole between the two,
    and neither an encoder nor a table: z_j is a function of (seed, j), and π takes 8 bytes for each image. For a
    deterministic decoder it is the optimal transport between the images and the decoded draws, with the restriction
    of a Wasserstein autoencoder, Q(z) = p(z), met exactly.

    `tree`: before each epoch all latents are decoded once, and pairs of similar images exchange theirs where that
    lowers the loss (`encdec.objectives.assignment`). It starts with the best π for a linear decoder. Two options
    show what this is good for: `batch` exchanges within each batch only, exactly, which soon finds nothing to
    exchange; `fresh` draws new latents at each step and pairs them within the batch, which stores nothing, but
    minimises the distance of batches, so that its images shrink to means.

    Any image gets its latent by a search: the best of `num_prior_samples` draws of the prior, then `latent_steps`
    steps of Adam on −log p(x|z) + ½‖z‖².

    Source: encdec's own. The assignment within batches is that of noise as targets, there for encoders: Bojanowski &
    Joulin 2017, https://arxiv.org/abs/1704.05310. Q(z) = p(z): Tolstikhin et al. 2018,
    https://arxiv.org/abs/1711.01558, theorem 1. See docs/paradigms/assignment.md.

    Args:
        decoder: makes p(x|z): (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of a latent.
        pairing: `tree`, `batch` or `fresh`.
        passes: trees in whose leaves latents are exchanged before each epoch, for `tree`.
        leaf: how many images a leaf has, about, for `tree`.
        solver: in a leaf, `swaps` of pairs, batched and on the model's device, or `exact`, leaf by leaf on the CPU.
        num_prior_samples: draws of the prior that a search begins with.
        latent_steps: Adam's steps of a search.
        observation: makes the observation model p(x|z), Bernoulli or Gaussian.

    Raises:
        UserError: `leaf` is less than 2, or another value is not positive.
    """

    axes: Tensor

    def __init__(
        self,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 8,
        pairing: Literal["tree", "batch", "fresh"] = "tree",
        passes: int = 3,
        leaf: int = 52,
        solver: Literal["swaps", "exact"] = "swaps",
        num_prior_samples: int = 256,
        latent_steps: int = 20,
        observation: ObservationCallable = Bernoulli,
        **kwargs: Any,
    ) -> None:
        super().__init__(decoder, latent_dim, **kwargs)
        self.pairing, self.passes, self.leaf, self.observation = pairing, passes, leaf, observation()
        self.solver, self.num_prior_samples, self.latent_steps = solver, num_prior_samples, latent_steps
        require_positive(self, "passes", "num_prior_samples", "latent_steps")
        if leaf < 2:
            raise UserError(f"Assignment: leaf is {leaf}, but it takes 2 images to exchange latents.", 2)
        self.lacks = frozenset({"codes"} if pairing == "fresh" else ())
        self.permutation = Permutation(1 if pairing == "fresh" else self.num_train)
        pixels = self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
        self.register_buffer("axes", torch.zeros(pixels if pairing == "tree" else 0, AXES))  # zeros until the start

    def losses(self, batch: Batch) -> Losses:
        """`loss`: the reconstruction term, nats per image; in evaluation that of the latents of `encode`."""
        if not self.training:
            z = self.encode(batch)
        elif self.pairing == "fresh":
            z = self.noise(batch.index, self.latent_dim)
        else:
            z = self.codes(batch)
        logits = self.decode(z, batch.y)
        if self.training and self.pairing != "tree":
            owner = match(self.observation.nll_matrix(logits.detach(), batch.x))
            logits = logits[owner]
            if self.pairing == "batch":
                self.permutation.assign(batch.index, self.permutation[batch.index][owner])
        nll = self.observation.nll(logits, batch.x)
        return Losses(nll, {self.observation.term: nll}, logits)

    def codes(self, batch: Batch) -> Tensor:
        """The latents of training images."""
        return normal(self.seed, _FIXED, self.permutation[batch.index], self.latent_dim).to(self.weights_dtype)

    def before_epoch(self, images: TrainingImages) -> None:
        """Exchange latents between similar images, at the decoder as it is; before the first epoch, at a linear one."""
        if self.pairing != "tree":
            return
        begins = not self.axes.any()
        if begins:
            self.axes.copy_(principal_axes(images.some(_FOR_AXES).flatten(1)))
        scores = images.map(lambda batch: self._scores(batch.x))
        scores -= scores.mean(0)
        if begins:
            outputs, passes = linear_outputs(images.map(self.codes).float(), scores), _START_PASSES
        else:
            outputs, passes = images.map(self._outputs), self.passes
        generator = torch.Generator().manual_seed(step_seed(self.seed, self.current_epoch, _FIXED))
        exact = self.solver == "exact"
        self.permutation.permute(improve(scores, outputs, self.leaf, passes, generator, exact=exact))

    def _outputs(self, batch: Batch) -> Tensor:
        return self._scores(self.observation.natural(self.decode(self.codes(batch), batch.y)))

    def _scores(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return x.flatten(1).float() @ self.axes.float()

    def encode(self, batch: Batch) -> Tensor:
        """The latents that minimise −log p(x|z) + ½‖z‖², the decoder fixed; each image's on its own."""
        x, y = out_of_inference(batch.x), batch.y
        drawn = self.shared_noise(self.num_prior_samples, self.latent_dim)
        cost = self.observation.nll_matrix(self.decode(drawn, y), x) + self._penalty(drawn)
        start = drawn[cost.argmin(1)]
        return search(lambda z: self.observation.nll(self.decode(z, y), x) + self._penalty(z), start, self.latent_steps)

    def _penalty(self, z: Tensor) -> Tensor:
        return 0.5 * z.float().square().sum(1)
