"""In whatever type a schema asks for, a value is what it was, or it is refused."""

from __future__ import annotations

import datetime
import math
import re
import subprocess
import sys
import uuid
from dataclasses import make_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.arrow import record_batches
from aster.arrow.engine import pa
from tests.arrow.rows import Given, all_batches, values_of

pytestmark = pytest.mark.anyio

_UNITS = ("s", "ms", "us", "ns")
_ZONES = (None, "UTC", "Europe/Berlin")
_NEWER = (("decimal32", (5, 2)), ("decimal64", (10, 2)), ("bool8", ()), ("json_", ()), ("uuid", ()))
"""Types that not each version of pyarrow has."""


def _types() -> dict[str, Any]:
    """Types that a schema may ask for, many of them for none of ours, by their names."""
    types = [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(4), pa.bool_()),
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
        *(pa.decimal128(1), pa.decimal128(5, 2), pa.decimal128(38, 19), pa.decimal128(38, 38), pa.decimal128(5, -2), pa.decimal256(76, 2)),
        *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
        *(pa.timestamp(unit, zone) for unit in _UNITS for zone in _ZONES),
        *map(pa.duration, _UNITS),
        *(pa.dictionary(pa.int8(), type_) for type_ in (pa.string(), pa.binary(), pa.int64(), pa.float32(), pa.date64(), pa.decimal128(5, 2))),
        *(pa.list_(pa.string()), pa.null(), pa.month_day_nano_interval(), pa.run_end_encoded(pa.int32(), pa.string())),
        *(getattr(pa, name)(*args) for name, args in _NEWER if hasattr(pa, name)),
    ]
    return {str(type_): type_ for type_ in types}


_TYPES = _types()

_MADE: dict[Any, Any] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    datetime.date: pa.date32(),
    datetime.datetime: pa.timestamp("us", tz="UTC"),
    datetime.time: pa.time64("us"),
    datetime.timedelta: pa.duration("us"),
    Decimal: pa.string(),
    uuid.UUID: pa.string(),
}

_MICROSECOND = datetime.timedelta(microseconds=1)

# Beside what is anywhere: what fits somewhere, or nearly.
_LIKELY: dict[Any, st.SearchStrategy[Any]] = {
    str: st.from_regex(r"-?[0-9]{1,4}(\.[0-9]{1,3})?(E[+-]?[0-9]{1,3})?|true|nan|[a-z]{4}|2026-01-01( 00:00:00(\.000000)?Z?)?", fullmatch=True),
    int: st.integers(-3, 300) | st.integers(-3, 3).map(lambda days: days * 86_400_000),
    float: st.integers(-300, 300).map(lambda number: number / 8) | st.integers(-300, 300).map(lambda number: number / 100),
    bytes: st.binary(min_size=4, max_size=4) | st.sampled_from([b"1", b"x" * 16]),
    datetime.datetime: st.dates(datetime.date(1970, 1, 1)).map(lambda day: datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)),
    datetime.time: st.integers(0, 23).map(datetime.time),
    datetime.timedelta: st.integers(-300, 300).map(lambda seconds: datetime.timedelta(seconds=seconds)),
    Decimal: st.decimals(-2000, 2000, places=2) | st.sampled_from([*map(Decimal, ("NaN", "-Infinity", "sNaN", "-0", "1.10", "1E+2", "1E-77", "1E+999999"))]),
}


def _row_class(hint: Any) -> type[Any]:
    return make_dataclass("Row", [("value", hint)])


_CLASSES = {hint: _row_class(hint) for hint in _MADE}


def _values(hint: Any) -> st.SearchStrategy[Any]:
    return values_of(hint) | _LIKELY.get(hint, st.nothing())


def _shown(hint: Any, column: Any) -> list[Any]:
    """What Python reads in a column, or pyarrow where that is an instant beyond those of Python, or between two of them."""
    if hint is int and pa.types.is_temporal(column.type):
        return column.cast(pa.int64()).to_pylist()
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        assert hint is str  # which may be in the year 0
        return column.cast(pa.string()).to_pylist()


