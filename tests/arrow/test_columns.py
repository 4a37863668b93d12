"""Columns hold what the rows do, whether these are plain or views, in the types that are promised or that a schema asks for."""

from __future__ import annotations

import datetime
import io
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from decimal import Decimal
from typing import Any, Literal, get_type_hints

import pytest
from hypothesis import given

import aster
from aster.arrow import arrow_schema, record_batches
from aster.arrow.engine import pa
from aster.codec import make_codec
from tests.arrow.rows import Given, Rows, all_batches, same, views_of
from tests.codec.models import Color, Point

pytestmark = pytest.mark.anyio


@dataclass
class Part:
    number: int
    color: Color
    notes: list[Color]
    by_color: dict[Color, int]
    text: str


@dataclass
class Whole:
    part: Part | None
    pair: tuple[int, Part] | None


@dataclass
class Gaps:
    """Whatever may be missing, and in what."""

    number: int | None
    color: Color | None
    wholes: list[Whole | None] | None
    table: dict[str, Part | None] | None
    names: set[str] | None
    pairs: tuple[tuple[int | None, Point | None] | None, ...]


@given(Rows.any() | Rows.of(Gaps))
async def test_batches_show_the_rows_whether_they_are_plain_or_views(rows: Rows) -> None:
    hints = get_type_hints(rows.cls)
    for rows_given in (rows.plain, views_of(rows.cls, rows.plain)):
        batches = await all_batches(rows_given, rows.cls, size=rows.size)
        assert all(batch.num_rows == rows.size for batch in batches[:-1])
        for batch in batches:
            assert batch.schema == arrow_schema(rows.cls)
            batch.validate(full=True)
        shown = [row for batch in batches for row in batch.to_pylist()]
        for row, got in zip(rows.plain, shown, strict=True):
            for name, hint in hints.items():
                assert same(hint, getattr(row, name), got[name]), (name, hint)


@given(Rows.any() | Rows.of(Gaps))
async def test_batches_go_into_one_file_since_their_dictionaries_are_the_same(rows: Rows) -> None:
    file = _file_of(await all_batches(rows.plain, rows.cls, size=rows.size), arrow_schema(rows.cls))
    assert (file.num_rows, file.schema) == (len(rows.plain), arrow_schema(rows.cls))


def _file_of(batches: list[Any], schema: Any) -> Any:
    """The batches as they come back out of a file, which can have one dictionary only for each column."""
    file = io.BytesIO()
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return pa.ipc.open_file(file.getvalue()).read_all()


_PART = Part(1, Color.BLUE, [Color.RED], {Color.RED: 2}, "x")


@pytest.mark.parametrize(
    "rows", [[Whole(_PART, (1, _PART)), Whole(None, None)], [Whole(None, None), Whole(_PART, (1, _PART)), Whole(None, None)], [Whole(None, None)] * 2]
)
async def test_what_is_in_a_struct_that_is_null_may_be_written_though_its_fields_may_not_be_null(rows: list[Whole]) -> None:
    import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]

    engine: Any = parquet
    (batch,) = await all_batches(rows, Whole)
    batch.validate(full=True)
    for struct in (batch.column("part"), batch.column("pair").field("1")):
        assert struct.field("number").null_count == struct.field("color").null_count == 0
        assert struct.field("color").dictionary.to_pylist() == ["RED", "BLUE"]
    file = io.BytesIO()
    engine.write_table(pa.Table.from_batches([batch]), file)
    assert engine.read_table(io.BytesIO(file.getvalue())).to_pylist() == batch.to_pylist()
    assert [row["part"] is None for row in batch.to_pylist()] == [row.part is None for row in rows]
    batches = await all_batches(rows, Whole, size=1)
    assert _file_of(batches, batch.schema).to_pylist() == batch.to_pylist()


@dataclass
class Everything:
    text: str
    number: int
    real: float
    truth: bool
    raw: bytes
    day: datetime.date
    instant: datetime.datetime
    clock: datetime.time
    span: datetime.timedelta
    money: Decimal
    id: uuid.UUID
    color: Color
    literal: Literal["r", "w"]
    maybe: int | None
    point: Point
    numbers: list[int]
    path: tuple[str | None, ...]
    names: set[str]
    chosen: frozenset[int]
    table: dict[str, float | None]
    pair: tuple[int, str | None]


