"""The results of an evaluation: metrics with their units, standard errors and references."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.questions import why_undefined
from encdec.text import spread
from encdec.types import UserError


class NoMetricError(UserError, KeyError):
    """An evaluation has no metric of a name."""

    __str__ = Exception.__str__  # a KeyError shows its sentence in quotes


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation, with all that is needed to read it.

    Attributes:
        value: the number; always finite.
        unit: its unit and how it was reduced.
        standard_error: of a mean over images (the spread over images divided by √N), where it is one.
        reference: what to compare it with: a floor, chance, or what real images score.
        reference_name: what that is.
    """

    value: float
    unit: str
    standard_error: float | None = None
    reference: float | None = None
    reference_name: str = ""

    def __str__(self) -> str:
        """Value, standard error, what to compare it with, and unit, in a line."""
        error = "" if self.standard_error is None else f" ± {spread(self.standard_error)}"
        beside = "" if self.reference is None else f" ({self.reference_name}: {self.reference:.5g})"
        return f"{self.value:.5g}{error}{beside}, {self.unit}"


@dataclass(repr=False)
class Metrics:
    """The metrics of an evaluation by name, and sentences about them.

    Attributes:
        values: the metrics.
        undefined: a sentence for each that is not defined for this run, and for each question without an answer.
        doubtful: a sentence for each that is to be read with care.
        images: of those that are means over test images, which other runs share: the values of the images.
    """

    values: dict[str, Metric] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    doubtful: dict[str, str] = field(default_factory=dict)
    images: dict[str, ImageValues] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        """A line for each metric, also for those that are not defined."""
        undefined = (f"{name}: not defined here, {why}" for name, why in self.undefined.items())
        return "\n".join([*(f"{name}: {metric}" for name, metric in self.values.items()), *undefined])

    def __getitem__(self, name: str) -> Metric:
        """A metric by its name.

        Raises:
            UserError: there is none of this name; the sentence says why, where it is known.
        """
        if name not in self.values:
            why = why_undefined(name, self.undefined) or f"the metrics are {', '.join(self.values)}"
            raise NoMetricError(f"there is no metric {name!r}: {why}")
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is a metric of this name."""
        return name in self.values

    def add(
        self,
        name: str,
        value: float | Tensor | ImageValues,
        unit: str,
        *,
        reference: float | None = None,
        reference_name: str = "",
        standard_error: float | None = None,
        undefined: str = "it is not finite",
    ) -> None:
        """Add a metric; a tensor (N,) of one value for each image becomes its mean with its standard error.

        A value that is not finite never becomes a metric: it is listed with the sentence `undefined`. `ImageValues`
        are those of test images, and are kept; a tensor's are of samples or the like.
        """
        rows = ImageValues(value.double().cpu().numpy()) if isinstance(value, Tensor) and value.ndim == 1 else value
        mean = (rows.mean if len(rows.values) else math.nan) if isinstance(rows, ImageValues) else float(rows)
        if not math.isfinite(mean):
            self.undefined[name] = undefined
            return
        if isinstance(rows, ImageValues):
            standard_error = rows.standard_error
        if isinstance(value, ImageValues):
            self.images[name] = value
        self.values[name] = Metric(mean, unit, standard_error, reference, reference_name)
