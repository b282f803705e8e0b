"""Log-likelihood of held-out images by importance sampling, and the evidence lower bound.

With K latents from a proposal q, −log (1/K) Σ_k p(x|z_k) p(z_k) / q(z_k|x) is, in expectation, an upper bound of
−log p(x) that falls with K (Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8). Three proposals:

- for every paradigm a Gaussian that is fitted to each image; see `encdec.evaluation.inference`. The ELBO's difference
  to that of an encoder's posterior is its amortisation gap (Cremer, Li & Duvenaud 2018,
  https://arxiv.org/abs/1801.03558, eq. 4);
- the paradigm's posterior, where it has one;
- the prior, where it has none: the K latents are shared by all images, and the bound is loose where K latents from
  the prior seldom come close to an image.

The prior is what samples are drawn from. What a Gaussian is fitted over is decided in `encdec.evaluation.proposals`:
the noise that latents are made of, or latents themselves. Where the decoder reads the label, the likelihood is p(x|y)
of the image's own label.

The observation model is the paradigm's own: Bernoulli on grey pixels, the usual cross-entropy, which is not
normalised; or Gaussian of its σ, a density on [0, 1].

All of it is measured on the images at `context.chosen`. What is known of all test images at little cost varies with it
and corrects for the choice; see `encdec.evaluation.image_values`.
"""

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from encdec.evaluation.context import BLOCK, Context, block_size
from encdec.evaluation.image_values import Floats, ImageValues
from encdec.evaluation.inference import START_LATENTS, Inferred, best_of, own_observation
from encdec.evaluation.proposals import Proposal, Space, latent_space
from encdec.evaluation.view import DRAWS, View
from encdec.objectives.losses import full_precision, gaussian_kl
from encdec.objectives.observations import Gaussian, Observation
from encdec.objectives.priors import log_normal
from encdec.paradigms import infers
from encdec.types import Batch

CONTROL_SAMPLES = 4
"""K of the ELBO of all test images, the control variate."""
FEW = 2.0
"""Effective latents below which a bound is doubtful: little more than one latent carries everything."""


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


@torch.no_grad()
def evaluate_likelihood(context: Context, inferred: Inferred) -> None:
    """Add estimates for the test split, in nats per image.

    `nll_posterior`, `elbo_posterior`: by the fitted Gaussians; `nll_encoder`, `elbo_encoder`: by the paradigm's own
    posterior, and `elbo_amortisation_gap`, the difference of the two ELBOs; `nll_prior`: by latents from the prior,
    where there is no posterior; `nll_bound`: the lowest of the three. Each is an upper bound of the mean −log p(x), so
    the lowest is the tightest: where a decoder was trained with draws of the prior, Gaussians may fit its posteriors
    badly.
    """
    view, chosen, processes = context.view, context.chosen, context.processes
    observation = own_observation(view)
    control = _control(context.span(0, 0.4), inferred, observation) if len(chosen) < len(context.test.labels) else None
    share = processes.share(len(chosen))
    columns: dict[str, list[Tensor]] = {}
    done = 0
    for batch in context.batches("test", chosen[share], block_size(context.numel, 1024)):
        rows = share[done : done + len(batch.x)]
        for name, values in _measured(context, inferred, observation, batch, rows.to(view.device)).items():
            columns.setdefault(name, []).append(values)
        done += len(batch.x)
        context.advance(0.4 + 0.6 * done / len(share))
    merged = {name: processes.merge(torch.cat(parts), len(chosen)).cpu() for name, parts in columns.items()}
    _add(context, observation, merged, control)


def _measured(
    context: Context, inferred: Inferred, observation: Observation, batch: Batch, rows: Tensor
) -> dict[str, Tensor]:
    """The estimates for the images of a batch, (B,) each; `rows` are their places among the fitted posteriors."""
    view, found = context.view, dict[str, Tensor]()

    def by(name: str, space: Space, proposal: Proposal) -> None:
        estimate, elbo = posterior_likelihood(view, batch, space, proposal, observation, context.posterior_samples)
        found[f"nll_{name}"], found[f"elbo_{name}"] = -estimate.value, elbo
        found[f"count_{name}"] = estimate.effective_count

    if inferred.fitted is not None:
        by("posterior", inferred.fitted.space, inferred.fitted.q.rows(rows))
    if _has_own(context, inferred):
        assert inferred.posterior is not None
        by("encoder", latent_space(view), inferred.posterior.rows(batch.index))
    elif inferred.posterior is None:
        estimate = prior_likelihood(view, batch, observation, context.prior_samples)
        found["nll_prior"], found["count_prior"] = -estimate.value, estimate.effective_count
    if "elbo_encoder" in found and "elbo_posterior" in found:
        found["elbo_amortisation_gap"] = found["elbo_posterior"] - found["elbo_encoder"]
    return found


def _has_own(context: Context, inferred: Inferred) -> bool:
    """Whether there is a posterior of the paradigm's own, over latents that have a known density."""
    return inferred.posterior is not None and context.view.latent.sampled.has_density


