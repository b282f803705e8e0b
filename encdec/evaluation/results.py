"""The results of an evaluation: metrics with their units, standard errors and references."""

import math
from dataclasses import dataclass, field

from torch import Tensor


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


@dataclass
class Metrics:
    """The metrics of an evaluation by name, and a sentence for each that is not defined for this run."""

    values: dict[str, Metric] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        value: float | Tensor,
        unit: str,
        *,
        reference: float | None = None,
        reference_name: str = "",
        undefined: str = "it is not finite",
    ) -> None:
        """Add a metric; a tensor (N,) of one value for each image becomes its mean with its standard error.

        A value that is not finite never becomes a metric: it is listed with the sentence `undefined`.
        """
        standard_error = None
        if isinstance(value, Tensor) and value.ndim == 1:
            values = value.double()
            if len(values) > 1:
                standard_error = float(values.std() / math.sqrt(len(values)))
            value = values.mean()
        if not math.isfinite(value):
            self.undefined[name] = undefined
            return
        self.values[name] = Metric(float(value), unit, standard_error, reference, reference_name)
