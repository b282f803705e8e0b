"""The jobs of a study: what each one runs, where, and what its result depends on."""

import hashlib
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from encdec import __version__, shipped, syntax
from encdec.files import expanded, sha256
from encdec.messages import no_yaml
from encdec.study import state
from encdec.study.spec import Study, as_json
from encdec.types import UserError

CACHE = Path("lightning_logs", "features")
"""Where classifiers of training images are, which all studies and runs below a working directory share."""


@dataclass(frozen=True)
class Job:
    """One run of a study, or one trial of its tuning.

    Attributes:
        paradigm: its name in the study.
        data: the data set's name in the study.
        seed: of the run.
        folder: of the job.
        fit: the arguments of `encdec fit`; none while what was tuned is not known yet.
        test: the arguments of `encdec test`, or of a trial those of `encdec validate`.
        hash: SHA-256, in hexadecimal, of what determines the result; empty while what was tuned is not known yet.
        trial: the number of a tuning trial; None for a run.
        settings: what was tuned, or is tried: texts by setting.
        by: how a trial is scored, see `encdec.study.spec.Tune`; empty for a run.
        blocked: why it can't run yet, as a clause; empty where it can.
    """

    paradigm: str
    data: str
    seed: int
    folder: Path
    fit: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    hash: str = ""
    trial: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    by: str = ""
    blocked: str = ""

    @property
    def name(self) -> str:
        """As it is shown: `vae/fashion/seed_0`, `tuning/vae/fashion/trial_2`."""
        place = f"{self.paradigm}/{self.data}/"
        return f"{place}seed_{self.seed}" if self.trial is None else f"tuning/{place}trial_{self.trial}"

    @property
    def command(self) -> str:
        """What it runs, as one line for a shell."""
        then = "test" if self.trial is None else "validate"
        return " && ".join(map(shlex.join, [("encdec", "fit", *self.fit), ("encdec", then, *self.test)]))


def jobs(study: Study) -> list[Job]:
    """The runs of a study, in the order in which they run: data set by data set, seed by seed.

    Those of a paradigm whose tuning has not ended have no arguments yet.

    Raises:
        UserError: the state of a trial can't be read.
    """
    tunings = {(paradigm, data): tuning(study, paradigm, data) for data in study.data for paradigm in study.paradigms}
    return [
        run_of(study, paradigm, data, seed, tunings[paradigm, data])
        for data in study.data
        for seed in study.seeds
        for paradigm in study.paradigms
    ]


def run_of(study: Study, paradigm: str, data: str, seed: int, tuned: "Tuning") -> Job:
    """One run of a study, with what came out of its paradigm's tuning."""
    folder = study.folder / paradigm / data / f"seed_{seed}"
    if tuned.settings is None:
        return Job(paradigm, data, seed, folder, blocked=tuned.missing)
    fit = arguments(study, paradigm, data, seed, folder, tuned.settings)
    return _complete(Job(paradigm, data, seed, folder, fit, settings=tuned.settings))


def trials(study: Study) -> list[Job]:
    """The trials of a study's tuning, in the order in which they run; none where it has no tuning."""
    return [job for data in study.data for paradigm in study.paradigms for job in trials_of(study, paradigm, data)]


def trials_of(study: Study, paradigm: str, data: str) -> list[Job]:
    """The trials of one paradigm on one data set."""
    if study.tune is None:
        return []
    found, grid, seed = [], study.paradigms[paradigm].tune or study.tune.grid, study.seeds[0]
    for trial, values in enumerate(itertools.product(*grid.values())):
        settings = dict(zip(grid, values, strict=True))
        folder = study.folder / "tuning" / paradigm / data / f"trial_{trial}"
        fit = arguments(study, paradigm, data, seed, folder, settings, study.tune.args)
        job = Job(paradigm, data, seed, folder, fit, trial=trial, settings=settings, by=study.tune.by)
        found.append(_complete(job))
    return found


@dataclass(frozen=True)
class Tuning:
    """What came out of the trials of one paradigm on one data set.

    Attributes:
        settings: of the trial with the lowest score, the first one of several; None while there is none.
        missing: why there is none, as a clause.
        trial: the number of that trial; None without tuning.
        score: of that trial.
    """

    settings: dict[str, str] | None
    missing: str = ""
    trial: int | None = None
    score: float | None = None


def tuning(study: Study, paradigm: str, data: str) -> Tuning:
    """What came out of the trials of a paradigm on a data set; no settings at all where a study has no tuning.

    Raises:
        UserError: the state of a trial can't be read.
    """
    if study.tune is None:
        return Tuning({})
    scores: dict[int, float] = {}
    of_this = trials_of(study, paradigm, data)
    for trial, job in enumerate(of_this):
        found = state.read(job.folder)
        if found is None or found.hash != job.hash or found.status != "done":
            return Tuning(None, f"{job.name} has not ended")
        if found.score is not None:
            scores[trial] = found.score
    if not scores:
        tried = ", ".join(of_this[0].settings)
        return Tuning(None, f"no trial has a finite loss and score: try other values of {tried}")
    best = min(scores, key=lambda trial: (scores[trial], trial))
    return Tuning(dict(of_this[best].settings), "", best, scores[best])


