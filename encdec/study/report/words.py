"""How metrics are called and how numbers are written in the report."""

import math
from collections.abc import Iterable, Sequence

from encdec.evaluation.questions import QUESTIONS, SPACES
from encdec.study.report.answers import Answer

TITLES: dict[str, tuple[str, str]] = {
    "mse": ("MSE", "per pixel"),
    "mse_posterior": ("MSE at the fitted posterior", "per pixel"),
    "mse_encoder": ("MSE through its own latent", "per pixel"),
    "mse_amortisation_gap": ("MSE's amortisation gap", "per pixel"),
    "nll_bound": ("Bound on −log p(x)", "nats per image"),
    "elbo_amortisation_gap": ("Amortisation gap", "nats per image"),
    "frechet": ("Fréchet distance", "squared distance"),
    "precision": ("Precision", "share"),
    "recall": ("Recall", "share"),
    "coverage": ("Coverage", "share"),
    "memorised": ("Memorised", "share"),
    "target_near": ("Similarity of neighbours’ targets", "cosine"),
    "neighbours": ("Shared neighbours", "share"),
    "decoder_calls": ("Decoder passes", "per image and epoch"),
    "parameters_training": ("Parameters in training", ""),
    "parameters_generator": ("Parameters of the generator", ""),
    "fit_seconds": ("Training", "seconds"),
    "latent_milliseconds": ("Finding a latent", "ms per test image"),
}
"""What metrics are called and their units in short, by name or by how their names begin."""
LOWER = ("mse", "nll", "frechet", "kernel", "memorised", "elbo_amortisation_gap")
"""How the names begin of metrics that are better when lower, beside the headlines, which say it themselves."""
COSTS = ("fit_seconds", "decoder_calls", "parameters_training", "latent_milliseconds")
"""What a paradigm costs, lower is better."""


def title(metric: str) -> str:
    """What a metric is called."""
    return _titled(metric)[0]


def title_of(found: Iterable[Answer]) -> str:
    """What the metric of a column is called; without what differs where paradigms answer by different ones."""
    names = list(dict.fromkeys(title(of.metric) for of in found))
    return names[0].rpartition(" (")[0] if len(names) > 1 and "(" in names[0] else names[0]


def in_sentence(name: str) -> str:
    """What a metric's title is in the middle of a sentence."""
    return name if name[:2].isupper() or name.startswith("Fréchet") else name[0].lower() + name[1:]


def unit(metric: str, given: str = "") -> str:
    """A metric's unit in short; `given` is that of its evaluation."""
    short = _titled(metric)[1]
    return short or given.partition(",")[0]


def better(metric: str) -> str:
    """Whether a metric is better `lower` or `higher`; empty where neither can be said."""
    for question in QUESTIONS:
        if metric in question.headline:
            return question.better
    if metric in COSTS or metric.startswith(LOWER):
        return "lower"
    return "higher" if metric.startswith(("precision", "recall", "coverage", "neighbours", "target_near")) else ""


def decimals(answers: Iterable[Answer]) -> int:
    """Decimals that all numbers of a column are written with: to the second digit of the median uncertainty.

    Where there is none over seeds, that of the test set counts, and where there is neither, four digits of the
    median value are written.
    """
    found = list(answers)
    spreads = sorted(spread for answer in found if (spread := answer.mean.half_width or answer.test_error))
    if spreads:
        return decimals_of(spreads[len(spreads) // 2], 2)
    values = [answer.mean.value for answer in found]
    if all(value == round(value) for value in values):
        return 0
    sizes = sorted(abs(value) for value in values if value)
    return decimals_of(sizes[len(sizes) // 2], 4)


def decimals_of(value: float, digits: int) -> int:
    """Decimals with which a value has as many digits, between 0 and 6."""
    if not (value and math.isfinite(value)):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 6)


def number(value: float, places: int) -> str:
    """A number with thousands apart and a proper minus sign."""
    text = f"{value:,.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−").replace(",", "\u202f")


def signed(value: float, places: int) -> str:
    """A difference, with its sign."""
    text = number(value, places)
    return text if text.startswith("−") or not float(text.replace("\u202f", "")) else f"+{text}"


def listed(names: Sequence[str], longest: int = 12) -> str:
    """a, b and c; the rest is counted where they are many."""
    if len(names) > longest:
        names = [*names[: longest - 1], f"{len(names) - longest + 1} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plural(count: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _titled(metric: str) -> tuple[str, str]:
    if metric in TITLES:
        return TITLES[metric]
    stems = [stem for stem in TITLES if metric.startswith(f"{stem}_")]
    if not stems:
        return metric, ""
    stem = max(stems, key=len)
    rest = metric.removeprefix(f"{stem}_")
    name, of = TITLES[stem]
    kinds = [kind for kind in rest.split("_") if kind not in SPACES]
    return name + (f" ({', '.join(kinds)})" if kinds else ""), of
