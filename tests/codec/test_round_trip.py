"""What is encoded arrives exactly, in all modes."""

from __future__ import annotations

import abc
import copy
import dataclasses
import datetime
import decimal
import importlib
import struct
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Set, cast  # noqa: UP035  # the spellings that Fory reads

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aster.codec import Codec, make_codec
from aster.types import SerializationMode
from tests.codec.helpers import decoded
from tests.codec.models import (
    CODECS,
    FORY_MODES,
    MESSAGES,
    MODES,
    Checked,
    CheckedMany,
    Empty,
    Label,
    LabelSet,
    Link,
    Moment,
    Point,
    Price,
    Reals,
    Tree,
    tags_of,
)
from tests.codec.values import DATETIME_ENDS, clocks, identical, instants, values_of

modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
fory_modes = pytest.mark.parametrize("mode", FORY_MODES, ids=lambda mode: mode.name)


def round_trip(codec: Codec, value: Any) -> Any:
    cls = cast("type[Any]", type(value))
    return decoded(codec, cls, codec.encoder(cls)(value))


@modes
@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_every_value_arrives_exactly_and_is_left_alone(mode: SerializationMode, cls: type, data: st.DataObject) -> None:
    value = data.draw(values_of(cls))
    before = copy.deepcopy(value)
    arrived = round_trip(CODECS[mode], value)
    assert identical(arrived, value)
    assert identical(value, before)


@dataclasses.dataclass(frozen=True)
class Address:
    """As rich as a key may be."""

    lines: tuple[str, ...]
    number: int | str | None
    place: tuple[Point, datetime.date]
    label: Label | Point | None
    amount: decimal.Decimal


def _is_refused_on_purpose(text: str) -> bool:
    """Unions of lookalikes, and tuples hashed where Fory reads lists."""
    return "look the same on the wire" in text or "inside another tuple or a union" in text


_leaves: st.SearchStrategy[Any] = st.sampled_from([str, int, float, bool, bytes, datetime.date, decimal.Decimal, Point, Label, int | None, int | str])
_keys: st.SearchStrategy[Any] = st.sampled_from(
    [str, int, bool, bytes, datetime.date, Point, Label, Address, int | str, Label | Point | None, tuple[int, str], tuple[str, ...]]
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda hint: list[hint]),
        inner.map(lambda hint: tuple[hint, ...]),
        st.tuples(inner, inner).map(lambda hints: tuple[hints]),
        st.tuples(_keys, inner).map(lambda hints: dict[hints[0], hints[1]]),
        inner.map(lambda hint: hint | None),
        _keys.map(lambda hint: set[hint]),
        _keys.map(lambda hint: frozenset[hint]),
        st.tuples(inner, inner).map(lambda hints: hints[0] | hints[1]),
    )


@modes
@settings(max_examples=40)
@given(hint=st.recursive(_leaves, _containers, max_leaves=6), data=st.data())
def test_containers_nest_in_any_way(mode: SerializationMode, hint: Any, data: st.DataObject) -> None:
    holder = dataclasses.make_dataclass("Holder", [("value", hint)])
    try:
        tags = tags_of(holder)
    except TypeError as exc:
        assume(not _is_refused_on_purpose(str(exc)))
        raise
    codec = make_codec(mode, tags)
    value = holder(data.draw(st.from_type(hint)))
    assert identical(round_trip(codec, value), value)


@dataclasses.dataclass
class Inner:
    key: str
    value: float


@dataclasses.dataclass
class Outer:
    """Hints in forms that Fory reads by itself."""

    name: str
    inner: Inner
    many: List[Inner]  # noqa: UP006
    table: Dict[str, Inner]  # noqa: UP006
    numbers: Set[int]  # noqa: UP006
    maybe: Optional[Inner] = None  # noqa: UP045


