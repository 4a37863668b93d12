"""Types, not only values, are drawn at random: whatever is supported arrives exactly, and whatever arrives is of exactly its type."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.codec import Codec
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.helpers import decoded
from tests.codec.models import MODES
from tests.codec.schemas import Schema, is_exactly, relatives, schemas, values_in
from tests.codec.test_hostile import mutated
from tests.codec.test_round_trip import round_trip
from tests.codec.values import identical

FEWER = settings(max_examples=max(20, settings().max_examples // 5))
"""For each schema a Fory is made in full, which takes milliseconds; so each is used for several values."""

# Some seconds on a free machine, but twenty when other work fills it; more with the longer profiles.
pytestmark = pytest.mark.timeout(max(60, settings().max_examples))

modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


@modes
@FEWER
@given(data=st.data())
def test_any_value_of_any_supported_type_arrives_exactly(mode: SerializationMode, data: st.DataObject) -> None:
    schema = data.draw(schemas())
    codec = schema.codec(mode)
    for value in data.draw(st.lists(values_in(schema), min_size=1, max_size=3)):
        arrived = round_trip(codec, value)
        assert identical(arrived, value)
        assert is_exactly(arrived, schema.root, schema)


def _outcome(codec: Codec, schema: Schema, data: bytes) -> str:
    """One DecodeError, or a value of exactly the declared type, which then can travel again."""
    try:
        value = decoded(codec, schema.root, data)
    except DecodeError:
        return "error"
    assert is_exactly(value, schema.root, schema)
    assert identical(round_trip(codec, value), value)
    return "value"


@modes
def test_a_payload_of_another_schema_is_a_value_of_the_declared_type_or_a_decode_error(mode: SerializationMode) -> None:
    outcomes = Counter[str]()

    @FEWER
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        schema = data.draw(schemas())
        other = data.draw(relatives(schema) | schemas())
        codec, encode = schema.codec(mode), other.codec(mode).encoder(other.root)
        for value in data.draw(st.lists(values_in(other), min_size=1, max_size=3)):
            outcomes[_outcome(codec, schema, encode(value))] += 1

    check()
    assert outcomes["value"]
    assert outcomes["error"]


def _spliced(first: bytes, second: bytes, random_: random.Random) -> bytes:
    """The beginning of one payload with the end of another, or a piece of it inside."""
    cut, at = random_.randrange(len(first) + 1), random_.randrange(len(second) + 1)
    if random_.random() < 0.5:
        return first[:cut] + second[at:]
    return first[:cut] + second[at : at + random_.randrange(1, 20)] + first[cut + random_.choice((0, 1, 4)) :]


@modes
def test_a_mutated_or_spliced_payload_is_a_value_of_the_declared_type_or_a_decode_error(mode: SerializationMode) -> None:
    outcomes = Counter[tuple[str, str]]()

    @FEWER
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        schema = data.draw(schemas())
        codec = schema.codec(mode)
        encode = codec.encoder(schema.root)
        first, second = encode(data.draw(values_in(schema))), encode(data.draw(values_in(schema)))
        random_ = random.Random(data.draw(st.integers(0, 2**32)))
        for _ in range(20):
            outcomes["mutated", _outcome(codec, schema, mutated(first, random_))] += 1
            outcomes["spliced", _outcome(codec, schema, _spliced(first, second, random_))] += 1

    check()
    assert len(outcomes) == 4, outcomes
