"""Builds objects from the plain values in a file, by code that opens, fetches and imports nothing.

A parser of configs takes text for the path of a file, for an address, or for a class whose module it imports. Here a
value is compared with the type that the parameter it is for has in the signature: a number for a float, text for a
str, and a dictionary `{class_path, init_args}` only where a class of a known kind is expected, and only if its name is
that of such a class which is imported already. All else raises.
"""

import collections.abc
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeVar, cast

from encdec import plugins
from encdec.runs.trust import named, shown
from encdec.signatures import parameters, plain_hint, takes_more

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PLAIN = (bool, int, float, str, type(None))
_SOME = 2**63
_DEFAULT = "its default"

T = TypeVar("T")


class UnfitError(Exception):
    """A value is none that its parameter takes; the message says which, what it is, and what was expected."""


@dataclass(frozen=True)
class Rules:
    """What values may name.

    Attributes:
        classes: the classes that a value may name where a hint asks for (one made of) this class; None where it may
            name none.
        names: text that is accepted where a hint asks for text or an object of this class.
        never: names of parameters that may only have their defaults.
    """

    classes: Callable[[type], Iterable[type] | None]
    names: Mapping[type, frozenset[str]] = field(default_factory=dict)
    never: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Named:
    """A class that a value names, and its settings, which fit."""

    cls: type
    path: str
    settings: dict[str, Any]
    is_factory: bool


def known_classes(hint: type) -> list[type] | None:
    """The imported concrete classes of the kind that a hint asks for; None if it is of none of `plugins.KINDS`."""
    kinds = tuple(plugins.KINDS.values())
    if not issubclass(hint, kinds):
        return None
    return plugins.subclasses(hint) + [hint] * (hint not in kinds and not inspect.isabstract(hint))


OF_CHECKPOINTS = Rules(known_classes)
"""What a checkpoint may name: the kinds of plugins and of PyTorch that a paradigm is made of."""


def build(cls: type[T], settings: Mapping[str, Any]) -> T:
    """An object of a class from plain settings.

    Raises:
        UnfitError: a setting is none that the class takes; nothing has been made.
        Exception: of the constructor.
    """
    made = {name: _made(value) for name, value in fitted(cls, settings, OF_CHECKPOINTS).items()}
    return cls(**made)


def fitted(cls: type, settings: Mapping[str, Any], rules: Rules, where: str = "", given: int = 0) -> dict[str, Any]:
    """The settings, compared with the signature of a class; what names a class is a `Named`.

    Args:
        cls: the class.
        settings: by name.
        rules: what they may name.
        where: name of the whole, for the errors.
        given: how many arguments the caller of a factory gives.

    Raises:
        UnfitError: one does not fit.
    """
    known = parameters(cls, given)
    found = {}
    for name, value in settings.items():
        place = f"{where}.{name}" if where else str(name)
        if name not in known and not takes_more(cls):
            raise UnfitError(f"{shown(place)} is no setting of {cls.__name__}")
        hint, default = known.get(name, (Any, None))
        if type(value) in _PLAIN and type(value) is type(default) and value == default:
            found[name] = value
        elif name in rules.never:
            raise UnfitError(f"{place} is {shown(value)}, which only a config that you name may say")
        else:
            found[name] = fit(value, hint, rules, place)
    return found


def fit(value: Any, hint: Any, rules: Rules, where: str) -> Any:
    """A value, if it is one that a type hint describes; what names a class is a `Named`.

    Raises:
        UnfitError: it is not.
    """
    fits = _fit(value, plain_hint(hint), rules, where)
    if fits is _NOTHING:
        raise UnfitError(f"{where} is {shown(value)}, but it must be {_expected(plain_hint(hint), rules)}")
    return fits


