"""Rows as a hostile peer makes them: each is a value of the declared type or a DecodeError, in bounded time and memory, and nothing outside it is ever read."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import random
import struct
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.codec import make_codec, materialize
from aster.codec.making import Making
from aster.codec.row import RowCodec
from aster.codec.walk import Mismatch
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.row.rows import MANY, Many, Node, array_of_many, changed_message, codec_of, outcome, parts, reader_of, region_at, spoilt, walked
from tests.codec.schemas import Schema, is_exactly, schemas, values_in
from tests.codec.values import identical

ROW = SerializationMode.ROW
FEWER = settings(max_examples=max(20, settings().max_examples // 2))
"""For each schema there are several rows."""

pytestmark = pytest.mark.timeout(max(60, settings().max_examples))


def _row_codec(schema: Schema) -> RowCodec:
    return cast("RowCodec", schema.codec(ROW))


# Rows at random


def test_a_spoilt_row_is_a_value_of_the_declared_type_or_a_decode_error_however_it_is_read() -> None:
    counted = Counter[str]()

    @FEWER
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        schema = data.draw(schemas())
        codec = _row_codec(schema)
        head, row = parts(codec.encoder(schema.root)(data.draw(values_in(schema))))
        random_ = random.Random(data.draw(st.integers(0, 2**32)))
        for _ in range(20):
            message = head + spoilt(row, random_)
            lazy, whole = (outcome(codec, schema, message, whole=whole) for whole in (False, True))
            for found in (lazy, whole):
                assert isinstance(found, str) or is_exactly(found, schema.root, schema)
            if not isinstance(whole, str):
                assert identical(whole, lazy)
            counted["error" if isinstance(whole, str) else "value"] += 1

    check()
    assert min(counted["error"], counted["value"]), counted


@FEWER
@given(data=st.data())
def test_nothing_outside_a_row_is_read(data: st.DataObject) -> None:
    """What is around it makes no difference: not to a value, and not to the words of an error."""
    schema = data.draw(schemas())
    codec = _row_codec(schema)
    head, good = parts(codec.encoder(schema.root)(data.draw(values_in(schema))))
    reader = reader_of(codec, schema.root, head, good)
    random_ = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(20):
        row = spoilt(good, random_)
        for making in (None, Making(len(row))):
            found: list[Any] = []
            for guard in (b"", b"\0" * 4096, b"\xff" * 4096, random_.randbytes(4096)):
                try:
                    found.append(walked(reader.read(guard + row + guard, len(guard), len(guard) + len(row), making and Making(len(row)))))
                except (DecodeError, Mismatch) as exc:
                    found.append(str(exc))
            assert all(identical(found[0], each) for each in found[1:])


@FEWER
@given(data=st.data())
def test_every_cut_and_every_addition_is_the_same_value_or_a_decode_error(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    codec = _row_codec(schema)
    value = data.draw(values_in(schema))
    message = codec.encoder(schema.root)(value)
    for cut in (*range(0, len(message), max(1, len(message) // 50)), len(message) - 1):
        found = outcome(codec, schema, message[:cut], whole=True)
        assert isinstance(found, str) or identical(found, value)
    for added in (b"\0", b"\xff" * 8):
        found = outcome(codec, schema, message + added, whole=True)
        assert isinstance(found, str) or identical(found, value)


# What overlaps


def _repeat_the_first(name: str) -> Callable[[bytearray], None]:
    """Let all slots of an array be its first."""

    def change(row: bytearray) -> None:
        start, slots = array_of_many(row, name)
        (count,) = struct.unpack_from("<Q", row, start)
        for place in range(1, count):
            row[slots + 8 * place : slots + 8 * place + 8] = row[slots : slots + 8]

    return change


_READ_ALL: dict[str, Callable[[Any], object]] = {
    "list": list,
    "materialize": materialize,
    "equality": lambda items: items == [items[0]] * len(items),
    "reversed": lambda items: list(reversed(items)),
    "count": lambda items: items.count(None),
    "index": lambda items: items.index(None),
    "slice": lambda items: items[:2],
    "reversed slice": lambda items: items[::-1],
}


@pytest.mark.parametrize("read", _READ_ALL)
@pytest.mark.parametrize("name", ["texts", "nodes", "lists"])
def test_elements_that_overlap_are_refused_by_whatever_reads_them_all(name: str, read: str) -> None:
    codec, message = changed_message(MANY, _repeat_the_first(name))
    view = codec.decoder(Many)(message)
    items = getattr(view, name)
    with pytest.raises(DecodeError, match=rf"Many\.{name}\[[012]\] holds parts that overlap"):
        _READ_ALL[read](items)
    with pytest.raises(DecodeError, match=rf"Many\.{name}\[1\] holds parts that overlap"):
        materialize(view)
    assert "unreadable" in repr(items)


@given(data=st.data())
def test_items_that_are_picked_one_by_one_are_refused_where_all_in_turn_are(data: st.DataObject) -> None:
    """Each is compared with those beside it, whatever nulls are between them and whatever stands in the slots of these."""

    @dataclass
    class Some:
        items: list[str | None]

    codec = codec_of(Some)
    texts = data.draw(st.lists(st.none() | st.sampled_from(["", "a", "four"]), max_size=40))
    head, row = parts(codec.encoder(Some)(Some(texts)))
    work = bytearray(row)
    start, _ = region_at(work, 0, 8)
    slots = start + 8 + 8 * ((len(texts) + 63) // 64)
    ends = range(len(row) + 9)
    for place in data.draw(st.lists(st.sampled_from(range(len(texts))), max_size=4)) if texts else ():
        slot = data.draw(st.tuples(st.sampled_from([0, 1, 4, 8]), st.sampled_from(ends)))
        struct.pack_into("<II", work, slots + 8 * place, *slot)
    items = codec.decoder(Some)(head + bytes(work)).items

    def by_index(places: Iterable[int]) -> Any:
        return [items[place] for place in places]

    try:
        expected = list(items)
    except DecodeError:
        for read in (lambda: by_index(range(len(texts))), lambda: by_index(range(-1, -1 - len(texts), -1)), lambda: items[::-1], lambda: materialize(items)):
            with pytest.raises(DecodeError):
                read()
    else:
        assert by_index(range(len(texts))) == expected == list(items[:]) == materialize(items)


def _one_value(row: bytearray) -> None:
    """Let both values of the dict of Many be its first."""
    start, _ = array_of_many(row, "table")
    (size,) = struct.unpack_from("<Q", row, start)
    slots = start + 8 + size + 16
    row[slots + 8 : slots + 16] = row[slots : slots + 8]


def test_nothing_of_a_dict_that_overlaps_can_be_read_twice() -> None:
    codec, message = changed_message(MANY, _one_value)

    def table() -> Any:
        return codec.decoder(Many)(message).table

    reads: list[Callable[[], object]] = [
        lambda: dict(table()),
        lambda: {**table()},
        lambda: [table()[key] for key in table()],
        lambda: "none" in table().values(),
        lambda: list(table().items()),
        lambda: table() == {},
    ]
    for read in reads:
        with pytest.raises(DecodeError, match="holds parts that overlap"):
            read()


def test_a_dict_with_a_key_twice_stays_refused() -> None:
    def same_key(row: bytearray) -> None:
        place = row.index(b"two")
        row[place : place + 3] = b"one"

    codec, message = changed_message(Many(table={"one": "1", "two": "2"}), same_key)
    table = codec.decoder(Many)(message).table
    reads: list[Callable[[], object]] = [
        lambda: list(table),
        lambda: dict(table),
        lambda: table["one"],
        lambda: list(table.values()),
        lambda: table == {},
    ]
    for read in [*reads, *reads]:
        with pytest.raises(DecodeError, match="has two keys that are equal"):
            read()


def test_levels_of_the_same_part_do_not_make_a_walk_by_index_long() -> None:
    @dataclass
    class Level:
        kids: list[Level] = field(default_factory=list)  # pyright: ignore[reportUnknownVariableType]  # of its own class

    tree = Level()
    for _ in range(40):
        tree = Level([tree, Level()])
    codec = codec_of(Level)
    head, row = parts(codec.encoder(Level)(tree))
    work, start = bytearray(row), 0
    while True:
        kids, size = region_at(work, start, start + 8)
        if size <= 8:
            break
        work[kids + 24 : kids + 32] = work[kids + 16 : kids + 24]  # the second is the first
        start, size = region_at(work, kids, kids + 16)
        if size <= 24:
            break

    def walk(level: Any) -> int:
        return 1 + sum(walk(level.kids[place]) for place in range(len(level.kids)))

    with pytest.raises(DecodeError, match="holds parts that overlap"):
        walk(codec.decoder(Level)(head + bytes(work)))


def test_values_of_a_dict_and_items_of_a_tuple_that_overlap_are_refused() -> None:
    for change, name in ((_one_value, "table"), (_repeat_the_first("pair"), "pair")):
        codec, message = changed_message(MANY, change)
        view = codec.decoder(Many)(message)
        with pytest.raises(DecodeError, match=rf"Many\.{name}.* holds parts that overlap"):
            materialize(view)
        with pytest.raises(DecodeError, match=rf"Many\.{name}.* holds parts that overlap"):
            list(getattr(view, name).items() if name == "table" else view.pair)


def test_fields_that_overlap_are_refused_before_any_is_read() -> None:
    def both_sides_are_one(row: bytearray) -> None:
        row[16:24] = row[8:16]

    codec, message = changed_message(Node("t", Node("l"), Node("r")), both_sides_are_one)
    with pytest.raises(DecodeError, match="Node holds parts that overlap, or are not in the order of their slots"):
        codec.decoder(Node)(message)


def test_a_small_row_does_not_become_a_huge_value() -> None:
    """Thirty levels of two fields that are one another would be a billion nodes."""
    node = Node("x" * 100)
    for _ in range(30):
        node = Node("t", node)
    codec = codec_of(Node)
    head, row = parts(codec.encoder(Node)(node))
    work = bytearray(row)
    start = 0
    while True:
        work[start] &= ~2 & 0xFF  # the right one is none no more,
        work[start + 16 : start + 24] = work[start + 8 : start + 16]  # but the left one again
        if work[start] & 1:
            break
        start, _ = region_at(work, start, start + 8)
    began = time.process_time()
    with pytest.raises(DecodeError, match="overlap"):
        materialize(codec.decoder(Node)(head + bytes(work)))
    assert time.process_time() - began < 1  # a billion would take an hour


# Single values


class Color(enum.Enum):
    RED = 1


_WORD = struct.Struct("<Q").pack


def _one(hint: Any) -> tuple[RowCodec, type[Any]]:
    cls = dataclasses.make_dataclass("One", [("f", hint)])
    tags: dict[type, str] = {cls: "tests/One"}
    return cast("RowCodec", make_codec(ROW, tags)), cls


@pytest.mark.parametrize(
    ("hint", "good", "bad", "text"),
    [
        (bool, True, _WORD(2), "is no bool that can be read: it is 2"),
        (datetime.date, datetime.date(2000, 1, 1), struct.pack("<ii", 2**31 - 1, 0), "is no date that can be read"),
        (datetime.date, datetime.date(2000, 1, 1), struct.pack("<ii", -(2**31), 0), "is no date that can be read"),
        (datetime.datetime, datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC), struct.pack("<q", -(2**63)), "is no datetime that can be read"),
        (datetime.datetime, datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC), struct.pack("<q", 2**58), "is no datetime that can be read"),
        (datetime.datetime, datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC), struct.pack("<q", 2**63 - 1), "is no datetime that can be read"),
        (datetime.time, datetime.time(1), struct.pack("<q", 2 * 86_400_000_000), "is no time that can be read: hour must be in 0..23"),
        (datetime.time, datetime.time(1), struct.pack("<q", -1), "is no time that can be read"),
        (Literal[1, 2], 1, _WORD(3), "must be one of 1, 2, not 3"),
        (Literal["a"], "a", b"b", "must be one of 'a', not 'b'"),
        (str, "a", b"\xff", "is no str that can be read"),
        (Color, Color.RED, b"BLU", "is no Color that can be read: it has no member b'BLU'"),
        (uuid.UUID, uuid.UUID(int=7), None, "is no UUID that can be read"),
        (decimal.Decimal, decimal.Decimal(123), b"1_0", "is no Decimal that can be read: its text is none"),
        (decimal.Decimal, decimal.Decimal(123), b"NaN", "is no Decimal that can be read: its text is none"),
        (decimal.Decimal, decimal.Decimal(123), b" 12", "is no Decimal that can be read: its text is none"),
        (decimal.Decimal, decimal.Decimal("1E+5"), b"1E+9", None),
        (decimal.Decimal, decimal.Decimal("1E+10000"), b"1E+90000", "is no Decimal that can be read: has too many digits or too large an exponent"),
    ],
)
def test_a_value_that_its_type_does_not_have_is_a_decode_error(hint: Any, good: Any, bad: bytes | None, text: str | None) -> None:
    codec, cls = _one(hint)
    head, row = parts(codec.encoder(cls)(cls(good)))
    work = bytearray(row)
    if bad is None:
        work[8:12] = struct.pack("<I", 15)  # its size
    else:
        at = 8 if len(row) == 16 else 16
        work[at : at + len(bad)] = bad
    view = codec.decoder(cls)(head + bytes(work))
    if text is None:
        assert view.f == decimal.Decimal("1E+9")
        return
    for read in (lambda: view.f, lambda: materialize(view)):
        with pytest.raises(DecodeError, match=f"the peer sent something that is not a One: One.f {text}"):
            read()


@pytest.mark.parametrize("hint", [int, str, list[int], tuple[int, str], Color, bool | int])
def test_a_null_is_refused_where_none_may_be(hint: Any) -> None:
    codec, cls = _one(hint)
    values: dict[Any, Any] = {int: 1, str: "", Color: Color.RED, tuple[int, str]: (1, "")}
    head, row = parts(codec.encoder(cls)(cls(values.get(hint, [] if hint == list[int] else 1))))
    view = codec.decoder(cls)(head + b"\x01" + row[1:])
    for read in (lambda: view.f, lambda: materialize(view)):
        with pytest.raises(DecodeError, match=r"One\.f is null, and must be "):
            read()


def test_a_null_element_is_refused_where_none_may_be() -> None:
    codec, cls = _one(list[int])
    head, row = parts(codec.encoder(cls)(cls([1, 2])))
    work = bytearray(row)
    work[16 + 8] = 2
    view = codec.decoder(cls)(head + bytes(work))
    assert view.f[0] == 1
    with pytest.raises(DecodeError, match=r"One.f\[1\] is null, and must be int"):
        _ = view.f[1]
    for read in (lambda: list(view.f), lambda: materialize(view)):
        with pytest.raises(DecodeError, match=r"One.f has a null element, and must have int only"):
            read()


@pytest.mark.parametrize(("nulls", "members"), [(0, 2), (3, 0)])
def test_a_union_has_one_member(nulls: int, members: int) -> None:
    codec, cls = _one(int | bool)
    head, row = parts(codec.encoder(cls)(cls(1)))
    work = bytearray(row)
    work[16] = nulls
    view = codec.decoder(cls)(head + bytes(work))
    with pytest.raises(DecodeError, match=f"One.f must have one member of its union, not {members}"):
        _ = view.f
