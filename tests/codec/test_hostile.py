"""Whatever bytes arrive: a value of exactly the declared type, or DecodeError."""

from __future__ import annotations

import copy
import decimal
import importlib
import itertools
import random
import struct
import typing
import uuid
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.codec import Codec, make_codec
from aster.codec.fory import MAX_FAILURES
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.helpers import at_once, codec_of_deeper_trees, decoded, nested
from tests.codec.models import CODECS, FORY_MODES, MESSAGES, Checked, CheckedMany, Choices, Containers, Empty, Moment, Point, TaskRequest, Tree, tags_of
from tests.codec.test_round_trip import round_trip
from tests.codec.values import DATETIME_ENDS, identical, values_of

modes = pytest.mark.parametrize("mode", FORY_MODES, ids=lambda mode: mode.name)

OTHER = {SerializationMode.XLANG: SerializationMode.NATIVE, SerializationMode.NATIVE: SerializationMode.XLANG}


def decode_or_fail(codec: Codec, cls: type[Any], data: bytes) -> bool:
    """Whether the bytes were a value, which then is one that could be sent again."""
    try:
        value = codec.decoder(cls)(data)
    except DecodeError:
        return False
    assert type(value) is cls
    again: Any = codec.encoder(cls)(value)
    assert identical(codec.decoder(cls)(again), value)
    return True


def mutated(data: bytes, random_: random.Random) -> bytes:
    """The bytes with some of them changed, removed, repeated or swapped."""
    work = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 4))):
        at = random_.randrange(len(work) + 1)
        to = min(len(work), at + random_.choice((1, 2, 8)))
        match random_.randrange(5):
            case 0:
                work[at:to] = random_.randbytes(to - at)
            case 1:
                del work[at:to]
            case 2:
                work[at:at] = work[at:to]
            case 3:
                work[at:to] = random_.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * (to - at)
            case _:
                other = random_.randrange(len(work) + 1)
                work[other:other] = work[at:to]
    return bytes(work)


@modes
@pytest.mark.parametrize("cls", [TaskRequest, Containers, Choices, Tree, CheckedMany], ids=lambda cls: cls.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_mutated_messages_are_values_or_decode_errors(mode: SerializationMode, cls: type, data: st.DataObject) -> None:
    codec = CODECS[mode]
    value = data.draw(values_of(cls))
    encoded = codec.encoder(cls)(value)
    random_ = random.Random(data.draw(st.integers(0, 2**32)))
    failed = sum(not decode_or_fail(codec, cls, mutated(encoded, random_)) for _ in range(25))
    assert failed
    assert identical(round_trip(codec, value), round_trip(codec, value))  # the codec is none the worse for it


@modes
@given(data=st.binary(max_size=200))
def test_random_bytes_are_decode_errors(mode: SerializationMode, data: bytes) -> None:
    head = CODECS[mode].encoder(TaskRequest)(TaskRequest())[:4]
    for hostile in (data, head + data):
        decode_or_fail(CODECS[mode], TaskRequest, hostile)


@modes
@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=4)
@given(data=st.data())
def test_every_cut_and_every_addition_is_a_decode_error(mode: SerializationMode, cls: type, data: st.DataObject) -> None:
    decode = CODECS[mode].decoder(cls)
    encoded = CODECS[mode].encoder(cls)(data.draw(values_of(cls)))
    for end in range(len(encoded)):
        with pytest.raises(DecodeError):
            decode(encoded[:end])
    with pytest.raises(DecodeError, match=f"a {cls.__name__} ends after {len(encoded)} of {len(encoded) + 1} bytes; the rest belongs to nothing"):
        decode(encoded + b"\x00")


@modes
@pytest.mark.parametrize("value", [Tree("a"), Point(1, 2), Empty()])
def test_a_message_of_another_type_is_a_decode_error(mode: SerializationMode, value: Any) -> None:
    cls = cast("type[Any]", type(value))
    data = CODECS[mode].encoder(cls)(value)
    with pytest.raises(DecodeError, match=rf"not a TaskRequest: TaskRequest must be TaskRequest, not {cls.__name__}"):
        CODECS[mode].decoder(TaskRequest)(data)


