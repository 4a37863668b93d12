"""The values that travel between languages, by name."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Mapping
from typing import Any

from aster.codec import Codec, auto_tag, make_codec, wire_tag, wire_types
from aster.types import SerializationMode
from tests.interop.models import (
    Address,
    AlikeTuples,
    Choice,
    Clocks,
    Color,
    Days,
    Dicts,
    Empty,
    Enums,
    Ids,
    Instants,
    KeyedByPoint,
    LargerAddress,
    LargerOrder,
    Level,
    Lists,
    MixedTuples,
    Money,
    Named,
    NamedAsInJavaScript,
    Names,
    Nested,
    Numbers,
    Optionals,
    Order,
    Point,
    Raw,
    Reals,
    Sets,
    SmallerOrder,
    Spans,
    Texts,
    Tree,
    Truths,
    Unions,
)

_UTC = datetime.UTC
_DAYS = [datetime.date(1970, 1, 1), datetime.date(1969, 12, 31), datetime.date(2024, 2, 29), datetime.date.min, datetime.date.max]
_SPANS = [datetime.timedelta(0), datetime.timedelta(seconds=-1), datetime.timedelta(microseconds=-1), datetime.timedelta(days=1, milliseconds=1)]
_INSTANTS = [
    datetime.datetime(1970, 1, 1, tzinfo=_UTC),
    datetime.datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=_UTC),
    datetime.datetime(2024, 2, 29, 12, 34, 56, 789_123, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    datetime.datetime.min.replace(tzinfo=_UTC),
    datetime.datetime.max.replace(tzinfo=_UTC),
]
_CLOCK_TIMES = [
    datetime.datetime(1970, 1, 1),  # noqa: DTZ001  # what a clock shows: no zone
    datetime.datetime(2024, 10, 27, 2, 30, 0, 999_999, fold=1),  # noqa: DTZ001
    datetime.datetime.min,  # noqa: DTZ901
    datetime.datetime.max.replace(fold=1),  # noqa: DTZ901
]
_SUMS = ["0", "-12.50", "1E+5", "1E-10", str(2**62 - 1), str(2**62), str(-(2**62)), str(-(2**62) - 1), str(2**70), str(-(2**70))]

FIXTURES: Mapping[str, Any] = {
    "empty": Empty(),
    "texts": Texts("abc", ["", "\x00", "\xe9\xff", "\u20ac", "\u65e5\u672c", "\U0001d11e", "x" * 40]),
    "numbers": Numbers(-(2**63), 2**63 - 1, [0, 1, -1, 63, 64, -64, -65, 2**31, -(2**31), 2**53 - 1, 2**53 + 1, 2**55 - 1, 2**55, 2**63 - 1, -(2**63)]),
    "reals": Reals(1.5, [0.0, -0.0, 0.1, -1e300, 5e-324, math.inf, -math.inf, math.nan]),
    "truths": Truths(yes=True, no=False, many=[True, False, True]),
    "raw": Raw(bytes(range(256)), b"", [b"", b"\x00\xff"]),
    "lists": Lists([], [[], ["a"], ["b", "c"]], [1, None, 2], [Point(1, 2), Point(3, 4)]),
    "dicts": Dicts({}, {number: -number for number in range(300)}, {"a": [], "b": ["c"]}, {"here": Point(1, 2), "nowhere": None}),
    "keyed by point": KeyedByPoint({Point(1, 2): "a"}),
    "sets": Sets(set(), {1, 2, 3}, frozenset({4, 5})),
    "optionals present": Optionals(5, 2.5, False, "", Point(1, 2), [], Color.RED),
    "optionals absent": Optionals(),
    "nested": Nested(Point(1, -2), Point(3, 4), Texts("in", ["ner"])),
    "tree": Tree("root", [Tree("a", [Tree("b")]), Tree("c")], Tree("above")),
    "enums": Enums(Color.BLUE, Level.HIGH, [Color.RED, Color.GREEN], {Level.LOW: "low"}),
    "days": Days(_DAYS[2], _DAYS),
    "spans": Spans(datetime.timedelta(hours=-1, microseconds=500), _SPANS),
    "instants": Instants(_INSTANTS[2], _INSTANTS),
    "instants of a clock": Instants(_CLOCK_TIMES[1], _CLOCK_TIMES),
    "money": Money(decimal.Decimal("9.99"), [decimal.Decimal(text) for text in _SUMS]),
    "alike tuples": AlikeTuples((1, -2), ("a", "b")),
    "mixed tuples": MixedTuples((1, "a", Point(1, 2)), ()),
    "ids": Ids(uuid.UUID(int=1), [uuid.UUID("12345678-1234-5678-1234-567812345678")]),
    "clocks": Clocks(datetime.time(1, 2, 3, 4), [datetime.time.min, datetime.time.max, datetime.time(2, 30, fold=1)]),
    "unions": Unions(1, "a", Point(1, 2), Color.GREEN, [1, "a", None], {1: True, "a": b"\x01"}),
    "choice": Choice(0.1),
    "address": Address("Main Street", 5),
    "larger address": LargerAddress("Main Street", 5, "Springfield"),
    "names": Names(*range(1, 33)),
    "named": Named("Ada", 1234),
    "named as in javascript": NamedAsInJavaScript("Ada", 1234),
    "order": Order(7, "seven", 2.5),
    "larger order": LargerOrder("new", 2.5, "seven", ["a", "b"], Point(1, 2), 7),
    "smaller order": SmallerOrder("seven"),
}


def class_of(value: object) -> type[Any]:
    """``type(value)``, in a form that leaves no unknown type behind."""
    return type(value)


def tags_of(cls: type[Any]) -> dict[type, str]:
    """The wire tags of a class and of all that it reaches."""
    return {reached: wire_tag(reached) or auto_tag(reached) for reached in wire_types([cls])}


def codec_of(cls: type[Any]) -> Codec:
    return make_codec(SerializationMode.XLANG, tags_of(cls))


def encoded(value: object) -> bytes:
    cls = class_of(value)
    return codec_of(cls).encoder(cls)(value)
