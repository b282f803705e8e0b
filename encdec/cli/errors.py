"""Turns what the parser says about a wrong call into one sentence, with a suggestion where there is one."""

import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from encdec import plugins, shipped
from encdec.cli import synonyms
from encdec.data import DataModule
from encdec.messages import suggestion
from encdec.paradigms import Paradigm
from encdec.runs import version_0_1
from encdec.text import with_article
from encdec.types import UserError

_LONGEST = 400
_KEY = re.compile(r'\s*(?:argument [^:\n]*: )?Parser key "([^"]+)":\s*')
_IN_CLASS = re.compile(r"Problem with given class_path '([^']+)':\s*(.*)", re.DOTALL)
_REQUIRED = re.compile(r"arguments are required: ([^\n]+)")
_NO_OPTION = re.compile(r"^There is no option ('[^']+') here")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_INTERNAL = re.compile(
    r"Union subtypes|Subtypes:|Parser key|given class_path|<class '|typing\.|Namespace\(|dot import path|subclass spec|"
    r"either not accessible|Given value type|ActionTypeHint|Not a valid subclass|jsonargparse"
)
"""What only who knows the parser's code understands."""


RENAMED = {"codes": "'latents' since encdec 0.2: what was codes: fresh is latents: resampled, and fixed stays fixed"}
"""Settings that have another name than in the version before."""


def sentence(message: str, keys: Iterable[str], cls: type | None = None) -> str:
    """One sentence for an error message of jsonargparse.

    Args:
        message: of one or many lines.
        keys: the keys that the parser knows, for suggestions.
        cls: the class whose settings the parser reads, if they are of one alone.
    """
    missing = _REQUIRED.search(message)
    if cls is not None and missing:
        return _missing(cls, missing[1].rstrip(".").split(", "))
    if cls is None:
        return _sentence(message, list(keys)).replace("?.", "?")
    found = _sentence(message, list(keys), _place(cls) or f"{cls.__name__}.").replace("?.", "?")
    return _NO_OPTION.sub(rf"{cls.__name__} has no setting \1", found)


def _missing(cls: type, names: list[str]) -> str:
    """A sentence for settings without defaults that a call does not set."""
    place = _place(cls)
    settings = " and ".join(f"--{place}{name}" if place else repr(name) for name in names)
    if len(names) == 1:
        return f"{settings} is missing: {cls.__name__} has no default for it, so give it a value."
    return f"{settings} are missing: {cls.__name__} has no defaults for them, so give them values."


def _place(cls: type | None) -> str:
    """Where the settings of a class stand in a call, `model.` or `data.`; empty where that may be anywhere."""
    own = [key for key in ("model", "data") if cls is not None and issubclass(cls, plugins.KINDS[key])]
    return f"{own[0]}." if own else ""


def _sentence(message: str, known: list[str], place: str = "") -> str:
    if match := re.search(r"(?:[Vv]alue|import path string|import path format): (\S+\.(?:ya?ml|json))\b", message):
        keys = re.findall(r'Parser key "([^"]+)"', message)
        of = f"{keys[-1]}: " if keys else ""
        return f"{of}{match[1]!r} is the name of a file, but settings are read from files by --config FILE alone."
    if match := re.search(r"argument (\S+): expected one argument", message):
        option = match[1].rpartition("/")[2]
        return f"{option} needs a value; one that begins with a dash is written {option}=VALUE."
    if (match := re.search(r"unrecognized arguments: (\S+)", message)) and not match[1].startswith("-"):
        hint = "--config" if Path(match[1]).suffix in (".yaml", ".yml") else "--model"
        return f"{match[1]!r} stands alone, but values follow an option: is it {hint} {match[1]}?"
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        flag = match[1].split("=")[0].lstrip("-")
        return f"There is no option --{flag}{synonyms.meant(flag, known)}."
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return _unknown(f"{match[1]}.{match[2]}", known)
    if match := re.search(r"does not accept option '([^']+)'", message):
        return _unknown(match[1], known)
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        if match[1] in RENAMED:
            return f"The option {match[1]!r} is called {RENAMED[match[1]]}."
        return f"There is no option {match[1]!r} here{_similar(match[1], _parameters(), [])}."
    if match := _REQUIRED.search(message):
        names = [name.rpartition(".")[2] for name in match[1].rstrip(".").split(", ")]
        if names[0] == "model":
            return "--model is missing: give --config FILE, for example configs/vae.yaml, or --model NAME."
        if len(names) == 1:
            return f"The setting {names[0]!r} has no default: give it a value."
        return f"The settings {', '.join(map(repr, names))} have no defaults: give them values."
    key, text = "", message
    while match := _KEY.match(text):
        key, text = match[1], text[match.end() :]
    return _problem(f"{place}{key}" if key else "", text)


