"""Reading rows in a way that is bounded, and judging what came out, with nothing of the codec's own."""

from __future__ import annotations

import dataclasses
import datetime
import struct
import sys
import time
import types
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Annotated, Any, Final, Literal, NewType, TypeAlias, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

from aster.codec.row import RowList, RowMap, RowSet

__all__ = ["LONGEST", "SECONDS_OF_DEFAULT", "alike", "is_exactly", "most_seconds", "read_all", "roomy_stack", "timed"]

_MOST_SECONDS = 0.1
"""Of processor time for one reading of a message of up to 64 KiB."""

SECONDS_OF_DEFAULT = 4e-6
"""What a field may take besides that a row does not have, where its default is asked for."""

LONGEST = 64 * 1024
"""Bytes of the largest messages for which time and memory are bounded by numbers of their own."""

_TRIES = 5


def most_seconds(size: int) -> float:
    """What messages of so many bytes may take."""
    return _MOST_SECONDS * max(1.0, size / LONGEST)


def timed(action: Callable[[], Any], most: Callable[[], float]) -> tuple[Any, float]:
    """What an action gives, and the processor time that it took: the least of some tries if the first takes long, since machines have other things to do.
    ``most``: what it may take, which is asked afterwards."""
    least, result = float("inf"), None
    for _ in range(_TRIES):
        began = time.process_time()
        result = action()
        least = min(least, time.process_time() - began)
        if least < most() / 2:
            break
    assert least <= most(), f"took {least * 1000:.0f} ms of processor time, more than {most() * 1000:.0f} ms"
    return result, least


@contextmanager
def roomy_stack() -> Generator[None]:
    """For what the tests do about values that are nested deeply; Aster has to do with what there is."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


# Reading

_PLAIN = frozenset(
    {bool, int, float, str, bytes, type(None), datetime.date, datetime.datetime, datetime.time, datetime.timedelta, Decimal, UUID, set, frozenset, list, dict}
)
"""Types of what is read at once. A list and a dict are the default of a field."""


def read_all(view: Any, lacking: list[int] | None = None) -> tuple[Any, int]:
    """All of a view, read piece by piece as a user does, in plain values; and how many dataclasses are nested in it.

    Args:
        view: the view.
        lacking: gets for each dataclass how many fields its row does not have, whose defaults are made for whoever asks for them.
    """
    pending: list[tuple[Any, Any, int]] = []
    value = _begun(view, pending, 0)
    deepest = 0
    while pending:
        source, made, depth = pending.pop()
        deepest = max(deepest, depth)
        if isinstance(made, list):
            fill = cast("list[Any]", made).append
            for item in source:
                fill(item if type(item) in _PLAIN else _begun(item, pending, depth))
        elif isinstance(made, dict):
            keyed = cast("dict[Any, Any]", made)
            for key, item in source.items():
                keyed[key] = item if type(item) in _PLAIN else _begun(item, pending, depth)
        else:
            if lacking is not None:
                lacking.append(source.__aster_row__[3].lacking)
            for name in _names_of(cast("type[Any]", type(made))):
                item = getattr(source, name)
                object.__setattr__(made, name, item if type(item) in _PLAIN else _begun(item, pending, depth))
    return value, deepest


def _begun(value: Any, pending: list[tuple[Any, Any, int]], depth: int) -> Any:
    """The plain form of what was read; what is in it is read later, so that no nesting is too deep."""
    made: Any
    kind = cast("type[Any]", type(value))
    if kind is tuple or (kind is RowList and value[:0] == ()):
        return tuple(item if type(item) in _PLAIN else _begun(item, pending, depth) for item in value)
    if kind is RowSet:
        return set(value)
    if kind is RowList:
        made = []
    elif kind is RowMap:
        made = {}
    elif "__aster_row__" in vars(kind):
        made, depth = object.__new__(cast("type[Any]", kind.__base__)), depth + 1
    else:  # an Enum, or the default of a field
        return value
    pending.append((value, made, depth))
    return made


@cache
def _names_of(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


@cache
def _sent_names_of(cls: Any) -> tuple[str, ...]:
    """Without those that ``__post_init__`` sets, which runs only for what is whole."""
    return tuple(field.name for field in dataclasses.fields(cls) if field.init)


# Judging

_Judge: TypeAlias = Callable[[Any], bool]


def is_exactly(value: Any, cls: type) -> bool:
    """Whether a value is of exactly a dataclass, and what is in it of what its hints say."""
    return _judge_of(cls)(value)


@cache
def _judge_of(hint: Any) -> _Judge:
    """A function, since the values of one type are many."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Final):
        return _judge_of(args[0])
    if isinstance(hint, NewType):
        return _judge_of(hint.__supertype__)
    if origin is Literal:
        return lambda value: any(type(value) is type(arg) and value == arg for arg in args)
    if origin in (Union, types.UnionType):
        members = [_judge_of(arg) for arg in args]
        return lambda value: any(member(value) for member in members)
    if origin is dict:
        return lambda value: type(value) is dict and _all(args[0], cast("dict[Any, Any]", value)) and _all(args[1], cast("dict[Any, Any]", value).values())
    if origin is tuple and args[1:] != (...,):
        judges = list(map(_judge_of, args))
        return lambda value: type(value) is tuple and _each(judges, cast("tuple[Any, ...]", value))
    if origin is not None:
        return lambda value: type(value) is origin and _all(args[0], value)
    if dataclasses.is_dataclass(hint):
        return _dataclass_judge(cast("type[Any]", hint))
    if hint is datetime.datetime:
        return lambda value: type(value) is datetime.datetime and value.tzinfo in (None, datetime.UTC)
    return lambda value: type(value) is hint


def _each(judges: Sequence[_Judge], values: tuple[Any, ...]) -> bool:
    return len(values) == len(judges) and all(judge(value) for judge, value in zip(judges, values, strict=True))


def _all(hint: Any, values: Any) -> bool:
    if isinstance(hint, type) and hint in _PLAIN and hint is not datetime.datetime:
        return set(map(type, values)) <= {hint}
    return all(map(_judge_of(hint), values))


def _dataclass_judge(cls: type[Any]) -> _Judge:
    hints = get_type_hints(cls, include_extras=True)
    own = [(field.name, hints[field.name]) for field in dataclasses.fields(cls)]
    # The judges of its fields are looked up when they are wanted: a class may hold itself.
    return lambda value: type(value) is cls and all(_judge_of(hint)(getattr(value, name)) for name, hint in own)


def alike(a: Any, b: Any) -> bool:
    """Whether two values are of the same types all the way down and equal, NaNs and signed zeros told apart; but for what classes make themselves."""
    kind = cast("type[Any]", type(a))
    if kind is not type(b):
        return False
    if kind is float:
        return struct.pack("d", a) == struct.pack("d", b)
    if kind in (list, tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if kind is dict:
        return len(a) == len(b) and all(map(alike, a, b)) and all(map(alike, a.values(), b.values()))
    if kind in (set, frozenset):
        return (a == b and len(a) == len(b)) or sorted(map(repr, a)) == sorted(map(repr, b))
    if dataclasses.is_dataclass(a):
        return all(alike(getattr(a, name), getattr(b, name)) for name in _sent_names_of(kind))
    if kind is Decimal:
        return repr(a) == repr(b)
    if kind in (datetime.time, datetime.datetime):
        return repr(a) == repr(b)
    return a is b if isinstance(a, Enum) else bool(a == b)
