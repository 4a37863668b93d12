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


@wire_type("interop/Address")
@dataclass
class Address:
    """Names with an underscore where JavaScript's spelling has no place for it."""

    line_1: str
    _hidden: int


@wire_type("interop/Address")
@dataclass
class LargerAddress:
    line_1: str
    _hidden: int
    city: str


@wire_type("interop/Choice")
@dataclass
class Choice:
    value: float | bytes | str


@wire_type("interop.names_2.deeply/HTTPName2")
@dataclass
class Names:
    """Names that Fory packs in each of its ways, more than 31 of them, and more than 255 bytes together."""

    a: int
    with_digit_9: int
    _private: int
    camelCase: int
    URLPath: int
    a_name_that_is_so_long_that_its_size_takes_a_byte_of_its_own: int
    f00: int
    f01: int
    f02: int
    f03: int
    f04: int
    f05: int
    f06: int
    f07: int
    f08: int
    f09: int
    f10: int
    f11: int
    f12: int
    f13: int
    f14: int
    f15: int
    f16: int
    f17: int
    f18: int
    f19: int
    f20: int
    f21: int
    f22: int
    f23: int
    f24: int
    f25: int


@wire_type("interop/Named")
@dataclass
class Named:
    """Named as is usual in Python."""

    display_name: str
    zip_code: int


@wire_type("interop/Named")
@dataclass
class NamedAsInJavaScript:
    """The same class, with the names that JavaScript has for its fields."""

    displayName: str = ""
    zipCode: int = 0


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

    note: str = "none"
    weight: float = 1.0
    name: str = ""
    tags: list[str] = field(default_factory=list[str])
    at: Point | None = None
    id: int = 0


@wire_type("interop/Order")
@dataclass
class SmallerOrder:
    """An earlier version."""

    name: str