def test_each_type_has_its_column_in_the_order_of_the_fields() -> None:
    def inner(name: str, type_: Any) -> Any:
        return pa.field(name, type_, nullable=False)

    types: dict[str, Any] = {
        "text": pa.string(),
        "number": pa.int64(),
        "real": pa.float64(),
        "truth": pa.bool_(),
        "raw": pa.binary(),
        "day": pa.date32(),
        "instant": pa.timestamp("us", tz="UTC"),
        "clock": pa.time64("us"),
        "span": pa.duration("us"),
        "money": pa.string(),
        "id": pa.string(),
        "color": pa.dictionary(pa.int32(), pa.string()),
        "literal": pa.string(),
        "maybe": pa.int64(),
        "point": pa.struct([inner("x", pa.int64()), inner("y", pa.int64())]),
        "numbers": pa.list_(inner("item", pa.int64())),
        "path": pa.list_(pa.field("item", pa.string())),
        "names": pa.list_(inner("item", pa.string())),
        "chosen": pa.list_(inner("item", pa.int64())),
        "table": pa.map_(pa.string(), pa.float64()),
        "pair": pa.struct([inner("0", pa.int64()), pa.field("1", pa.string())]),
    }
    assert [each.name for each in fields(Everything)] == list(types)
    assert arrow_schema(Everything) == pa.schema([pa.field(name, type_, nullable=name == "maybe") for name, type_ in types.items()])


async def test_an_int_where_a_float_is_declared_arrives_as_one() -> None:
    (batch,) = await all_batches([Reading("a", 1), Reading("b", 2.5)], Reading)
    assert batch.column("value").to_pylist() == [1.0, 2.5]


@dataclass
class Reading:
    sensor: str
    value: float
    color: Color = Color.RED


async def test_an_enum_has_all_names_in_each_batch_whoever_occurs() -> None:
    batches = await all_batches([Reading("a", 1.0, color) for color in (Color.BLUE, Color.RED)], Reading, size=1)
    assert [batch.column("color").dictionary.to_pylist() for batch in batches] == [["RED", "BLUE"]] * 2
    assert [batch.column("color").to_pylist() for batch in batches] == [["BLUE"], ["RED"]]


# What a schema asks for


@dataclass
class Asked:
    instant: datetime.datetime
    clock: datetime.datetime
    money: Decimal
    number: int
    text: str
    color: Color
    prices: list[Decimal]
    moments: dict[str, datetime.datetime] = field(default_factory=dict[str, datetime.datetime])
    pair: tuple[int, datetime.datetime] | None = None


_CLOCK = datetime.datetime(2026, 3, 29, 2, 30)  # noqa: DTZ001  # that of a clock
_INSTANT = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC)
_ASKED = Asked(_INSTANT, _CLOCK, Decimal("1.5"), 7, "x", Color.BLUE, [Decimal("2.25")], {"k": _CLOCK}, (1, _CLOCK))


@pytest.mark.parametrize(
    ("name", "type_", "expected"),
    [
        ("instant", pa.timestamp("us", tz="Europe/Paris"), _INSTANT),
        ("clock", pa.timestamp("us"), _CLOCK),
        ("clock", pa.timestamp("s"), _CLOCK),
        ("money", pa.decimal128(12, 2), Decimal("1.50")),
        ("money", pa.float64(), 1.5),
        ("number", pa.int16(), 7),
        ("number", pa.string(), "7"),
        ("text", pa.large_string(), "x"),
        ("text", pa.dictionary(pa.int8(), pa.string()), "x"),
        ("color", pa.string(), "BLUE"),
        ("color", pa.dictionary(pa.int8(), pa.large_string(), ordered=True), "BLUE"),
        ("prices", pa.list_(pa.decimal128(12, 2)), [Decimal("2.25")]),
        ("prices", pa.large_list(pa.string()), ["2.25"]),
        ("moments", pa.map_(pa.string(), pa.timestamp("us")), [("k", _CLOCK)]),
        ("pair", pa.struct([("first", pa.int8()), ("then", pa.timestamp("us"))]), {"first": 1, "then": _CLOCK}),
    ],
    ids=str,
)
async def test_a_schema_may_ask_for_another_type_and_for_some_columns_only(name: str, type_: Any, expected: Any) -> None:
    schema = pa.schema([(name, type_)], metadata={"made": "here"})
    for rows in ([_ASKED], views_of(Asked, [_ASKED])):
        (batch,) = await all_batches(rows, Asked, schema=schema)
        assert batch.schema.equals(schema, check_metadata=True)
        assert batch.column(0).type == type_
        assert batch.to_pylist() == [{name: expected}]


async def test_a_struct_that_is_null_everywhere_may_have_any_type_in_it() -> None:
    type_ = pa.struct([pa.field("text", pa.dictionary(pa.int8(), pa.string()), nullable=False), pa.field("number", pa.int8(), nullable=False)])
    (batch,) = await all_batches([Whole(None, None)], Whole, schema=pa.schema([("part", type_)]))
    batch.validate(full=True)
    assert batch.to_pylist() == [{"part": None}]


async def test_the_order_of_columns_is_that_of_the_schema() -> None:
    schema = pa.schema([("value", pa.float32()), ("sensor", pa.string())])
    (batch,) = await all_batches([Reading("a", 1.5)], Reading, schema=schema)
    assert batch.schema.names == ["value", "sensor"]


