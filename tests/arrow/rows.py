"""Rows for the tests: a class made at random, values of it, and a judge of what is in a column, which shares nothing with what made it."""

from __future__ import annotations

import datetime
import struct
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, Optional, Union, cast, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from aster.arrow import record_batches
from aster.codec import auto_tag, make_codec, wire_tag, wire_types
from aster.types import SerializationMode
from tests.codec.models import Color, Level, Point, UserId
from tests.codec.values import decimals, floats, integers, texts

__all__ = ["Given", "Rows", "all_batches", "classes", "gather", "same", "views_of"]

Draw = Callable[[st.SearchStrategy[Any]], Any]

_OFFSETS = st.sampled_from([datetime.UTC, datetime.timezone(datetime.timedelta(hours=5, minutes=45)), datetime.timezone(-datetime.timedelta(hours=12))])
_BOUNDS = datetime.datetime(2, 1, 1), datetime.datetime(9998, 12, 31)  # noqa: DTZ001  # the bounds of a clock
_MICROSECOND = datetime.timedelta(microseconds=1)

_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: integers,
    float: floats,
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
    datetime.date: st.dates(),
    datetime.datetime: st.datetimes(*_BOUNDS, timezones=_OFFSETS),
    datetime.time: st.times(),
    datetime.timedelta: st.timedeltas((1 - 2**63) * _MICROSECOND, (2**63 - 1) * _MICROSECOND),
    Decimal: decimals,
    uuid.UUID: st.uuids(),
    UserId: integers,
    Color: st.sampled_from(list(Color)),
    Level: st.sampled_from(list(Level)),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
    Literal[Color.RED]: st.just(Color.RED),
    Point: st.builds(Point, integers, integers),
}
_KEYS: tuple[Any, ...] = (str, int, bool, bytes, datetime.date, uuid.UUID, Color, Point, tuple[int, str], Literal["a", "b"])
_SHORT = 4
"""Items in a container, at the most."""


def _with_more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(_KEYS)
    return st.one_of(
        inner.map(lambda hint: Optional[hint]),  # noqa: UP045  # at run time
        inner.map(lambda hint: list[hint]),
        inner.map(lambda hint: tuple[hint, ...]),
        keys.map(lambda hint: set[hint]),
        keys.map(lambda hint: frozenset[hint]),
        st.tuples(keys, inner).map(lambda pair: dict[pair[0], pair[1]]),
        st.lists(inner, max_size=3).map(lambda hints: tuple[tuple(hints)]),
        st.lists(inner, max_size=3).map(lambda hints: _made("Part", hints)),
    )


def _made(name: str, hints: Sequence[Any]) -> type[Any]:
    return make_dataclass(name, [(f"f{place}", hint) for place, hint in enumerate(hints)], frozen=True)


_HINTS = st.recursive(st.sampled_from(list(_VALUES)), _with_more, max_leaves=4)


def _makes_no_list_of_nothing(cls: type[Any]) -> bool:
    """Whether it can be sent: a list of dataclasses without fields cannot."""
    try:
        wire_types([cls])
    except TypeError:
        return False
    return True


def classes() -> st.SearchStrategy[type[Any]]:
    """Dataclasses of one to four fields."""
    return st.lists(_HINTS, min_size=1, max_size=4).map(lambda hints: _made("Row", hints)).filter(_makes_no_list_of_nothing)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type."""
    args = get_args(hint)
    match get_origin(hint):
        case _ if hint in _VALUES:
            return _VALUES[hint]
        case None:
            return st.builds(hint, **{name: values_of(inner) for name, inner in get_type_hints(hint).items()})
        case origin if origin in (Union, types.UnionType):
            return st.none() | values_of(args[0])
        case origin if origin is dict:
            return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=_SHORT)
        case origin if origin is tuple and args[-1:] != (...,):
            return st.tuples(*map(values_of, args))
        case origin if origin in (set, frozenset):
            return st.sets(values_of(args[0]), max_size=_SHORT).map(cast("Any", origin))
        case origin:
            assert origin in (list, tuple)
            return st.lists(values_of(args[0]), max_size=_SHORT).map(cast("Any", origin))


@dataclass
class Rows:
    """Rows of a class, and how many are to be in a batch."""

    cls: type[Any]
    plain: list[Any]
    size: int

    @classmethod
    def of(cls, row: type[Any]) -> st.SearchStrategy[Rows]:
        return st.builds(Rows, st.just(row), st.lists(values_of(row), max_size=7), st.integers(1, 4))

    @classmethod
    def any(cls) -> st.SearchStrategy[Rows]:
        return classes().flatmap(cls.of)


def views_of(cls: type[Any], rows: Iterable[Any]) -> list[Any]:
    """The rows as a peer receives them that are sent in one stream."""
    codec: Any = make_codec(SerializationMode.ROW, {each: wire_tag(each) or f"{auto_tag(each)}{place}" for place, each in enumerate(wire_types([cls]))})
    encode, decode = codec.encoder(cls), codec.decoder(cls)
    return [decode(encode(row)) for row in rows]


class Given:
    """A stream of rows: an async iterator that raises those that are exceptions, and counts its closings."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = iter(rows)
        self.closings = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        for row in self._rows:
            if issubclass(type(row), Exception):  # not isinstance, which would read the row
                raise row
            return row
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closings += 1


async def all_batches(rows: Iterable[Any], cls: type[Any], **options: Any) -> list[Any]:
    """What comes of some rows."""
    return [batch async for batch in record_batches(Given(rows), cls, **options)]


async def gather(batches: AsyncIterator[Any], got: list[Any]) -> None:
    """Read all batches; ``got`` has those that came before a failure."""
    async for batch in batches:
        got.append(batch)  # noqa: PERF401 (a comprehension would lose them in a failure)


def same(hint: Any, value: Any, got: Any) -> bool:
    """Whether a column shows a value of a type, as Python reads the column."""
    args = get_args(hint)
    origin = get_origin(hint)
    if value is None:
        return got is None and origin in (Union, types.UnionType)
    if origin in (Union, types.UnionType):
        return same(args[0], value, got)
    if is_dataclass(value):
        hints = get_type_hints(type(value))
        names = [field.name for field in fields(value)]
        return list(got) == names and all(same(hints[name], getattr(value, name), got[name]) for name in names)
    if isinstance(value, dict):
        pairs = list(cast("dict[Any, Any]", value).items())
        return len(pairs) == len(got) and all(
            same(args[0], pair[0], key) and same(args[1], pair[1], item) for pair, (key, item) in zip(pairs, got, strict=True)
        )
    if isinstance(value, set | frozenset):
        items = list(cast("set[Any]", value))
        return len(items) == len(got) and all(any(same(args[0], item, other) for other in got) for item in items)
    if origin is tuple and args[-1:] != (...,):
        return list(got) == list(map(str, range(len(args)))) and all(map(same, args, value, got.values()))
    if isinstance(value, list | tuple):
        sequence = cast("list[Any]", value)
        return len(sequence) == len(got) and all(same(args[0], item, other) for item, other in zip(sequence, got, strict=True))
    return _same_scalar(value, got)


def _same_scalar(value: Any, got: Any) -> bool:
    if isinstance(value, Enum):
        return got == value.name
    if isinstance(value, Decimal):
        return type(got) is str and Decimal(got).as_tuple() == value.as_tuple()
    if isinstance(value, uuid.UUID):
        return got == str(value)
    if isinstance(value, float):
        return struct.pack("d", value) == struct.pack("d", got)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC) == got and got.utcoffset() == datetime.timedelta()
    return type(value) is type(got) and value == got
