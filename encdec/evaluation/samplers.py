"""What latents of samples are drawn from: the model's own choice, its prior, or a density fitted to its latents.

A sampler that is fitted has seen the latents of `MOST` training images at most, in a random order that is the same in
every run, because latents may come from a search; a prior that the training has fitted already is taken as it is.

Source: Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, sec. 4 (Gaussian, mixture of 10); Hoshen et al. 2019,
https://arxiv.org/abs/1812.08985 (neighbors).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from encdec.evaluation.context import Context, random_order
from encdec.objectives.neighbor_mapping import NeighborMapping
from encdec.objectives.priors import FittedGaussian, FittedPrior, GaussianMixture
from encdec.paradigms import LatentVariable, Paradigm, encodes, has_codes
from encdec.types import UserError

Sampler = Literal["model", "prior", "gaussian", "mixture", "neighbors"]
"""`model`: as the model samples by itself; `prior`: its p(z); the others are fitted to its latents."""
FITTED: dict[str, type[FittedGaussian | GaussianMixture | NeighborMapping]] = {
    "gaussian": FittedGaussian,
    "mixture": GaussianMixture,
    "neighbors": NeighborMapping,
}
"""What is fitted to latents, by name."""
MOST = 10_000
"""Training images that a sampler is fitted to the latents of, at most."""


def check_sampler(paradigm: Paradigm, sampler: str) -> None:
    """Check that a model can be sampled from in some way.

    Raises:
        UserError: it makes images without latents, or has no latents of images.
    """
    name = type(paradigm).__name__
    if sampler != "model" and not isinstance(paradigm, LatentVariable):
        raise UserError(f"--sampler {sampler}: {name} makes images of noise, without latents: leave it out.", 2)
    if sampler in FITTED and not has_latents(paradigm):
        raise UserError(
            f"--sampler {sampler} is fitted to the latents of the training images, but {name} has none with these "
            "settings: leave it out.",
            2,
        )


def has_latents(paradigm: Paradigm) -> bool:
    """Whether training images have latents that a density can be fitted to."""
    return isinstance(paradigm, LatentVariable) and (has_codes(paradigm) or encodes(paradigm))


def own_sampler(paradigm: LatentVariable) -> str:
    """The sampler that `model` is for this one; empty where it is none of them."""
    fitted = paradigm.ex_post
    if fitted is None:
        return "prior"
    is_usual = not isinstance(fitted, GaussianMixture) or fitted.components == GaussianMixture(1).components
    names = [name for name, kind in FITTED.items() if type(fitted) is kind and is_usual and fitted.fitted > 0]
    return names[0] if names else ""


def training_latents(context: Context) -> Tensor:
    """The latents of training images, (n, d), on every process; n is `MOST` at most."""
    order = random_order(len(context.train.labels))[:MOST]
    mine = order[context.processes.share(len(order))]
    parts = [torch.zeros(0, context.view.latent.latent_dim, device=context.view.device)]
    for batch in context.batches("train", mine):
        z = context.view.codes(batch)
        assert z is not None, "ask for the latents of models that have them only"
        parts.append(z.detach().float())
        context.advance(sum(map(len, parts)) / len(mine))
    return context.processes.merge(torch.cat(parts), len(order))


def sample_from(context: Context, sampler: str) -> None:
    """Let a model draw its samples in another way from now on."""
    paradigm = context.view.paradigm
    if sampler == "model" or not isinstance(paradigm, LatentVariable):
        return
    needed = sampler in FITTED and sampler != own_sampler(paradigm)
    paradigm.ex_post = _density(paradigm, sampler, training_latents(context) if needed else None)


class Drawn(NamedTuple):
    """A way to draw latents.

    Attributes:
        ex_post: what a model's attribute of that name must be for it: None for its prior.
        source: what it is, for the unit of a metric.
    """

    ex_post: FittedPrior | None
    source: str


def side_by_side(context: Context) -> dict[str, Drawn]:
    """The prior, the Gaussian and the mixture of a model whose training images have latents; empty for others."""
    paradigm = context.view.paradigm
    if not isinstance(paradigm, LatentVariable) or not has_latents(paradigm):
        return {}
    latents = training_latents(context)
    if not latents.isfinite().all():
        return {}
    drawn = {"prior": Drawn(None, f"latents from the prior {type(paradigm.prior).__name__}")}
    for name in ("gaussian", "mixture"):
        density = _density(paradigm, name, latents)
        assert density is not None
        source = f"latents from a {type(density).__name__} of {int(density.fitted):,} training images"
        drawn[name] = Drawn(density, source)
    return drawn


def _density(paradigm: LatentVariable, sampler: str, latents: Tensor | None) -> FittedPrior | None:
    """What a model's `ex_post` must be for a sampler; `latents` are those of its training images."""
    if sampler == "prior":
        return None
    if sampler == own_sampler(paradigm):
        return paradigm.ex_post
    assert latents is not None, "it is fitted to latents"
    fitted = FITTED[sampler](paradigm.latent_dim)
    fitted.fit(latents)
    return fitted.to(paradigm.device)