def arguments(
    study: Study,
    paradigm: str,
    data: str,
    seed: int,
    folder: Path,
    settings: Mapping[str, str],
    more: Sequence[str] = (),
) -> tuple[str, ...]:
    """The arguments of `encdec fit`; of two that set the same, the one that is more specific comes later and wins.

    Configs come before all other options, because a config replaces what options before it have set.
    """
    entry = study.paradigms[paradigm]
    # in both, later ones win: a data set's config replaces the data of a paradigm's
    parts = (entry.args, study.data[data], study.common, entry.data.get(data, ()), more)
    configs, (of_paradigm, of_data, common, of_both, of_trials) = _configs_first(*parts)
    return (
        *configs,
        *(*common, *of_data, *of_paradigm, *of_both, *of_trials),
        *(arg for setting, value in settings.items() for arg in (f"--{setting}", value)),
        *("--evaluation.cache_dir", CACHE.as_posix()),
        *("--seed_everything", str(seed), "--name", paradigm, "--trainer.default_root_dir", folder.as_posix()),
        "--resume",
    )


def _complete(job: Job) -> Job:
    """The same job with its hash, and with what follows its training."""
    checkpoint = job.folder / "lightning_logs" / job.paradigm / "version_0" / "checkpoints" / "last.ckpt"
    digest = hash_of(job.fit, job.folder, job.by or "test")
    return replace(job, test=("--ckpt_path", checkpoint.as_posix()), hash=digest)


def _configs_first(*parts: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """All `--config FILE` of some lists of arguments, and what is left of each."""
    configs, rests = [], []
    for part in parts:
        rest: list[str] = []
        args = iter(part)
        for arg in args:
            if arg in ("--config", "-c"):
                configs += ["--config", next(args, "")]
            elif arg.startswith(("--config=", "-c=")):
                configs += ["--config", arg.partition("=")[2]]
            else:
                rest.append(arg)
        rests.append(rest)
    return configs, rests


def hash_of(fit: Sequence[str], folder: Path, then: str) -> str:
    """SHA-256 of what determines a result, in hexadecimal.

    The contents of configs, and of files of weights, rather than their paths; the options and the seed; encdec's
    version; the code of plugins, without its comments and docstrings, whose classes are named. Not where the job lies.

    Args:
        fit: the arguments of `encdec fit`.
        folder: of the job.
        then: what follows the training: `test`, or how a trial is scored.

    Raises:
        UserError: a config is gone, or no YAML; or a file of weights is gone.
    """
    content, places = [], ("--resume", "--trainer.default_root_dir", folder.as_posix(), "--evaluation.cache_dir")
    args = iter(arg for arg in fit if arg not in (*places, CACHE.as_posix()))
    for arg in args:
        flag, equals, value = arg.partition("=")
        if flag == "--weights":
            content += [flag, _weights(value if equals else next(args, ""))]
        else:
            content.append(_config(shipped.find(expanded(next(args)))) if arg == "--config" else arg)
    for config in content:
        if isinstance(config, dict) and isinstance(config.get("weights"), str):
            content = [{**one, "weights": _weights(one["weights"])} if one is config else one for one in content]
    names = set(_class_names(content))
    plugins = [_plugin(path, _stamp(path)) for path in shipped.plugin_files()]
    code = [code for classes, code in plugins if classes & names]
    whole = as_json({"encdec": __version__, "fit": content, "then": then, "plugins": code})
    return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).", 2) from error
    return found.st_mtime_ns, found.st_size


def _weights(file: str) -> str:
    """What stands for a file of weights: SHA-256 of its content."""
    path = Path(expanded(file))
    return _digest(path.resolve(), _stamp(path))


@cache
def _digest(path: Path, stamp: tuple[int, int]) -> str:
    return sha256(path)


def _config(path: Path) -> Any:
    return _read_config(path.resolve(), _stamp(path))


@cache
def _read_config(path: Path, stamp: tuple[int, int]) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(no_yaml(path, error), 2) from error


def _class_names(value: Any) -> Iterator[str]:
    """All texts in settings that may be the name of a class, without the module."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for inner in value:
            yield from _class_names(inner)
    elif isinstance(value, str):
        yield value.partition("=")[2].rpartition(".")[2] if value.startswith("-") else value.rpartition(".")[2]


@cache
def _plugin(path: Path, stamp: tuple[int, int]) -> tuple[frozenset[str], str]:
    return syntax.of_file(path)
