"""Values of test images whose mean is a metric: kept, so that two runs are compared image by image. NumPy alone.

An expensive value y is measured on n images, chosen at random; a cheap one c that varies with it, the control variate,
on all N. With the slope β of y on c the mean of y over all images is estimated by β mean(c) + mean_n(y − β c): the
first term has no error of the choice, and the second has little of it where both vary together (regression estimator:
Cochran 1977, Sampling Techniques, ch. 7).
"""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LARGEST_FILE = 1 << 26  # bytes of all arrays of a file that anyone may have written


@dataclass(frozen=True, eq=False)
class ImageValues:
    """Values of N images; or of n of them, with values of all N that vary with them.

    Attributes:
        values: (N,).
        residuals: (n,): what is added to `values` for the images at `positions`; None where nothing is.
        positions: int64, (n,), different; those of the images among the N.
        variance: of the mean, from what belongs to a run alone, such as its samples.
    """

    values: Floats
    residuals: Floats | None = None
    positions: NDArray[np.int64] | None = None
    variance: float = 0.0

    @classmethod
    def controlled(cls, values: Floats, control: Floats | None, positions: NDArray[np.int64]) -> "ImageValues":
        """Values of the images at `positions`, (n,), with a control variate of all images, (N,)."""
        if control is None or len(values) < 2 or not np.isfinite(control).all():
            return cls(values)
        c = control[positions]
        variance = c.var()
        slope = ((values - values.mean()) * (c - c.mean())).mean() / variance if variance > 0 else 0.0
        return cls(slope * control, values - slope * c, positions)

    @property
    def mean(self) -> float:
        """The mean over all images, as far as it is known."""
        more = 0.0 if self.residuals is None else self.residuals.mean()
        return float(self.values.mean() + more)

    @property
    def standard_error(self) -> float | None:
        """Of the mean, as an estimate of that over all images there could be; None for fewer than two.

        With v on all N images and r on n of them: Var(v + r) / N for the choice of the N, where all have both, and
        (1/n − 1/N) Var(r) for the choice of the n among them.
        """
        count = len(self.values)
        if count < 2:
            return None
        variance = self.variance + self.values.var(ddof=1) / count
        if self.residuals is not None and self.positions is not None:
            if len(self.residuals) < 2:
                return None
            together = np.cov(self.values[self.positions], self.residuals)
            variance += 2 * together[0, 1] / count + together[1, 1] / len(self.residuals)
        return math.sqrt(max(variance, 0.0))

    def minus(self, other: "ImageValues") -> "ImageValues | None":
        """The differences image by image; None where the two are not of the same images."""
        if not self._is_paired_with(other):
            return None
        residuals = None
        if self.residuals is not None and other.residuals is not None:
            residuals = self.residuals - other.residuals
        variance = self.variance + other.variance
        return ImageValues(self.values - other.values, residuals, self.positions, variance)

    def _is_paired_with(self, other: "ImageValues") -> bool:
        if len(self.values) != len(other.values) or (self.residuals is None) != (other.residuals is None):
            return False
        if self.positions is None or other.positions is None:
            return self.positions is None and other.positions is None
        return np.array_equal(self.positions, other.positions)


def mean_of(values: list[ImageValues]) -> ImageValues | None:
    """The mean image by image over several runs; None where they are not of the same images."""
    if not values or not all(values[0]._is_paired_with(one) for one in values):
        return None
    residuals = [one.residuals for one in values if one.residuals is not None]
    whole = np.mean([one.values for one in values], axis=0)
    variance = sum(one.variance for one in values) / len(values) ** 2
    return ImageValues(whole, np.mean(residuals, axis=0) if residuals else None, values[0].positions, variance)


def write(file: IO[bytes], values: Mapping[str, ImageValues]) -> None:
    """Write values of images by the metric's name, in float32: NAME, NAME:residuals, NAME:positions, NAME:variance."""
    arrays: dict[str, Any] = {}
    for name, one in values.items():
        arrays[name] = one.values.astype(np.float32)
        if one.variance > 0:
            arrays[f"{name}:variance"] = np.array([one.variance], dtype=np.float64)
        if one.residuals is not None and one.positions is not None:
            arrays[f"{name}:residuals"] = one.residuals.astype(np.float32)
            arrays[f"{name}:positions"] = one.positions.astype(np.int32)
    np.savez_compressed(file, **arrays)


def read(path: Path) -> dict[str, ImageValues]:
    """What `write` wrote.

    Raises:
        ValueError, OSError: it is not such a file, or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST_FILE:
                raise ValueError(f"its arrays have more than {_LARGEST_FILE >> 20} MiB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"it is no file of arrays ({error})") from error
    found = {}
    for name, array in arrays.items():
        if ":" in name:
            continue
        residuals, positions = arrays.get(f"{name}:residuals"), arrays.get(f"{name}:positions")
        variance = arrays.get(f"{name}:variance", np.zeros(1))
        _check(name, array, residuals, positions, variance)
        found[name] = ImageValues(
            array.astype(np.float64),
            None if residuals is None else residuals.astype(np.float64),
            None if positions is None else positions.astype(np.int64),
            float(variance[0]),
        )
    return found


def _check(name: str, values: Any, residuals: Any, positions: Any, variance: Any) -> None:
    given = [one for one in (values, residuals, positions, variance) if one is not None]
    if any(one.ndim != 1 or one.dtype.kind not in "fiu" or not np.isfinite(one).all() for one in given):
        raise ValueError(f"the values of {name!r} are no rows of finite numbers")
    if (residuals is None) != (positions is None) or len(values) == 0 or len(variance) != 1 or variance[0] < 0:
        raise ValueError(f"the values of {name!r} lack some of their rows")
    if residuals is not None and (
        len(residuals) != len(positions)
        or len(positions) == 0
        or positions.dtype.kind not in "iu"
        or positions.min() < 0
        or positions.max() >= len(values)
    ):
        raise ValueError(f"the residuals of {name!r} are not of its images")
