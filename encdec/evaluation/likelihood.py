"""Log-likelihood of held-out images by importance sampling, and the evidence lower bound.

With K latents from a proposal q, −log (1/K) Σ_k p(x|z_k) p(z_k) / q(z_k|x) is, in expectation, an upper bound of
−log p(x) that falls with K (Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8). Three proposals:

- the paradigm's posterior, where it has one;
- the prior, where it has none: the K latents are shared by all images, and the bound is loose where K latents from
  the prior seldom come close to an image;
- for every paradigm a Gaussian that is fitted to each image by maximising the ELBO, the decoder fixed. This one
  treats paradigms with and without an encoder alike, and the ELBO's difference to that of an encoder's posterior is
  its amortisation gap (Cremer, Li & Duvenaud 2018, https://arxiv.org/abs/1801.03558, eq. 4).

The prior is what samples are drawn from. What a Gaussian is fitted over is decided in `encdec.evaluation.proposals`:
the noise that latents are made of, or latents themselves. Where the decoder reads the label, the likelihood is p(x|y)
of the image's own label.

Observation models: Bernoulli on pixels made black or white at 0.5, a likelihood proper; Bernoulli on grey pixels,
the usual cross-entropy, which is not normalised; Gaussian of a stated σ on grey pixels, a density on [0, 1].
"""

import itertools
import math
from typing import final

import torch
from torch import Tensor

from encdec.evaluation.context import BLOCK, Context, block_size
from encdec.evaluation.proposals import Proposal, Space, fit_space, latent_space
from encdec.evaluation.reconstruction import START_LATENTS, best_of
from encdec.evaluation.view import DRAWS, View
from encdec.objectives.losses import full_precision, gaussian_kl
from encdec.objectives.observations import Bernoulli, Gaussian, Observation
from encdec.objectives.priors import log_normal
from encdec.objectives.search import search
from encdec.paradigms import infers
from encdec.types import Batch

_RATE = 0.1  # of Adam, for mean and log standard deviation; falls to 0 along a cosine
_START_LOG_VAR = -2.0