# How rows are read


_reads = Counter[str]()


@dataclass
class Watched:
    first: int
    second: str | None

    def __getattribute__(self, name: str) -> Any:
        _reads[name] += 1
        return object.__getattribute__(self, name)


async def test_each_field_is_read_once_and_those_without_a_column_never() -> None:
    rows = [Watched(1, "x"), Watched(2, None)]
    _reads.clear()
    await all_batches(rows, Watched)
    assert _reads == {"first": 2, "second": 2}
    _reads.clear()
    await all_batches(rows, Watched, schema=pa.schema([("first", pa.int64())]))
    assert _reads == {"first": 2}


@dataclass
class Refusing:
    number: int
    text: str

    def __post_init__(self) -> None:
        if self.text == "bad":
            raise ValueError("this is bad")


async def test_views_are_not_materialized() -> None:
    row = Refusing(1, "good")
    row.text = "bad"
    views = views_of(Refusing, [row])
    with pytest.raises(aster.DecodeError, match="this is bad"):
        aster.materialize(views[0])
    assert (await all_batches(views, Refusing))[0].to_pylist() == [{"number": 1, "text": "bad"}]


async def test_plain_rows_and_views_of_several_codecs_may_come_in_one_stream() -> None:
    rows = [Reading("a", 1.0), *views_of(Reading, [Reading("b", 2.0)]), *views_of(Reading, [Reading("c", 3.0)])]
    assert (await all_batches(rows, Reading))[0].column("sensor").to_pylist() == ["a", "b", "c"]


async def test_an_empty_stream_gives_no_batch() -> None:
    assert await all_batches([], Reading) == []


async def test_any_async_iterable_will_do() -> None:
    class Iterable:
        async def __aiter__(self) -> AsyncIterator[Reading]:
            yield Reading("a", 1.0)

    assert [batch.num_rows async for batch in record_batches(Iterable(), Reading)] == [1]
    assert [batch.num_rows async for batch in record_batches(Given([Reading("a", 1.0)]), Reading)] == [1]


_WITHOUT = """
import sys
sys.modules["pyarrow"] = None
import aster
assert "aster.arrow" not in sys.modules
try:
    import aster.arrow
except ImportError as exc:
    print(exc)
"""


def test_without_pyarrow_the_import_says_what_to_install_and_the_rest_of_aster_works() -> None:
    result = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True)
    assert result.stdout == "aster.arrow needs pyarrow, which cannot be imported here: pip install 'aster-anyio[arrow]'\n"


@dataclass
class Blob:
    data: bytes = b""
    parts: list[int] = field(default_factory=list[int])


@dataclass
class MayHoldBlob:
    blob: Blob | None = None
    more: list[Blob | None] = field(default_factory=list[Blob | None])


async def test_nulls_beside_something_large_take_nothing_of_it() -> None:
    large = Blob(bytes(100_000), [1] * 10_000)
    rows = [MayHoldBlob(large, [large, *[None] * 500]), *[MayHoldBlob() for _ in range(500)]]
    (batch,) = await all_batches(rows, MayHoldBlob)
    assert batch.to_pylist() == [asdict(row) for row in rows]
    assert batch.nbytes < 500_000
    batch.validate(full=True)


@dataclass
class Small:
    on: bool


@dataclass
class Smalls:
    items: list[Small]


async def test_what_the_peer_does_not_send_is_filled_in_within_bounds() -> None:
    wide = make_dataclass("Small", [("on", bool), *[(f"f{place}", list[int], field(default_factory=list[int])) for place in range(20)]])
    wides = make_dataclass("Smalls", [("items", list[wide])])
    sender = make_codec(aster.SerializationMode.ROW, {Smalls: "tests/Smalls", Small: "tests/Small"})
    decode = make_codec(aster.SerializationMode.ROW, {wides: "tests/Smalls", wide: "tests/Small"}).decoder(wides)

    def views(*counts: int) -> list[Any]:
        return [decode(sender.encoder(Smalls)(Smalls([Small(True)] * count))) for count in counts]

    (batch,) = await all_batches(views(*[150] * 20), wides)
    assert [len(row["items"]) for row in batch.to_pylist()] == [150] * 20
    with pytest.raises(aster.DecodeError, match="Small has too many fields that its peer does not send; leave them out by a schema= of the others"):
        await all_batches(views(1_000), wides)
    schema = pa.schema([pa.field("items", pa.list_(pa.field("item", pa.struct([pa.field("on", pa.bool_())]))))])
    (batch,) = await all_batches(views(1_000), wides, schema=schema)
    assert batch.to_pylist() == [{"items": [{"on": True}] * 1_000}]
