"""Values of the types that the codec takes, drawn from a ``random.Random`` by their hints."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import random
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from tests.codec.models import Checked

__all__ = ["value_of"]

_TEXTS = ("", "a", "é\N{GRINNING FACE}", "x" * 70, "\x00")
_INTEGERS = (0, 1, -1, 127, 128, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.5, float("inf"), float("nan"), 5e-324)
_DECIMALS = ("0", "-1.50", "9.99", "1E+20", "123456789012345678901234567")
_DEEPEST = 3


def _moment(chance: random.Random) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + _span(chance)


def _span(chance: random.Random) -> datetime.timedelta:
    return datetime.timedelta(microseconds=chance.choice((0, -1, 1, 10**15, -(10**15), chance.randrange(-(10**16), 10**16))))


_SCALARS: Mapping[Any, Callable[[random.Random], Any]] = {
    str: lambda chance: chance.choice(_TEXTS),
    int: lambda chance: chance.choice(_INTEGERS),
    float: lambda chance: chance.choice(_FLOATS),
    bool: lambda chance: chance.random() < 0.5,
    bytes: lambda chance: chance.randbytes(chance.choice((0, 1, 9, 80))),
    type(None): lambda chance: None,
    datetime.date: lambda chance: datetime.date.fromordinal(chance.randrange(1, 3_000_000)),
    datetime.datetime: _moment,
    datetime.timedelta: _span,
    datetime.time: lambda chance: datetime.time(chance.randrange(24), chance.randrange(60), 0, chance.randrange(10**6)),
    decimal.Decimal: lambda chance: decimal.Decimal(chance.choice(_DECIMALS)),
    uuid.UUID: lambda chance: uuid.UUID(int=chance.getrandbits(128)),
}


def value_of(hint: Any, chance: random.Random, depth: int = 0) -> Any:
    """A value of the type that a hint declares; small, and at the edges of its type as often as not."""
    if hint in _SCALARS:
        return _SCALARS[hint](chance)
    if isinstance(hint, typing.NewType):
        return value_of(hint.__supertype__, chance, depth)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return chance.choice(list(hint))
    origin = get_origin(hint)
    return _instance_of(hint, chance, depth) if origin is None else _generic(origin, get_args(hint), chance, depth)


def _generic(origin: Any, args: tuple[Any, ...], chance: random.Random, depth: int) -> Any:
    if origin in (typing.Annotated, typing.Final):
        return value_of(args[0], chance, depth)
    if origin is typing.Literal:
        return chance.choice(args)
    if origin in (Union, types.UnionType):
        return None if depth > _DEEPEST and type(None) in args else value_of(chance.choice(args), chance, depth)
    count = 0 if depth > _DEEPEST else chance.choice((0, 1, 2, 5))
    if origin is tuple and args[-1] is not Ellipsis:
        return tuple(value_of(arg, chance, depth + 1) for arg in args)
    if origin is dict:
        return {value_of(args[0], chance, depth + 1): value_of(args[1], chance, depth + 1) for _ in range(count)}
    collection: Any = origin
    return collection(value_of(args[0], chance, depth + 1) for _ in range(count))


def _instance_of(cls: Any, chance: random.Random, depth: int) -> Any:
    if cls is Checked:
        low = chance.randrange(100)
        return Checked(low, low + chance.randrange(9))
    return cls(**{name: value_of(hint, chance, depth + 1) for name, hint in _fields_of(cls)})


@cache
def _fields_of(cls: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(cls) if field.init]