@fory_modes
@given(value=values_of(Outer))
def test_the_bytes_are_those_that_plain_fory_writes_and_reads(mode: SerializationMode, value: Outer) -> None:
    fory: Any = importlib.import_module("pyfory").Fory(xlang=mode is SerializationMode.XLANG, compatible=True)
    fory.register(Outer, name="tests.Outer")
    fory.register(Inner, name="tests.Inner")
    codec = make_codec(mode, {Outer: "tests/Outer", Inner: "tests/Inner"})
    assert codec.encoder(Outer)(value) == fory.serialize(value)
    assert identical(fory.deserialize(codec.encoder(Outer)(value)), value)


@modes
def test_an_empty_message_travels(mode: SerializationMode) -> None:
    assert round_trip(CODECS[mode], Empty()) == Empty()


@modes
@given(number=st.integers(-(2**53), 2**53) | st.sampled_from([2**63, -(10**300)]))
def test_an_int_given_for_a_float_arrives_as_a_float(mode: SerializationMode, number: int) -> None:
    value: Any = Reals(number, [number, 0.5], {"a": number, "b": None}, (number, "x"), number, {"k": [(number, 1)]})
    real = float(number)
    assert identical(round_trip(CODECS[mode], value), Reals(real, [real, 0.5], {"a": real, "b": None}, (real, "x"), real, {"k": [(real, 1.0)]}))
    assert value.either is number  # the sender's value is left alone


@modes
@given(instant=instants)
def test_an_instant_arrives_to_the_microsecond_in_utc(mode: SerializationMode, instant: datetime.datetime) -> None:
    arrived = round_trip(CODECS[mode], Moment(instant)).instant
    assert arrived == instant.astimezone(datetime.UTC)
    assert arrived.tzinfo is datetime.UTC


@modes
@given(clock=clocks)
def test_the_time_of_a_clock_arrives_to_the_microsecond_with_its_fold_and_without_a_zone(mode: SerializationMode, clock: datetime.datetime) -> None:
    arrived = round_trip(CODECS[mode], Moment(clock)).instant
    assert (arrived, arrived.fold, arrived.tzinfo) == (clock, clock.fold, None)


@modes
@pytest.mark.parametrize("zone", [None, datetime.UTC], ids=["naive", "aware"])
def test_the_first_and_the_last_datetime_travel(mode: SerializationMode, zone: datetime.tzinfo | None) -> None:
    for end in DATETIME_ENDS:
        assert round_trip(CODECS[mode], Moment(end.replace(tzinfo=zone))) == Moment(end.replace(tzinfo=zone))


def _timestamp_of(mode: SerializationMode, moment: datetime.datetime) -> tuple[int, int]:
    """The seconds and nanoseconds of a Moment on the wire."""
    return struct.unpack("<qI", CODECS[mode].encoder(Moment)(Moment(moment))[-12:])


@fory_modes
@given(clock=clocks)
def test_the_time_of_a_clock_adds_up_to_the_same_time_in_utc_for_other_languages(mode: SerializationMode, clock: datetime.datetime) -> None:
    seconds, nanos = _timestamp_of(mode, clock)
    as_instant = _timestamp_of(mode, clock.replace(tzinfo=datetime.UTC))
    assert 1_000_000_000 <= nanos < 2_000_000_000  # no instant has these, and some languages read 32 bits with a sign
    assert (seconds + 1, nanos - 1_000_000_000 - clock.fold) == as_instant


@fory_modes
@given(micros=st.integers(0, 999_999), rest=st.integers(0, 999))
def test_what_another_language_sends_below_a_microsecond_is_cut_off(mode: SerializationMode, micros: int, rest: int) -> None:
    data = CODECS[mode].encoder(Moment)(Moment(datetime.datetime(1969, 12, 31, tzinfo=datetime.UTC)))[:-12]
    arrived = CODECS[mode].decoder(Moment)(data + struct.pack("<qI", -1, micros * 1000 + rest))
    assert arrived == Moment(datetime.datetime(1969, 12, 31, 23, 59, 59, micros, datetime.UTC))