def as_plain(value: Any) -> Any:
    """What fits, as the plain values of a config."""
    if isinstance(value, Named):
        return {"class_path": value.path} | ({"init_args": as_plain(value.settings)} if value.settings else {})
    if isinstance(value, dict):
        return {name: as_plain(inner) for name, inner in value.items()}
    return [as_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------- inside


_NOTHING = object()


def _made(value: Any) -> Any:
    if isinstance(value, Named):
        settings = {name: _made(inner) for name, inner in value.settings.items()}
        return functools.partial(value.cls, **settings) if value.is_factory else value.cls(**settings)
    if isinstance(value, dict):
        return {name: _made(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_made(inner) for inner in value)
    return value


def _fit(value: Any, hint: Any, rules: Rules, where: str) -> Any:
    """See `fit`; `_NOTHING` where the value does not fit, unless it names a class whose settings don't."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _fit_any(value, [plain_hint(arg) for arg in args], rules, where)
    if origin is Literal:
        return next((arg for arg in args if type(arg) is type(value) and arg == value), _NOTHING)
    if origin in (Any, object) or isinstance(origin, TypeVar):
        return _fit_untyped(value)
    if origin is collections.abc.Callable:
        given = len(args[0]) if args and isinstance(args[0], list) else 0
        return _fit_class(value, args[-1] if args else Any, rules, where, given)
    if origin in (bool, str, type(None)):
        return value if type(value) is origin else _NOTHING
    if origin is int:
        return value if type(value) is int and abs(value) < _SOME else _NOTHING
    if origin is float:
        fits = type(value) is float or (type(value) is int and abs(value) < _SOME)
        return float(value) if fits else _NOTHING
    if origin is tuple:
        return _fit_tuple(value, args, rules, where)
    if origin in _LISTS:
        if type(value) not in (list, tuple):
            return _NOTHING
        return _fit_all(value, [args[0] if args else Any] * len(value), rules, where)
    if origin in _MAPPINGS:
        if type(value) is not dict or "class_path" in value:
            return _NOTHING
        key_hint, hint = args or (str, Any)
        keys = _fit_all(list(value), [key_hint] * len(value), rules, where)
        values = _fit_all(list(value.values()), [hint] * len(value), rules, where)
        return _NOTHING if _NOTHING in (keys, values) else dict(zip(keys, values, strict=True))
    if isinstance(origin, type) and issubclass(origin, Enum):
        names = [name for member in origin for name in (member.name, member.value)]
        return value if type(value) is str and value in names else _NOTHING
    if isinstance(origin, type) and issubclass(origin, os.PathLike):
        return value if type(value) is str else _NOTHING
    return _fit_class(value, origin, rules, where) if isinstance(origin, type) else _NOTHING


def _fit_any(value: Any, hints: list[Any], rules: Rules, where: str) -> Any:
    of_objects = [names for cls, names in rules.names.items() if cls in hints]
    if type(value) is str and of_objects and str in hints:
        if any(value in names for names in of_objects):
            return value
        hints = [hint for hint in hints if hint is not str]  # text that would be looked up, as the name of something
    for hint in sorted(hints, key=lambda hint: hint is float):  # which takes whole numbers too
        fits = _fit(value, hint, rules, where)
        if fits is not _NOTHING:
            return fits
    return _NOTHING


def _fit_untyped(value: Any) -> Any:
    """Where a signature says nothing: numbers, words without any sign in them, and lists of these."""
    if type(value) in (list, tuple):
        return _NOTHING if any(_fit_untyped(inner) is _NOTHING for inner in value) else value
    if type(value) is str:
        return value if value.isidentifier() or not value else _NOTHING
    return value if type(value) in _PLAIN else _NOTHING


def _fit_all(values: Any, hints: list[Any], rules: Rules, where: str) -> Any:
    found = [_fit(value, plain_hint(hint), rules, where) for value, hint in zip(values, hints, strict=True)]
    return _NOTHING if any(value is _NOTHING for value in found) else found


def _fit_tuple(value: Any, args: tuple[Any, ...], rules: Rules, where: str) -> Any:
    if type(value) not in (list, tuple):
        return _NOTHING
    if not args or args[-1] is Ellipsis:
        args = (args[0] if args else Any,) * len(value)
    if len(args) != len(value):
        return _NOTHING
    found = _fit_all(value, list(args), rules, where)
    return found if found is _NOTHING else tuple(found)


def _fit_class(value: Any, hint: Any, rules: Rules, where: str, given: int | None = None) -> Any:
    """A class that a value names where a hint asks for one of its objects, or for a factory with `given` arguments."""
    bases = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    allowed = _allowed(bases, rules)
    spec = {"class_path": value} if type(value) is str else value
    if not allowed or type(spec) is not dict or "class_path" not in spec or spec.keys() - {"class_path", "init_args"}:
        return _NOTHING
    path, settings = spec["class_path"], spec.get("init_args")
    settings = {} if settings is None else settings
    if type(path) is not str or type(settings) is not dict:
        return _NOTHING
    found = [cls for cls in allowed if path in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")]
    found = [cls for cls in allowed if cls is named(path)] or found
    if len(found) != 1:
        return _NOTHING
    (cls,) = found
    return Named(
        cls, path if "." in path else _path_of(cls), fitted(cls, settings, rules, where, given or 0), given is not None
    )


def _path_of(cls: type) -> str:
    """The shortest path that names a class, as the parser of configs writes it."""
    parts = cls.__module__.split(".")
    paths = [".".join([*parts[:count], cls.__qualname__]) for count in range(1, len(parts) + 1)]
    return next((path for path in paths if named(path) is cls), paths[-1])


def _allowed(bases: Iterable[Any], rules: Rules) -> list[type]:
    found: dict[type, None] = {}
    for base in bases:
        if isinstance(base, type):
            found |= dict.fromkeys(rules.classes(base) or ())
    return list(found)


def _expected(hint: Any, rules: Rules) -> str:
    """What a hint asks for, in words."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        expected = dict.fromkeys(_expected(plain_hint(arg), rules) for arg in args)
        return " or ".join(word for word in expected if word != _DEFAULT or len(expected) == 1)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin is collections.abc.Callable or (isinstance(origin, type) and rules.classes(origin) is not None):
        asked = args[-1] if origin is collections.abc.Callable and args else origin
        bases = typing.get_args(asked) or (asked,)
        names = list(dict.fromkeys(cls.__name__ for cls in _allowed(bases, rules)))
        some = ", ".join(names[:5]) + ", …" * (len(names) > 5)
        return f"a class known here ({some})" if names else _DEFAULT
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if origin in words:
        return words[cast(type, origin)]
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"{len(args)} values in a list"
    return "a list" if origin in _LISTS or origin is tuple else "a dictionary" if origin in _MAPPINGS else _DEFAULT
