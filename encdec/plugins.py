"""Plugins: entry points of installed packages, then the files of ./plugins and those that come with encdec.

A plugin adds paradigms, data modules, networks and callbacks by defining classes; importing it is all that it
takes. Files become modules of the package `encdec_plugins`, so that saved configs and checkpoints can name them.
"""

import importlib.util
import inspect
import re
import sys
import types
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from encdec import shipped
from encdec.data import DataModule
from encdec.files import expanded
from encdec.networks import Decoder, Encoder, Features, Velocity
from encdec.objectives.observations import Observation
from encdec.objectives.priors import FittedPrior, Prior
from encdec.paradigms import Paradigm
from encdec.types import UserError

ENTRY_POINT_GROUP = "encdec.plugins"
PACKAGE = "encdec_plugins"
KINDS: dict[str, type[Any]] = {
    "model": Paradigm,
    "data": DataModule,
    "encoder": Encoder,
    "decoder": Decoder,
    "features": Features,
    "velocity": Velocity,
    "observation": Observation,
    "prior": Prior,
    "ex_post": FittedPrior,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
}
"""What a key of the config that names a class must be."""

T = TypeVar("T")
_failed: list[Path] = []
"""Files of plugins that could not be imported."""


def load(folder: str | PathLike[str] | None = None) -> list[str]:
    """Import all plugins that are not imported yet, and say what is wrong with those that can't be.

    Args:
        folder: where plugin files are, ./plugins by default. A file in it takes the place of the one of the same name
            that comes with encdec.

    Returns:
        One sentence for each plugin that failed to import, with its name and its error.

    Raises:
        UserError: two classes of one kind have the same name.
    """
    problems = []
    _failed.clear()
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception as error:
            problems.append(_problem(f"{entry_point.name} ({entry_point.value})", error))
    folder = Path(shipped.PLUGINS if folder is None else expanded(folder))
    files = shipped.plugin_files(folder)
    package = sys.modules.setdefault(PACKAGE, types.ModuleType(PACKAGE))
    package.__path__ = list(
        dict.fromkeys(str(parent.resolve()) for parent in (folder, *(path.parent for path in files)))
    )
    for path in files:
        try:
            _import_file(path.resolve())
        except Exception as error:
            problems.append(_problem(str(path), error))
            _failed.append(path)
    refuse_duplicates()
    return problems


def subclasses(base: type[T]) -> list[type[T]]:
    """The concrete classes derived from `base` that have been imported, sorted by name."""
    found: set[type[T]] = set()
    todo = [base]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if not inspect.isabstract(cls) and _is_current(cls):
                found.add(cls)
    return sorted(found, key=lambda cls: (cls.__name__, cls.__module__))


def abstract(base: type[Any], name: str) -> list[str]:
    """The methods that an imported abstract class of a name, derived from `base`, does not write; none without one."""
    todo = [base]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__name__ == name and inspect.isabstract(cls) and not cls.__module__.startswith("encdec."):
                return sorted(cls.__abstractmethods__)
    return []


def missing(module: str, name: str) -> str | None:
    """Which plugin would define a class, if it were here or could be imported, as a clause; None if no plugin is known.

    Args:
        module: of the class, as a config names it; may be empty.
        name: of the class.
    """
    package, _, stem = module.partition(".")
    for path in _failed:
        defines = re.search(rf"^class {re.escape(name)}\b", path.read_text(errors="replace"), re.MULTILINE)
        if (package == PACKAGE and path.stem == stem) or (not module and defines):
            return f"the plugin {path}, which defines it, can't be imported"
    if package == PACKAGE and stem and module not in sys.modules:
        return f"the plugin plugins/{stem}.py, which defines it, is missing"
    if package == PACKAGE and stem:
        return f"the plugin plugins/{stem}.py has none of this name"
    return None


def packages() -> set[str]:
    """The names of the packages whose code the user has chosen to run: encdec and its plugins."""
    installed = {entry_point.module.partition(".")[0] for entry_point in entry_points(group=ENTRY_POINT_GROUP)}
    return {"encdec", PACKAGE} | installed


def refuse_duplicates() -> None:
    """Check that every short name means one class.

    Raises:
        UserError: two paradigms, data modules, networks or callbacks have the same name; it names both places.
    """
    for base in (Paradigm, DataModule, Encoder, Decoder, Features, Velocity, Callback):
        by_name: dict[str, type] = {}
        for cls in subclasses(base):
            other = by_name.setdefault(cls.__name__, cls)
            # Lightning has callbacks of its own with equal names; they matter only against ours
            if other is not cls and (base is not Callback or {_origin(cls), _origin(other)} & {"encdec", PACKAGE}):
                raise UserError(
                    f"Two classes are named {cls.__name__}, in {_place(other)} and in {_place(cls)}: rename one, "
                    f"so that `{cls.__name__}` means one thing."
                )


def _import_file(path: Path) -> None:
    name = f"{PACKAGE}.{path.stem}"
    module = sys.modules.get(name)
    if module is not None and module.__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        vars(sys.modules[PACKAGE]).pop(path.stem, None)  # of an earlier file
        raise
    setattr(sys.modules[PACKAGE], path.stem, module)


def _is_current(cls: type) -> bool:
    """Whether a class is the one its module has under its name, and not a leftover of a failed or earlier import."""
    module = sys.modules.get(cls.__module__)
    return getattr(module, cls.__name__, None) is cls or not cls.__module__.startswith(PACKAGE)


def _problem(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or "no message"
    return f"Plugin {name} can't be imported and is left out: {type(error).__name__}: {reason}"


def _origin(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _place(cls: type) -> str:
    try:
        return inspect.getfile(cls)
    except (OSError, TypeError):
        return cls.__module__