def _is_shown(hint: Any, value: Any, shown: Any, asked: Any) -> bool:
    """Whether what Python reads in a column is the value still: cast back, where pyarrow can, as a value of its own."""
    if isinstance(shown, Decimal):
        return shown == (Decimal(repr(value)) if hint is float else Decimal(value)) and (hint is not str or format(shown, "f") == value)
    if hint is datetime.time and isinstance(shown, str):
        return datetime.time.fromisoformat(shown) == value
    if hint is datetime.timedelta and isinstance(shown, str):
        return int(shown) * _MICROSECOND == value
    if isinstance(shown, uuid.UUID):
        return shown.bytes == (value if hint is bytes else value.encode())
    plain = pa.string() if isinstance(shown, str) else pa.bool_() if isinstance(shown, bool) else None
    type_ = plain or (asked.value_type if pa.types.is_dictionary(asked) else asked)
    back = pa.array([shown], type_).cast(_MADE[hint], safe=False)[0].as_py()
    if hint is Decimal:
        return back == str(value) or Decimal(back) == value or Decimal(back).is_nan() is value.is_nan() is True
    if hint is float:
        return back == value or math.isnan(back) is math.isnan(value) is True
    return back == (str(value) if hint is uuid.UUID else value)


_CASES = {hint: st.tuples(st.sampled_from(list(_TYPES)), st.lists(_values(hint), min_size=1, max_size=3)) for hint in _MADE}


@pytest.mark.timeout(max(60, settings().max_examples))
@given(st.fixed_dictionaries(_CASES))
async def test_a_column_gives_back_what_it_was_given_or_refuses_it(cases: dict[Any, tuple[str, list[Any]]]) -> None:
    for hint, (name, values) in cases.items():
        schema = pa.schema([("value", _TYPES[name])])
        cls = _CLASSES[hint]
        try:
            (batch,) = await all_batches(map(cls, values), cls, schema=schema)
        except (TypeError, ValueError):
            continue
        batch.validate(full=True)
        assert batch.schema == schema
        for value, got in zip(values, _shown(hint, batch.column(0)), strict=True):
            assert _is_shown(hint, value, got, schema.field(0).type), (name, value, got)


def _utc(*parts: int) -> datetime.datetime:
    return datetime.datetime(*parts, tzinfo=datetime.UTC)


_DAY = _utc(2026, 1, 1)
_LONG = Decimal(12345678901234567890123)


@pytest.mark.parametrize(
    ("hint", "value", "asked"),
    [
        (float, 1e39, pa.float32()),
        (float, 0.1, pa.float32()),
        (float, 1e5, pa.float16()),
        (float, 0.125, pa.decimal128(5, 2)),
        (float, math.nan, pa.decimal128(5, 2)),
        (float, math.inf, pa.decimal128(5, 2)),
        (float, 0.5, pa.bool_()),
        (float, math.nan, pa.bool_()),
        (float, 2.0**63, pa.int64()),
        (Decimal, _LONG, pa.float64()),
        (Decimal, Decimal("1E+400"), pa.float64()),
        (Decimal, Decimal("1E-400"), pa.float64()),
        (Decimal, Decimal("1.005"), pa.decimal128(5, 2)),
        (Decimal, Decimal(1000), pa.decimal128(5, 2)),
        (Decimal, Decimal("1E-77"), pa.decimal128(5, 2)),
        (Decimal, Decimal("NaN"), pa.decimal128(5, 2)),
        (Decimal, Decimal(1), pa.bool_()),
        (int, 5, pa.bool_()),
        (int, 5, pa.date64()),
        (int, -1, pa.time64("us")),
        (int, 1000, pa.decimal128(5, 2)),
        (str, "007", pa.int64()),
        (str, "007", pa.float64()),
        (str, "007", pa.dictionary(pa.int8(), pa.int64())),
        (str, "007.00", pa.decimal128(5, 2)),
        (str, "-0.00", pa.decimal128(5, 2)),
        (str, "1_0.00", pa.decimal128(6, 2)),
        (str, "x", pa.decimal128(5, 2)),
        (str, "1" + "0" * 200, pa.decimal128(5)),
        (str, "1E+400", pa.float64()),
        (str, "True", pa.bool_()),
        (str, "2026-01-01T00:00:00", pa.timestamp("us")),
        (datetime.datetime, _utc(2026, 1, 1, 5, 0, 0, 5), pa.date32()),
        (datetime.datetime, _utc(2026, 1, 1, 5), pa.date64()),
        (datetime.datetime, _utc(2026, 1, 1, 5, 0, 0, 5), pa.timestamp("ms", "UTC")),
        (datetime.datetime, _utc(9999, 1, 1), pa.timestamp("ns", "UTC")),
        (datetime.date, datetime.date(9999, 1, 1), pa.timestamp("ns")),
        (datetime.time, datetime.time(1, 0, 0, 5), pa.time32("ms")),
        (datetime.timedelta, datetime.timedelta(milliseconds=1), pa.duration("s")),
    ],
    ids=str,
)
async def test_what_would_come_back_as_something_else_is_refused(hint: Any, value: Any, asked: Any) -> None:
    cls = _CLASSES[hint]
    with pytest.raises(ValueError, match=re.escape(f"row 0 of the stream: Row.value does not fit in a column of {asked}")):
        await all_batches([cls(value)], cls, schema=pa.schema([("value", asked)]))


