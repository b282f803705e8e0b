"""What the choice of test images leaves open in a difference of two paradigms, whose errors on an image go together."""

from collections.abc import Collection, Mapping

from encdec.evaluation import image_values
from encdec.evaluation.image_values import ImageValues
from encdec.formats import VALUES_ENDING
from encdec.study.report.reading import Results

Values = Mapping[tuple[str, int], Mapping[str, ImageValues]]
"""Values of test images by paradigm and seed, and by metric."""


def of_data(results: Results, data: str) -> Values:
    """What the evaluations on a data set have kept; nothing of those whose file is missing or damaged."""
    found: dict[tuple[str, int], Mapping[str, ImageValues]] = {}
    for job in results.of(data):
        path = job.beside(VALUES_ENDING)
        if path is not None:
            try:
                found[job.paradigm, job.seed] = image_values.read(path)
            except (ValueError, OSError):  # it stands beside the numbers, and is no part of them
                continue
    return found


def error(values: Values, metric: str, first: str, second: str, seeds: Collection[int]) -> float | None:
    """The standard error of a mean difference over seeds that the choice of test images makes, image by image.

    None where a run has not kept its values, or the two are not of the same images.
    """
    kept = [[values.get((name, seed), {}).get(metric) for seed in seeds] for name in (first, second)]
    means = [image_values.mean_of([one for one in of_one if one is not None]) for of_one in kept if None not in of_one]
    if len(means) < 2 or means[0] is None or means[1] is None:
        return None
    between = means[0].minus(means[1])
    return None if between is None else between.standard_error
