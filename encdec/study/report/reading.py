"""What a study's folder holds: its YAML file, and of each job the state, the evaluation, the curves and the images.

Only small files are read, never a checkpoint, so that a folder without its checkpoints can be reported elsewhere.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from encdec.evaluation.reading import read as read_evaluation
from encdec.formats import REPORT_ENDING
from encdec.study import plan, spec, state
from encdec.study.schedule import COPY, evaluation_path
from encdec.study.state import JobState
from encdec.text import printable
from encdec.types import UserError

TUNING = "tuning"


@dataclass(frozen=True)
class Measure:
    """One metric of one evaluation; the fields are those of `encdec.evaluation.results.Metric`."""

    value: float
    unit: str
    standard_error: float | None = None
    reference: float | None = None
    reference_name: str = ""


@dataclass(frozen=True)
class Result:
    """One job of a study.

    Attributes:
        paradigm, data, seed: which one; the first two as the study names them.
        folder: of the job.
        state: its state.json; None where the job has not begun.
        evaluation: of its last checkpoint; None where there is none to be used.
        problem: why not, in a sentence; empty for a job that is done.
        metrics: of the evaluation, by name, with `fit_seconds` of the state.
    """

    paradigm: str
    data: str
    seed: int
    folder: Path
    state: JobState | None = None
    evaluation: Mapping[str, Any] | None = None
    problem: str = ""
    metrics: Mapping[str, Measure] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Of the job: pending, running, stopped, failed or done."""
        return "pending" if self.state is None else self.state.status

    def beside(self, ending: str) -> Path | None:
        """The file last.ENDING that `test` wrote beside the checkpoint; None if there is none."""
        path = self.state and evaluation_path(self.folder, self.state)
        found = path and path.with_name(path.name.removesuffix(REPORT_ENDING) + ending)
        return found if found and found.is_file() else None

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Points (step, value) of each scalar that was logged in training, by tag; empty if none are kept."""
        path = self.folder / "curves.csv"
        if not path.is_file():
            return {}
        found: dict[str, list[tuple[int, float]]] = {}
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                try:
                    point = int(float(row["step"])), float(row["value"])
                except (KeyError, TypeError, ValueError):
                    continue
                if math.isfinite(point[1]):
                    found.setdefault(row["tag"], []).append(point)
        return found


@dataclass(frozen=True)
class Results:
    """All jobs of a study, and what the study is.

    Attributes:
        folder: of the study.
        name: of the study.
        paradigms, data, seeds: in the order of its YAML file.
        baseline: the paradigm that the others are compared with.
        settings: the YAML file as it was read.
        jobs: all that the study asks for, done or not.
        title, question: what the report is told to be called, and to ask; empty if nothing.
        trials: the states of its tuning's trials, by paradigm and data set, in their order.
        strangers: folders of jobs that the study does not ask for (any more).
        outdated: names of jobs whose settings, configs or code have changed since they ran.
    """

    folder: Path
    name: str
    paradigms: Sequence[str]
    data: Sequence[str]
    seeds: Sequence[int]
    baseline: str
    settings: Mapping[str, Any]
    jobs: Sequence[Result]
    title: str
    question: str
    trials: Mapping[tuple[str, str], Sequence[JobState]]
    strangers: Sequence[str]
    outdated: Sequence[str]

    def of(self, data: str, paradigm: str | None = None) -> list[Result]:
        """The jobs on a data set that have an evaluation, of one paradigm or of all."""
        return [
            job
            for job in self.jobs
            if job.data == data and paradigm in (None, job.paradigm) and job.evaluation is not None
        ]


def read(folder: Path) -> Results:
    """All that the report needs of a study's folder.

    Raises:
        UserError: it is not a study's folder, or its YAML file can't be read.
    """
    settings = _settings(folder / COPY)
    paradigms, data = list(map(str, settings["paradigms"])), list(map(str, settings["data"]))
    seeds = list(settings["seeds"])
    report = settings.get("report") or {}
    baseline = str(report.get("baseline") or paradigms[0])
    if baseline not in paradigms:
        names = ", ".join(paradigms)
        raise UserError(f"{folder / COPY}: report.baseline is {baseline!r}, but the paradigms are {names}.", 2)
    jobs = [
        _result(folder / paradigm / name / f"seed_{seed}", paradigm, name, seed)
        for name in data
        for paradigm in paradigms
        for seed in seeds
    ]
    asked = {job.folder for job in jobs}
    there = [path.parent for path in sorted(folder.glob(f"*/*/seed_*/{state.FILE}"))]
    strangers = [str(path.relative_to(folder).as_posix()) for path in there if path not in asked]
    title, question = str(report.get("title") or ""), str(report.get("question") or "")
    trials = {(paradigm, name): _trials(folder / TUNING / paradigm / name) for name in data for paradigm in paradigms}
    return Results(
        folder,
        str(settings["name"]),
        paradigms,
        data,
        seeds,
        baseline,
        settings,
        jobs,
        title,
        question,
        {key: found for key, found in trials.items() if found},
        strangers,
        _outdated(folder),
    )


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is not the folder of a study: it has no {COPY}. Give the folder that "
            "`encdec study` made, lightning_logs/studies/NAME.",
            2,
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read: {printable(str(error), 200)}.") from error
    needed = {"name": str, "seeds": list, "data": dict, "paradigms": dict}
    for key, kind in needed.items():
        if not (isinstance(found, dict) and isinstance(found.get(key), kind) and found[key]):
            raise UserError(f"{path} has no {key!r}: run `encdec study` with the study's own file again.")
    return dict(found)


def _outdated(folder: Path) -> list[str]:
    """Jobs that are done, but would run again; none where that can't be known, because the study ran elsewhere."""
    try:
        study = spec.load(folder / COPY)
        if study.folder.resolve() != folder.resolve():
            return []
        known = [(job, state.read(job.folder)) for job in plan.jobs(study) if job.hash]
    except UserError:
        return []
    return [job.name for job, found in known if found and found.status == "done" and found.hash != job.hash]