@final
class LogMeanExp:
    """log (1/K) Σ_k w_k of log-weights that come in parts, and the effective number of the K latents."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    def update(self, log_weights: Tensor) -> None:
        """Add (B, k) log-weights."""
        self._count += log_weights.shape[1]
        parts = torch.logsumexp(log_weights.double(), 1), torch.logsumexp(2 * log_weights.double(), 1)
        self._sum = parts[0] if self._sum is None else torch.logaddexp(self._sum, parts[0])
        self._squares = parts[1] if self._squares is None else torch.logaddexp(self._squares, parts[1])

    @property
    def value(self) -> Tensor:
        """log of the mean weight, (B,), float64."""
        assert self._sum is not None, "update() was not called"
        return self._sum - math.log(self._count)

    @property
    def effective_count(self) -> Tensor:
        """(Σ w)² / Σ w², (B,): 1 where one latent carries everything, so that the bound is loose; K at best."""
        assert self._sum is not None and self._squares is not None, "update() was not called"  # noqa: PT018
        return (2 * self._sum - self._squares).exp()


def evaluate_likelihood(context: Context) -> Tensor:
    """Add the likelihoods of the first `num_images` images, in nats per image; see the module for what they are.

    `nll_bernoulli`, `nll_bernoulli_binary`, `nll_gaussian`: by the paradigm's own proposal (posterior or prior);
    `elbo_posterior`: by its posterior; `elbo_optimized`, `nll_optimized`: by fitted Gaussians, under the paradigm's
    own observation model (Bernoulli where it has none); `elbo_amortisation_gap`; `nll_ess` and
    `nll_optimized_ess`: effective number of latents.

    Returns:
        The means of the fitted Gaussians, (n, dim).
    """
    view, processes = context.view, context.processes
    own = getattr(view.paradigm, "observation", Bernoulli())
    gaussian = own if isinstance(own, Gaussian) else Gaussian(context.sigma)
    observations: dict[str, Observation] = {"bernoulli": Bernoulli(), "gaussian": gaussian}
    if not isinstance(own, Bernoulli | Gaussian):
        observations["own"] = own
    own_name = next(name for name, known in observations.items() if type(known) is type(own))
    n = min(context.num_images, len(context.test.labels))
    share = processes.share(n)
    columns: dict[str, list[Tensor]] = {}
    means = []
    of_latents, of_fits = latent_space(view), fit_space(view)
    done = 0
    # a block holds both the images and as many decodings
    for batch in context.batches("test", share, block_size(context.numel, 1024)):
        binary = batch._replace(x=(batch.x >= 0.5).to(batch.x.dtype))
        posterior = _posterior(view, batch)
        found: dict[str, Tensor] = {}
        if posterior is None:
            grey = prior_likelihoods(view, batch, observations, context.prior_samples)
            black_white = prior_likelihoods(view, binary, {"bernoulli": Bernoulli()}, context.prior_samples)
        else:
            grey, elbo = posterior_likelihoods(
                view, batch, of_latents, posterior, observations, context.posterior_samples
            )
            of_binary = _posterior(view, binary)
            assert of_binary is not None
            black_white, _ = posterior_likelihoods(
                view, binary, of_latents, of_binary, {"bernoulli": Bernoulli()}, context.posterior_samples
            )
            found["elbo_posterior"] = elbo[own_name]
        for name, estimate in grey.items():
            found[f"nll_{name}"] = -estimate.value
        found["nll_bernoulli_binary"] = -black_white["bernoulli"].value
        found["nll_ess"] = grey[own_name].effective_count
        fitted = fit_posterior(view, batch, of_fits, posterior, own, context.search_steps)
        optimised, elbo = posterior_likelihoods(
            view, batch, of_fits, fitted, {own_name: own}, context.posterior_samples
        )
        found["elbo_optimized"] = elbo[own_name]
        found["nll_optimized"] = -optimised[own_name].value
        found["nll_optimized_ess"] = optimised[own_name].effective_count
        if posterior is not None:
            found["elbo_amortisation_gap"] = found["elbo_optimized"] - found["elbo_posterior"]
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        means.append(fitted.mean)
        done += len(batch.x)
        context.advance(done / len(share))
    if infers(view.paradigm) and "elbo_posterior" not in columns:
        why = f"{type(view.latent.sampled).__name__} has no known density at the posterior's latents"
        context.metrics.undefined |= {"elbo_posterior": why, "elbo_amortisation_gap": why}
    k = (
        f"posterior, K = {context.posterior_samples:,}"
        if "elbo_posterior" in columns
        else f"prior, K = {context.prior_samples:,}"
    )
    fitted_k = f"{own_name}, fitted posterior, K = {context.posterior_samples:,}"
    units = {
        "nll_bernoulli": f"nats per image, grey pixels; {k}",
        "nll_bernoulli_binary": f"nats per image, pixels binarised at 0.5; {k}",
        "nll_gaussian": f"nats per image, grey pixels, σ = {gaussian.sigma:g}; {k}",
        "nll_own": f"nats per image, {type(own).__name__}; {k}",
        "nll_ess": f"effective samples; {k}",
        "nll_optimized": f"nats per image, {fitted_k}",
        "nll_optimized_ess": f"effective samples; {fitted_k}",
        "elbo_posterior": f"nats per image, {own_name}",
        "elbo_optimized": f"nats per image, {own_name}, fitted posterior",
        "elbo_amortisation_gap": f"nats per image, {own_name}",
    }
    for name in columns:
        values = processes.merge(torch.cat(columns[name]), n).cpu()
        context.metrics.add(name, values, units[name])
    return processes.merge(torch.cat(means), n)


def _posterior(view: View, batch: Batch) -> Proposal | None:
    """The paradigm's q(z|x); None where there is none, or where the latents that it is over have no known density."""
    found = view.posterior(batch) if view.latent.sampled.has_density else None
    return None if found is None else Proposal(*map(full_precision, found))