def _control(context: Context, inferred: Inferred, observation: Observation) -> Floats:
    """A cheap value of every test image that varies with its −log p(x), (N,), in nats.

    The negative ELBO by K = 4 draws from the paradigm's own posterior; where it has none, the reconstruction term
    at its own latent; where images have no latent, that at the most likely of `START_LATENTS` from the prior.
    """
    view, total = context.view, len(context.test.labels)
    share = context.processes.share(total)
    parts, done = list[Tensor](), 0
    for batch in context.batches("test", share, block_size(context.numel, 1024)):
        if _has_own(context, inferred):
            assert inferred.posterior is not None
            q = inferred.posterior.rows(batch.index)
            _, elbo = posterior_likelihood(view, batch, latent_space(view), q, observation, CONTROL_SAMPLES)
            parts.append(-elbo)
        elif inferred.latents is not None:
            logits = view.decode(inferred.latents[batch.index], batch.y)
            parts.append(observation.nll(logits, batch.x).double())
        else:
            z = view.prior(view.noise(DRAWS["start_codes"], torch.arange(START_LATENTS)))
            parts.append(best_of(view, batch, z, observation.nll_matrix)[1].double())
        done += len(batch.x)
        context.advance(done / len(share))
    merged: Floats = context.processes.merge(torch.cat(parts), total).cpu().numpy()
    return merged


def _add(context: Context, observation: Observation, found: Mapping[str, Tensor], control: Floats | None) -> None:
    """Add the metrics of values (n,), with their units, and say which bounds are loose."""
    metrics, chosen = context.metrics, context.chosen
    k = {"posterior": f"fitted posterior, K = {context.posterior_samples:,}"}
    k["encoder"] = f"own posterior, K = {context.posterior_samples:,}"
    k["prior"] = f"prior, K = {context.prior_samples:,}"
    kind = type(observation).__name__
    kind += f", σ = {observation.sigma:g}" if isinstance(observation, Gaussian) else ""
    some = "" if control is None else f"; {len(chosen):,} test images, corrected by all {len(control):,}"
    bounds: dict[str, ImageValues] = {}
    for name, values in found.items():
        stem, _, by = name.partition("_")
        if stem == "count":
            effective = float(values.mean())
            if effective < FEW:
                metrics.doubtful[f"nll_{by}"] = (
                    f"a loose bound: the effective sample size of its latents ({k[by]}) is {effective:.1f}"
                )
            continue
        unit = f"nats per image, {kind}, {k.get(by, 'fitted − own posterior')}{some}"
        images = ImageValues.controlled(values.double().numpy(), control, chosen.numpy())
        metrics.add(name, images, unit)
        if stem == "nll":
            bounds[name] = images
    if bounds:
        lowest = min(bounds, key=lambda name: bounds[name].mean)
        metrics.add("nll_bound", bounds[lowest], f"nats per image, {kind}, the lowest of its bounds{some}")
        if lowest in metrics.doubtful:
            metrics.doubtful["nll_bound"] = metrics.doubtful[lowest]
    if infers(context.view.paradigm) and "elbo_encoder" not in found:
        why = f"{type(context.view.latent.sampled).__name__} has no known density at the posterior's latents"
        metrics.undefined |= dict.fromkeys(("nll_encoder", "elbo_encoder", "elbo_amortisation_gap"), why)


def prior_likelihood(view: View, batch: Batch, observation: Observation, samples: int) -> LogMeanExp:
    """log p(x) of each image by K = `samples` latents from the prior, which all images share."""
    estimate = LogMeanExp()
    if view.reads_labels:
        groups = [batch.y == label for label in batch.y.unique()]
    else:
        groups = [torch.ones_like(batch.y, dtype=torch.bool)]
    size = block_size(batch.x[0].numel())
    for draws in torch.arange(samples).split(size):
        z = view.prior(view.noise(DRAWS["prior_codes"], draws))
        log_weights = batch.x.new_empty(len(batch.x), len(draws))
        for group in groups:
            logits = view.decode(z, batch.y[group][:1].expand(len(z)))
            log_weights[group] = -observation.nll_matrix(logits, batch.x[group])
        estimate.update(log_weights)
    return estimate


def posterior_likelihood(
    view: View, batch: Batch, space: Space, proposal: Proposal, observation: Observation, samples: int
) -> tuple[LogMeanExp, Tensor]:
    """log p(x) of each image by K = `samples` draws from a proposal, and the ELBO by the same ones, (B,)."""
    estimate = LogMeanExp()
    negative_nll = torch.zeros(len(batch.x), dtype=torch.float64, device=view.device)
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
        nll = observation.nll(logits, x).reshape(len(draws), -1)
        estimate.update((log_ratio - nll).T)
        negative_nll -= nll.double().sum(0) / samples
    negative_kl = -gaussian_kl(*proposal).double() if space.is_standard else negative_kl + proposal.entropy().double()
    return estimate, negative_nll + negative_kl