def _problem(key: str, text: str) -> str:
    """A sentence for what is wrong with the value of a key."""
    of = f"{key}: " if key else ""
    if match := re.search(r"Path is not a file: '([^']+)'", text):
        return f"{key} must be a file, but {os.path.relpath(match[1])!r} is a folder."
    if match := re.search(r"File does not exist: '([^']+)'", text):
        return f"There is no file {match[1]!r}{shipped.meant(match[1])}."
    if match := re.search(r"NestedArg\(key='([^']+)'", text):
        return f"{key}.{match[1]} is set, but nothing names the {key}: give --{key} NAME, or a --config FILE that does."
    last = key.rpartition(".")[2]
    kinds = [plugins.KINDS[last]] if last in plugins.KINDS else _classes(text)
    if match := _IN_CLASS.search(text):
        name, reason = match[1].rpartition(".")[2], match[2]
        if re.match(r"No module named|module '\S+' has no attribute|Expected a dot import path", reason):
            return of + no_class(match[1], kinds)
        inner = _sentence(reason, [])
        return inner if key and inner.startswith(key) else f"{name}: {inner}"
    given = re.search(r"Given value: (.*)", text)
    asked = given[1] if given and last in plugins.KINDS and _NAME.fullmatch(given[1]) else None
    if kinds and (missing := _class_name(text) or asked):
        return of + no_class(missing, kinds)
    if match := re.search(r"Import path (\S+) does not", text):
        name = match[1].rpartition(".")[2]
        return f"{of}{name} is no {' or '.join(kind.__name__ for kind in kinds) or 'class that fits here'}."
    if match := re.search(r"(\S+) is abstract$", text.strip()):
        return f"{of}{match[1].rpartition('.')[2]} can't be used itself, only a class derived from it."
    values = [
        *re.findall(r"Expected a dot import path string: (.*)", text) * ("Given value" not in text),
        *re.findall(r"Given value: (.*)", text),
        *re.findall(r"(?<!, but )[Gg]ot value: (.*)", text),
    ]
    if match := re.search(r"Subtypes: \[(.*)\]", text):  # the first is the outermost
        expected = _or(_names(_split(match[1]), kinds))
    elif match := re.search(
        r"Expected an? (.+?)(?:\. Got value: |$)", text.strip().splitlines()[0] if text.strip() else ""
    ):
        expected = _or(_names([match[1]], kinds))
    else:
        expected = ""
    if values:
        value = values[0].replace("Namespace", "")
        return f"{of}{_shortened(value)!r} is not valid; expected {expected or 'the name of a class'}."
    text = " ".join(text.split())
    if _INTERNAL.search(text) or not text:
        given = re.search(r"""Unable to load config ['"]([^'"]*)['"]""", text)
        return f"{of}{_shortened(given[1])!r} is not valid here." if given else f"{key or 'A setting'} is not valid."
    return of + _shortened(text)


