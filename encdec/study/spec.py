"""The file of a study: what it holds, and that it is right before anything runs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from encdec import shipped
from encdec.files import expanded
from encdec.messages import no_yaml
from encdec.runs import trust
from encdec.study import slurm_settings
from encdec.study.slurm_settings import Slurm
from encdec.study.values import integer, mapping, number_of, one_of, refuse_unknown, text, texts, wrong
from encdec.types import UserError

STUDIES = Path("lightning_logs", "studies")
"""The folder of all studies."""
RESERVED = ("tuning", "replaced", "lightning_logs", "slurm", "stop", "study.yaml",
            "report.html", "report.md", "report_images", "results.csv")  # fmt: skip
"""What a study's folder holds beside the folders of its paradigms."""
_KEYS = ("name", "seeds", "data", "paradigms", "common", "tune", "local", "slurm", "report")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_SET_BY_STUDY = {
    "--seed_everything": "the key `seeds`",
    "--name": "the name of the paradigm",
    "--trainer.default_root_dir": "the study's folder",
    "--resume": "the study, which resumes what it began",
    "--ckpt_path": "the study",
    "--print_config": "nothing of a study",
    "--help": "nothing of a study",
    "-h": "nothing of a study",
}
"""Options of `fit` that a study sets, and from what."""


@dataclass(frozen=True)
class Entry:
    """A paradigm of a study.

    Attributes:
        args: of `encdec fit`.
        data: more of them on some data sets, by the name of the data set.
        tune: what is tried in place of the study's own grid: values by setting.
    """

    args: tuple[str, ...]
    data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tune: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Tune:
    """How paradigms are tuned: with as many trials each, on the validation split, with the first seed.

    Attributes:
        grid: values by setting; each combination is a trial.
        by: `frechet`, the distance of samples to validation images, or a validation scalar such as `val/elbo`.
        args: more arguments of `encdec fit` for trials alone, such as fewer epochs.
    """

    grid: Mapping[str, tuple[str, ...]]
    by: str = "frechet"
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Local:
    """How jobs run on this machine; see `encdec.study.pool` for what None stands for.

    Attributes:
        slots: jobs at a time.
        threads: of each job.
        gpus: numbers of those that slots take in turn; none for the CPU.
    """

    slots: int | None = None
    threads: int | None = None
    gpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Report:
    """What the report is told.

    Attributes:
        baseline: the paradigm that others are compared with.
        title: of the page; empty for the study's name.
        question: what the study asks; empty for encdec's own question.
    """

    baseline: str
    title: str = ""
    question: str = ""


@dataclass(frozen=True)
class Study:
    """A grid of runs: every paradigm, on every data set, with every seed.

    Attributes:
        name: of its folder.
        seeds: of the runs; the first one is that of tuning.
        data: arguments of `encdec fit` by the name of the data set.
        paradigms: by name.
        common: arguments of `encdec fit` for all jobs.
        tune: how they are tuned; None if they are not.
        local: how jobs run on this machine.
        slurm: what they ask of a cluster.
        report: what the report is told.
        path: of the file.
    """

    name: str
    seeds: tuple[int, ...]
    data: Mapping[str, tuple[str, ...]]
    paradigms: Mapping[str, Entry]
    common: tuple[str, ...]
    tune: Tune | None
    local: Local
    slurm: Slurm
    report: Report
    path: Path

    @property
    def folder(self) -> Path:
        """Where its jobs are, below the working directory."""
        return STUDIES / self.name


