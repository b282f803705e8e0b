"""Where a call begins: the folder that it writes into, and the checkpoint that it takes, which must fit the call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from encdec.messages import say
from encdec.runs import checkpoints, folders, identity
from encdec.runs.weights import DIGEST, FILE, Weights, beside_a_checkpoint, digest_of
from encdec.text import with_article, word
from encdec.types import UserError


def find(command: str, config: Any, resume: bool | str, settings: Mapping[str, Any]) -> folders.Start:
    """The folder to write into, and the checkpoint to take.

    Args:
        command: that is called.
        config: of the call.
        resume: what `--resume` says.
        settings: of the call, as plain values.

    Raises:
        UserError: there is no such checkpoint or run, or the call names several.
    """
    name = config.name or config.model.class_path.rpartition(".")[2].lower()
    parent = Path(config.trainer.default_root_dir or ".", folders.RUNS, name)
    if config.ckpt_path is None:
        if command != "fit":
            raise checkpoints.no_checkpoint(command)
        if resume is False:
            return folders.Start(folders.RunFolder(parent))
        return folders.resume(parent, None if resume is True else resume, settings, config.checkpoint.dirpath)
    if resume is not False:
        raise UserError(
            "--resume continues a run from its newest checkpoint, --ckpt_path begins a new run from a file: "
            "give one of them.",
            2,
        )
    if settings.get(FILE) is not None:
        raise beside_a_checkpoint()
    checkpoints.require_file(config.ckpt_path)
    path, existing = Path(config.ckpt_path), None
    if command != "fit" and path.parent.name == folders.CHECKPOINTS:  # what it writes belongs to that run
        existing = path.resolve().parent.parent
        parent = existing.parent
    return folders.Start(folders.RunFolder(parent, existing), path, checkpoints.read_checkpoint(path))


def name_of(config: Any) -> str | None:
    """The name that the configs of a call give its run; None where it is the name of another model.

    A config that says it together with a model says it of that model alone.
    """
    own = config.model.class_path.rpartition(".")[2]
    for path in reversed(config.config or []):
        content = yaml.safe_load(Path(str(path)).read_text(encoding="utf-8")) if path is not None else {}
        if content.get("name") is None:
            continue
        of = content.get("model")
        of = of.get("class_path") if isinstance(of, Mapping) else of
        if of is None or of.rpartition(".")[2] == own:
            break
        say(f"the run is called {own.lower()}, not {config.name}, which is {path}'s name for {with_article(of)}.")
        return None
    return config.name  # type: ignore[no-any-return]


def check(command: str, start: folders.Start, settings: Mapping[str, Any]) -> list[str]:
    """Check that the checkpoint is of the model, and for `fit` of the training, that the call describes.

    Returns:
        What differs, which may be meant.

    Raises:
        UserError: it is of another model, or holds no training that could go on.
    """
    path, contents = start.checkpoint, start.contents
    assert path is not None
    require_model(path, contents, settings)
    if command != "fit":
        return identity.check_measured(path, contents, settings)
    if "optimizer_states" not in contents:
        raise UserError(
            f"{path} holds weights but not the state of the training, so fit can't go on from it: give a "
            "checkpoint such as last.ckpt.",
            2,
        )
    # the optimizer's state brings its settings, which would silently win over those of the config
    now, before = settings["model"]["init_args"], contents["hyper_parameters"]
    for key in identity.TRAINING_ONLY & before.keys():
        differing = identity.differences({key: before[key]}, now)
        if differing:
            raise UserError(
                f"{path} was made with another {key}: model.{differing[0]}. Leave that out, or take its weights alone: "
                f"--weights {word(path)} in place of --ckpt_path.",
                2,
            )
    if start.folder.existing is None:
        return identity.differences(identity.of_checkpoint(contents), settings)
    return []


def require_model(path: Path, contents: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Check that a checkpoint holds a model of the class that the call asks for.

    Raises:
        UserError: it is of another.
    """
    held, wanted = checkpoints.paradigm_class(contents, path).__name__, settings["model"]["class_path"]
    wanted = wanted.rpartition(".")[2]
    if held != wanted:
        raise UserError(
            f"{path} holds {with_article(held)}, but the config asks for {with_article(wanted)}: give the "
            "config it was made with."
        )


def pin_weights(settings: dict[str, Any]) -> None:
    """Note what the file of `--weights` holds, unless the settings of a run say what it held.

    Raises:
        UserError: there is no such file, or none is named.
    """
    if settings[FILE] is None and settings[DIGEST] is not None:
        raise UserError(
            f"--{DIGEST} says what the file of --{FILE} must hold, but none is named: give --{FILE} FILE.", 2
        )
    if settings[FILE] is not None and settings[DIGEST] is None:
        settings[DIGEST] = digest_of(settings[FILE])


def weights(start: folders.Start, settings: Mapping[str, Any]) -> Weights | None:
    """The weights that a training begins with; None for one that goes on from a checkpoint, or begins with none.

    Raises:
        UserError: the file is gone, has changed, is damaged, or is of another model.
    """
    if start.checkpoint is not None or settings.get(FILE) is None:
        return None
    found = Weights.read(Path(settings[FILE]), settings[DIGEST])
    require_model(found.path, found.contents, settings)
    return found
