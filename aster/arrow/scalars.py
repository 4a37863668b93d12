"""Columns of scalars and of the members of Enums."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias

from aster.arrow.engine import pa
from aster.codec.walk import Mismatch

__all__ = ["Build", "enum_column", "scalar_column"]

Build: TypeAlias = Callable[[Sequence[Any]], Any]
"""Makes an array from values, or refuses one of them by a Mismatch."""


def _floats(values: Iterable[Any]) -> list[float]:
    return list(map(float, values))  # an int may stand for one


def _texts(values: Iterable[Any]) -> list[str]:
    return list(map(str, values))


def _names(values: Iterable[Any]) -> list[str]:
    return [member.name for member in values]


def _instants(values: Sequence[datetime.datetime]) -> list[datetime.datetime]:
    if any(value.utcoffset() is None for value in values):
        raise Mismatch(ValueError, "has no time zone, and so names no instant: give it one, or by schema= a timestamp without")
    return [value.astimezone(datetime.UTC) for value in values]  # pyarrow would cut an offset to seconds


def _clocks(values: Sequence[datetime.datetime]) -> Sequence[datetime.datetime]:
    if any(value.utcoffset() is not None for value in values):
        raise Mismatch(ValueError, "has a time zone, and the schema has a timestamp without: give that a zone")
    return values


def _times(values: Sequence[datetime.time]) -> Sequence[datetime.time]:
    if any(value.tzinfo is not None for value in values):
        raise Mismatch(ValueError, "has a time zone, which a time of Arrow cannot hold: make it a datetime")
    return values


_Convert: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]

_SCALARS: Mapping[type, tuple[Any, _Convert]] = {
    str: (pa.string(), list),
    int: (pa.int64(), list),
    float: (pa.float64(), _floats),
    bool: (pa.bool_(), list),
    bytes: (pa.binary(), list),
    datetime.date: (pa.date32(), list),
    datetime.datetime: (pa.timestamp("us", tz="UTC"), _instants),
    datetime.time: (pa.time64("us"), _times),
    datetime.timedelta: (pa.duration("us"), list),
    decimal.Decimal: (pa.string(), _texts),
    uuid.UUID: (pa.string(), _texts),
}
"""What the values of a type become, and what is done to them before."""


def scalar_column(where: str, type_: type, asked: Any) -> tuple[Any, Build]:
    """The type of Arrow for a type of ours, and what makes an array of its values.

    Args:
        where: what messages call the column.
        type_: the type of the values.
        asked: the type that a schema asks for, or ``None``.

    Raises:
        TypeError: nothing of that type can be made of the values.
    """
    made, convert = _SCALARS[type_]
    if asked is not None and type_ is datetime.datetime and pa.types.is_timestamp(asked) and asked.tz is None:
        made, convert = pa.timestamp("us"), _clocks
    return _casting(where, made, convert, asked)


def _casting(where: str, made: Any, convert: _Convert, asked: Any) -> tuple[Any, Build]:
    """The values as what is made of them, cast to what was asked for, which refuses to lose anything."""
    asked = made if asked is None else asked
    try:
        pa.array([], made).cast(asked)
    except (NotImplementedError, TypeError, ValueError) as exc:
        raise TypeError(f"{where} is {made} in a column, of which the {asked} of the schema cannot be made") from exc

    def build(values: Sequence[Any]) -> Any:
        try:
            array = pa.array(convert(values), made)
            if isinstance(array, pa.ChunkedArray):
                raise Mismatch(ValueError, "takes more than 2 GiB in one batch: choose a smaller size")
            return array if made == asked else array.cast(asked)
        except (NotImplementedError, OverflowError, TypeError, ValueError) as exc:
            raise Mismatch(ValueError, f"does not fit in a column of {asked}: {exc}") from exc

    return asked, build


def enum_column(where: str, cls: type[Enum], asked: Any) -> tuple[Any, Build]:
    """The same for the members of an Enum: a dictionary of all names, which is the same in each batch, whatever is asked for in its place."""
    asked = pa.dictionary(pa.int32(), pa.string()) if asked is None else asked
    if not pa.types.is_dictionary(asked):
        return _casting(where, pa.string(), _names, asked)
    places = {name: place for place, name in enumerate(_names(cls))}
    names = _casting(where, pa.string(), list, asked.value_type)[1](list(places))
    _, indices = _casting(where, pa.int32(), lambda values: [places[name] for name in _names(values)], asked.index_type)
    return asked, lambda values: pa.DictionaryArray.from_arrays(indices(values), names, ordered=asked.ordered)
