"""The signatures of classes: which settings they take, of which types, and whether values are of these types."""

import collections.abc
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from numbers import Number
from typing import Any, Literal, Self, TypeVar

from torch import nn

from encdec.messages import suggestion
from encdec.types import UserError

_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_WORDS = {bool: "True or False", int: "a whole number (int)", float: "a number", str: "text", type(None): "None"}
_MANY = {bool: "True or False", int: "whole numbers (int)", float: "numbers", str: "texts"}
_LONGEST = 60


def check(cls: type, settings: Mapping[str, Any], prefix: str = "") -> None:
    """Check that settings are of the types that the signature of a class says.

    Numbers, text, lists of them and functions that make parts are looked at, and what a `functools.partial` of a class
    sets; what a signature says nothing about is taken as it is.

    Args:
        cls: the class.
        settings: by name; those that the signature does not have are left to the class.
        prefix: what the sentence begins with; the name of the class if it is empty.

    Raises:
        UserError: one is of another type; the sentence names it, what it is, and what it must be.
    """
    known = parameters(cls)
    for name, value in settings.items():
        hint, default = known.get(name, (Any, None))
        if value is not default:
            _check_value(f"{prefix or cls.__name__}: {name}", value, plain_hint(hint), default)


def check_call(what: str, function: Callable[..., Any], **arguments: Any) -> None:
    """Check that arguments of a function are of the types that its signature says.

    Args:
        what: what the sentence begins with.
        function: which is called.
        arguments: of it, by name.

    Raises:
        UserError: one is of another type; the sentence names it, what it is, and what it must be.
    """
    for name, value in arguments.items():
        parameter = inspect.signature(function).parameters[name]
        _check_value(f"{what}: {name}", value, plain_hint(parameter.annotation), parameter.default)


def check_names(cls: type, names: typing.Iterable[str]) -> None:
    """Check that a class takes settings of these names.

    Raises:
        UserError: it does not; the sentence names the nearest that it takes.
    """
    known = parameters(cls)
    for name in names:
        if name not in known and not takes_more(cls):
            hint = suggestion(name, [*known]) or f"; it has {', '.join(known)}."
            raise UserError(f"{cls.__name__} has no setting {name!r}{hint}", 2)


class Named:
    """A class that is made of settings of the names that its signature has."""

    def __new__(cls, *_: Any, **settings: Any) -> Self:
        """A new object, not yet initialized.

        Raises:
            UserError: it has no setting of a name; the sentence says which one was meant.
        """
        if settings:  # a copy is made without
            check_names(cls, settings)
        return super().__new__(cls)