@pytest.mark.parametrize(
    ("hint", "value", "asked", "shown"),
    [
        (float, 0.5, pa.float32(), 0.5),
        (float, -0.0, pa.float32(), -0.0),
        (float, math.inf, pa.float32(), math.inf),
        (float, 2.0**60, pa.int64(), 2**60),
        (float, 0.125, pa.decimal128(5, 3), Decimal("0.125")),
        (float, 0.1, pa.decimal128(5, 2), Decimal("0.10")),
        (float, 2, pa.decimal128(5, 2), Decimal("2.00")),
        (float, 2**53 + 1, pa.decimal128(38, 19), Decimal(2**53)),
        (float, 0.1, pa.string(), "0.1"),
        (float, 1.0, pa.bool_(), True),
        (Decimal, Decimal("1.10"), pa.float64(), 1.1),
        (Decimal, Decimal("1.500"), pa.decimal128(5, 2), Decimal("1.50")),
        (Decimal, Decimal("0E-999999"), pa.decimal128(5, 2), Decimal("0.00")),
        (Decimal, Decimal("12E+2"), pa.decimal128(5, -2), Decimal(1200)),
        (Decimal, _LONG, pa.decimal256(50, 2), _LONG),
        (Decimal, Decimal("Infinity"), pa.float64(), math.inf),
        (int, 127, pa.int8(), 127),
        (int, 255, pa.uint8(), 255),
        (int, -(2**15), pa.int16(), -(2**15)),
        (int, 2**53, pa.float64(), 2.0**53),
        (int, 1, pa.bool_(), True),
        (int, 7, pa.decimal128(5, 2), Decimal("7.00")),
        (int, 86_400_000, pa.date64(), datetime.date(1970, 1, 2)),
        (str, "7", pa.int64(), 7),
        (str, "19.90", pa.decimal128(12, 2), Decimal("19.90")),
        (str, "0.0000000001", pa.decimal128(12, 10), Decimal("1E-10")),
        (str, "x", pa.dictionary(pa.int8(), pa.string()), "x"),
        (str, "x", pa.string_view(), "x"),
        (bytes, b"x", pa.large_binary(), b"x"),
        (bytes, b"abcd", pa.binary(4), b"abcd"),
        (bool, True, pa.int8(), 1),
        (datetime.date, _DAY.date(), pa.date64(), _DAY.date()),
        (datetime.date, _DAY.date(), pa.timestamp("s", "UTC"), _DAY),
        (datetime.date, _DAY.date(), pa.string_view(), "2026-01-01"),
        (datetime.datetime, _DAY, pa.timestamp("s", "UTC"), _DAY),
        (datetime.datetime, _DAY, pa.timestamp("ms", "Europe/Berlin"), _DAY),
        (datetime.datetime, _DAY, pa.date32(), _DAY.date()),
        (datetime.time, datetime.time(1), pa.time32("s"), datetime.time(1)),
        (datetime.time, datetime.time(1), pa.string(), "01:00:00.000000"),
        (datetime.timedelta, datetime.timedelta(1), pa.duration("s"), datetime.timedelta(1)),
        (datetime.timedelta, datetime.timedelta(1), pa.int64(), 86_400_000_000),
    ],
    ids=str,
)
async def test_what_comes_back_as_it_was_may_be_asked_for(hint: Any, value: Any, asked: Any, shown: Any) -> None:
    cls = _CLASSES[hint]
    (batch,) = await all_batches([cls(value)] * 2, cls, schema=pa.schema([("value", asked)]))
    assert batch.column(0).to_pylist() == [shown] * 2


