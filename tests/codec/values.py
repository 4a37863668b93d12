"""Strategies for values of declared types, and what it means that one arrived exactly."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import functools
import struct
import uuid
from enum import Enum
from typing import Any, Final, cast, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from tests.codec.models import Checked, Tree


def _decimal(digits: int, exponent: int) -> decimal.Decimal:
    return decimal.Decimal(digits).scaleb(exponent)


def _checked(low: int, span: int) -> Checked:
    return Checked(low, low + span)


# Hypothesis draws surrogates unless told not to; they have a test of their own.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), -(2**31) - 1, -1, 0, 2**31, 2**53 + 1, 2**63 - 1])
floats = st.floats(width=64)
# The exponent is kept within what Fory sends; -0 arrives as 0 (see identical).
decimals = st.builds(_decimal, st.integers(-(10**27), 10**27), st.integers(-900, 900))
instants = st.datetimes(timezones=st.timezones() | st.just(datetime.UTC), allow_imaginary=False).filter(lambda value: 1 < value.year < 9999)
DATETIME_ENDS = (datetime.datetime.min, datetime.datetime.max)  # noqa: DTZ901  # what a clock shows: no zone


def _clock(shown: datetime.datetime, fold: int) -> datetime.datetime:
    return shown.replace(fold=fold)


clocks = st.builds(_clock, st.datetimes() | st.sampled_from(DATETIME_ENDS), st.integers(0, 1))
spans = st.timedeltas(datetime.timedelta(microseconds=-(2**63)), datetime.timedelta(microseconds=2**63 - 1))

for type_, strategy in {
    str: texts,
    int: integers,
    float: floats,
    decimal.Decimal: decimals,
    datetime.datetime: instants | clocks,
    datetime.timedelta: spans,
}.items():
    st.register_type_strategy(type_, strategy)
st.register_type_strategy(uuid.UUID, st.uuids())
st.register_type_strategy(datetime.time, st.times())
st.register_type_strategy(Checked, st.builds(_checked, st.integers(-100, 100), st.integers(0, 100)))

# Drawn field by field, trees grow until Hypothesis gives up on them.
_trees = st.recursive(st.builds(Tree, texts), lambda inner: st.builds(Tree, texts, st.lists(inner, max_size=3), st.none() | inner), max_leaves=8)
st.register_type_strategy(Tree, _trees)

# Hypothesis gives a container five elements on average, so that three inside each other have 125 of the innermost and take most of a test's time.
_GRID = dict[str, list[dict[int, tuple[bool, bytes]]]]
_grids = st.dictionaries(texts, st.lists(st.dictionaries(integers, st.tuples(st.booleans(), st.binary(max_size=20)), max_size=4), max_size=4), max_size=4)


@functools.cache  # a strategy of 15 containers takes longer to make than its values
def values_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Instances of a dataclass with every field drawn, those with defaults too."""
    hints = get_type_hints(cls, include_extras=True)
    if cls in (Checked, Tree):
        return st.from_type(cls)
    return st.builds(cls, **{field.name: _values_for(_without_final(hints[field.name])) for field in dataclasses.fields(cls) if field.init})


def _values_for(hint: Any) -> st.SearchStrategy[Any]:
    return _grids if hint == _GRID else st.from_type(hint)


def _without_final(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Final else hint


def identical(a: Any, b: Any) -> bool:
    """Whether two values are of the same types all the way down and equal, NaNs and signed zeros told apart. An instant may be in another zone."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, Enum):
        return a is b
    if dataclasses.is_dataclass(a):
        return all(identical(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if isinstance(a, list | tuple):
        left, right = cast("list[Any]", a), cast("list[Any]", b)
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(a, dict):
        first, second = cast("dict[Any, Any]", a), cast("dict[Any, Any]", b)
        return identical(list(first.items()), list(second.items()))
    if isinstance(a, set | frozenset):
        some, others = list(cast("set[Any]", a)), list(cast("set[Any]", b))
        return len(some) == len(others) and all(any(identical(x, y) for y in others) for x in some)
    if isinstance(a, decimal.Decimal):
        return a.as_tuple()[1:] == b.as_tuple()[1:] and a == b  # 1.0 is not 1.00; -0 arrives as 0
    if isinstance(a, datetime.time):
        return (a, a.fold) == (b, b.fold)
    if isinstance(a, datetime.datetime):
        if a.tzinfo is None or b.tzinfo is None:
            return (a, a.fold, a.tzinfo) == (b, b.fold, b.tzinfo)
        return a.astimezone(datetime.UTC) == b.astimezone(datetime.UTC)  # plain == denies equality in the hour that a clock repeats
    return bool(a == b)