def load(file: str | Path) -> Study:
    """The study that a file describes.

    Raises:
        UserError: there is no such file, or it describes none; the sentence names the key and what is expected.
    """
    path = shipped.find(expanded(file), shipped.STUDIES)
    content = _read(path)
    refuse_unknown(content, _KEYS, "A study has no key", path)
    for key in ("name", "seeds", "data", "paradigms"):
        if content.get(key) in (None, {}, [], ""):
            examples = {"name": "fashion", "seeds": "[0, 1, 2]", "data": "{fashion: configs/data/fashion_mnist.yaml}"}
            example = examples.get(key, "{vae: [--config, configs/vae.yaml]}")
            raise wrong(
                path, key, f"is {'empty' if key in content else 'missing'}: give it, such as `{key}: {example}`"
            )
    name = _folder_name(path, "name", content["name"])
    data = {
        _folder_name(path, "data", key): _data(path, f"data.{key}", value)
        for key, value in mapping(path, "data", content["data"]).items()
    }
    tune = _tune(path, content.get("tune"))
    paradigms = {
        _folder_name(path, "paradigms", key): _entry(path, f"paradigms.{key}", value, data, tune)
        for key, value in mapping(path, "paradigms", content["paradigms"]).items()
    }
    for key, names in (("data", data), ("paradigms", paradigms)):
        _refuse_twins(path, key, list(names))
    return Study(
        name,
        _seeds(path, content["seeds"]),
        data,
        paradigms,
        _arguments(path, "common", content.get("common") or []),
        tune,
        _local(path, content.get("local") or {}),
        slurm_settings.read(path, content.get("slurm") or {}),
        _report(path, content.get("report") or {}, list(paradigms)),
        path,
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"There is no file {str(path)!r}{shipped.meant(str(path))}; a study is described by a YAML file, such as "
            "study/quick.yaml of those that `encdec configs` lists.",
            2,
        )
    try:
        source = path.read_text(encoding="utf-8")
        node, content = yaml.compose(source, Loader=yaml.SafeLoader), yaml.safe_load(source)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(no_yaml(path, error), 2) from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep for a study.", 2) from error
    trust.refuse_duplicates(node, str(path), 2)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings by their names, such as `name: fashion`, but it does not.", 2)
    return content


def _folder_name(path: Path, key: str, value: Any) -> str:
    """A name that every file system takes for a folder."""
    shown = text(value)
    if not isinstance(value, str | int) or isinstance(value, bool) or not _NAME.fullmatch(shown):
        raise wrong(path, key, f"has the name {shown!r}, which names a folder: use letters, digits, _, -, + and dots")
    if key == "paradigms" and shown.lower() in RESERVED:
        raise wrong(path, key, f"has the name {shown!r}, which a study's folder has for something else: take another")
    return shown


def _refuse_twins(path: Path, key: str, names: Sequence[str]) -> None:
    lowered = [name.lower() for name in names]
    for name in names:
        if lowered.count(name.lower()) > 1:
            raise wrong(
                path, key, f"has {name!r} twice but for upper and lower case, which some disks don't tell apart"
            )