def _unknown(option: str, keys: list[str]) -> str:
    """A sentence for a key of a config that the parser does not have."""
    parts = option.split(".")
    tops = {known.partition(".")[0] for known in keys}
    if parts[0] not in tops:
        return f"A config has no key {parts[0]!r}{_similar(parts[0], tops, keys)}."
    settings = {known.partition(".")[2] for known in keys if known.startswith(f"{parts[0]}.")}
    name = option.partition(".")[2]
    return f"{parts[0]} has no setting {name!r}{_similar(name, settings, keys)}."


def _similar(name: str, here: set[str], known: list[str]) -> str:
    """`; did you mean …?` for a key that there is none of: one of its place, or what it means elsewhere."""
    exact = synonyms.exact(name, known)
    if name in here:  # it is right elsewhere: a rate in an optimizer, most of all
        return exact * (".optimizer." in exact)
    return exact or suggestion(name, here) or synonyms.meant(name, known, prefix="")


def _class_name(text: str) -> str | None:
    """The name of a class that the parser looked for in vain, where that is what is wrong with a value."""
    found = re.findall(r"(?:Expected a dot import path string|Unexpected import path format): (.*)", text)
    specs = re.findall(r"'class_path': '([^']+)'|class_path='([^']+)'", text)
    names = [*found, *(name for pair in specs for name in pair)]
    return next((name for name in names if _NAME.fullmatch(name) and name not in ("None", "True", "False")), None)


def no_class(wanted: str, kinds: list[type[Any]]) -> str:
    """There is no such class of these kinds, where it may have been meant to be, and which there are."""
    classes = [cls for kind in kinds for cls in plugins.subclasses(kind) if not cls.__name__.startswith("_")]
    names = [cls.__name__ for cls in classes]
    module, _, name = wanted.rpartition(".")
    if names.count(wanted) > 1:
        paths = [f"{cls.__module__}.{name}" for cls in classes if cls.__name__ == name]
        return f"{name} is the name of several classes; give one of {', '.join(paths)}."
    found = plugins.missing(module, name)
    if found is not None:
        return f"there is no class {wanted!r}: {found}."
    new = version_0_1.moved(wanted)
    if new != wanted:
        return f"there is no class {wanted!r}: since encdec 0.2 it is {new}."
    for kind in kinds:
        if abstract := plugins.abstract(kind, name):
            return f"{name} can't be used: it writes no {', no '.join(abstract)}."
    known = f"; known are {', '.join(names)}" if len(names) < 50 else ""
    return f"there is no class {wanted!r}{suggestion(name, names)}{known}."


def _classes(text: str) -> list[type[Any]]:
    """The classes among the types that a value may have, in the parser's words."""
    match = re.search(r"Subtypes: \[(.*)\]", text)
    paths = re.findall(r"[A-Za-z_]\w*(?:\.\w+)+", match[1] if match else "")
    found = [getattr(sys.modules.get(path.rpartition(".")[0]), path.rpartition(".")[2], None) for path in paths]
    own = [cls for cls in found if isinstance(cls, type) and cls.__module__.partition(".")[0] in _WITH_CLASSES]
    return list(dict.fromkeys(own))


_WITH_CLASSES = ("lightning", "encdec", plugins.PACKAGE)
"""Packages whose classes are named in configs."""


def _split(types: str) -> list[str]:
    """The types of a list of them, at its top level."""
    parts, depth = [""], 0
    for character in types:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _names(types: list[str], kinds: list[type[Any]]) -> list[str]:
    """Types as people write them; what a setting could also be written as helps nobody."""
    classes = {kind.__name__ for kind in kinds}
    names = [_type_name(name, classes) for name in types if not name.startswith(("path but", "dot import"))]
    if len(classes) > 1:  # each of them once, and not once more in a list
        names = ["a list of these" if name.startswith("a list of names of") else name for name in names]
    if not names:
        names = [_type_name(name, classes) for name in sorted(classes)]
    return list(dict.fromkeys(name for name in names if name and name != "Tensor"))


