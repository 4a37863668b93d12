"""Dataclasses whose rows are fuzzed, and values of them: those that the codec's tests send, and some that are large, wide, deep, or made for sets."""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from aster.codec import make_codec, wire_type
from aster.codec.row import RowCodec
from aster.types import SerializationMode
from tests.codec.models import MESSAGES, Color, tags_of
from tests.fuzz.row_reading import LONGEST
from tests.fuzz.values import value_of

__all__ = ["CODEC", "HEADS", "ROOTS", "Anything", "Bulk", "Keyed", "Nest", "Spans", "Sparse", "message_of"]


@wire_type("tests.fuzz/Node")
@dataclass
class Node:
    text: str = ""
    left: Node | None = None
    right: Node | None = None


@wire_type("tests.fuzz/Bulk")
@dataclass
class Bulk:
    """Of each kind of list and dict as much as a row has place for."""

    flags: list[bool] = field(default_factory=list[bool])
    gaps: list[bool | None] = field(default_factory=list[bool | None])
    bits: set[bool] = field(default_factory=set[bool])
    numbers: list[int] = field(default_factory=list[int])
    reals: tuple[float, ...] = ()
    days: list[datetime.date] = field(default_factory=list[datetime.date])
    clocks: list[datetime.time] = field(default_factory=list[datetime.time])
    instants: list[datetime.datetime | None] = field(default_factory=list[datetime.datetime | None])
    amounts: list[Decimal] = field(default_factory=list[Decimal])
    texts: list[str] = field(default_factory=list[str])
    blobs: list[bytes] = field(default_factory=list[bytes])
    shades: list[Color] = field(default_factory=list[Color])
    nodes: list[Node] = field(default_factory=list[Node])
    lists: list[list[str]] = field(default_factory=list[list[str]])
    pairs: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    either: list[int | str | Node] = field(default_factory=list[int | str | Node])
    table: dict[str, int] = field(default_factory=dict[str, int])
    by_number: dict[int, Node] = field(default_factory=dict[int, Node])
    ids: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    dates: set[datetime.date] = field(default_factory=set[datetime.date])
    by_day: dict[datetime.date, bool] = field(default_factory=dict[datetime.date, bool])
    words: frozenset[tuple[str, ...]] = frozenset()
    chain: Node | None = None
    blob: bytes = b""


@wire_type("tests.fuzz/Anything")
@dataclass
class Anything:
    """Takes nearly any type that a peer declares."""

    value: (
        str
        | int
        | float
        | bool
        | bytes
        | datetime.date
        | datetime.datetime
        | datetime.time
        | datetime.timedelta
        | Decimal
        | Color
        | Node
        | list[int | str | bool | uuid.UUID]
        | uuid.UUID
        | None
    ) = None


@wire_type("tests.fuzz/Key")
@dataclass(frozen=True)
class Key:
    span: datetime.timedelta
    amount: Decimal


@wire_type("tests.fuzz/Keyed")
@dataclass
class Keyed:
    """What has values with one hash, if somebody looks for them."""

    ids: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    amounts: frozenset[Key] = frozenset()
    keys: dict[Key, int] = field(default_factory=dict[Key, int])
    pairs: set[tuple[int, uuid.UUID]] = field(default_factory=set[tuple[int, uuid.UUID]])


@wire_type("tests.fuzz/Span")
@dataclass
class Span:
    """Refuses some values."""

    low: int = 0
    high: int = 0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


@wire_type("tests.fuzz/Spans")
@dataclass
class Spans:
    first: Span = field(default_factory=Span)
    more: list[Span] = field(default_factory=list[Span])
    by_name: dict[str, Span | None] = field(default_factory=dict[str, Span | None])
    either: Span | int = 0


@wire_type("tests.fuzz/Nest")
@dataclass
class Nest:
    """Has much between a dataclass and the next."""

    inner: dict[str, list[tuple[int, Nest | dict[str, list[Nest]] | None]]] = field(
        default_factory=dict[str, list[tuple[int, "Nest | dict[str, list[Nest]] | None"]]]
    )


if TYPE_CHECKING:

    class Defaulted: ...

else:
    Defaulted = make_dataclass("Defaulted", [(f"field{number}", list[int], field(default_factory=list[int])) for number in range(40)])
    Defaulted = wire_type("tests.fuzz/Defaulted")(Defaulted)


@wire_type("tests.fuzz/Sparse")
@dataclass
class Sparse:
    """Has many of what a peer may leave out nearly all of."""

    items: list[Defaulted] = field(default_factory=list[Defaulted])
    by_name: dict[str, Defaulted] = field(default_factory=dict[str, Defaulted])


Wide = make_dataclass("Wide", [(f"field{number}", int | None if number % 2 else str | None, field(default=None)) for number in range(128)])

ROOTS: Sequence[type[Any]] = (*MESSAGES, Anything, Bulk, Keyed, Nest, Spans, Sparse, Wide)
CODEC = cast("RowCodec", make_codec(SerializationMode.ROW, tags_of(*ROOTS)))
HEADS: Mapping[type, bytes] = {root: CODEC.encoder(root).prefix for root in ROOTS}
"""What the messages of each begin with."""


# Values

_PRIME = 2**61 - 1
"""Numbers that differ by it have one hash."""


def _text(chance: random.Random) -> str:
    return chance.choice(("", "a", "é", "word", "x" * 30))


