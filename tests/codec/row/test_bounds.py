"""What a row may cost whoever reads it: memory, defaults, nesting, and keys whose hashes a peer has chosen."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import inspect
import random
import struct
import sys
import tracemalloc
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

import pytest
from hypothesis import settings

from aster.codec import auto_tag, buffer_of, hashes, make_codec, materialize
from aster.codec.hashes import FEW, MAX_COLLISIONS
from aster.codec.making import FREE_DEFAULTS
from aster.codec.walk import MAX_NESTING
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.helpers import codec_of_deeper_trees, nested
from tests.codec.models import Point, Tree, tags_of
from tests.codec.row.rows import MANY, Many, Node, array_of_many, changed_message, codec_of, parts, region_at, spoilt, walked
from tests.codec.test_hashes import flood

ROW = SerializationMode.ROW
pytestmark = pytest.mark.timeout(max(60, settings().max_examples))


# Memory


@pytest.mark.parametrize("size", [1_000, 64 * 1024])
def test_a_row_of_texts_lists_and_dataclasses_takes_at_most_twice_its_size_and_a_mebibyte(size: int) -> None:
    """The least of these are tried, whole and spoilt. Values of fewer bytes, such as dates, take more for each: see below."""
    values: list[Any] = [
        Many([""] * (size // 8)),
        Many(lists=[[]] * (size // 16)),
        Many(nodes=[Node()] * (size // 40)),
        Many(table={str(number): "" for number in range(size // 24)}),
    ]
    random_ = random.Random(size)
    for value in values:
        codec = codec_of(Many)
        decode = codec.decoder(Many)
        head, row = parts(codec.encoder(Many)(value))
        decode(head + row)  # which binds the schema
        for message in (head + row, *(head + spoilt(row, random_) for _ in range(20))):
            tracemalloc.start()
            try:
                materialize(decode(message))
            except DecodeError:
                pass
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert peak < 2 * len(message) + 2**20


@pytest.mark.parametrize("hint", [list[datetime.date], set[datetime.date], list[bool], set[int]])
def test_a_row_of_tiny_values_takes_at_most_sixty_times_its_size_while_it_is_made(hint: Any) -> None:
    tiny: Any = dataclasses.make_dataclass("Tiny", [("values", hint)])
    first = datetime.date(2000, 1, 1).toordinal()
    source: dict[Any, Callable[[int], Any]] = {datetime.date: lambda number: datetime.date.fromordinal(first + number), bool: bool, int: int}
    values = get_origin(hint)(map(source[get_args(hint)[0]], range(16_000)))
    codec = codec_of(tiny)
    message = codec.encoder(tiny)(tiny(values))
    view = codec.decoder(tiny)(message)
    del values
    tracemalloc.start()
    try:
        whole = materialize(view)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert type(whole) is tiny
    assert kept < 20 * len(message)
    assert peak < 60 * len(message)


def test_a_count_that_nothing_stands_for_takes_no_memory() -> None:
    for count in (2**31, 2**40, 2**63, 2**64 - 1):

        def claim(row: bytearray, count: int = count) -> None:
            start, _ = array_of_many(row, "texts")
            row[start : start + 8] = struct.pack("<Q", count)

        codec, message = changed_message(MANY, claim)
        view = codec.decoder(Many)(message)
        with pytest.raises(DecodeError, match=rf"Many\.texts has {count} elements, which do not fit in its \d+ bytes"):
            _ = view.texts


@dataclass
class Neighbours:
    first: list[int] = field(default_factory=list[int])
    second: bytes = b""


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3]])
def test_a_list_of_one_element_more_than_it_has_is_refused_and_shows_nothing_of_what_is_behind_it(values: list[int]) -> None:
    def one_more(row: bytearray) -> None:
        start, _ = region_at(row, 0, 8)
        row[start : start + 8] = struct.pack("<Q", len(values) + 1)

    codec, message = changed_message(Neighbours(values, b"secret! of another"), one_more)
    view = codec.decoder(Neighbours)(message)
    with pytest.raises(DecodeError, match=rf"Neighbours\.first has {len(values) + 1} elements, which do not fit"):
        _ = view.first


@pytest.mark.parametrize("more", [1, 8, 2**31])
def test_an_element_that_ends_outside_of_its_list_is_refused_alone_too(more: int) -> None:
    def longer(row: bytearray) -> None:
        _, slots = array_of_many(row, "texts")
        row[slots + 16 : slots + 20] = struct.pack("<I", 8 + more)  # "c" and its padding, and more

    codec, message = changed_message(MANY, longer)
    view = codec.decoder(Many)(message)
    assert view.texts[1] == "b"
    for read in (lambda: view.texts[2], lambda: view.texts[-1], lambda: view.texts[2:], lambda: list(view.texts), lambda: materialize(view)):
        with pytest.raises(DecodeError, match=rf"Many\.texts\[2\] holds a part that ends {more} bytes behind it"):
            read()


@dataclass
class Blobs:
    many: list[bytes] = field(default_factory=list[bytes])
    none: bytes = b""


def test_the_bytes_of_an_element_that_ends_outside_of_its_list_are_not_shown() -> None:
    def longer(row: bytearray) -> None:
        start, _ = region_at(row, 0, 8)
        row[start + 16 : start + 20] = struct.pack("<I", 9)

    codec, message = changed_message(Blobs([b"x"], b"secret"), longer)
    view = codec.decoder(Blobs)(message)
    with pytest.raises(DecodeError, match="ends outside of its row at 0"):
        buffer_of(view.many, 0)
    codec, message = changed_message(Blobs([b"x"], b"secret"), lambda row: row.__setitem__(0, 2))
    with pytest.raises(DecodeError, match="is null at 'none', and must be bytes"):
        buffer_of(codec.decoder(Blobs)(message), "none")


@dataclass
class Filled:
    """Twelve fields, of which a peer need not send any."""

    a: list[int] = field(default_factory=list[int])
    b: list[int] = field(default_factory=list[int])
    c: list[int] = field(default_factory=list[int])
    d: list[int] = field(default_factory=list[int])
    e: int = 1
    f: int = 2
    g: int = 3
    h: int = 4
    i: str | None = None
    j: str | None = None
    k: str | None = None
    l: str | None = None  # noqa: E741  # the twelfth


@dataclass
class ManyFilled:
    items: list[Filled] = field(default_factory=list[Filled])
    table: dict[int, Filled] = field(default_factory=dict[int, Filled])


def test_instances_that_no_bytes_stand_for_are_bounded() -> None:
    """Each of these takes 24 bytes, for which six fields of default values may be made."""
    bare: type[Any] = dataclasses.make_dataclass("Bare", [("z", int | None)])
    theirs: type[Any] = dataclasses.make_dataclass("Theirs", [("items", list[bare]), ("table", dict[int, bare])])
    tags: dict[type, str] = {theirs: auto_tag(ManyFilled), bare: auto_tag(Filled)}
    encode, decode = make_codec(ROW, tags).encoder(theirs), codec_of(ManyFilled).decoder(ManyFilled)
    for count in (FREE_DEFAULTS // 6, 10 * FREE_DEFAULTS):
        view = decode(encode(theirs([bare(None)] * count, {1: bare(None)})))
        assert materialize(view.table) == {1: Filled()}
        assert len(view.items) == count
        assert view.items[count - 1].c == []
        if count < FREE_DEFAULTS:
            assert materialize(view) == ManyFilled([Filled()] * count, {1: Filled()})
        else:
            for whole in (view, view.items, view.items[:], list(view.items), {"all": tuple(view.items)}):
                with pytest.raises(DecodeError, match="has too many fields that its peer does not send; read the view of it instead"):
                    materialize(whole)


# Nesting


@dataclass(frozen=True)
class Deep:
    """A key whose hash takes no depth, and whose value does."""

    inner: tuple[dict[str, list[Deep]], ...] = field(default=(), compare=False)


@dataclass
class Roots:
    keys: frozenset[Deep] = frozenset()
    table: dict[Deep, int] = field(default_factory=dict[Deep, int])


def test_what_is_nested_too_deeply_for_the_stack_is_a_decode_error_however_it_is_read() -> None:
    deep = Deep()
    for _ in range(MAX_NESTING - 5):
        deep = Deep(({"": [deep]},))
    codec = codec_of(Roots)
    view = codec.decoder(Roots)(codec.encoder(Roots)(Roots(frozenset([deep]), {deep: 1})))
    reads: list[Callable[[], object]] = [lambda: materialize(view), lambda: view.keys, lambda: list(view.table)]

    def at_depth(depth: int, read: Callable[[], object]) -> object:
        return at_depth(depth - 1, read) if depth else read()

    left = sys.getrecursionlimit() - len(inspect.stack(0))
    for read in reads:
        read()  # where there is room
        with pytest.raises(DecodeError, match="is nested too deeply to be read whole from here"):
            at_depth(left - 100, read)


# Hashes


@dataclass(frozen=True)
class Key:
    span: datetime.timedelta
    amount: decimal.Decimal


@dataclass
class Keyed:
    ids: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    keys: dict[Key, int] = field(default_factory=dict[Key, int])


def _look_at_keys(view: Any) -> object:
    return view.ids, list(view.keys)


def test_a_flood_of_equal_hashes_is_a_decode_error() -> None:
    prime = 2**61 - 1
    same = [uuid.UUID(int=prime * number) for number in range(1, MAX_COLLISIONS + 3)]
    amounts = [Key(datetime.timedelta(), decimal.Decimal(prime * number)) for number in range(1, MAX_COLLISIONS + 3)]
    codec = codec_of(Keyed)
    for value in (Keyed(ids=set(same)), Keyed(keys=dict.fromkeys(amounts, 1))):
        view = codec.decoder(Keyed)(codec.encoder(Keyed)(value))
        for read in (materialize, walked, _look_at_keys):
            with pytest.raises(DecodeError, match=f"more than {MAX_COLLISIONS} different values have the same hash"):
                read(view)
    few = Keyed(ids=set(same[:-1]), keys=dict.fromkeys(amounts[:-1], 1))
    assert materialize(codec.decoder(Keyed)(codec.encoder(Keyed)(few))) == few


@dataclass
class Counted:
    by_number: dict[int, bool] = field(default_factory=dict[int, bool])
    numbers: set[int] = field(default_factory=set[int])
    points: dict[Point, int] = field(default_factory=dict[Point, int])
    names: set[str] = field(default_factory=set[str])


def test_a_flood_of_hashes_that_lead_along_one_chain_is_a_decode_error() -> None:
    codec = codec_of(Counted)
    view = codec.decoder(Counted)(codec.encoder(Counted)(Counted(dict.fromkeys(flood(14), True))))
    reads: list[Callable[[], object]] = [
        lambda: materialize(view),
        lambda: walked(view),
        lambda: view.by_number.get(5),
        lambda: list(view.by_number),
    ]
    for read in reads:
        with pytest.raises(DecodeError, match=r"Counted\.by_number.* cannot be accepted: the hashes of so many keys lead to the same places"):
            read()


def test_the_hashes_of_many_keys_are_looked_at_unless_no_peer_can_choose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of(Counted)
    many = [number << 40 for number in range(FEW + 1)]  # which begin at one place
    few = many[:FEW]
    values = [
        Counted(dict.fromkeys(few, True), set(few), {Point(number, 0): 1 for number in few}, {f"{number}" for number in range(9_000)}),
        Counted(by_number=dict.fromkeys(many, True)),
        Counted(numbers=set(many)),
        Counted(points={Point(number, 0): 1 for number in many}),
    ]
    views = [codec.decoder(Counted)(codec.encoder(Counted)(value)) for value in values]
    assert all(materialize(view) == value for view, value in zip(views, values, strict=True))
    for steps in ("_DICT_STEPS", "_SET_STEPS"):
        monkeypatch.setattr(hashes, steps, -1)
    assert materialize(views[0]) == values[0]
    for view in views[1:]:
        with pytest.raises(DecodeError, match="cannot be accepted: the hashes of so many keys"):
            materialize(view)


def test_two_equal_keys_are_a_decode_error() -> None:
    def same_key(row: bytearray) -> None:
        at = row.index(b"k\0\0\0\0\0\0\0l\0\0\0")
        row[at + 8] = ord("k")

    codec, message = changed_message(MANY, same_key)
    view = codec.decoder(Many)(message)
    assert len(view.table) == 2
    reads: list[Callable[[], object]] = [lambda: materialize(view), lambda: view.table["k"], lambda: list(view.table)]
    for read in reads:
        with pytest.raises(DecodeError, match=r"Many\.table has two keys that are equal"):
            read()


@pytest.mark.parametrize("mode", SerializationMode, ids=lambda mode: mode.name)
def test_views_that_are_sent_on_together_share_what_may_be_filled_in_but_those_of_other_messages_do_not(mode: SerializationMode) -> None:
    theirs: type[Any] = dataclasses.make_dataclass("Item", [("on", bool)])
    ours: type[Any] = dataclasses.make_dataclass("Item", [("on", bool), *[(f"f{place}", str | None, None) for place in range(30)]])
    their_list: type[Any] = dataclasses.make_dataclass("Items", [("items", list[theirs])])
    our_list: type[Any] = dataclasses.make_dataclass("Items", [("items", list[ours])])
    sender = make_codec(ROW, {theirs: "tests/Item", their_list: "tests/Items"}).encoder(their_list)
    reader = make_codec(ROW, {ours: "tests/Item", our_list: "tests/Items"}).decoder(our_list)
    encode = make_codec(mode, {ours: "tests/Item", our_list: "tests/Items"}).encoder(our_list)
    messages = [reader(sender(their_list([theirs(True)]))) for _ in range(500)]
    assert encode(our_list([view for message in messages for view in message.items]))
    assert len(materialize([view for message in messages for view in message.items])) == 500
    message = reader(sender(their_list([theirs(True)] * 500)))
    for views in (list(message.items), message.items):
        with pytest.raises(DecodeError, match="has too many fields that its peer does not send"):
            encode(our_list(views))


# Depth


@pytest.mark.parametrize("sideways", [False, True])
def test_what_is_nested_too_deeply_is_refused_when_it_becomes_plain(sideways: bool) -> None:
    generous = codec_of_deeper_trees(ROW)
    codec = make_codec(ROW, tags_of(Tree))
    view = codec.decoder(Tree)(generous.encoder(Tree)(nested(MAX_NESTING + 1, sideways=sideways)))
    assert view.name == "node"
    with pytest.raises(DecodeError, match=f"is nested more than {MAX_NESTING} deep"):
        materialize(view)
    assert "unreadable Tree" in repr(view)