def _result(folder: Path, paradigm: str, data: str, seed: int) -> Result:
    try:
        known = state.read(folder)
    except UserError as error:
        return Result(paradigm, data, seed, folder, problem=_short(error, folder))
    job = Result(paradigm, data, seed, folder, known)
    if known is None or known.status != "done":
        return _without(job, _why_not_done(job))
    path = evaluation_path(folder, known)
    if path is None:
        return _without(job, "its state names no checkpoint within its folder")
    try:
        evaluation = read_evaluation(path)
    except UserError as error:
        return _without(job, _short(error, folder))
    metrics = {name: _measure(metric) for name, metric in evaluation["metrics"].items()}
    metrics["fit_seconds"] = Measure(known.fit_seconds, "seconds")
    return Result(paradigm, data, seed, folder, known, evaluation, "", metrics)


def _trials(folder: Path) -> list[JobState]:
    """The states of the trials in a folder, trial_0 first; one that can't be read counts as failed."""
    found = []
    for path in sorted(
        folder.glob(f"trial_*/{state.FILE}"), key=lambda path: (len(path.parent.name), path.parent.name)
    ):
        try:
            known = state.read(path.parent)
        except UserError as error:
            known = JobState(folder.parent.name, folder.name, 0, "", "failed", error=_short(error, path.parent))
        found += [known] if known is not None else []
    return found


def _short(error: UserError, folder: Path) -> str:
    """What is wrong, without where the study lies."""
    return printable(str(error).replace(str(folder), folder.name), 500)


def _without(job: Result, problem: str) -> Result:
    return Result(job.paradigm, job.data, job.seed, job.folder, job.state, None, problem)


def _why_not_done(job: Result) -> str:
    if job.state is not None and job.status == "failed":
        return f"failed in {job.state.stage}: {printable(job.state.error or 'it said nothing', 500)}"
    words = {"pending": "has not begun", "running": "was still running", "stopped": "was stopped, and can go on"}
    return words[job.status]


def _measure(metric: Mapping[str, Any]) -> Measure:
    names = ("value", "unit", "standard_error", "reference", "reference_name")
    return Measure(**{name: metric[name] for name in names if name in metric})