def _instant(chance: random.Random) -> datetime.datetime:
    return datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=chance.randrange(10**15))


def _either(chance: random.Random) -> int | str | Node:
    return chance.choice((7, "seven", Node("seven")))


def _count_of(size: int, each: int) -> range:
    return range(max(1, size // each))


_FILLED: Mapping[str, Callable[[random.Random, int], Any]] = {
    "flags": lambda chance, size: [chance.random() < 0.5 for _ in _count_of(size, 1)],
    "gaps": lambda chance, size: [chance.choice((True, False, None)) for _ in _count_of(size, 1)],
    "bits": lambda chance, size: {chance.random() < 0.5 for _ in range(2)},
    "numbers": lambda chance, size: [chance.randrange(-(2**63), 2**63) for _ in _count_of(size, 8)],
    "reals": lambda chance, size: tuple(chance.random() for _ in _count_of(size, 8)),
    "days": lambda chance, size: [datetime.date.fromordinal(chance.randrange(1, 3_000_000)) for _ in _count_of(size, 4)],
    "clocks": lambda chance, size: [datetime.time(chance.randrange(24), chance.randrange(60)) for _ in _count_of(size, 8)],
    "instants": lambda chance, size: [_instant(chance) if chance.random() < 0.8 else None for _ in _count_of(size, 8)],
    "amounts": lambda chance, size: [Decimal(chance.choice(("0", "-1.50", "1E+10000", "9" * 90))) for _ in _count_of(size, 40)],
    "texts": lambda chance, size: [_text(chance) for _ in _count_of(size, 16)],
    "blobs": lambda chance, size: [b""] * (size // 8),
    "shades": lambda chance, size: [chance.choice(list(Color)) for _ in _count_of(size, 16)],
    "nodes": lambda chance, size: [Node(_text(chance)) for _ in _count_of(size, 44)],
    "lists": lambda chance, size: [[_text(chance)] if chance.random() < 0.2 else [] for _ in _count_of(size, 20)],
    "pairs": lambda chance, size: [(number, "") for number in _count_of(size, 32)],
    "either": lambda chance, size: [_either(chance) for _ in _count_of(size, 60)],
    "table": lambda chance, size: {str(number): number for number in _count_of(size, 24)},
    "by_number": lambda chance, size: {number: Node() for number in _count_of(size, 48)},
    "ids": lambda chance, size: {uuid.UUID(int=chance.getrandbits(128)) for _ in _count_of(size, 24)},
    "dates": lambda chance, size: {datetime.date.fromordinal(1 + number) for number in _count_of(size, 4)},
    "by_day": lambda chance, size: {datetime.date.fromordinal(1 + number): True for number in _count_of(size, 5)},
    "words": lambda chance, size: frozenset((str(number),) * (number % 3) for number in _count_of(size, 56)),
    "chain": lambda chance, size: _chain(min(48, size // 32)),
    "blob": lambda chance, size: chance.randbytes(size),
}


def _chain(length: int) -> Node:
    node = Node("end")
    for place in range(length):
        node = Node("", node) if place % 2 else Node("", None, node)
    return node


def _bulk(chance: random.Random) -> Bulk:
    size = chance.choice((100, 100, 100, 500, 500, 500, 1_000, 1_000, 4_000, 16_000, LONGEST - 1_200)) if chance.random() < 0.5 else 200
    names = chance.sample(list(_FILLED), chance.choice((1, 1, 2, 4)))
    return Bulk(**{name: _FILLED[name](chance, size // len(names)) for name in names})


def _flood(chance: random.Random) -> list[int]:
    """Numbers in groups that have one hash each, some with as many as are accepted, about."""
    groups, size = chance.choice(((1, 2), (1, 34), (1, 33), (1, 200), (3, 30), (40, 32), (20, 5)))
    return [first + _PRIME * number for first in range(1, groups + 1) for number in range(size)]


def _keyed(chance: random.Random) -> Keyed:
    numbers = _flood(chance)
    match chance.randrange(4):
        case 0:
            return Keyed(ids={uuid.UUID(int=number) for number in numbers})
        case 1:
            return Keyed(amounts=frozenset(Key(datetime.timedelta(), Decimal(number)) for number in numbers))
        case 2:
            return Keyed(keys={Key(datetime.timedelta(chance.randrange(2)), Decimal(number)): 1 for number in numbers})
        case _:
            return Keyed(pairs={(chance.randrange(2), uuid.UUID(int=number)) for number in numbers})


def _nest(chance: random.Random) -> Nest:
    nest = Nest()
    for _ in range(chance.choice((0, 1, 2, 5, 20, 45, 49))):
        nest = Nest({"key": [(1, nest)]}) if chance.random() < 0.5 else Nest({"": [(0, {"inner": [nest]}), (2, None)]})
    return nest


def _spans(chance: random.Random) -> Spans:
    good, bad = Span(1, 2), Span()
    bad.low = chance.choice((0, 0, 7))
    return Spans(good, [good, bad] * chance.randrange(3), {"good": good, "bad": bad, "none": None}, chance.choice((good, bad, 7)))


_MADE: Mapping[type, Callable[[random.Random], Any]] = {Bulk: _bulk, Keyed: _keyed, Nest: _nest, Spans: _spans}


def message_of(root: type[Any], chance: random.Random) -> bytes:
    """An honest message: its schema, and its row."""
    make = _MADE.get(root)
    return CODEC.encoder(root)(value_of(root, chance) if make is None else make(chance))
