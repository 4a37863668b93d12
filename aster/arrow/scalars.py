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


def _same_floats(before: float, after: float) -> bool:
    return before == after or (before != before and after != after)  # two NaNs


def _same_decimals(before: str, after: str) -> bool:
    """``1.50`` and ``1.5`` are."""
    one, other = decimal.Decimal(before), decimal.Decimal(after)
    return one == other or (one.is_nan() and other.is_nan())


_Convert: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]
_Same: TypeAlias = Callable[[Any, Any], bool]

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

_SAME: Mapping[type, _Same] = {float: _same_floats, decimal.Decimal: _same_decimals}
"""What tells that two of the values made are the same though Arrow takes them for different."""

_DIGITS: Mapping[type, Callable[[Any], str | int | decimal.Decimal]] = {
    str: str,
    int: int,
    float: lambda value: repr(float(value)),  # the fewest digits that read back as this float
    decimal.Decimal: lambda value: value,
}
"""What has digits for a decimal of Arrow, and where they are."""


def scalar_column(where: str, type_: type, asked: Any) -> tuple[Any, Build]:
    """The type of Arrow for a type of ours, and what makes an array of its values.

    Args:
        where: what messages call the column.
        type_: the type of the values.
        asked: the type that a schema asks for, or ``None``.

    Raises:
        TypeError: nothing of that type can be made of the values, or not without a loss.
    """
    made, convert = _SCALARS[type_]
    if asked is not None and type_ is datetime.datetime and pa.types.is_timestamp(asked) and asked.tz is None:
        made, convert = pa.timestamp("us"), _clocks
    if asked is not None and type_ in _DIGITS and pa.types.is_decimal(asked):
        made, convert = asked, _decimals(type_, asked)
    return _casting(where, made, convert, asked, _SAME.get(type_))


def _decimals(type_: type, asked: Any) -> _Convert:
    """What makes Decimals of exactly the scale of a decimal of Arrow, which reads beyond its tables, and may crash, where a text has another exponent."""
    context = decimal.Context(prec=asked.precision, traps=[decimal.Inexact, decimal.InvalidOperation])
    unit = decimal.Decimal((0, (1,), -asked.scale))
    digits = _DIGITS[type_]

    def convert(values: Sequence[Any]) -> Sequence[decimal.Decimal]:
        try:
            made = [context.quantize(decimal.Decimal(digits(value)), unit) for value in values]
        except (decimal.Inexact, decimal.InvalidOperation) as exc:
            raise _loss(asked) from exc
        if type_ is str and any(format(context.plus(number), "f") != text for number, text in zip(made, values, strict=True)):
            raise _loss(asked)
        return made

    return convert


def _casting(where: str, made: Any, convert: _Convert, asked: Any, same: _Same | None = None) -> tuple[Any, Build]:
    """The values as what is made of them, cast to what was asked for, which refuses to lose anything."""
    asked = made if asked is None else asked
    cast = _cast(where, made, asked, same)

    def build(values: Sequence[Any]) -> Any:
        try:
            array = pa.array(convert(values), made)
            if isinstance(array, pa.ChunkedArray):
                raise Mismatch(ValueError, "takes more than 2 GiB in one batch: choose a smaller size")
            return cast(array)
        except (ArithmeticError, NotImplementedError, TypeError, ValueError) as exc:
            raise Mismatch(ValueError, f"does not fit in a column of {asked}: {exc}") from exc

    return asked, build


def _cast(where: str, made: Any, asked: Any, same: _Same | None) -> Callable[[Any], Any]:
    """What casts arrays from the one type to the other, and back to see that nothing was lost: of that, a cast of Arrow refuses some kinds only."""
    if made == asked:
        return lambda array: array
    try:
        # Of an array of nothing, it would not look whether it can.
        nulls = pa.array([None], made).cast(asked)
        if _keeps_all(asked):
            return lambda array: array.cast(asked)
        nulls.cast(made)
    except (NotImplementedError, TypeError, ValueError) as exc:
        raise _no_way(where, made, asked) from exc
    if _misleads(made, asked):
        raise _no_way(where, made, asked)

    def cast(array: Any) -> Any:
        there = array.cast(asked)
        there.validate(full=True)  # an int is made a date64 that is no whole day, or a time of more than 24 hours
        back = there.cast(made, safe=False)  # by safe ones, no large int becomes a float; that it is the same is seen here
        if not array.equals(back) and not (same is not None and all(map(same, array.to_pylist(), back.to_pylist()))):
            raise _loss(asked)
        return there

    return cast


def _keeps_all(asked: Any) -> bool:
    """Whether whatever can be cast to this type is in it with all its digits: texts and bytes of any length."""
    types = pa.types
    of_texts = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_one(asked) for is_one in (*of_texts, types.is_binary, types.is_large_binary, types.is_binary_view))


def _misleads(made: Any, asked: Any) -> bool:
    """Whether Arrow has ways there and back that are not to be gone: a bool8 gives back the 5 that it shows as True; for decimals see ``_decimals``."""
    if isinstance(asked, pa.BaseExtensionType):
        return (asked.extension_name == "arrow.bool8" and not pa.types.is_boolean(made)) or _misleads(made, asked.storage_type)
    return _misleads(made, asked.value_type) if pa.types.is_dictionary(asked) else pa.types.is_decimal(asked)


def _loss(asked: Any) -> Mismatch:
    return Mismatch(ValueError, f"does not fit in a column of {asked}: it would not come back as what it is")


def _no_way(where: str, made: Any, asked: Any) -> TypeError:
    return TypeError(f"{where} is {made} in a column, of which the {asked} of the schema cannot be made")


def enum_column(where: str, cls: type[Enum], asked: Any) -> tuple[Any, Build]:
    """The same for the members of an Enum: a dictionary of all names, which is the same in each batch, whatever is asked for in its place."""
    asked = pa.dictionary(pa.int32(), pa.string()) if asked is None else asked
    if not pa.types.is_dictionary(asked):
        return _casting(where, pa.string(), _names, asked)
    places = {name: place for place, name in enumerate(_names(cls))}
    try:
        names = _casting(where, pa.string(), list, asked.value_type)[1](list(places))
    except Mismatch as exc:
        raise _no_way(where, pa.string(), asked) from exc
    _, indices = _casting(where, pa.int32(), lambda values: [places[name] for name in _names(values)], asked.index_type)
    return asked, lambda values: pa.DictionaryArray.from_arrays(indices(values), names, ordered=asked.ordered)
