"""The folders of runs, `lightning_logs/NAME/version_N`: which one a call writes into, and where it goes on."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from encdec.data.fingerprints import PresentData, identity_in
from encdec.messages import say
from encdec.runs import history, identity, trust, version_0_1
from encdec.runs.checkpoints import read_checkpoint
from encdec.text import word
from encdec.types import UserError

RUNS = "lightning_logs"
"""The folder of all runs."""
CONFIG = "config.yaml"
"""What a run saves its settings as."""
CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints, in its own."""
ENDED_KEY = "ended"
"""Where a checkpoint says whether a callback has ended the training."""
_VERSION = re.compile(r"version_(\d+)")


def is_name(name: str) -> bool:
    """Whether a name is that of one folder, on every system and on one line of a terminal."""
    return Path(name).name == name and bool(name.strip(".")) and name.isprintable()


class RunFolder:
    """The folder that a call writes into: of a run that it goes on with, or a new one.

    Args:
        parent: folder of all runs of one name.
        existing: the run's folder; None for a new one, which is made when it is first asked for.
    """

    def __init__(self, parent: Path, existing: Path | None = None) -> None:
        self.parent, self.existing = parent, existing
        self._path = existing

    @property
    def path(self) -> Path:
        """The folder; nobody else gets the same one.

        Raises:
            UserError: it can't be made.
        """
        if self._path is None:
            number = max(_versions(self.parent), default=-1) + 1
            if rank() != 0:  # only a guess, until the first process has told
                return self.parent / f"version_{number}"
            self._path = _make(self.parent, number)
        return self._path

    @path.setter
    def path(self, path: Path) -> None:
        self._path = path


@dataclass
class Start:
    """Where a training begins.

    Attributes:
        folder: what it writes into.
        checkpoint: from which it begins or goes on; None from nothing.
        contents: of the checkpoint.
        others: the folders of older runs with the same settings, newest first, one of which may have the same data.
    """

    folder: RunFolder
    checkpoint: Path | None = None
    contents: dict[str, Any] = field(default_factory=dict)
    others: tuple[Path, ...] = ()

    @cached_property
    def saved(self) -> dict[str, Any] | None:
        """The settings in the config of the run that it goes on with; None for a new run."""
        return None if self.folder.existing is None else saved_config(self.folder.existing) or {}

    @property
    def step(self) -> int:
        """How many steps the optimizer has made."""
        return int(self.contents.get("global_step", 0))


def resume(parent: Path, run: str | None, settings: Mapping[str, Any], dirpath: str | None = None) -> Start:
    """Go on with a run from its newest checkpoint.

    Args:
        parent: folder of all runs of one name.
        run: the folder of the run; None for the newest below `parent` with the model, the data and the seed of
            `settings`, or a new one if there is none. Whether the images are the same is left to `with_data`.
        settings: of the call.
        dirpath: where its checkpoints are, if not in its folder.

    Raises:
        UserError: `run` is not a run, or one with other settings; or it has checkpoints, but none that can be read, or
            they were made with other settings.
    """
    wanted = identity.of_run(settings)
    if run is not None:
        found, saved = Path(run), saved_config(Path(run))
        if saved is None:
            raise no_run(run)
        differing = identity.differences(identity.of_run(saved), wanted)
        if differing:
            newer = "begin a new run"
            if identity.is_of_training_only(differing[0]):
                newer += (
                    f" with its weights: --weights {word(short(found / CHECKPOINTS / 'last.ckpt'))} and no --resume"
                )
            raise UserError(f"--resume can't go on with {run}: {differing[0]}. Leave that out, or {newer}.", 2)
        return _start(found, settings, dirpath)
    versions = _versions(parent)
    by_number = {number: saved_config(versions[number]) for number in sorted(versions, reverse=True)}
    differing_by_number = {
        number: identity.differences(identity.of_run(saved), wanted)
        for number, saved in by_number.items()
        if saved is not None
    }
    same = [versions[number] for number, differing in differing_by_number.items() if not differing]
    if not same:
        for number, differing in differing_by_number.items():
            _say_new(parent, f"version_{number}: {differing[0]}")
            break
        return Start(RunFolder(parent))
    start = _start(same[0], settings, dirpath)
    start.others = tuple(same[1:])
    return start


def no_run(folder: str) -> UserError:
    """The error for a folder that is none of a run."""
    return UserError(
        f"{folder!r} is not the folder of a run, which holds a {CONFIG}: give one such as {RUNS}/vae/version_0.", 2
    )