@modes
def test_a_message_of_an_unknown_type_is_a_decode_error(mode: SerializationMode) -> None:
    stranger = make_dataclass("Stranger", [("a", int)])
    data = make_codec(mode, {stranger: "far/Stranger"}).encoder(stranger)(stranger(1))
    with pytest.raises(DecodeError, match=r"TaskRequest must be TaskRequest, and has a tag that is unknown here: give .* the tag that TaskRequest has"):
        CODECS[mode].decoder(TaskRequest)(data)


@modes
def test_a_message_of_the_other_mode_is_a_decode_error(mode: SerializationMode) -> None:
    data = CODECS[OTHER[mode]].encoder(TaskRequest)(TaskRequest())
    with pytest.raises(DecodeError, match="are not a TaskRequest: Header bitmap mismatch"):
        CODECS[mode].decoder(TaskRequest)(data)


@dataclass
class Claims:
    """What the peer's class of the same tag looks like: every type another one."""

    task_id: list[int]
    priority: dict[str, str]


@modes
def test_fields_of_other_types_are_decode_errors(mode: SerializationMode) -> None:
    data = make_codec(mode, {Claims: "tests.codec/TaskRequest"}).encoder(Claims)(Claims([1], {"a": "b"}))
    with pytest.raises(DecodeError):
        CODECS[mode].decoder(TaskRequest)(data)


@modes
@pytest.mark.parametrize(
    ("declared", "theirs", "sent", "problem"),
    [
        (int | str, bytes | float, b"a", r"One\.v must be int \| str, not bytes"),
        (int | str, int | bool, True, r"One\.v must be int \| str, not bool"),
        (int | str | None, bytes | float, 1.5, r"One\.v must be int \| str, not float"),
        (list[int | str], list[bytes | float], [b"a"], r"One\.v\[0\] must be int \| str, not bytes"),
        (dict[str, int | str], dict[str, bytes | float], {"k": b"a"}, r"One\.v\['k'\] must be int \| str, not bytes"),
        (list[int] | str, list[str] | int, ["a"], r"One\.v\[0\] must be int, not str"),
        (dict[str, int] | str, dict[int, int] | int, {1: 1}, r"One\.v key 0 must be str, not int"),
        (dict[str, int] | str, dict[str, str] | int, {"k": "a"}, r"One\.v\['k'\] must be int, not str"),
        (frozenset[int] | str, frozenset[str] | int, frozenset("a"), r"One\.v element 0 must be int, not str"),
        (tuple[int, str], tuple[int, str, int], (1, "a", 2), r"One\.v must be tuple\[int, str\], not 3 items"),
        (tuple[int, int], tuple[int, int, int], (1, 2, 3), r"One\.v must be tuple\[int, int\], not 3 items"),
        (tuple[int, str], tuple[str, int], ("a", 1), r"One\.v\[0\] must be int, not str"),
        (Literal["a"], str, "b", r"One\.v must be one of 'a', not 'b'"),
        (list[Literal[1, 2]], list[int], [1, 3], r"One\.v\[1\] must be one of 1, 2, not 3"),
    ],
    ids=str,
)
def test_what_fory_reads_but_the_declared_type_rules_out_is_a_decode_error(
    mode: SerializationMode, declared: Any, theirs: Any, sent: Any, problem: str
) -> None:
    """Fory goes by the peer's definition, or by what each value says of itself; neither may get past ours."""
    ours, peers = (make_dataclass("One", [("v", hint)]) for hint in (declared, theirs))
    data = make_codec(mode, {peers: "tests/One"}).encoder(peers)(peers(sent))
    with pytest.raises(DecodeError, match=problem):
        make_codec(mode, {ours: "tests/One"}).decoder(ours)(data)


