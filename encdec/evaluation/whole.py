"""The whole evaluation of a model: all of its parts that are asked for, in the order in which they need each other."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from encdec.evaluation.context import Advance, Context
from encdec.evaluation.costs import add_costs
from encdec.evaluation.features import SpaceKind, find_space
from encdec.evaluation.inference import Inferred, infer
from encdec.evaluation.latent_space import evaluate_latent
from encdec.evaluation.likelihood import evaluate_likelihood
from encdec.evaluation.reconstruction import evaluate_reconstruction
from encdec.evaluation.references import Cache
from encdec.evaluation.samplers import Sampler, sample_from, side_by_side
from encdec.evaluation.samples import evaluate_samples
from encdec.evaluation.smoothness import add_smoothness
from encdec.paradigms import encodes, infers

Part = Literal["reconstruction", "likelihood", "samples", "latent"]
PARTS: tuple[Part, ...] = ("reconstruction", "likelihood", "samples", "latent")
Stage = Callable[[str], Advance]
"""Starts a stage of that name, and gives what takes its progress."""


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and with what.

    Attributes:
        parts: those that are run.
        feature_space: where samples are compared; see `find_space`.
        cache_dir: folder for trained classifiers and what real images score.
        sampler: what latents of samples are drawn from; with `model` the prior and ex-post densities are compared side
            by side.
        decoder_calls: what the checkpoint says of its training; None where it says nothing.
    """

    parts: Collection[Part]
    feature_space: SpaceKind
    cache_dir: Path
    sampler: Sampler = "model"
    decoder_calls: float | None = None


def evaluate_all(
    context: Context, plan: Plan, fingerprints: Mapping[str, str], stage: Stage
) -> tuple[Inferred, str | None]:
    """Add the metrics of all parts to those of a context.

    Args:
        context: the evaluation.
        plan: what is evaluated.
        fingerprints: of the splits (hexadecimal), which a cache belongs to.
        stage: shows the progress.

    Returns:
        What was inferred about the test images; and where samples were compared, None if they were not.
    """
    inferred, space, parts, view = Inferred(), None, set(plan.parts), context.view

    def starting(name: str) -> Context:
        return replace(context, advance=stage(name))

    if plan.sampler != "model":
        sample_from(starting("sampler: latents of training images"), plan.sampler)
    if "samples" in parts:  # first, because it may have to say that what was asked for is not at hand
        space = find_space(starting("feature space"), plan.feature_space, plan.cache_dir, fingerprints["train"])
    context.metrics.undefined |= _undefined(context, parts)
    if not view.is_latent:
        parts -= {"reconstruction", "likelihood"}
    if view.is_latent and parts - {"samples"}:
        fit = bool(parts & {"reconstruction", "likelihood"})
        inferred = infer(starting("latents and posteriors of images"), fit)
    if "reconstruction" in parts:
        evaluate_reconstruction(starting("reconstruction"), inferred)
    if "likelihood" in parts:
        evaluate_likelihood(starting("likelihood"), inferred)
    if "latent" in parts and view.is_latent:
        evaluate_latent(starting("latent space"), inferred)
    elif "latent" in parts:
        add_smoothness(starting("smoothness"))
    if space is not None:
        is_own = plan.sampler == "model"
        samplers = side_by_side(starting("samplers: latents of training images")) if is_own else {}
        cache = Cache(plan.cache_dir, fingerprints["train"][:16] + fingerprints["test"][:16])
        evaluate_samples(starting("samples"), space, samplers, cache)
    add_costs(starting("costs"), plan.decoder_calls)
    return inferred, None if space is None else space.description


def _undefined(context: Context, parts: Collection[Part]) -> dict[str, str]:
    """What of some parts is not defined for the model, by metric, or by question where all of it is not."""
    paradigm, found = context.view.paradigm, dict[str, str]()
    name, questions = type(paradigm).__name__, {"likelihood": "likelihood", "reconstruction": "reconstruction"}
    if not context.view.is_latent:
        why = f"{name} makes images of noise, without latents or p(x|z)"
        return {of: why for part, of in (*questions.items(), ("latent", "latent space")) if part in parts}
    if "reconstruction" in parts and "mse" not in context.metrics:
        found["mse"] = f"{name} makes no output for an image"
    if "likelihood" in parts and not infers(paradigm):
        found["elbo_amortisation_gap"] = f"{name} has no posterior of its own"
    if not encodes(paradigm):
        of_part = {"reconstruction": ("mse_encoder",), "latent": ("target_near_encoder", "neighbours_encoder")}
        found |= {of: f"{name} has no latents of images" for part in of_part if part in parts for of in of_part[part]}
    return found
