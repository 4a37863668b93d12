"""What cannot become a column is refused at the call, by class and field; what is wrong in a row, by its number and field."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aster
from aster.arrow import arrow_schema, record_batches
from aster.arrow.columns import arrays_of
from aster.arrow.engine import pa
from tests.arrow.rows import Given, all_batches, gather, views_of
from tests.codec.models import Color, Empty, Tree

pytestmark = pytest.mark.anyio


class Untouchable:
    """A stream that nobody may even begin to read."""

    def __aiter__(self) -> AsyncIterator[Any]:
        pytest.fail("the stream was touched")


@dataclass
class Line:
    sku: str = "a"
    price: Decimal = Decimal(1)


@dataclass
class Order:
    number: int = 0
    lines: list[Line] = field(default_factory=lambda: [Line()])
    weight: float = 1.0
    at: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    clock: datetime.time = datetime.time(1)
    span: datetime.timedelta = datetime.timedelta(1)
    note: str | None = None
    pair: tuple[int, str] = (1, "a")
    color: Color = Color.RED
    table: dict[str, int] = field(default_factory=dict[str, int])
    id: uuid.UUID = field(default_factory=uuid.uuid4)


# At the call


@dataclass
class Either:
    number: int
    value: int | str


@dataclass
class Deep:
    inside: list[Either | None]


@dataclass
class Ring:
    rings: dict[str, Ringed]


@dataclass
class Ringed:
    ring: Ring | None


@dataclass
class Keyed:
    table: dict[int | None, str]


@dataclass
class Unsendable:
    value: complex


class Shade(Enum):
    DARK = 1


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Either, "Either.value is int | str, and a column has one type: make an Optional field for each, or leave the field out by a schema= of the others"),
        (Deep, "Either.value is int | str"),
        (Tree, "Tree.children leads back to Tree, and the type of a column must end somewhere: give each level a class of its own, or leave"),
        (Ring, "Ringed.ring leads back to Ring,"),
        (Keyed, "Keyed.table has keys that may be None, which a map of Arrow cannot hold: give it other keys, or leave"),
        (Unsendable, "Unsendable.value cannot be sent: complex is not supported; use tuple[float, float]"),
        (Empty, "Empty has no fields to make columns of: a row is a dataclass that has some"),
        (Shade, "Shade has no fields to make columns of"),
        (int, "int cannot be a message: it is not supported"),
        (Line(), "Line(sku='a', price=Decimal('1')) is not a class: give the dataclass that the rows are of"),
    ],
)
def test_a_class_without_columns_is_refused_before_the_stream_is_touched(cls: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        arrow_schema(cls)
    with pytest.raises(TypeError, match=re.escape(message)):
        record_batches(Untouchable(), cls)


async def test_a_field_without_a_column_may_be_left_out() -> None:
    schema = pa.schema([("number", pa.int64())])
    for rows in ([Either(1, "x")], views_of(Either, [Either(1, "x")])):
        assert (await all_batches(rows, Either, schema=schema))[0].to_pylist() == [{"number": 1}]


async def test_a_class_that_contains_itself_has_columns_as_deep_as_a_schema_says() -> None:
    level = pa.struct([("name", pa.string())])
    schema = pa.schema([("name", pa.string()), ("parent", level), ("children", pa.list_(level))])
    (batch,) = await all_batches([Tree("a", [Tree("b")], Tree("c"))], Tree, schema=schema)
    assert batch.to_pylist() == [{"name": "a", "parent": {"name": "c"}, "children": [{"name": "b"}]}]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1 row, not 0"),
        ({"size": -1}, ValueError, "size must be at least 1 row, not -1"),
        ({"size": 1.0}, TypeError, "size must be an int, a number of rows, not 1.0"),
        ({"size": True}, TypeError, "size must be an int, a number of rows, not True"),
        ({"size": None}, TypeError, "size must be an int, a number of rows, not None"),
        ({"schema": [("number", pa.int64())]}, TypeError, "schema must be a pyarrow.Schema, not list"),
    ],
)
def test_other_arguments_are_refused_before_the_stream_is_touched(options: dict[str, Any], kind: Any, message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        record_batches(Untouchable(), Order, **options)


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ([("nubmer", pa.int64())], ValueError, "the schema has a field 'nubmer', and Order has none: its fields are number, lines, weight,"),
        ([("number", pa.int64())] * 2, ValueError, "the schema has a field of Order twice, in number, number"),
        ([("number", pa.list_(pa.int64()))], TypeError, "Order.number is int64 in a column, of which the list<item: int64> of the schema cannot be made"),
        ([("lines", pa.int64())], TypeError, "Order.lines is a list in a column, and the schema has int64"),
        ([("lines", pa.list_(pa.int64()))], TypeError, "Order.lines is a struct in a column, and the schema has int64"),
        ([("table", pa.string())], TypeError, "Order.table is a map in a column, and the schema has string"),
        ([("pair", pa.list_(pa.int64()))], TypeError, "Order.pair is a struct in a column, and the schema has list<item: int64>"),
        ([("pair", pa.struct([("0", pa.int64())]))], TypeError, "Order.pair is a struct of 2 in a column, and the schema has struct<0: int64>"),
        ([("pair", pa.struct([]))], TypeError, "Order.pair is a struct of 2 in a column, and the schema has struct<>"),
        ([("lines", pa.list_(pa.struct([("x", pa.int64())])))], ValueError, "the schema has a field 'x', and Line has none: its fields are sku, price"),
    ],
)
def test_a_schema_that_does_not_fit_is_refused_before_the_stream_is_touched(asked: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        record_batches(Untouchable(), Order, schema=pa.schema(asked))


@pytest.mark.parametrize("rows", [[Order()], None, Given])
def test_what_is_no_async_iterable_is_refused(rows: Any) -> None:
    with pytest.raises(TypeError, match=r"record_batches takes an async iterable of rows, such as the stream that a call returns, not (list|NoneType|type)"):
        record_batches(rows, Order)


# In a row


async def _refusal_of(row: Any) -> str:
    """What is said of a row that comes as the fifth, in the second batch."""
    rows = [Order(number) for number in range(4)]
    got: list[Any] = []
    with pytest.raises((TypeError, ValueError)) as caught:
        await gather(record_batches(Given([*rows, row, Order(5)]), Order, size=3), got)
    assert [batch.num_rows for batch in got] == [3]
    return str(caught.value)


_NAIVE: Any = datetime.datetime(2026, 1, 1)  # noqa: DTZ001  # naive is what it is for
_ZONED = datetime.time(1, tzinfo=datetime.UTC)
_EDGE = datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=1)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"number": "1"}, "Order.number must be int, not str"),
        ({"number": True}, "Order.number must be int, not bool"),
        ({"number": None}, "Order.number must be int, not None"),
        ({"number": 2**63}, "Order.number does not fit in a column of int64: "),
        ({"weight": "1"}, "Order.weight must be float, not str"),
        ({"weight": 10**400}, "Order.weight does not fit in a column of double: int too large to convert to float"),
        ({"note": 1}, "Order.note must be str | None, not int"),
        ({"note": "\ud800"}, "Order.note does not fit in a column of string: 'utf-8' codec can't encode"),
        ({"at": _NAIVE}, "Order.at has no time zone, and so names no instant: give it one, or by schema= a timestamp without"),
        ({"at": _EDGE}, "Order.at does not fit in a column of timestamp[us, tz=UTC]: date value out of range"),
        ({"at": datetime.date(2026, 1, 1)}, "Order.at must be datetime, not date"),
        ({"clock": _ZONED}, "Order.clock has a time zone, which a time of Arrow cannot hold: make it a datetime"),
        ({"span": datetime.timedelta.max}, "Order.span does not fit in a column of duration[us]: "),
        ({"pair": (1, "a", 2)}, "Order.pair must be a tuple of 2 items, not 3"),
        ({"pair": (1, 2)}, "Order.pair.1 must be str, not int"),
        ({"pair": [1, "a"]}, "Order.pair must be tuple[int, str], not list"),
        ({"color": "RED"}, "Order.color must be Color, not str"),
        ({"table": {"k": "v"}}, "Order.table must be int, not str"),
        ({"table": [("k", 1)]}, "Order.table must be dict[str, int], not list"),
        ({"lines": (Line(),)}, "Order.lines must be list[Line], not tuple"),
        ({"lines": [Line(), None]}, "Order.lines must be Line, not None"),
        ({"lines": [Line(), Line(sku=b"x")]}, "Order.lines.sku must be str, not bytes"),  # pyright: ignore[reportArgumentType]
        ({"id": "1"}, "Order.id must be UUID, not str"),
    ],
)
async def test_a_field_that_holds_something_else_is_named_with_the_number_of_its_row(changed: dict[str, Any], message: str) -> None:
    refusal = await _refusal_of(replace(Order(), **changed))
    assert refusal.startswith(f"row 4 of the stream: {message}")


async def test_a_row_of_another_class_is_refused() -> None:
    class Special(Order):
        pass

    assert await _refusal_of(Line()) == "row 4 of the stream must be Order, not Line"
    assert await _refusal_of(Special()) == "row 4 of the stream must be Order, not Special"
    assert await _refusal_of(None) == "row 4 of the stream must be Order, not None"
    assert await _refusal_of(views_of(Line, [Line()])[0]) == "row 4 of the stream must be Order, not Line"


async def test_a_row_without_one_of_its_fields_is_refused() -> None:
    row = Order()
    del row.lines
    assert (await _refusal_of(row)).startswith("row 4 of the stream: Order.lines is not set: ")


@pytest.mark.parametrize(
    ("name", "type_", "value", "message"),
    [
        ("at", pa.timestamp("us"), None, "row 0 of the stream: Order.at has a time zone, and the schema has a timestamp without: give that a zone"),
        ("weight", pa.int64(), 1.5, "row 4 of the stream: Order.weight does not fit in a column of int64: "),
        ("number", pa.int8(), 200, "row 4 of the stream: Order.number does not fit in a column of int8: "),
        ("span", pa.duration("s"), datetime.timedelta(microseconds=1), "row 4 of the stream: Order.span does not fit in a column of duration[s]: "),
        ("lines", pa.list_(pa.struct([("price", pa.decimal128(4, 2))])), [Line(price=Decimal("1.005"))], "row 4 of the stream: Order.lines.price does not fit"),
    ],
)
async def test_what_would_lose_something_in_the_type_that_a_schema_asks_for_is_refused(name: str, type_: Any, value: Any, message: str) -> None:
    rows = [replace(Order(), **({name: value} if place == 4 and value is not None else {})) for place in range(5)]
    with pytest.raises(ValueError, match=re.escape(message)):
        await all_batches(rows, Order, schema=pa.schema([(name, type_)]))


async def test_none_is_refused_where_the_schema_has_no_null() -> None:
    with pytest.raises(TypeError, match=re.escape("row 1 of the stream: Order.note must be str, not None")):
        await all_batches([Order(note="x"), Order()], Order, schema=pa.schema([pa.field("note", pa.string(), nullable=False)]))


async def test_a_schema_that_allows_null_does_not_make_a_field_optional() -> None:
    row = replace(Order(), number=None)
    with pytest.raises(TypeError, match=re.escape("row 0 of the stream: Order.number must be int, not None")):
        await all_batches([row], Order, schema=pa.schema([("number", pa.int64())]))


@dataclass
class Number:
    number: int


@given(st.integers(1, 300), st.sets(st.integers(0, 299), min_size=1, max_size=3))
async def test_the_first_row_that_is_refused_is_named_and_found_in_the_time_of_one_batch_more(count: int, bad: set[int]) -> None:
    places = sorted({place % count for place in bad})
    rows = [Number(200 if place in places else 1) for place in range(count)]
    made: list[int] = []

    def counting(columns: Any, values: Any) -> Any:
        made.append(len(values))
        return arrays_of(columns, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aster.arrow.batches.arrays_of", counting)
        with pytest.raises(ValueError, match=rf"^row {places[0]} of the stream: Number\.number does not fit in a column of int8: "):
            await all_batches(rows, Number, size=count, schema=pa.schema([("number", pa.int8())]))
    assert sum(made) <= 2 * count + 1
    assert len(made) <= 2 + count.bit_length()


async def test_of_several_faults_the_one_of_the_first_row_is_told() -> None:
    rows = [Order(), replace(Order(), note=1), replace(Order(), number="1"), Line()]
    with pytest.raises(TypeError, match=re.escape("row 1 of the stream: Order.note must be str | None, not int")):
        await all_batches(rows, Order)


async def test_a_batch_that_is_too_large_for_arrow_names_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    array = pa.array

    class Pretending:
        """pyarrow, with a limit of three values instead of 2 GiB."""

        def __getattr__(self, name: str) -> Any:
            return getattr(pa, name)

        def array(self, values: Any, type: Any) -> Any:  # noqa: A002  # pyarrow's name
            made = array(values, type)
            return pa.chunked_array([made, made]) if len(made) > 3 else made

    monkeypatch.setattr("aster.arrow.scalars.pa", Pretending())
    with pytest.raises(ValueError, match=re.escape("rows 0 to 3 of the stream: Order.number takes more than 2 GiB in one batch: choose a smaller size")):
        await all_batches([Order()] * 4, Order, schema=pa.schema([("number", pa.int64())]))


# What a peer sent


def _spoilt(view: Any) -> Any:
    """A view of a row in whose text is no UTF-8."""
    buffer, start, stop, reader = view.__aster_row__
    return reader.read(buffer.replace(b"spoilt", b"\xffpoilt"), start, stop, None)


async def test_a_row_that_the_peer_sent_and_that_cannot_be_read_is_named_too() -> None:
    views = views_of(Line, [Line("a"), Line("b"), Line("spoilt"), Line("c")])
    views[2] = _spoilt(views[2])
    batches = record_batches(Given(views), Line, size=3)
    with pytest.raises(aster.DecodeError, match=r"the peer sent something that is not a Line: Line\.sku is no str that can be read") as caught:
        await anext(batches)
    assert caught.value.__notes__ == ["in row 2 of the stream"]
    assert (await anext(batches)).to_pylist() == [{"sku": "c", "price": "1"}]