async def test_nan_comes_back_as_it_was_and_so_does_what_is_beside_it() -> None:
    cls = _CLASSES[float]
    schema = pa.schema([("value", pa.float32())])
    (batch,) = await all_batches([cls(math.nan), cls(0.5)], cls, schema=schema)
    assert math.isnan(batch.column(0)[0].as_py())
    (batch,) = await all_batches(map(_CLASSES[Decimal], [Decimal("NaN"), Decimal("0.50")]), _CLASSES[Decimal], schema=schema)
    assert math.isnan(batch.column(0)[0].as_py())
    with pytest.raises(ValueError, match="row 2 of the stream"):
        await all_batches([cls(math.nan), cls(0.5), cls(0.1)], cls, schema=schema)


async def test_an_optional_is_cast_where_it_is_there() -> None:
    cls = _row_class(float | None)
    schema = pa.schema([("value", pa.float32())])
    (batch,) = await all_batches([cls(None), cls(0.5)], cls, schema=schema)
    assert batch.column(0).to_pylist() == [None, 0.5]


@pytest.mark.parametrize(
    ("hint", "asked"),
    [
        (datetime.datetime, pa.time64("us")),
        (datetime.datetime, pa.time32("s")),
        (bytes, pa.int64()),
        (bytes, pa.float64()),
        (bytes, pa.decimal128(5, 2)),
        (bytes, pa.dictionary(pa.int8(), pa.decimal128(5, 2))),
        (str, pa.dictionary(pa.int8(), pa.decimal128(5, 2))),
        (uuid.UUID, pa.decimal128(5, 2)),
        (int, pa.dictionary(pa.int8(), pa.int64())),
        *((int, type_) for name, type_ in _TYPES.items() if "bool8" in name or "uuid" in name),
    ],
    ids=str,
)
def test_a_type_from_which_nothing_comes_back_is_refused_at_the_call(hint: Any, asked: Any) -> None:
    message = f"Row.value is {_MADE[hint]} in a column, of which the {asked} of the schema cannot be made"
    with pytest.raises(TypeError, match=re.escape(message)):
        record_batches(Given([]), _CLASSES[hint], schema=pa.schema([("value", asked)]))


class Numbers(Enum):
    ONE = 1


@pytest.mark.parametrize("value_type", [pa.int64(), pa.decimal128(5, 2), pa.time64("us")], ids=str)
def test_a_dictionary_of_what_no_name_can_be_is_refused_at_the_call(value_type: Any) -> None:
    schema = pa.schema([("value", pa.dictionary(pa.int8(), value_type))])
    with pytest.raises(TypeError, match=r"Row\.value is string in a column, of which the .* of the schema cannot be made"):
        record_batches(Given([]), _row_class(Numbers), schema=schema)


_CRASHING = """
import anyio
from dataclasses import dataclass
from decimal import Decimal
from aster.arrow.engine import pa
from tests.arrow.rows import all_batches

@dataclass
class Row:
    text: str
    number: Decimal

async def main():
    for name, value in (("text", "1E-999999999"), ("text", "0E-999999999"), ("number", Decimal("1E-999999999"))):
        row = Row("", Decimal(0))
        setattr(row, name, value)
        try:
            await all_batches([row], Row, schema=pa.schema([(name, pa.decimal128(5, 2))]))
        except ValueError as exc:
            print(exc)

anyio.run(main)
"""


def test_no_exponent_crashes_the_process() -> None:
    # pyarrow reads beyond its table of powers of ten where it casts such a text to a decimal.
    result = subprocess.run([sys.executable, "-c", _CRASHING], capture_output=True, text=True, check=True)
    assert result.stdout.count("row 0 of the stream: Row.") == 3
