"""What `test` prints of an evaluation: the answers to its questions in 80 columns, and all metrics on request."""

import textwrap
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD

from encdec.callbacks.verdicts import stands_beside
from encdec.evaluation.questions import QUESTIONS
from encdec.evaluation.results import Metric, Metrics
from encdec.tables import print_table
from encdec.text import printable, spread

_WIDTH, _NAME, _VALUE = 80, 22, 19
_BESIDE = ("memorised",)
"""What is shown with the headline of its question."""


def print_answers(metrics: Metrics) -> None:
    """Print each question with the metric that answers it, its standard error, its baseline and its unit."""
    shown, missing = set[str](), set[str]()
    for question in QUESTIONS:
        headline = question.answer(metrics.values)
        if headline is None:
            missing |= {question.name, *question.headline}
            continue
        print(f"{question.name}: {question.asks}")
        for name in (headline, *(name for name in question.beside if name in _BESIDE and name in metrics.values)):
            shown.add(name)
            print("\n".join(_lines(name, metrics.values[name])))
    _say(metrics.undefined, shown | missing, "is not defined here")
    _say(metrics.doubtful, shown, "is to be read with care")


def _lines(name: str, metric: Metric) -> list[str]:
    """A metric's line, and below it its unit."""
    baseline = "" if metric.reference is None else f"{printable(metric.reference_name)}: {metric.reference:.5g}"
    first = f"  {printable(name):<{_NAME - 1}} {_with_error(metric):<{_VALUE - 1}} "
    indent = " " * (2 + _NAME)
    lines = textwrap.wrap(printable(metric.unit), _WIDTH - len(indent))
    if len(first) + len(baseline) <= _WIDTH:
        return [(first + baseline).rstrip(), *(indent + line for line in lines)]
    return [first.rstrip(), *(indent + line for line in (*textwrap.wrap(baseline, _WIDTH - len(indent)), *lines))]


def _with_error(metric: Metric) -> str:
    error = "" if metric.standard_error is None else f" ± {spread(metric.standard_error)}"
    return f"{metric.value:.5g}{error}"


def print_sentences(sentences: Iterable[str]) -> None:
    """Print sentences in 80 columns, each on lines of its own."""
    for sentence in sentences:
        print(textwrap.fill(sentence, _WIDTH, break_long_words=False, break_on_hyphens=False), flush=True)


def _say(sentences: dict[str, str], names: set[str], what: str) -> None:
    print_sentences(f"{name} {what}: {sentence}" for name, sentence in sentences.items() if name in names)


def print_details(metrics: Metrics) -> None:
    """Print every metric in a table, and a sentence for each that is not defined or doubtful."""
    rows = [["test split", "", "± s.e.", "to compare with", "unit"]]
    for name, metric in metrics.values.items():
        if not stands_beside(name) and not _repeats(name, metrics):
            error = "" if metric.standard_error is None else spread(metric.standard_error)
            baseline = "" if metric.reference is None else f"{metric.reference:.5g} {metric.reference_name}"
            rows.append([printable(name), f"{metric.value:.5g}", error, printable(baseline), printable(metric.unit)])
    print_table(rows, text=(4, 3, 0), box=SIMPLE_HEAD)
    for name, reason in metrics.undefined.items():
        print(f"{name} is not defined here: {reason}", flush=True)
    for name, reason in metrics.doubtful.items():
        print(f"{name} is to be read with care: {reason}", flush=True)


def _repeats(name: str, metrics: Metrics) -> bool:
    """Whether a metric says what another one has said: the ELBO where it is what is maximised."""
    loss = metrics.values.get("loss")
    if name != "elbo" or loss is None:
        return False
    return abs(metrics.values[name].value + loss.value) <= 1e-6 * abs(loss.value)
