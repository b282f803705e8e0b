"""Which evaluations are of runs that differ in nothing but the seed: these are one row."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encdec.evaluation.questions import why_undefined
from encdec.text import printable

_RUN = ("model", "data", "trainer")
"""The parts of a config that decide what is trained; the others say where it is kept and what is drawn."""
_IRRELEVANT = {
    "model.seed", "data.seed", "data.num_workers", "data.max_memory_gb", "checkpoint.dirpath",
    "checkpoint.seconds_between",
    "trainer.accelerator", "trainer.strategy", "trainer.logger", "trainer.log_every_n_steps", "trainer.precision",
    "trainer.enable_checkpointing", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.enable_autolog_hparams", "trainer.default_root_dir", "trainer.num_sanity_val_steps", "trainer.benchmark",
    "trainer.deterministic", "trainer.profiler", "trainer.detect_anomaly", "trainer.barebones", "trainer.plugins",
    "trainer.inference_mode", "trainer.use_distributed_sampler", "trainer.limit_predict_batches",
    "trainer.model_registry", "evaluation.parts", "evaluation.feature_space", "evaluation.cache_dir",
    "evaluation.details",
}  # fmt: skip
"""Settings that change no metric, or no more than its last digits. What is measured, not how it was asked for, counts
of the data (their fingerprint), of the precision and of the feature space (part of its metrics' names)."""
_PATHS = ("path", "dir", "root", "folder")
"""How settings of data end that say where the data lie, in reports that do not list those `without_effect`."""
_LONGEST_VALUE = 40
_OF_THE_MACHINE = {"latent_milliseconds"}
"""Metrics that are not the same when the same is measured again."""


@dataclass
class Row:
    """Evaluations that are averaged.

    Attributes:
        label: the runs' name, with the settings that tell it from other rows of that name.
        reports: of the runs.
    """

    label: str
    reports: list[dict[str, Any]]

    @property
    def by_seed(self) -> dict[int, list[dict[str, Any]]]:
        """The reports of each seed."""
        found: dict[int, list[dict[str, Any]]] = {}
        for report in self.reports:
            found.setdefault(report["seed"], []).append(report)
        return found

    def seeds(self) -> str:
        """How many distinct seeds, and how many runs if these are more."""
        seeds, runs = len(self.by_seed), len(self.reports)
        return str(seeds) if runs == seeds else f"{seeds} ({runs} runs)"

    def cell(self, metric: str) -> str:
        """Mean ± standard deviation over seeds; where not all have the metric, with the number of those that do.

        Empty where no run was evaluated so that it would have the metric.
        """
        if self.why_undefined(metric):
            return "undefined"
        values = [mean([_value(report, metric) for report in reports]) for reports in self.by_seed.values()]
        known = [value for value in values if value is not None]
        missing = f" ({len(known)} of {len(values)} seeds)" if 0 < len(known) < len(values) else ""
        return summary(values) + missing

    def why_undefined(self, metric: str) -> str | None:
        """Why no run has the metric, as the first says; None where one has it, or none says why."""
        missing = [report for report in self.reports if metric not in report["metrics"]]
        whys = [why for report in missing if (why := why_undefined(metric, report.get("undefined", {})))]
        return whys[0] if whys and len(missing) == len(self.reports) else None

    def undefined(self, metrics: Sequence[str]) -> list[str]:
        """A sentence for each reason why some of the metrics are not defined."""
        of_reason: dict[str, list[str]] = {}
        for metric in metrics:
            if why := self.why_undefined(metric):
                of_reason.setdefault(why, []).append(metric)
        return [
            f"{self.label}: {printable(', '.join(names))} {'is' if len(names) == 1 else 'are'} undefined: "
            f"{printable(why, 300)}"
            for why, names in of_reason.items()
        ]

    def repeated(self) -> list[str]:
        """A sentence for each seed that several runs share."""
        found = []
        for seed, reports in self.by_seed.items():
            if len(reports) > 1:
                metrics = {name for report in reports for name in report["metrics"]} - _OF_THE_MACHINE
                same = all(len({_value(report, name) for report in reports}) == 1 for name in metrics)
                found.append(
                    f"{self.label}: {len(reports)} runs have the seed {printable(str(seed), 20)} and the same settings"
                    + (
                        " and results, so they count once."
                        if same
                        else ", but other results: their mean counts once, as no spread over seeds."
                    )
                )
        return found


def rows(reports: Iterable[dict[str, Any]]) -> list[Row]:
    """Reports by all that defines a run but its seed, each row named after what tells it from others of its name."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    reports = list(reports)
    always = ("checkpoint",) if len({report["checkpoint"] for report in reports}) > 1 else ()
    for report in reports:
        by_name.setdefault(report["name"], []).append(report)
    found = []
    for name, of_name in by_name.items():
        groups: dict[str, list[dict[str, Any]]] = {}
        for report in of_name:
            key = json.dumps({setting: _text(value) for setting, value in definition(report).items()}, sort_keys=True)
            groups.setdefault(key, []).append(report)
        labels = _labels(name, [definition(group[0]) for group in groups.values()], always)
        found += [Row(label, group) for label, group in zip(labels, groups.values(), strict=True)]
    return found


def definition(report: Mapping[str, Any]) -> dict[str, Any]:
    """All that defines an evaluated run except its seed, with one short name for each setting."""
    config = report.get("config", {})
    settings = {part: config.get(part) for part in _RUN} | {"evaluation": report.get("settings")}
    if report["checkpoint"] == "best":
        of_best = config.get("checkpoint")
        settings["checkpoint"] = of_best if isinstance(of_best, dict) else None
    flat = {name: value for key, part in settings.items() for name, value in _flat(key, part).items()}
    without_effect = {f"data.{name}" for name in report["data"].get("without_effect", [])}
    flat = {name: v for name, v in flat.items() if v is not None and name not in without_effect and _is_relevant(name)}
    flat |= {"paradigm": report.get("paradigm"), "precision": report.get("precision")}
    if report.get("history"):
        flat["history"] = report["history"]
    flat["checkpoint"] = report["checkpoint"]
    if report["checkpoint"] != "best":  # which step is the best depends on the seed
        flat["step"] = report.get("step")
    return flat | {"fingerprint": report["data"]["fingerprint"]}


def _is_relevant(name: str) -> bool:
    return name not in _IRRELEVANT and not (name.startswith("data.") and name.endswith(_PATHS))


def summary(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation, to the first digit of the spread, which is left out where it is 0."""
    known = [value for value in values if value is not None]
    middle = mean(known)
    if middle is None:
        return ""
    # of scaled values, because squares of large and small ones leave the range of a float
    exponent = math.frexp(max(map(abs, known)))[1]
    scaled = [math.ldexp(value, -exponent) for value in known]
    spread = math.ldexp(statistics.stdev(scaled), exponent) if len(known) > 1 else 0.0
    if spread == 0:
        return f"{middle:.5g}"
    digits = -math.floor(math.log10(spread))
    if digits > 8 or max(abs(middle), spread) >= 1e8:
        digits = max(math.floor(math.log10(abs(middle))) + digits, 0) if middle else 0
        return f"{middle:.{min(digits, 15)}e} ± {spread:.0e}"
    digits = max(digits, 0)
    return f"{middle:.{digits}f} ± {spread:.{digits}f}"


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known; None without one."""
    known = [value for value in values if value is not None]
    return math.fsum(value / len(known) for value in known) if known else None


def _value(report: Mapping[str, Any], metric: str) -> float | None:
    found = report["metrics"].get(metric)
    return None if found is None else float(found["value"])


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Nested settings with one name each; a class by its short name, its arguments below it."""
    if not isinstance(value, Mapping):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "class_path":
            flat[name] = inner.rpartition(".")[2] if isinstance(inner, str) else inner
        elif key == "init_args":
            flat |= _flat(name, inner) if isinstance(inner, Mapping) else {f"{name}.{key}": inner}
        else:
            flat |= _flat(f"{name}.{key}", inner)
    return flat


def _labels(name: str, definitions: list[dict[str, Any]], always: Sequence[str]) -> list[str]:
    """The name with the settings that differ, and those that are `always` named.

    Arguments of classes that differ are named only where nothing else tells two rows apart.
    """
    shown = printable(name) or "(no name)"
    keys = dict.fromkeys(key for one in definitions for key in one)
    differing = [key for key in keys if key in always or len({_text(one.get(key)) for one in definitions}) > 1]
    # what follows from another difference
    implied = [key for key in differing if key in ("paradigm", "fingerprint", "step") or _has_prefix(key, differing)]
    labels: list[str] = []
    for more in range(len(implied) + 1):
        named = [key for key in differing if key not in implied[more:]]
        labels = [
            " ".join([shown, *(f"{_short(key)}={_text(one[key])}" for key in named if one.get(key) is not None)])
            for one in definitions
        ]
        if len(set(labels)) == len(labels):
            break
    return labels


def _has_prefix(key: str, keys: Sequence[str]) -> bool:
    return any(key.startswith(f"{other}.") for other in keys)


def _short(key: str) -> str:
    first, _, rest = key.partition(".")
    return printable(rest if rest and first in ("model", "trainer") else key)


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 and 1 are the same setting
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return printable(text, _LONGEST_VALUE)
