"""Values that show what a change of a type does to the wire, and whether what was read says what was sent."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
import uuid
from collections.abc import Mapping
from decimal import Decimal
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin

__all__ = ["Hints", "same", "samples"]

Hints: TypeAlias = Mapping[type, Mapping[str, Any]]
"""The types of each dataclass's fields."""

_UTC = datetime.UTC
_SAMPLES: Mapping[type, tuple[Any, ...]] = {
    bool: (True, False),
    int: (2**53 + 1, 0, -(2**63)),
    float: (1.5, float("nan"), -0.0),
    str: ("", "1", "\N{SNOWMAN}"),
    bytes: (b"x", b""),
    datetime.date: (datetime.date(2000, 2, 29),),
    datetime.datetime: (datetime.datetime(2000, 1, 1, tzinfo=_UTC), datetime.datetime(2000, 1, 1)),  # noqa: DTZ001  # a clock's
    datetime.time: (datetime.time(1, 2, 3, 4),),
    datetime.timedelta: (datetime.timedelta(microseconds=-1),),
    Decimal: (Decimal("1.50"), Decimal("1e300")),
    uuid.UUID: (uuid.UUID(int=7), uuid.UUID(int=2**128 - 1)),
}


def samples(hints: Hints, hint: Any, room: int = 4) -> list[Any]:
    """Some values of a type, so chosen that each member of a union or Enum is among them, ``None``, and what only some readers take."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is type(None):
        return [None]
    if origin is Literal:
        return list(args)
    if origin in (Union, UnionType):
        return [value for arg in args if arg is type(None) or not _is_deep(arg, room) for value in samples(hints, arg, room)]
    if origin is tuple and args[1:] != (...,):
        return _rows(hints, args, room)
    if origin in (list, set, frozenset, tuple):
        inside = samples(hints, args[0], room - 1) if room > 0 else []
        return [cast("Any", origin)(some) for some in ([*inside[:6]], inside[-1:], [])]
    if origin is dict:
        keys, values = (samples(hints, arg, room - 1) if room > 0 else [] for arg in args)
        pairs = zip(itertools.cycle(keys), values, strict=False) if len(values) >= len(keys) else zip(keys, itertools.cycle(values), strict=False)
        return [dict(pairs), *({keys[0]: value} for value in values[:6] if keys), {}]
    if dataclasses.is_dataclass(hint):
        fields = hints[cast("type[Any]", hint)]
        rows = _rows(hints, tuple(fields.values()), room - 1)
        return [cast("type[Any]", hint)(**dict(zip(fields, row, strict=True))) for row in rows]
    return list(hint) if issubclass(hint, enum.Enum) else list(_SAMPLES[hint])


def _is_deep(hint: Any, room: int) -> bool:
    return room <= 0 and dataclasses.is_dataclass(hint)


def _rows(hints: Hints, columns: tuple[Any, ...], room: int) -> list[tuple[Any, ...]]:
    """Each sample of each place at least once, at the most a dozen rows; no two places of one type have the same in a row, if there is a choice."""
    drawn = [samples(hints, column, room) for column in columns]
    number = min(12, max(map(len, drawn), default=1))
    return [tuple(column[(place + shift) % len(column)] for shift, column in enumerate(drawn)) for place in range(number)]


def same(sent: Any, read: Any) -> bool:
    """Whether what was read says what was sent, as far as the reader asks."""
    if isinstance(sent, enum.Enum):
        return isinstance(read, enum.Enum) and _same_member(sent, read)
    if isinstance(sent, list | tuple):
        return isinstance(read, list | tuple) and _same_items(cast("Any", sent), cast("Any", read))
    if isinstance(sent, set | frozenset):
        some, others = list(cast("set[Any]", sent)), list(cast("set[Any]", read)) if isinstance(read, set | frozenset) else []
        return len(some) == len(others) and all(any(same(x, y) for y in others) for x in some)
    if isinstance(sent, dict):
        return isinstance(read, dict) and _same_items(list(cast("dict[Any, Any]", sent).items()), list(cast("dict[Any, Any]", read).items()))
    if dataclasses.is_dataclass(sent):
        return dataclasses.is_dataclass(read) and all(same(getattr(sent, name), getattr(read, name)) for name in _shared_fields(sent, read))
    return _same_scalar(sent, read)


def _same_member(sent: enum.Enum, read: enum.Enum) -> bool:
    """A member may have another name there, but not one that means another member here."""
    return sent.name == read.name or (sent.name not in type(read).__members__ and read.name not in type(sent).__members__)


def _same_items(sent: list[Any], read: list[Any]) -> bool:
    return len(sent) == len(read) and all(map(same, sent, read))


def _shared_fields(sent: Any, read: Any) -> set[str]:
    return {each.name for each in dataclasses.fields(sent)} & {each.name for each in dataclasses.fields(read)}


def _same_scalar(sent: Any, read: Any) -> bool:
    if type(sent) is type(read):
        return repr(sent) == repr(read)
    if isinstance(sent, bool) and isinstance(read, str):
        return read == str(sent).lower()
    return isinstance(sent, int) and not isinstance(read, bool | enum.Enum) and str(int(sent)) == str(read).removesuffix(".0")
