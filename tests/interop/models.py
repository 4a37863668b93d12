"""Dataclasses that travel between languages, one for each kind of field, under tags that ``fory_js.mjs`` knows too."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from dataclasses import dataclass, field

from aster.codec import wire_type


@wire_type("interop/Color")
class Color(enum.Enum):
    RED = "r"
    GREEN = "g"
    BLUE = "b"


@wire_type("interop/Level")
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


@wire_type("interop/Point")
@dataclass(frozen=True)
class Point:
    x: int = 0
    y: int = 0


@wire_type("interop/Empty")
@dataclass
class Empty:
    pass


@wire_type("interop/Texts")
@dataclass
class Texts:
    plain: str
    many: list[str]


@wire_type("interop/Numbers")
@dataclass
class Numbers:
    lowest: int
    highest: int
    many: list[int]


@wire_type("interop/Reals")
@dataclass
class Reals:
    one: float
    many: list[float]


@wire_type("interop/Truths")
@dataclass
class Truths:
    yes: bool
    no: bool
    many: list[bool]


@wire_type("interop/Raw")
@dataclass
class Raw:
    every: bytes
    none: bytes
    many: list[bytes]


@wire_type("interop/Lists")
@dataclass
class Lists:
    empty: list[int]
    nested: list[list[str]]
    gaps: list[int | None]
    points: list[Point]


@wire_type("interop/Dicts")
@dataclass
class Dicts:
    empty: dict[str, int]
    long: dict[int, int]
    nested: dict[str, list[str]]
    gaps: dict[str, Point | None]


@wire_type("interop/KeyedByPoint")
@dataclass
class KeyedByPoint:
    names: dict[Point, str]


@wire_type("interop/Sets")
@dataclass
class Sets:
    empty: set[str]
    numbers: set[int]
    frozen: frozenset[int]


@wire_type("interop/Optionals")
@dataclass
class Optionals:
    number: int | None = None
    real: float | None = None
    truth: bool | None = None
    text: str | None = None
    point: Point | None = None
    many: list[int] | None = None
    color: Color | None = None


@wire_type("interop/Nested")
@dataclass
class Nested:
    start: Point
    end: Point
    inner: Texts


@wire_type("interop/Tree")
@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=lambda: list[Tree]())  # noqa: PLW0108  # not defined yet
    parent: Tree | None = None


@wire_type("interop/Enums")
@dataclass
class Enums:
    color: Color
    level: Level
    colors: list[Color]
    by_level: dict[Level, str]


@wire_type("interop/Days")
@dataclass
class Days:
    one: datetime.date
    many: list[datetime.date]


@wire_type("interop/Spans")
@dataclass
class Spans:
    one: datetime.timedelta
    many: list[datetime.timedelta]


@wire_type("interop/Instants")
@dataclass
class Instants:
    one: datetime.datetime
    many: list[datetime.datetime]


@wire_type("interop/Money")
@dataclass
class Money:
    one: decimal.Decimal
    many: list[decimal.Decimal]


@wire_type("interop/AlikeTuples")
@dataclass
class AlikeTuples:
    pair: tuple[int, int]
    many: tuple[str, ...]


@wire_type("interop/MixedTuples")
@dataclass
class MixedTuples:
    mixed: tuple[int, str, Point]
    empty: tuple[()]


@wire_type("interop/Ids")
@dataclass
class Ids:
    one: uuid.UUID
    many: list[uuid.UUID]


@wire_type("interop/Clocks")
@dataclass
class Clocks:
    one: datetime.time
    many: list[datetime.time]


@wire_type("interop/Unions")
@dataclass
class Unions:
    number: int | str
    text: int | str
    point: Point | int | None
    color: Color | int
    many: list[int | str | None]
    keyed: dict[int | str, bool | bytes]


@wire_type("interop.names_2.deeply/HTTPName2")
@dataclass
class Names:
    """Names that Fory packs in each of its ways, more than 31 of them, and more than 255 bytes together."""

    a: int = 1
    with_digit_9: int = 2
    _private: int = 3
    camelCase: int = 4
    URLPath: int = 5
    a_name_that_is_so_long_that_its_size_takes_a_byte_of_its_own: int = 6
    f00: int = 100
    f01: int = 101
    f02: int = 102
    f03: int = 103
    f04: int = 104
    f05: int = 105
    f06: int = 106
    f07: int = 107
    f08: int = 108
    f09: int = 109
    f10: int = 110
    f11: int = 111
    f12: int = 112
    f13: int = 113
    f14: int = 114
    f15: int = 115
    f16: int = 116
    f17: int = 117
    f18: int = 118
    f19: int = 119
    f20: int = 120
    f21: int = 121
    f22: int = 122
    f23: int = 123
    f24: int = 124
    f25: int = 125


@wire_type("interop/Order")
@dataclass
class Order:
    """The version of a class that the other language knows as it is."""

    id: int
    name: str
    weight: float = 1.0


@wire_type("interop/Order")
@dataclass
class LargerOrder:
    """A later version: fields added, and all of them in another order."""

    note: str
    weight: float
    name: str
    tags: list[str]
    at: Point | None
    id: int


@wire_type("interop/Order")
@dataclass
class SmallerOrder:
    """An earlier version."""

    name: str