_FIRST, _LAST = -62_135_596_800, 253_402_300_799
"""The seconds of year 1 and of the last second of year 9999."""


# What the fuzzer found: in a union the peer chooses the type, and Fory has unsigned ints of 64 bits too.
_UNSIGNED = bytes.fromhex(
    "01ff1e005080beb4ee55d34be931cc929cb4270c82d31c322e401708ee4089204e07b01809004c00111339224c180000a89820c04c1602b11720c0521e3c91381f204c004893"
    "9906520048952440b04c160048e079244c004e8f5906ff81808080100fffffffffffffffffff00020a07fdff8280808080808020fd07ffffffffffffffffffff010002001e02"
    "1d705d5ac1bbae6ae231cc929cb4270c82d31c322e4013ac0122c0441528984e15d40ba1001ac3a9f09f9880fd160108160108078002150461"
)


def test_an_int_that_fits_in_64_bits_only_without_a_sign_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match=r"Choices\.either does not fit in 64 bits: 18446744073709551615"):
        CODECS[SerializationMode.XLANG].decoder(Choices)(_UNSIGNED)


@modes
@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (0, 1_000_000_002),
        (0, 1_999_999_999),
        (0, 2_000_000_000),
        (0, 2**32 - 1),
        (_FIRST - 1, 0),
        (_FIRST - 2, 1_000_000_000),
        (_LAST + 1, 0),
        (_LAST, 1_000_000_000),
        (2**63 - 1, 1_000_000_000),
        (-(2**63), 0),
    ],
)
def test_a_timestamp_that_no_datetime_has_is_a_decode_error(mode: SerializationMode, seconds: int, nanos: int) -> None:
    first, last = map(Moment, DATETIME_ENDS)
    data = CODECS[mode].encoder(Moment)(first)[:-12]
    assert CODECS[mode].decoder(Moment)(data + struct.pack("<qI", _FIRST - 1, 1_000_000_000)) == first
    assert CODECS[mode].decoder(Moment)(data + struct.pack("<qI", _LAST - 1, 1_999_999_000)) == last
    with pytest.raises(DecodeError, match="not a Moment"):
        CODECS[mode].decoder(Moment)(data + struct.pack("<qI", seconds, nanos))


@modes
@pytest.mark.parametrize("sideways", [False, True])
def test_nesting_beyond_the_limit_is_a_decode_error(mode: SerializationMode, sideways: bool) -> None:
    generous = codec_of_deeper_trees(mode)
    data = generous.encoder(Tree)(nested(60, sideways=sideways))
    assert round_trip(generous, Tree("leaf")) == Tree("leaf")
    with pytest.raises(DecodeError, match=r"nested more than 50 deep|exceed max depth"):
        make_codec(mode, tags_of(Tree)).decoder(Tree)(data)


@modes
def test_post_init_turns_bad_values_into_decode_errors_with_its_text(mode: SerializationMode) -> None:
    bad = Checked(1, 2)
    bad.low = 5
    data = CODECS[mode].encoder(Checked)(bad)
    with pytest.raises(DecodeError, match=r"^low 5 is above high 2$") as caught:
        CODECS[mode].decoder(Checked)(data)
    assert isinstance(caught.value.__cause__, ValueError)
    data = CODECS[mode].encoder(CheckedMany)(CheckedMany([], {"a": bad}))
    with pytest.raises(DecodeError, match=r"^low 5 is above high 2$"):
        CODECS[mode].decoder(CheckedMany)(data)


@dataclass
class Fragile:
    number: int

    def __post_init__(self) -> None:
        if self.number == 0:
            raise ZeroDivisionError("a bug of the class")


@modes
def test_any_other_error_of_post_init_is_its_own_bug_and_comes_through(mode: SerializationMode) -> None:
    codec = make_codec(mode, {Fragile: "tests/Fragile"})
    value = Fragile(1)
    value.number = 0
    with pytest.raises(ZeroDivisionError, match="a bug of the class"):
        codec.decoder(Fragile)(codec.encoder(Fragile)(value))
    assert round_trip(codec, Fragile(1)) == Fragile(1)


