"""What a field may hold, as plain data: the one description from which checks, conversions and the wire schema are made."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from aster.codec.tags import short_name

__all__ = [
    "EXTENSIONS",
    "SCALARS",
    "DictOf",
    "EnumOf",
    "FieldShape",
    "FixedTuple",
    "LiteralOf",
    "Message",
    "Optional",
    "Scalar",
    "Shape",
    "UnionOf",
    "Values",
    "children",
    "runtime_types",
]

EXTENSIONS: frozenset[type] = frozenset({uuid.UUID, datetime.time})
"""Scalars that Fory does not know and that travel in extension types of ours."""

SCALARS: frozenset[type] = EXTENSIONS | {
    str,
    int,
    float,
    bool,
    bytes,
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    decimal.Decimal,
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value of exactly this type."""

    type: type

    def __str__(self) -> str:
        return self.type.__name__


@dataclass(frozen=True, slots=True)
class EnumOf:
    """A member of this ``Enum``."""

    cls: type

    def __str__(self) -> str:
        return short_name(self.cls)


@dataclass(frozen=True, slots=True)
class Message:
    """An instance of exactly this dataclass."""

    cls: type

    def __str__(self) -> str:
        return short_name(self.cls)


@dataclass(frozen=True, slots=True)
class LiteralOf:
    """One of these values, which are all of one type."""

    base: Scalar | EnumOf
    values: tuple[object, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


@dataclass(frozen=True, slots=True)
class Values:
    """Any number of items: ``list[X]``, ``set[X]``, ``frozenset[X]`` or ``tuple[X, ...]``."""

    kind: Literal["list", "set", "frozenset", "tuple"]
    item: Shape

    def __str__(self) -> str:
        return f"tuple[{self.item}, ...]" if self.kind == "tuple" else f"{self.kind}[{self.item}]"


@dataclass(frozen=True, slots=True)
class FixedTuple:
    """``tuple[X, Y]``: a tuple of so many items, each of its own shape."""

    items: tuple[Shape, ...]

    def __str__(self) -> str:
        return f"tuple[{', '.join(map(str, self.items)) or '()'}]"


@dataclass(frozen=True, slots=True)
class DictOf:
    """``dict[K, V]``."""

    key: Shape
    value: Shape

    def __str__(self) -> str:
        return f"dict[{self.key}, {self.value}]"


@dataclass(frozen=True, slots=True)
class Optional:
    """The item, or ``None``."""

    item: Shape

    def __str__(self) -> str:
        return f"{self.item} | None"


@dataclass(frozen=True, slots=True)
class UnionOf:
    """One of several shapes, told apart by the type that the value has after decoding."""

    members: tuple[Shape, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.members))


Shape: TypeAlias = Scalar | EnumOf | Message | LiteralOf | Values | FixedTuple | DictOf | Optional | UnionOf


@dataclass(frozen=True, slots=True)
class FieldShape:
    """One field of a dataclass."""

    name: str
    shape: Shape


def children(shape: Shape) -> tuple[Shape, ...]:
    """The shapes directly inside."""
    match shape:
        case Values(_, item) | Optional(item):
            return (item,)
        case FixedTuple(items) | UnionOf(items):
            return items
        case DictOf(key, value):
            return (key, value)
        case LiteralOf(base, _):
            return (base,)
        case Scalar() | EnumOf() | Message():
            return ()


def runtime_types(shape: Shape) -> Iterator[type]:
    """The exact types that a value of this shape may have, ``NoneType`` included."""
    match shape:
        case Scalar(type_):
            yield type_
        case EnumOf(cls) | Message(cls):
            yield cls
        case LiteralOf(base, _):
            yield from runtime_types(base)
        case Values(kind, _):
            yield {"list": list, "set": set, "frozenset": frozenset, "tuple": tuple}[kind]
        case FixedTuple():
            yield tuple
        case DictOf():
            yield dict
        case Optional(item):
            yield type(None)
            yield from runtime_types(item)
        case UnionOf(members):
            for member in members:
                yield from runtime_types(member)
