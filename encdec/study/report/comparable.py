"""Which evaluations of a study may stand in one table: those made on the same images, in the same way.

What makes numbers incomparable takes an evaluation out of the tables, by name; what may change their last digits, or
times, is said.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from encdec.study.report.reading import Result, Results
from encdec.text import printable

_NOT_OF_THE_MEASUREMENT = ("parts", "cache_dir", "feature_space", "sampler")
"""Settings of an evaluation that are no part of how it measures; the feature space that it took is compared itself."""


def comparable(results: Results) -> tuple[Results, list[str]]:
    """The results without the evaluations that can't be compared with the rest, and sentences on what else differs.

    On each data set, what most evaluations have in common decides; between equals, the first in the study's order.
    """
    jobs = {job.folder: job for job in results.jobs}
    for data in results.data:
        found = results.of(data)
        for name, of in _DECISIVE.items():
            usual = _most_common([_text(of(job)) for job in found])
            for job in [job for job in found if _text(of(job)) != usual]:
                problem = f"not compared: {name} {_shown(of(job), json.loads(usual))}"
                jobs[job.folder] = replace(job, evaluation=None, problem=problem, metrics={})
            found = [job for job in found if jobs[job.folder].evaluation is not None]
    kept = replace(results, jobs=list(jobs.values()))
    return kept, [*_differing(kept), *_repeats(kept)]


def _settings(job: Result) -> dict[str, Any]:
    settings = _evaluation(job).get("settings", {})
    return {name: value for name, value in settings.items() if name not in _NOT_OF_THE_MEASUREMENT}


def _evaluation(job: Result) -> Mapping[str, Any]:
    assert job.evaluation is not None, "only evaluated jobs are compared"
    return job.evaluation


def _machine(job: Result, key: str) -> Any:
    return _evaluation(job).get("machine", {}).get(key)


_DECISIVE: dict[str, Callable[[Result], Any]] = {
    "the fingerprint of its images is": lambda job: _evaluation(job)["data"]["fingerprint"],
    "its feature space is": lambda job: _evaluation(job).get("feature_space"),
    "it was evaluated with": _settings,
    "the checkpoint that it evaluates is": lambda job: _evaluation(job)["checkpoint"],
}
_NOTED: dict[str, Callable[[Result], Any]] = {
    "threads of training": lambda job: job.state and job.state.threads,
    "threads of evaluation": lambda job: _machine(job, "threads"),
    "device": lambda job: _machine(job, "device"),
    "processor": lambda job: _machine(job, "device_name"),
    "system": lambda job: _machine(job, "system"),
    "precision": lambda job: _evaluation(job).get("precision"),
    "processes": lambda job: _evaluation(job).get("processes"),
    "versions of packages": lambda job: _evaluation(job).get("versions"),
}


def _most_common(values: Sequence[str]) -> str:
    return max(Counter(values).items(), key=lambda item: item[1])[0] if values else "null"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _shown(value: Any, usual: Any) -> str:
    """What differs, beside what most have."""
    if isinstance(value, dict) and isinstance(usual, dict):
        names = sorted(name for name in value.keys() | usual.keys() if value.get(name) != usual.get(name))
        return ", ".join(f"{name} = {value.get(name)} (most others: {usual.get(name)})" for name in names)
    return f"{printable(str(value), 60)} (most others: {printable(str(usual), 60)})"


def _differing(results: Results) -> list[str]:
    """A sentence on each circumstance in which the evaluations that are compared differ."""
    found = [job for job in results.jobs if job.evaluation is not None]
    sentences = []
    for name, of in _NOTED.items():
        groups: dict[str, list[Result]] = {}
        for job in found:
            groups.setdefault(_text(of(job)), []).append(job)
        if len(groups) > 1:
            usual = max(groups, key=lambda key: len(groups[key]))
            parts = [
                f"{_named(jobs)} {_shown(json.loads(key), json.loads(usual))}"
                for key, jobs in groups.items()
                if key != usual
            ]
            sentences.append(
                f"The jobs differ in {name}: {'; '.join(parts)}. Last digits may differ for that, and times are not "
                "to be compared between them."
            )
    return sentences


def _repeats(results: Results) -> list[str]:
    """A sentence on each paradigm whose seeds were trained for different numbers of steps, or begun elsewhere."""
    sentences = []
    for data in results.data:
        for paradigm in results.paradigms:
            found = results.of(data, paradigm)
            steps = sorted({job.evaluation["step"] for job in found if job.evaluation and "step" in job.evaluation})
            if len(steps) > 1:
                sentences.append(
                    f"{paradigm} on {data}: its seeds were trained for {steps[0]:,} to {steps[-1]:,} steps."
                )
            history = sorted({line for job in found if job.evaluation for line in job.evaluation.get("history", [])})
            sentences += [f"{paradigm} on {data}: {printable(line, 300)}" for line in history]
    return sentences


def _named(jobs: Sequence[Result]) -> str:
    names = [f"{job.paradigm}/{job.data}/seed_{job.seed}" for job in jobs]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
