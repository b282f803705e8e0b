"""What each paradigm answers to each question: one metric, by seed, and whose answers may be compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encdec.evaluation.questions import QUESTIONS, SPACES, Question
from encdec.evaluation.questions import why_undefined as of_metric
from encdec.study.report.reading import Measure, Results
from encdec.study.report.statistics import Mean, mean

LATENTS = {
    "prior": "latents from its prior",
    "gaussian": "latents from a Gaussian fitted to those of training images",
    "mixture": "latents from a mixture of Gaussians fitted to those of training images",
}
"""What latents of samples are drawn from: as metrics are named after it, and in words."""


@dataclass(frozen=True)
class Traits:
    """What a paradigm is, as its evaluations say.

    Attributes:
        kind: its class.
        has_encoder: whether a network of its own reads an image to give its latent.
        reads_labels: whether images are made from their label, so that likelihoods are p(x|y).
        conditioning: what an output is compared with depends on `image`, `label` or `none`; None where outputs are
            paired with no image.
    """

    kind: str
    has_encoder: bool
    reads_labels: bool
    conditioning: str | None

    @property
    def is_aggregate(self) -> bool:
        """Whether its objective is of many samples and many images at once, without pairs."""
        return self.conditioning is None

    @property
    def words(self) -> str:
        """In a table's cell."""
        return "yes" if self.has_encoder else "no"


@dataclass(frozen=True)
class Answer:
    """One metric of one paradigm on one data set.

    Attributes:
        metric: its name.
        by_seed: its measures.
        asked: how many seeds the study asks for.
    """

    metric: str
    by_seed: Mapping[int, Measure]
    asked: int

    @property
    def values(self) -> dict[int, float]:
        """By seed."""
        return {seed: measure.value for seed, measure in self.by_seed.items()}

    @property
    def mean(self) -> Mean:
        """Over the seeds that there are."""
        return mean(list(self.values.values()))

    @property
    def unit(self) -> str:
        """As the evaluation gives it."""
        return next(iter(self.by_seed.values())).unit

    @property
    def references(self) -> dict[str, list[float]]:
        """What it is to be compared with, by what that is: a floor, chance, what real images score."""
        found: dict[str, list[float]] = {}
        for measure in self.by_seed.values():
            if measure.reference is not None:
                # "floor (mean image)" is the mean image, which for others is a baseline
                name = measure.reference_name.removeprefix("floor (").removesuffix(")") or "reference"
                found.setdefault(name, []).append(measure.reference)
        return found

    @property
    def is_whole(self) -> bool:
        """Whether all seeds are there."""
        return len(self.by_seed) == self.asked

    @property
    def missing(self) -> str:
        """A note on missing seeds; empty if there are none."""
        return "" if self.is_whole else f"{len(self.by_seed)} of {self.asked} seeds"

    @property
    def test_error(self) -> float | None:
        """Standard error that comes from the test set, its mean over seeds; None where it is not known."""
        errors = [measure.standard_error for measure in self.by_seed.values()]
        known = [error for error in errors if error is not None]
        return sum(known) / len(known) if known and len(known) == len(errors) else None


def traits(results: Results) -> dict[str, Traits]:
    """Of each paradigm that has an evaluation on any data set."""
    found: dict[str, Traits] = {}
    for job in results.jobs:
        if job.evaluation is not None and job.paradigm not in found:
            found[job.paradigm] = _traits(job.evaluation)
    return found


def answer(results: Results, data: str, paradigm: str, metrics: Sequence[str]) -> Answer | None:
    """The first of `metrics` that any seed has; None if none has any."""
    jobs = results.of(data, paradigm)
    for name in metrics:
        by_seed = {job.seed: job.metrics[name] for job in jobs if name in job.metrics}
        if by_seed:
            return Answer(name, by_seed, len(results.seeds))
    return None


def answers(results: Results, data: str, metrics: Sequence[str]) -> dict[str, Answer]:
    """Of each paradigm that has one, in the study's order."""
    found = {paradigm: answer(results, data, paradigm, metrics) for paradigm in results.paradigms}
    return {paradigm: of for paradigm, of in found.items() if of is not None}


def why_undefined(results: Results, data: str, paradigm: str, metrics: Sequence[str]) -> str | None:
    """Why a paradigm has none of some metrics; None where a seed has one, or none was evaluated, or none says why."""
    jobs = results.of(data, paradigm)
    if any(name in job.metrics for job in jobs for name in metrics):
        return None
    said = [of_metric(name, (job.evaluation or {}).get("undefined", {})) for job in jobs for name in metrics]
    return next((why for why in said if why), None)


def to_compare(results: Results, data: str, question: Question) -> tuple[dict[str, Answer], dict[str, str]]:
    """The answers that may be compared with each other, and why the others may not, by paradigm.

    Numbers in different units (the likelihoods of two observation models) are not compared: those in the baseline's
    unit are, or where it has none, in the most common one. Nor is p(x|y) compared with p(x).
    """
    found, of = answers(results, data, question.headline), traits(results)
    apart: dict[str, str] = {}
    if question.name == "likelihood":
        labelled = {paradigm for paradigm in found if of[paradigm].reads_labels}
        if len(labelled) < len(found):
            apart = dict.fromkeys(sorted(labelled), "given the label, p(x|y)")
    units = {paradigm: comparable_unit(answer.unit) for paradigm, answer in found.items() if paradigm not in apart}
    if units:
        usual = units.get(results.baseline) or Counter(units.values()).most_common(1)[0][0]
        apart |= {paradigm: f"in {unit}" for paradigm, unit in units.items() if unit != usual}
    return {paradigm: answer for paradigm, answer in found.items() if paradigm not in apart}, apart


def own_latents(results: Results, data: str, paradigm: str) -> str:
    """What a paradigm's samples are of by itself, `prior`, `gaussian` or `mixture`; empty where nothing tells.

    An evaluation does not name it, but measures each of the three: the one that is its own has the headline's digits.
    """
    jobs = results.of(data, paradigm)
    for space in SPACES:
        headline = [job.metrics[name] for job in jobs if (name := f"frechet_{space}") in job.metrics]
        for latents in LATENTS:
            measured = [job.metrics[name] for job in jobs if (name := f"frechet_{space}_{latents}") in job.metrics]
            if headline and [one.value for one in measured] == [one.value for one in headline]:
                return latents
    return ""


def comparable_unit(unit: str) -> str:
    """A unit without what does not change its meaning: over how many images a mean was taken."""
    return ", ".join(part for part in unit.split(", ") if not part.startswith("mean over "))


def question(name: str) -> Question:
    """By its name."""
    return next(question for question in QUESTIONS if question.name == name)


def _traits(evaluation: Mapping[str, Any]) -> Traits:
    given = evaluation.get("conditioning")
    conditioning = None if given in (None, "None") else str(given)  # "none" is a conditioning: on nothing
    arguments = ((evaluation.get("config") or {}).get("model") or {}).get("init_args") or {}
    return Traits(
        str(evaluation.get("paradigm", "")),
        bool(evaluation.get("has_encoder", arguments.get("encoder") and conditioning == "image")),
        bool(evaluation.get("reads_labels", conditioning == "label")),
        conditioning,
    )