@modes
def test_a_message_that_would_swell_is_a_decode_error(mode: SerializationMode) -> None:
    nested = make_dataclass("Nested", [("lists", list[list[int]])])
    codec = make_codec(mode, {nested: "tests/Nested"})
    small = nested([[] for _ in range(1000)])
    assert round_trip(codec, small) == small
    data = codec.encoder(nested)(nested([[]] * 1_000_000))
    with pytest.raises(DecodeError, match=r"decode to more than is accepted: a message may decode to 16 MiB of objects.*; send less at a time, as a stream"):
        codec.decoder(nested)(data)


_SHARED = tuple(range(100))


@modes
@pytest.mark.parametrize(
    ("hint", "default", "most"),
    [
        (list[int], field(default_factory=list[int]), 1_700),
        (Point, field(default_factory=lambda: Point(0, 0)), 1_700),
        (tuple[int, ...], field(default_factory=lambda: _SHARED), 1_700),
        (list[float], field(default_factory=lambda: [number / 3 for number in range(1_000)]), 50),
        (str, field(default="a text that is one for all"), 11_000),
        (int | None, field(), 11_000),
    ],
    ids=["list", "dataclass", "shared", "large", "str", "Optional"],
)
def test_a_message_that_would_swell_by_defaults_is_a_decode_error(mode: SerializationMode, hint: Any, default: Any, most: int) -> None:
    """A peer whose class has fewer fields: ten defaults for each instance of a byte or two. Somewhat fewer instances than are refused are not."""
    theirs = make_dataclass("Item", [("on", bool)])
    ours = make_dataclass("Item", [("on", bool), *[(f"f{place}", hint, copy.copy(default)) for place in range(10)]])
    their_list, our_list = (make_dataclass("Items", [("items", list[cls])]) for cls in (theirs, ours))
    sender = make_codec(mode, {theirs: "tests/Item", their_list: "tests/Items"})
    reader = make_codec(mode, {ours: "tests/Item", our_list: "tests/Items", Point: "tests/Point"})

    def received(count: int) -> int:
        return len(decoded(reader, our_list, sender.encoder(their_list)(their_list([theirs(True)] * count))).items)

    for _ in range(3):  # each message is counted for itself
        assert received(most * 9 // 10) == most * 9 // 10
    with pytest.raises(
        DecodeError, match=r"accepted: it lacks too many fields, whose defaults may be 16 MiB of objects, and about 4 for each byte of the message; send"
    ):
        received(most * 3 // 2)
    assert received(most * 9 // 10) == most * 9 // 10


@modes
def test_what_lacks_fields_may_be_as_long_as_may_be(mode: SerializationMode) -> None:
    """Of instances of usual size a message is full before their defaults are too many."""
    fields = [("number", int), ("name", str), ("ratio", float)]
    theirs = make_dataclass("Item", fields)
    ours = make_dataclass(
        "Item", [*fields, *[(f"f{place}", list[int] | None, None) for place in range(10)], ("more", list[int], field(default_factory=list[int]))]
    )
    their_list, our_list = (make_dataclass("Items", [("items", list[cls])]) for cls in (theirs, ours))
    sender = make_codec(mode, {theirs: "tests/Item", their_list: "tests/Items"})
    reader = make_codec(mode, {ours: "tests/Item", our_list: "tests/Items"})
    message = sender.encoder(their_list)(their_list([theirs(number, f"name {number}", 0.5) for number in range(40_000)]))
    assert len(decoded(reader, our_list, message).items) == 40_000


def _decode_within() -> list[int]:
    codec = CODECS[SerializationMode.XLANG]
    assert codec.decoder(Tree)(codec.encoder(Tree)(Tree("inner"))) == Tree("inner")
    return []


@modes
def test_defaults_are_counted_whatever_their_factories_decode(mode: SerializationMode) -> None:
    theirs = make_dataclass("Item", [("on", bool)])
    ours = make_dataclass(
        "Item",
        [
            ("on", bool),
            *[(f"f{place}", list[int], field(default_factory=list[int])) for place in range(9)],
            ("more", list[int], field(default_factory=_decode_within)),
        ],
    )
    their_list, our_list = (make_dataclass("Items", [("items", list[cls])]) for cls in (theirs, ours))
    sender = make_codec(mode, {theirs: "tests/Item", their_list: "tests/Items"})
    reader = make_codec(mode, {ours: "tests/Item", our_list: "tests/Items"})
    with pytest.raises(DecodeError, match="it lacks too many fields"):
        reader.decoder(our_list)(sender.encoder(their_list)(their_list([theirs(True)] * 2_500)))


@modes
def test_a_flood_of_equal_hashes_is_a_decode_error(mode: SerializationMode) -> None:
    prime = 2**61 - 1  # the hash of an int is its remainder by this
    by_id = make_dataclass("ById", [("table", dict[uuid.UUID, int])])
    codec = make_codec(mode, {by_id: "tests/ById"})
    honest = by_id({uuid.UUID(int=number): 0 for number in range(2000)})
    assert round_trip(codec, honest) == honest
    repeated = make_dataclass("Repeated", [("prices", list[decimal.Decimal])])
    prices = make_codec(mode, {repeated: "tests/Repeated"})
    same = repeated([decimal.Decimal("9.99")] * 2000)
    assert round_trip(prices, same) == same
    for hostile_codec, hostile in [
        (codec, by_id({uuid.UUID(int=prime * number): 0 for number in range(200)})),
        (prices, repeated([decimal.Decimal(prime * number) for number in range(200)])),
    ]:
        for _ in range(3):  # and the count begins anew with each message
            assert round_trip(codec, honest) == honest
            with pytest.raises(DecodeError, match="more than 32 different values have the same hash"):
                round_trip(hostile_codec, hostile)


@dataclass(frozen=True)
class Path:
    parts: tuple[int, ...]


@dataclass
class Paths:
    paths: list[Path]


@dataclass
class Pairs:
    keys: set[tuple[int, str]]


@dataclass
class Words:
    keys: set[str]


_SAME_HASH = list(itertools.product((-1, -2), repeat=8))  # hash(-1) == hash(-2)


@modes
@pytest.mark.parametrize("kind", [set, dict.fromkeys])
def test_a_flood_of_dataclasses_in_a_field_that_nobody_declared_is_a_decode_error(mode: SerializationMode, kind: Any) -> None:
    plain = make_dataclass("Path", [("parts", typing.Tuple[int, ...])], frozen=True)  # noqa: UP006  # the spelling that Fory reads
    paths = make_dataclass("Paths", [("paths", typing.List[plain]), ("extra", typing.Any)])  # noqa: UP006
    fory: Any = importlib.import_module("pyfory").Fory(xlang=mode is SerializationMode.XLANG, compatible=True, ref=False)
    fory.register(plain, name="tests.Path")
    fory.register(paths, name="tests.Paths")
    decode = make_codec(mode, {Path: "tests/Path", Paths: "tests/Paths"}).decoder(Paths)
    assert decode(fory.serialize(paths([], kind([plain(parts) for parts in _SAME_HASH[:20]])))) == Paths([])
    with pytest.raises(DecodeError, match="more than 32 different values have the same hash"):
        decode(fory.serialize(paths([], kind([plain(parts) for parts in _SAME_HASH]))))


@modes
def test_a_flood_of_tuples_longer_than_declared_is_a_decode_error(mode: SerializationMode) -> None:
    plain = make_dataclass("Pairs", [("keys", typing.Set[typing.Tuple[int, str]])])  # noqa: UP006
    fory: Any = importlib.import_module("pyfory").Fory(xlang=mode is SerializationMode.XLANG, compatible=True, ref=False)
    fory.register(plain, name="tests.Pairs")
    with pytest.raises(DecodeError, match="more than 32 different values have the same hash"):
        make_codec(mode, {Pairs: "tests/Pairs"}).decoder(Pairs)(fory.serialize(plain(set(_SAME_HASH))))


def test_a_flood_of_tuples_in_a_field_that_nobody_declared_is_a_decode_error() -> None:
    plain = make_dataclass("Words", [("keys", typing.Set[str]), ("extra", typing.Any)])  # noqa: UP006
    fory: Any = importlib.import_module("pyfory").Fory(xlang=False, compatible=True, ref=False)
    fory.register(plain, name="tests.Words")
    decode = make_codec(SerializationMode.NATIVE, {Words: "tests/Words"}).decoder(Words)
    assert decode(fory.serialize(plain({"a"}, ([1], set(_SAME_HASH[:20]))))) == Words({"a"})
    with pytest.raises(DecodeError, match="more than 32 different values have the same hash"):
        decode(fory.serialize(plain({"a"}, set(_SAME_HASH))))


@modes
def test_the_many_equal_hashes_of_honest_grids_and_repeated_keys_are_no_flood(mode: SerializationMode) -> None:
    grid = make_dataclass("Grid", [("points", dict[Point, int]), ("more", list[set[Point]]), ("pairs", set[tuple[int, int, int]])])
    span = range(-50, 50)
    points = [Point(x, y) for x in span for y in span]
    value = grid(dict.fromkeys(points, 0), [set(points[:100])] * 50, {(x, y, z) for x in span for y in span[::10] for z in (-1, -2)})
    assert round_trip(make_codec(mode, {grid: "tests/Grid", Point: "tests/Point"}), value) == value


@modes
def test_unknown_definitions_do_not_pile_up(mode: SerializationMode) -> None:
    codec: Any = make_codec(mode, tags_of(TaskRequest))
    for number in range(150):
        cls = make_dataclass("TaskRequest", [("task_id", str), (f"field_{number}", int, 0)])
        data = make_codec(mode, {cls: "tests.codec/TaskRequest"}).encoder(cls)(cls("a"))
        assert codec.decoder(TaskRequest)(data) == TaskRequest("a")
        assert all(len(idle.definitions) <= 70 for idle in codec._pool.idle)


@modes
def test_many_failures_leave_a_working_codec(mode: SerializationMode) -> None:
    codec = make_codec(mode, tags_of(TaskRequest))
    for number in range(2 * MAX_FAILURES + 1):
        with pytest.raises(DecodeError):
            codec.decoder(TaskRequest)(struct.pack("<I", number))
    assert round_trip(codec, TaskRequest("a", 1)) == TaskRequest("a", 1)


@modes
def test_threads_share_a_codec(mode: SerializationMode) -> None:
    codec = CODECS[mode]
    arrived: list[bool] = []

    def work(number: int) -> None:
        tree = Tree(str(number), [Tree("x" * number) for _ in range(number)])
        arrived.extend(round_trip(codec, tree) == tree for _ in range(200))

    at_once(work, 8)
    assert len(arrived) == 1600
    assert all(arrived)


@dataclass(frozen=True)
class Reentrant:
    name: str

    def __hash__(self) -> int:
        data = CODECS[SerializationMode.XLANG].encoder(TaskRequest)(TaskRequest(self.name))
        return hash(CODECS[SerializationMode.XLANG].decoder(TaskRequest)(data).task_id)


@dataclass
class Holder:
    keys: set[Reentrant]


def test_a_codec_may_be_used_inside_its_own_decoding() -> None:
    codec = make_codec(SerializationMode.XLANG, {Holder: "tests/Holder", Reentrant: "tests/Reentrant"})
    value = Holder({Reentrant("a"), Reentrant("b")})
    assert round_trip(codec, value) == value