def prior_likelihoods(
    view: View, batch: Batch, observations: dict[str, Observation], samples: int
) -> dict[str, LogMeanExp]:
    """log p(x) of each image by K = `samples` latents from the prior, which all images share."""
    estimates = {name: LogMeanExp() for name in observations}
    if view.reads_labels:
        groups = [batch.y == label for label in batch.y.unique()]
    else:
        groups = [torch.ones_like(batch.y, dtype=torch.bool)]
    size = block_size(batch.x[0].numel())
    for draws in torch.arange(samples).split(size):
        z = view.prior(view.noise(DRAWS["prior_codes"], draws))
        log_weights = {name: batch.x.new_empty(len(batch.x), len(draws)) for name in observations}
        for group in groups:
            logits = view.decode(z, batch.y[group][:1].expand(len(z)))
            for name, observation in observations.items():
                log_weights[name][group] = -observation.nll_matrix(logits, batch.x[group])
        for name, estimate in estimates.items():
            estimate.update(log_weights[name])
    return estimates


def posterior_likelihoods(
    view: View,
    batch: Batch,
    space: Space,
    proposal: Proposal,
    observations: dict[str, Observation],
    samples: int,
) -> tuple[dict[str, LogMeanExp], dict[str, Tensor]]:
    """log p(x) of each image by K = `samples` draws from a proposal, and the ELBO by the same ones, (B,)."""
    estimates = {name: LogMeanExp() for name in observations}
    elbos = {name: torch.zeros(len(batch.x), dtype=torch.float64, device=view.device) for name in observations}
    negative_kl = torch.zeros(len(batch.x), dtype=torch.float64, device=view.device)
    at_once = max(1, BLOCK // batch.x.numel())
    for draws in torch.arange(samples).split(at_once):
        noise = torch.stack([view.noise(DRAWS["posterior"] + int(draw), batch.index, space.dim) for draw in draws])
        noise = full_precision(noise)
        u = (proposal.mean + (proposal.log_var / 2).exp() * noise).flatten(0, 1)
        log_prior = space.log_prob(u).unflatten(0, noise.shape[:2])
        log_ratio = log_prior - log_normal(noise) + proposal.log_var.sum(1) / 2  # log p(u) − log q(u)
        negative_kl += log_prior.double().sum(0) / samples
        logits = view.decode(space.latent(u), batch.y.repeat(len(draws)))
        x = batch.x.repeat(len(draws), 1, 1, 1)
        for name, observation in observations.items():
            nll = observation.nll(logits, x).reshape(len(draws), -1)
            estimates[name].update((log_ratio - nll).T)
            elbos[name] -= nll.double().sum(0)
    negative_kl = -gaussian_kl(*proposal).double() if space.is_standard else negative_kl + _entropy(proposal).double()
    return estimates, {name: total / samples + negative_kl for name, total in elbos.items()}


def fit_posterior(
    view: View, batch: Batch, space: Space, start: Proposal | None, observation: Observation, steps: int
) -> Proposal:
    """The Gaussian q(u|x) of each image that maximises its ELBO, by Adam on mean and log-variance.

    Begins at the posterior `start` over latents, or where there is none, or a latent has no u, at the most likely of
    `START_LATENTS` from the prior.
    """
    if start is not None and space.of_latents is not None:
        start = space.of_latents(start)
    else:
        e = view.noise(DRAWS["start_codes"], torch.arange(START_LATENTS))
        mean = full_precision(space.of_noise(e))[best_of(view, batch, view.prior(e), observation.nll_matrix)]
        start = Proposal(mean, torch.full_like(mean, _START_LOG_VAR))
    draws = itertools.count(DRAWS["fit"])

    def negative_elbo(mean: Tensor, log_std: Tensor) -> Tensor:
        noise = full_precision(view.noise(next(draws), batch.index, space.dim))
        u, q = mean + log_std.exp() * noise, Proposal(mean, 2 * log_std)
        nll = observation.nll(view.decode(space.latent(u), batch.y), batch.x)
        return nll + (gaussian_kl(*q) if space.is_standard else -space.log_prob(u) - _entropy(q))

    mean, log_std = search(negative_elbo, (start.mean, start.log_var / 2), steps, _RATE, cosine=True)
    return Proposal(mean, 2 * log_std)


def _entropy(proposal: Proposal) -> Tensor:
    """−E_q[log q(u|x)], (B,), in nats."""
    return (0.5 * (1 + math.log(2 * math.pi)) + proposal.log_var / 2).sum(1)