def _or(names: list[str]) -> str:
    return " or ".join(names)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, one after the other; the parser wraps what a constructor raises."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of the machine or of a GPU."""
    words = ("can't allocate memory", "alloc_cpu", "DefaultCPUAllocator")
    return any(
        isinstance(cause, MemoryError | torch.OutOfMemoryError)
        or (isinstance(cause, RuntimeError) and any(word in str(cause) for word in words))
        for cause in causes(error)
    )


def unexpected(error: BaseException) -> str:
    """One sentence for an error that nobody foresaw: what it says, and where in a plugin, or else in our code."""
    chain = list(causes(error))
    error = next((cause for cause in chain if not _INTERNAL.search(str(cause))), chain[-1])
    reason = _shortened(" ".join(str(error).split()))
    frames = traceback.extract_tb(error.__traceback__)
    # an attribute that is missing is at fault where it is asked for, not where that is said
    asked = [frame for frame in frames if frame.name != "__getattr__"]
    ours = [frame for frame in asked if "site-packages" not in frame.filename and "<" not in frame.filename]
    users = of_plugin(error)  # what a plugin calls fails for its sake
    frame = (users or ours or frames)[-1]
    place = f"{os.path.relpath(frame.filename)}, line {frame.lineno}" if frame.filename else "no file"
    return f"{type(error).__name__}: {reason} ({place}). ENCDEC_DEBUG=1 shows the traceback."


def of_plugin(error: BaseException) -> list[traceback.FrameSummary]:
    """The lines of plugins that an error came through, the innermost last; those that ask for attributes left out."""
    files, frames = _plugin_files(), traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if frame.filename in files and frame.name != "__getattr__"]


def _plugin_files() -> set[str]:
    """The files of all modules of plugins that have been imported."""
    packages = plugins.packages() - {"encdec"}
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in packages]
    return {str(module.__file__) for module in modules if getattr(module, "__file__", None)}


def _parameters() -> set[str]:
    classes: list[type] = [Paradigm, DataModule, Trainer]
    for kind in plugins.KINDS.values():
        classes += plugins.subclasses(kind)
    return {name for cls in classes for name in inspect.signature(cls).parameters} - {"args", "kwargs"}


def _type_name(name: str, classes: set[str] | frozenset[str] = frozenset()) -> str:
    """A type as people write it: "<class 'float'>" -> "float", "typing.Literal['a', 'b']" -> "one of 'a', 'b'"."""
    name = name.strip().rstrip(".")
    name = re.sub(r"<class '([^']+)'>", r"\1", name)
    if name.startswith(("typing.Callable", "collections.abc.Callable", "Callable", "import path", "dot import")):
        return "the name of a class"
    if match := re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", name):
        return f"one of {match[1]}"
    if match := re.fullmatch(r"(?:typing\.)?(?:Union|Optional)\[(.*)\]", name):
        return _or(list(dict.fromkeys(_type_name(part, classes) for part in _split(match[1]))))
    if match := re.fullmatch(r"(?:[\w.]+\.)?(list|List|Iterable|Sequence)\[(.*)\]", name):
        of = _type_name(match[2], classes)
        return f"a list of {of}".replace("a list of the name of", "a list of names of")
    if match := re.fullmatch(r"(?:[\w.]+\.)?(tuple|Tuple)\[(.*)\]", name):
        parts = _split(match[2])
        of = _type_name(parts[0], classes)
        return f"a list of {of}" if parts[1:] == ["..."] else f"a list of {len(parts)} values"
    if match := re.fullmatch(r"tuple with (\d+) elements", name):
        return f"a list of {match[1]} values"
    name = re.sub(r"(?:\w+\.)+(\w+)", r"\1", name).partition("[")[0]
    plain = {"NoneType": "null", "tuple": "a list", "list": "a list", "Iterable": "a list", "dict": "settings by their "
             "names", "timedelta": "a time"}  # fmt: skip
    return f"the name of {with_article(name)}" if name in classes else plain.get(name, name)


def user_error(error: BaseException | None) -> UserError | None:
    """The first error meant for users among the causes of an error."""
    return next((cause for cause in causes(error) if isinstance(cause, UserError)), None)
