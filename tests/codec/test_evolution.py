"""Two versions of a class under one tag understand each other where the change allows it."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.codec import Codec, make_codec
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.models import FORY_MODES, Color
from tests.codec.values import integers, texts

modes = pytest.mark.parametrize("mode", FORY_MODES, ids=lambda mode: mode.name)


class Added:
    @dataclass
    class Old:
        name: str
        count: int

    @dataclass
    class New:
        name: str
        count: int
        note: str = "none"
        tags: list[str] = field(default_factory=lambda: ["fresh"])
        extra: int | None = 5
        bare: str | None = None
        color: Color = Color.BLUE


class Reordered:
    @dataclass
    class Old:
        a: int
        b: str
        c: float

    @dataclass
    class New:
        c: float
        a: int
        b: str


@dataclass
class Required:
    name: str
    count: int
    needed: str


@dataclass
class OptionalWithoutDefault:
    name: str
    count: int
    maybe: str | None


@dataclass(frozen=True, slots=True)
class FrozenNew:
    name: str
    count: int
    note: str = "none"


@dataclass
class Widened:
    name: str | None
    count: int | None


class Few(enum.Enum):
    A = "a"


class More(enum.Enum):
    A = "a"
    B = "b"


@dataclass
class HasFew:
    choice: Few


@dataclass
class HasMore:
    choice: More


@functools.cache
def codec_of(mode: SerializationMode, cls: type[Any]) -> Codec:
    return make_codec(mode, {cls: "shop/Order"})


def carry(mode: SerializationMode, value: Any, target: type[Any]) -> Any:
    """What a program that knows the tag as ``target`` makes of a value that another one sent."""
    source = cast("type[Any]", type(value))
    return codec_of(mode, target).decoder(target)(codec_of(mode, source).encoder(source)(value))


@modes
@given(name=texts, count=integers)
def test_an_added_field_gets_its_default(mode: SerializationMode, name: str, count: int) -> None:
    assert carry(mode, Added.Old(name, count), Added.New) == Added.New(name, count)
    assert carry(mode, Added.Old(name, count), FrozenNew) == FrozenNew(name, count)


@modes
def test_an_added_fields_default_is_made_anew_for_each_message(mode: SerializationMode) -> None:
    decode = codec_of(mode, Added.New).decoder(Added.New)
    data = codec_of(mode, Added.Old).encoder(Added.Old)(Added.Old("a", 1))
    first, second = decode(data), decode(data)
    first.tags.append("changed")
    assert second.tags == ["fresh"]


@modes
@given(name=texts, count=integers, tags=st.lists(texts))
def test_a_removed_field_is_passed_over(mode: SerializationMode, name: str, count: int, tags: list[str]) -> None:
    assert carry(mode, Added.New(name, count, "x", tags), Added.Old) == Added.Old(name, count)


@modes
@given(a=integers, b=texts, c=st.floats(allow_nan=False))
def test_reordered_fields_keep_their_values(mode: SerializationMode, a: int, b: str, c: float) -> None:
    assert carry(mode, Reordered.Old(a, b, c), Reordered.New) == Reordered.New(c, a, b)


@modes
def test_a_missing_field_without_a_default_is_a_decode_error_that_names_it(mode: SerializationMode) -> None:
    with pytest.raises(DecodeError, match=r"Required\.needed is missing, and has no default"):
        carry(mode, Added.Old("a", 1), Required)


@modes
def test_a_missing_optional_field_is_none(mode: SerializationMode) -> None:
    assert carry(mode, Added.Old("a", 1), OptionalWithoutDefault) == OptionalWithoutDefault("a", 1, None)


@modes
def test_a_field_may_become_optional(mode: SerializationMode) -> None:
    assert carry(mode, Added.Old("a", 1), Widened) == Widened("a", 1)
    assert carry(mode, Widened("a", 1), Added.Old) == Added.Old("a", 1)


@modes
def test_an_enum_member_that_the_receiver_does_not_know_is_a_decode_error(mode: SerializationMode) -> None:
    sender = make_codec(mode, {HasMore: "shop/Order", More: "shop/Choice"})
    receiver = make_codec(mode, {HasFew: "shop/Order", Few: "shop/Choice"})
    assert receiver.decoder(HasFew)(sender.encoder(HasMore)(HasMore(More.A))) == HasFew(Few.A)
    with pytest.raises(DecodeError):
        receiver.decoder(HasFew)(sender.encoder(HasMore)(HasMore(More.B)))
