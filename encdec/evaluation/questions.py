"""The questions that an evaluation answers, with the one number that answers each.

What `test` prints, the columns of `compare` and the charts of a study's report take their headlines from here.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

SPACES = ("inception", "classifier", "pca")
"""The feature spaces that metrics of samples are named after."""


def _in_spaces(metric: str) -> tuple[str, ...]:
    return tuple(f"{metric}_{space}" for space in SPACES)


@dataclass(frozen=True)
class Question:
    """A question about a model.

    Attributes:
        name: one or two words.
        asks: the question as a sentence.
        headline: names of the metric that answers it; that of a report is the first that it has.
        beside: names of metrics that are shown next to it, as far as a report has them.
        better: whether a lower or a higher value of the headline is better.
    """

    name: str
    asks: str
    headline: tuple[str, ...]
    beside: tuple[str, ...]
    better: Literal["lower", "higher"]

    def answer(self, metrics: Container[str]) -> str | None:
        """The headline's name among those of a report's metrics; None if it has none of them."""
        return next((name for name in self.headline if name in metrics), None)


QUESTIONS = (
    Question(
        "reconstruction",
        "How close does it come to an image that it was not trained on?",
        ("mse",),
        ("mse_posterior",),
        "lower",
    ),
    Question(
        "likelihood",
        "How likely does it find images that it was not trained on?",
        ("nll_bound",),
        ("elbo_amortisation_gap",),
        "lower",
    ),
    Question(
        "samples",
        "How far are its samples, as a whole, from real images?",
        _in_spaces("frechet"),
        _in_spaces("precision"),
        "lower",
    ),
    Question(
        "diversity",
        "How much of what is real do its samples cover, and are they copies?",
        _in_spaces("recall"),
        ("memorised",),
        "higher",
    ),
    Question(
        "latent space",
        "Do neighbouring latents stand for similar images?",
        ("target_near_encoder", "target_near_paired", "target_near_random"),
        ("neighbours_encoder", "neighbours_paired", "neighbours_posterior"),
        "higher",
    ),
)
"""In the order in which they are shown."""


def why_undefined(metric: str, undefined: Mapping[str, str]) -> str | None:
    """Why an evaluation has no such metric, as it says of the metric or of the question that this belongs to.

    Args:
        metric: its name.
        undefined: what the evaluation says, by metric or question.
    """
    asked = next((one.name for one in QUESTIONS if metric in (*one.headline, *one.beside)), "")
    # without latents nothing is reconstructed; older reports say no more of such a model
    also = "reconstruction" if asked == "latent space" else asked
    return undefined.get(metric) or undefined.get(asked) or undefined.get(also)