@fory_modes
def test_the_negative_zero_of_a_decimal_arrives_as_zero(mode: SerializationMode) -> None:
    assert str(round_trip(CODECS[mode], Price(decimal.Decimal("-0.00"))).amount) == "0.00"


@modes
@pytest.mark.parametrize("depth", [1, 25, 50])
def test_fifty_levels_of_nesting_travel(mode: SerializationMode, depth: int) -> None:
    tree, link = Tree("leaf"), Link(0)
    for number in range(depth):
        tree = Tree("node", [tree])
        link = Link(number, link)
    assert round_trip(CODECS[mode], tree) == tree
    assert round_trip(CODECS[mode], link) == link


@modes
def test_decoding_makes_frozen_slotted_and_inherited_dataclasses_of_the_declared_class(mode: SerializationMode) -> None:
    link = round_trip(CODECS[mode], Link(1, Link(2)))
    assert type(link) is Link
    assert type(link.next) is Link
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(link, "value", 3)  # noqa: B010  # a type checker refuses the plain form
    assert hash(link) == hash(Link(1, Link(2)))
    assert {Label("a"), Label("b")} == round_trip(CODECS[mode], LabelSet({Label("a"), Label("b")})).labels


@modes
def test_the_users_class_is_not_changed(mode: SerializationMode) -> None:
    @dataclasses.dataclass
    class Note:
        text: str | None = None

    before = dict(vars(Note))
    assert round_trip(make_codec(mode, tags_of(Note)), Note("a")) == Note("a")
    assert dict(vars(Note)) == before


@modes
@given(values=values_of(CheckedMany))
def test_post_init_runs_on_everything_that_is_decoded(mode: SerializationMode, values: CheckedMany) -> None:
    for checked in [*values.items, *(item for item in values.named.values() if item), values.pair[1]]:
        checked.total = -1  # what travels is this; the receiver computes its own
    arrived = round_trip(CODECS[mode], values)
    decoded: list[Checked] = [*arrived.items, *(item for item in arrived.named.values() if item), arrived.pair[1]]
    assert all(checked.total == checked.low + checked.high for checked in decoded)


@modes
def test_an_encoder_serves_only_types_of_its_codec(mode: SerializationMode) -> None:
    @dataclasses.dataclass
    class Stranger:
        pass

    for make in (CODECS[mode].encoder, CODECS[mode].decoder):
        with pytest.raises(TypeError, match=r"Stranger.* is not a dataclass of this codec, which knows .*TaskRequest"):
            make(Stranger)


_SEEN = list[type]()


class _Registry:
    """Remembers its subclasses."""

    def __init_subclass__(cls) -> None:
        _SEEN.append(cls)


class _Labelled:
    """Asks its subclasses for a label."""

    def __init_subclass__(cls, *, label: str) -> None:
        _SEEN.append(cls)


@dataclass(frozen=True)
class _Registered(_Registry):
    number: int


@dataclass(frozen=True, slots=True)
class _Slotted(_Registry):
    number: int


@dataclass(frozen=True)
class _WithLabel(_Labelled, label="a"):
    number: int


@dataclass(frozen=True)
class _OfAbc(abc.ABC):  # its metaclass is what matters
    number: int


@dataclass
class _Keys:
    registered: set[_Registered]
    slotted: set[_Slotted]
    labelled: set[_WithLabel]
    of_abc: set[_OfAbc]


@modes
def test_the_class_hooks_of_messages_never_see_a_class_of_the_codecs(mode: SerializationMode) -> None:
    before = list(_SEEN)
    codec = make_codec(mode, tags_of(_Keys))
    value = _Keys({_Registered(1), _Registered(-1), _Registered(-2)}, {_Slotted(1)}, {_WithLabel(1)}, {_OfAbc(1)})
    assert identical(round_trip(codec, value), value)
    assert before == _SEEN