def as_plain(value: Any) -> Any:
    """A setting as checkpoints hold it: a path as text, NumPy's floating-point numbers, which are floats, as such."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return float(value) if isinstance(value, float) else value


def parameters(cls: type, given: int = 0) -> dict[str, tuple[Any, Any]]:
    """The type and the default of each parameter of a class, those it passes on to its bases included.

    Args:
        cls: the class.
        given: how many positional ones to leave out.
    """
    found: dict[str, tuple[Any, Any]] = {}
    positional: list[str] = []
    for init, own in _constructors(cls):
        try:
            hints = typing.get_type_hints(init)
        except (NameError, TypeError, AttributeError):  # names that only a type checker sees
            hints = {}
        for parameter in own:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, (hints.get(parameter.name, Any), parameter.default))
                if parameter.kind == parameter.POSITIONAL_OR_KEYWORD:
                    positional.append(parameter.name)
    for name in list(dict.fromkeys(positional))[:given]:
        del found[name]
    return found


def takes_more(cls: type) -> bool:
    """Whether a class takes settings of any name: whether the last of its bases that it passes them on to does."""
    last = [own for _, own in _constructors(cls)][-1:]
    return any(parameter.kind == parameter.VAR_KEYWORD for own in last for parameter in own)


def plain_hint(hint: Any) -> Any:
    """A hint without the names that it has been given."""
    if hint is inspect.Parameter.empty:
        return Any
    if hint is None:
        return type(None)
    while True:
        if hasattr(hint, "__supertype__"):  # NewType
            hint = hint.__supertype__
        elif typing.get_origin(hint) in (typing.Annotated, typing.Final):
            hint = typing.get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


# ---------------------------------------------------------------------- inside


def _constructors(cls: type) -> Iterator[tuple[Any, list[inspect.Parameter]]]:
    """The `__init__` of a class and of the bases that it passes settings on to, and the parameters of each."""
    for base in cls.__mro__[:-1]:
        init: Any = vars(base).get("__init__")
        if init is None:
            continue
        own = list(inspect.signature(init).parameters.values())[1:]
        yield init, own
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in own):
            return


def _check_value(what: str, value: Any, hint: Any, default: Any) -> None:
    if not _is(value, hint):
        words = _expected(hint, default)
        raise UserError(f"{what} is {_shown(value)}, but it must be {words}{_advice(value, hint)}", 2)
    if isinstance(value, functools.partial) and isinstance(value.func, type) and not value.args:
        check_names(value.func, value.keywords)
        check(value.func, value.keywords)


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; where that can't be told, it is."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, plain_hint(arg)) for arg in args)
    if origin is Literal:
        return any(type(arg) is type(value) and arg == value for arg in args)
    if origin in (Any, object) or isinstance(origin, TypeVar):
        return True
    if origin is collections.abc.Callable:
        return callable(value) and not isinstance(value, nn.Module)  # a network is called too, but makes none
    if origin in (int, float):
        return isinstance(value, int | float if origin is float else int) and not isinstance(value, bool)
    if origin is str:
        return isinstance(value, str | os.PathLike)
    if origin in _LISTS:
        return _is_list(value, origin, args)
    if not isinstance(origin, type):
        return True
    try:
        by_name = issubclass(origin, Enum | os.PathLike) and isinstance(value, str)
        return by_name or isinstance(value, origin)
    except TypeError:  # a protocol that can't be asked
        return True


def _is_list(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    if not isinstance(value, list | tuple):
        return isinstance(value, origin) and not isinstance(value, str)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(_is(one, plain_hint(arg)) for one, arg in zip(value, args, strict=True))
    return not args or all(_is(one, plain_hint(args[0])) for one in value)


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value) if isinstance(value, str | list | tuple | Number | type(None)) else ""
    return text if 0 < len(text) <= _LONGEST and "\n" not in text else f"of type {type(value).__name__}"


def _expected(hint: Any, default: Any) -> str:
    """What a hint asks for, in words."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(dict.fromkeys(_expected(plain_hint(arg), default) for arg in args))
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin is collections.abc.Callable:
        example = f", such as {default.__name__}" if isinstance(default, type) else ""
        asked = typing.get_args(args[-1]) or args[-1:]
        makes = " or ".join(cls.__name__ for cls in asked if isinstance(cls, type))
        return f"a class{f' of {makes}' if makes else ''}{example}, or a function that makes one"
    if origin in _LISTS:
        many = _MANY.get(plain_hint(args[0]), "values") if args else "values"
        return f"a tuple of {len(args)} {many}" if origin is tuple and args[-1:] != (Ellipsis,) else f"a list of {many}"
    return _WORDS.get(origin) or f"of type {getattr(origin, '__name__', origin)}"


def _advice(value: Any, hint: Any) -> str:
    """What to do about a value, after a sentence about it, with its full stop."""
    hints = [hint, *typing.get_args(hint)]
    words = [arg for one in hints if typing.get_origin(one) is Literal for arg in typing.get_args(one)]
    if isinstance(value, str) and words:
        return suggestion(value, filter(lambda word: isinstance(word, str), words)) or "."
    numbers = [number for number in (int, float) if _is(number(0), hint)]
    if numbers and isinstance(value, Number) and not isinstance(value, int | float):  # NumPy's, which torch can't take
        return f": {numbers[0].__name__}(…) makes it one."
    return "."
