"""What a training began from and what changed on its way, which its present settings do not say."""

from collections.abc import Mapping
from typing import Any

from encdec.runs import identity
from encdec.types import UserError

KEY, TRAINER_KEY = "history", "trainer_settings"
"""Where a checkpoint holds what happened to its run, as sentences, and the trainer's settings that it was made with."""
_OF_AN_EPOCH = ("limit_train_batches", "overfit_batches")
_TRAINER = (
    *_OF_AN_EPOCH, "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "callbacks",
    "detect_anomaly", "sync_batchnorm", "num_nodes", "devices",
)  # fmt: skip
"""Settings of the trainer that results depend on; how long it trains may change without a difference."""
_LONGEST = 50
"""Entries of a history, and characters of one: a file that has more was not written by encdec."""


def of_trainer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's settings that results depend on."""
    trainer = settings.get("trainer")
    return {key: trainer[key] for key in _TRAINER if key in trainer} if isinstance(trainer, Mapping) else {}


def in_checkpoint(contents: Mapping[str, Any]) -> list[str]:
    """The history of a checkpoint; empty where it says none that could be one."""
    held = contents.get(KEY)
    if not isinstance(held, list) or len(held) > _LONGEST:
        return []
    return [entry for entry in held if isinstance(entry, str) and len(entry) <= 20 * _LONGEST]


def changes(contents: Mapping[str, Any], saved: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What changes in the settings of a run that is resumed.

    The trainer's settings are compared with those that the checkpoint was made with, where it says them: the run's
    config may have been edited since.

    Args:
        contents: of the checkpoint from which it goes on.
        saved: the settings in the run's config.
        settings: of the call.
    """
    trainer = saved.get("trainer")
    if isinstance(trainer, Mapping):
        saved = {**saved, "trainer": {**trainer, **_made_with(contents, saved)}}
    return identity.differences(saved, settings)


def _made_with(contents: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's settings that a checkpoint was made with: those that it holds, else those of the run's config."""
    held = contents.get(TRAINER_KEY)
    return of_trainer(saved) | (of_trainer({"trainer": held}) if isinstance(held, Mapping) else {})


def extended(contents: Mapping[str, Any], saved: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> list[str]:
    """The history of a run that goes on from a checkpoint.

    Args:
        contents: of the checkpoint; empty for a run that begins from nothing.
        saved: the settings in the config of the run that is resumed; None for a new run.
        settings: of the call.
    """
    if not contents:
        return []
    before, step = in_checkpoint(contents), contents["global_step"]
    if saved is None:
        name = str(contents["hyper_parameters"]["_class_path"]).rpartition(".")[2]
        return [*before, f"began from the step {step} of a trained {name}"]
    before_now = ({"trainer": of} for of in (_made_with(contents, saved), of_trainer(settings)))
    changed = identity.differences(*before_now)
    return [*before, *(f"from step {step} on {text}" for text in changed)]


def check_epoch(
    run: object, contents: Mapping[str, Any], saved: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Check that the epochs of a run that is resumed are as long as they were.

    Raises:
        UserError: they are not; a run that is resumed would make up for what an epoch lacks, or leave it out.
    """
    before, now = (
        {"trainer": {key: of[key] for key in _OF_AN_EPOCH if key in of}}
        for of in (_made_with(contents, saved), of_trainer(settings))
    )
    differing = identity.differences(before, now)
    if differing:
        raise UserError(
            f"--resume can't go on with {run}: {differing[0]}, which changes how long an epoch is. Leave that out, or "
            "begin a new run.",
            2,
        )