def with_data(start: Start, data: PresentData, settings: Mapping[str, Any], run: bool, dirpath: str | None) -> Start:
    """The start of a resumed run whose images are those of the call, wherever they lie.

    Args:
        start: what `resume` gave.
        data: the images of the call.
        settings: of the call.
        run: whether the user has named the run.
        dirpath: where its checkpoints are, if not in its folder.

    Raises:
        UserError: the images of the run that is named have changed, or those in the place from which it took them.
    """
    changed: UserError | None = None
    others = iter(start.others)
    found = start
    while True:
        folder = found.folder.existing
        assert folder is not None
        held = identity_in(found.contents, found.checkpoint)
        same_places = identity.same_places(found.saved or {}, settings)
        if held is None and (run or same_places or found.checkpoint is None):
            return found  # nothing tells them apart
        if held is not None:
            try:
                identity.check_same_data(short(folder), held, data)
                return found
            except UserError as error:
                if run:
                    raise
                changed = changed or (error if same_places else None)
        other = next(others, None)
        if other is None:
            break
        found = _start(other, settings, dirpath)
    if changed is not None:
        raise changed
    parent = start.folder.parent
    _say_new(parent, "they have other images")
    return Start(RunFolder(parent))


def announce(start: Start, settings: Mapping[str, Any]) -> None:
    """Say with what run a training goes on, and what changes in it."""
    run = start.folder.existing
    assert run is not None
    say(f"resumes {short(run)} from " + (f"step {start.step}." if start.step else "its start: it has no checkpoint."))
    changed = history.changes(start.contents, start.saved or {}, settings)
    if changed:
        say(f"changed: {'; '.join(changed)}.")


def _start(run: Path, settings: Mapping[str, Any], dirpath: str | None) -> Start:
    """Where a run goes on."""
    folder = RunFolder(run.parent, run)
    newest = newest_checkpoint(Path(dirpath or run / CHECKPOINTS))
    if newest is None:
        return Start(folder)
    identity.check_resumed(short(run), newest[1], settings)
    return Start(folder, *newest)


def _say_new(parent: Path, why: str) -> None:
    say(f"no run in {short(parent)} has these settings: a new one begins. ({why}.)")


def saved_config(run: Path) -> dict[str, Any] | None:
    """The settings that a run was made with; None if there are none or they can't be read."""
    try:
        _, saved = trust.read_yaml(run / CONFIG)
    except UserError:
        return None
    return version_0_1.config(saved) if isinstance(saved, dict) else None


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint in a folder that has made most steps, and its contents; damaged ones are named and left out.

    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    readable, damaged = [], []
    # of two that are equally far, the one that is meant for this
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.name != "last.ckpt"):
        try:
            contents = read_checkpoint(path)
            readable.append((int(contents["global_step"]), path, contents))
        except UserError as error:
            damaged.append(str(error))
    if not readable:
        if damaged:
            raise UserError(f"{damaged[0]} No other checkpoint in {folder} can be read either.")
        return None
    step, path, contents = max(readable, key=lambda found: found[0])
    for problem in damaged:
        say(f"{problem} Here {path.name}, from step {step}, takes its place.")
    return path, contents


def reached_limits(contents: Mapping[str, Any], max_epochs: int | None, max_steps: int) -> list[str]:
    """The limits that the training which a checkpoint is of has reached, as flags that would make it longer."""
    loop = contents["loops"]["fit_loop"]
    # a checkpoint that follows the last validation of an epoch does not count that epoch as processed yet; one that is
    # saved between the batches of its last training step has not completed that step
    batches = loop["epoch_loop.batch_progress"]
    is_over = batches["is_last_batch"] and batches["current"].get("completed") == batches["current"].get("ready")
    made = "ready" if is_over else "processed"
    epochs = loop["epoch_progress"]["current"][made]
    steps, reached = contents["global_step"], []
    if max_epochs is not None and -1 != max_epochs <= epochs:
        reached.append(f"--trainer.max_epochs {epochs + 1}")
    if max_steps != -1 and steps >= max_steps:
        reached.append(f"--trainer.max_steps {steps + 1}")
    return reached


def was_ended(start: Start, settings: Mapping[str, Any]) -> bool:
    """Whether a callback has ended the run that a call goes on with, and the call changes nothing of what ends runs."""
    ends = ("callbacks", "max_time", "min_epochs", "min_steps")
    before, now = ({key: of.get("trainer", {}).get(key) for key in ends} for of in (start.saved or {}, settings))
    return bool(start.contents.get(ENDED_KEY)) and before == now


def rank() -> int:
    """Which of all processes of the run this is, as far as the environment tells: a trainer knows it only later."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank


def short(path: str | os.PathLike[str]) -> str:
    """A path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


def _versions(parent: Path) -> dict[int, Path]:
    """The runs below a folder, by number."""
    if not parent.is_dir():
        return {}
    matches = ((_VERSION.fullmatch(path.name), path) for path in parent.iterdir() if path.is_dir())
    return {int(match[1]): path for match, path in matches if match}


def _make(parent: Path, number: int) -> Path:
    while True:
        path = parent / f"version_{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise UserError(
                    f"{parent} must be a folder of runs, but it is a file: choose another --name."
                ) from None
            number += 1  # another job was faster
        except OSError as error:
            raise UserError(
                f"The run's folder {path} can't be made ({error.strerror}): choose another place by "
                "--trainer.default_root_dir."
            ) from error
        else:
            return path
