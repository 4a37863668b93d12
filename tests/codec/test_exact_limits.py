"""Each number that bounds a payload: what is at it travels, and one more is refused, by the sender and by the receiver."""

from __future__ import annotations

import decimal
import importlib
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest

from aster.codec import make_codec
from aster.codec.hashes import MAX_COLLISIONS
from aster.codec.walk import MAX_DECIMAL_DIGITS
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.helpers import codec_of_deeper_trees, decoded, nested
from tests.codec.models import FORY_MODES, MODES, Tree, tags_of
from tests.codec.test_round_trip import round_trip
from tests.codec.values import identical

modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
fory_modes = pytest.mark.parametrize("mode", FORY_MODES, ids=lambda mode: mode.name)


def _sent_by_fory_alone(mode: SerializationMode, value: Any, **registered: type[Any]) -> bytes:
    """What a peer without our limits sends; types by their tags, as ``tests.`` and the name."""
    fory: Any = importlib.import_module("pyfory").Fory(xlang=mode is SerializationMode.XLANG, compatible=True, ref=False)
    for name, cls in registered.items():
        fory.register(cls, name=f"tests.{name}")
    return fory.serialize(value)


@dataclass
class Sum:
    amount: decimal.Decimal


@fory_modes
@pytest.mark.parametrize("exponent", [0, -2, 10_000, -10_000])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_decimal_has_ten_thousand_digits_and_not_one_more(mode: SerializationMode, exponent: int, sign: int) -> None:
    codec = make_codec(mode, {Sum: "tests/Sum"})
    at_limit = Sum(decimal.Decimal((sign, (9,) * MAX_DECIMAL_DIGITS, exponent)))
    assert identical(round_trip(codec, at_limit), at_limit)
    above = Sum(decimal.Decimal((sign, (1, *(0,) * MAX_DECIMAL_DIGITS), exponent)))
    with pytest.raises(ValueError, match=r"Sum\.amount has too many digits .*10,000"):
        codec.encoder(Sum)(above)
    with pytest.raises(DecodeError, match="a Decimal of more than 10000 digits"):
        codec.decoder(Sum)(_sent_by_fory_alone(mode, above, Sum=Sum))


@modes
@pytest.mark.parametrize("exponent", [10_000, -10_000])
def test_a_decimals_exponent_goes_to_ten_thousand_and_not_further(mode: SerializationMode, exponent: int) -> None:
    codec = make_codec(mode, {Sum: "tests/Sum"})
    at_limit = Sum(decimal.Decimal((0, (1,), exponent)))
    assert identical(round_trip(codec, at_limit), at_limit)
    with pytest.raises(ValueError, match="too large an exponent"):
        codec.encoder(Sum)(Sum(decimal.Decimal((0, (1,), exponent + (1 if exponent > 0 else -1)))))


def _one_with(fields: int, name: Callable[[int], str]) -> type[Any]:
    return make_dataclass("One", [("a", int), *((name(number), int, 0) for number in range(fields - 1))])


@fory_modes
def test_a_peers_class_has_128_fields_and_not_one_more(mode: SerializationMode) -> None:
    one = _one_with(1, str)
    decode = make_codec(mode, {one: "tests/One"}).decoder(one)
    for fields in (128, 129):
        theirs = _one_with(fields, "f{}".format)
        data = _sent_by_fory_alone(mode, theirs(7), One=theirs)
        if fields == 128:
            assert decode(data) == one(7)
        else:
            with pytest.raises(DecodeError, match="field count 129 exceeds"):
                decode(data)


@fory_modes
def test_a_peers_definition_is_longer_than_any_of_ours_but_not_without_bound(mode: SerializationMode) -> None:
    one = _one_with(1, str)
    decode = make_codec(mode, {one: "tests/One"}).decoder(one)
    longest = _one_with(128, "f{:099}".format)
    assert decode(_sent_by_fory_alone(mode, longest(7), One=longest)) == one(7)
    longer = _one_with(128, "f{:0200}".format)
    with pytest.raises(DecodeError, match="exceeds max_type_meta_bytes 16384"):
        decode(_sent_by_fory_alone(mode, longer(7), One=longer))


@fory_modes
def test_a_value_of_a_message_shares_its_hash_with_33_others_and_not_one_more(mode: SerializationMode) -> None:
    """The first and 32 more; an int's hash is its remainder by a prime."""
    prime = 2**61 - 1
    same = [decimal.Decimal(prime * number) for number in range(MAX_COLLISIONS + 2)]
    sums = make_dataclass("Sums", [("many", list[decimal.Decimal])])
    codec = make_codec(mode, {sums: "tests/Sums"})
    assert round_trip(codec, sums(same[:-1])) == sums(same[:-1])
    with pytest.raises(DecodeError, match="more than 32 different values have the same hash"):
        round_trip(codec, sums(same))


@modes
@pytest.mark.parametrize("sideways", [False, True])
def test_dataclasses_arrive_nested_fifty_deep_and_not_one_more(mode: SerializationMode, sideways: bool) -> None:
    generous, codec = codec_of_deeper_trees(mode), make_codec(mode, tags_of(Tree))
    deep = nested(50, sideways=sideways)
    assert decoded(codec, Tree, generous.encoder(Tree)(deep)) == deep
    with pytest.raises(DecodeError, match=r"nested more than 50 deep|exceed max depth"):
        decoded(codec, Tree, generous.encoder(Tree)(nested(51, sideways=sideways)))