def _seeds(path: Path, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise wrong(path, "seeds", f"is {text(value)!r}, but it must be a list of integers, such as [0, 1, 2]")
    for seed in value:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise wrong(path, "seeds", f"has {text(seed)!r}, but a seed is an integer between 0 and {2**32 - 1}")
        if value.count(seed) > 1:
            raise wrong(path, "seeds", f"has {seed} twice: a run of the same seed is the same run")
    return tuple(value)


def _arguments(path: Path, key: str, value: Any) -> tuple[str, ...]:
    """Arguments of `encdec fit`: `[--config, configs/vae.yaml, --model.beta, 4]`, whose configs are there."""
    if not isinstance(value, list):
        raise wrong(path, key, f"is {text(value)!r}, but it must be a list of arguments of `encdec fit`, such as "
                    "[--config, configs/vae.yaml, --model.beta, 4]")  # fmt: skip
    args = texts(value)
    if args and not args[0].startswith("-"):
        raise wrong(path, key, f"begins with {args[0]!r}, but values follow an option, as in [--config, {args[0]}]")
    for arg, following in pairwise((*args, "")):
        flag, equals, inline = arg.partition("=")
        if flag in _SET_BY_STUDY:
            raise wrong(path, key, f"has {flag}, which is set by {_SET_BY_STUDY[flag]}: leave it out")
        if flag in ("--config", "-c"):
            _require_config(path, key, inline if equals else following)
        if flag == "--weights" and not Path(expanded(file := inline if equals else following)).is_file():
            raise wrong(path, key, f"names the weights {file!r}, but there is no such file; paths are relative to the "
                        "working directory")  # fmt: skip
    return args


def _require_config(path: Path, key: str, file: str) -> None:
    if not shipped.find(expanded(file)).is_file():
        raise wrong(path, key, f"names the config {file!r}, but there is no such file{shipped.meant(file)}; paths are "
                    "relative to the working directory")  # fmt: skip


def _data(path: Path, key: str, value: Any) -> tuple[str, ...]:
    """Arguments of a data set: the path of a config, or a list."""
    if isinstance(value, str):
        _require_config(path, key, value)
        return ("--config", value)
    return _arguments(path, key, value)


def _entry(path: Path, key: str, value: Any, data: Mapping[str, Any], tune: Tune | None) -> Entry:
    if not isinstance(value, dict):
        return Entry(_arguments(path, key, value))
    refuse_unknown(value, ("args", "data", "tune"), f"{key} has no key", path)
    of_data = mapping(path, f"{key}.data", value.get("data") or {})
    refuse_unknown(of_data, tuple(data), f"{key}.data: the study has no data set", path)
    grid = None
    if value.get("tune") is not None:
        if tune is None:
            raise wrong(path, f"{key}.tune", "has no effect, because the study has no key `tune`: add it, or leave it")
        grid = _grid(path, f"{key}.tune", mapping(path, f"{key}.tune", value["tune"]))
        if (count := number_of(grid)) != number_of(tune.grid):
            raise wrong(path, f"{key}.tune", f"makes {count} trials, but `tune` makes {number_of(tune.grid)}: give "
                        "each paradigm as many, so that all have the same budget")  # fmt: skip
    return Entry(
        _arguments(path, f"{key}.args", value.get("args") or []),
        {name: _arguments(path, f"{key}.data.{name}", args) for name, args in of_data.items()},
        grid,
    )


def _tune(path: Path, value: Any) -> Tune | None:
    if value is None:
        return None
    given = dict(mapping(path, "tune", value))
    by, args = given.pop("by", "frechet"), _arguments(path, "tune.args", given.pop("args", None) or [])
    if by != "frechet" and not (isinstance(by, str) and by.startswith("val/")):
        raise wrong(path, "tune.by", f"is {text(by)!r}, but it must be `frechet`, the distance of samples to "
                    "validation images, or a validation scalar such as val/elbo")  # fmt: skip
    return Tune(_grid(path, "tune", given), by, args)


def _grid(path: Path, key: str, given: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
    """What is tried: a list of values for each setting."""
    grid = {}
    for setting, values in given.items():
        place = f"{key}.{setting}"
        if not (isinstance(setting, str) and "." in setting) or setting.startswith("-"):
            raise wrong(path, key, f"has the key {text(setting)!r}, which is no setting such as model.optimizer.lr; "
                        "other keys are `by` and `args`")  # fmt: skip
        if not isinstance(values, list) or not values:
            raise wrong(path, place, f"is {text(values)!r}, but it must be a list of values that are tried")
        grid[setting] = texts(values)
        if len(set(grid[setting])) < len(values):
            raise wrong(path, place, "has a value twice")
    if not grid:
        raise wrong(path, key, "names no setting that is tried, such as model.optimizer.lr: [3e-4, 1e-3]")
    return grid


def _local(path: Path, value: Any) -> Local:
    given = mapping(path, "local", value)
    refuse_unknown(given, ("slots", "threads", "gpus"), "local has no key", path)
    slots, threads = (integer(path, f"local.{key}", given.get(key)) for key in ("slots", "threads"))
    gpus = given.get("gpus")
    if gpus is not None:
        right = isinstance(gpus, list) and all(type(gpu) is int and gpu >= 0 for gpu in gpus)
        if not right or len(set(gpus)) < len(gpus):
            raise wrong(path, "local.gpus", f"is {text(gpus)!r}, but it must be a list of the numbers of GPUs, such as "
                        "[0, 1], or [] for the CPU")  # fmt: skip
    return Local(slots, threads, None if gpus is None else tuple(gpus))


def _report(path: Path, value: Any, paradigms: Sequence[str]) -> Report:
    given = mapping(path, "report", value)
    refuse_unknown(given, ("baseline", "title", "question"), "report has no key", path)
    baseline = one_of(
        path, "report.baseline", given.get("baseline", paradigms[0]), paradigms, "a paradigm of the study"
    )
    return Report(baseline, *(texts([given.get(key) or ""])[0] for key in ("title", "question")))


def as_json(value: Any) -> str:
    """Plain values as one text, the same for the same values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
