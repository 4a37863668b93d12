"""XLANG payloads are what Apache Fory's specification says: a decoder that was written from it alone reads them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.types import SerializationMode
from tests.codec import models
from tests.codec.values import identical, values_of
from tests.interop import golden
from tests.interop.cursor import Malformed
from tests.interop.definitions import NAMED_COMPATIBLE_STRUCT, FieldType
from tests.interop.fixtures import FIXTURES, class_of, codec_of, encoded, tags_of
from tests.interop.neutral import decoder_of, neutral

fixtures = pytest.mark.parametrize("name", FIXTURES)

_MODEL_TAGS = models.tags_of(*models.MESSAGES)
_MODEL_CODEC = models.CODECS[SerializationMode.XLANG]
_SIZES = {1: 1, 7: 8, 20: 8}  # of Fory's primitive types, those that Aster uses
_COMPRESSED = {7}


@fixtures
def test_the_specifications_decoder_reads_each_kind_of_field(name: str) -> None:
    value = FIXTURES[name]
    assert identical(decoder_of(encoded(value)).value(), neutral(value, tags_of(class_of(value))))


@given(data=st.data(), cls=st.sampled_from(models.MESSAGES))
def test_the_specifications_decoder_reads_any_message(data: st.DataObject, cls: type[Any]) -> None:
    value = data.draw(values_of(cls))
    payload = _MODEL_CODEC.encoder(cls)(value)
    assert identical(decoder_of(payload).value(), neutral(value, _MODEL_TAGS))


@fixtures
def test_a_payload_has_the_recorded_bytes(name: str) -> None:
    """Another pyfory may write others, which peers of another version then must read: see README.md here before recording anew."""
    assert encoded(FIXTURES[name]).hex() == golden.load(golden.ASTER)[name]


def test_each_fixture_is_recorded_and_nothing_else() -> None:
    assert list(golden.load(golden.ASTER)) == list(FIXTURES)


@fixtures
def test_a_recorded_payload_decodes_to_its_value(name: str) -> None:
    value = FIXTURES[name]
    cls = class_of(value)
    assert identical(codec_of(cls).decoder(cls)(bytes.fromhex(golden.load(golden.ASTER)[name])), value)


@fixtures
def test_fields_stand_in_the_specified_order(name: str) -> None:
    decoder = decoder_of(encoded(FIXTURES[name]))
    decoder.value()
    for definition in decoder.definitions:
        assert list(definition.fields) == sorted(definition.fields, key=_specified_place)


def _specified_place(field: tuple[str, FieldType]) -> tuple[object, ...]:
    """Numbers and bools first, those of fixed size before the compressed and the larger before the smaller; then all others by name."""
    name, type_ = field
    if type_.id not in _SIZES:
        return (2, _snake_case(name))
    return (int(type_.nullable), type_.id in _COMPRESSED, -_SIZES[type_.id], type_.id, _snake_case(name))


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@fixtures
def test_types_go_by_their_wire_tags(name: str) -> None:
    value = FIXTURES[name]
    decoder = decoder_of(encoded(value))
    decoder.value()
    found = [definition.tag for definition in decoder.definitions]
    assert found[0] == tags_of(class_of(value))[class_of(value)]
    assert decoder.definitions[0].kind == NAMED_COMPATIBLE_STRUCT
    assert set(found) <= {*tags_of(class_of(value)).values(), "_aster/uuid", "_aster/time"}
    assert len(found) == len(set(found)), "a definition is sent once a payload"


def test_the_decoder_refuses_a_definition_whose_header_is_not_its_hash() -> None:
    payload = bytearray(encoded(FIXTURES["nested"]))
    payload[5] ^= 0x10
    with pytest.raises(Malformed, match="a definition's header is"):
        decoder_of(bytes(payload)).value()


def test_the_decoder_refuses_what_is_left_over() -> None:
    with pytest.raises(Malformed, match="1 bytes are left over"):
        decoder_of(encoded(FIXTURES["nested"]) + b"\0").value()
