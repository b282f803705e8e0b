"""All private names of Lightning, jsonargparse and torch that encdec uses, each with its reason and what replaces it.

tests/test_private.py finds such names elsewhere, and takes each of these away.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.optim.lr_scheduler import LRScheduler

from encdec.types import UserError

_SETTINGS = {"_add_signature_parameter": "sub_configs", "_create_group_if_requested": "config_load"}
"""Methods of jsonargparse's parsers, and the argument that each is given."""
_OBSERVER = "_launch_process_observer"


class PathlessParser(LightningArgumentParser):
    """A parser that takes no text for the place of a config, but what follows `--config`.

    Why: where a class or a group of settings is expected, jsonargparse opens what `m.yaml` names, and has no public way
    to be told not to: `add_subclass_arguments` and groups always take paths.

    Without these names: it is refused, because a config could then open files.

    Raises:
        UserError: this jsonargparse makes arguments otherwise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        missing = [name for name in _SETTINGS if not hasattr(LightningArgumentParser, name)]
        if missing:
            raise UserError(
                f"This version of jsonargparse has no {' and no '.join(missing)}, by which encdec keeps configs from "
                "opening files: install one that pyproject.toml allows.",
            )
        super().__init__(*args, **kwargs)

    def _add_signature_parameter(self, *args: Any, **kwargs: Any) -> Any:
        return super()._add_signature_parameter(*args, **kwargs | {"sub_configs": False})

    def _create_group_if_requested(self, *args: Any, **kwargs: Any) -> Any:
        return super()._create_group_if_requested(*args, **kwargs | {"config_load": False})  # type: ignore[no-untyped-call]


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of a parser and of the commands below it.

    Why: argparse has no public list of them; an error suggests the nearest, and a help shows them in groups.
    Without the name: none, so that an error suggests nothing, and a help shows only the settings of classes.
    """
    found = []
    for action in getattr(parser, "_actions", []):
        if action.dest != "help":
            found.append(action)
        if isinstance(action.choices, dict):
            found += [inner for below in action.choices.values() for inner in actions(below)]
    return found


def keys(parser: argparse.ArgumentParser) -> list[str]:
    """The keys that a parser and the commands below it know."""
    return [action.dest for action in actions(parser)]


def parts(schedule: LRScheduler) -> Sequence[LRScheduler]:
    """The schedules that a ChainedScheduler or a SequentialLR is made of.

    Why: whether a schedule ends before its run depends on them, and torch has no public name for them.
    Without the name: none, so that their lengths are not checked, and torch's own errors are what is left.
    """
    return list(getattr(schedule, "_schedulers", ()))


def milestones(schedule: LRScheduler) -> Sequence[int]:
    """Where the phases of a SequentialLR begin, but the first.

    Why: as `parts`.
    Without the name: what its state says, and else none.
    """
    found = getattr(schedule, "_milestones", None)
    return list(schedule.state_dict().get("_milestones", ()) if found is None else found)


@contextmanager
def observing(watch: Callable[[list[Any]], None]) -> Iterator[None]:
    """Within, `watch` is called with the processes that Lightning's launcher starts, in place of Lightning's observer.

    Why: the observer kills this process when another one fails, before it can say why.
    Without the name: nothing is replaced, and the run ends without a sentence.
    """
    before = getattr(subprocess_script, _OBSERVER, None)
    if before is None:
        yield
        return
    setattr(subprocess_script, _OBSERVER, watch)
    try:
        yield
    finally:
        setattr(subprocess_script, _OBSERVER, before)
