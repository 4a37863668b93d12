"""Apache Fory's JavaScript, an implementation of its own, and Aster read each other's payloads.

What it read and wrote is recorded in ``golden/javascript.json``; README.md here tells with which versions, and how to record it anew.
"""

from __future__ import annotations

import datetime
import decimal
import os
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from aster.errors import DecodeError
from tests.codec.values import identical
from tests.interop import golden
from tests.interop.fixtures import FIXTURES, class_of, codec_of, tags_of
from tests.interop.javascript import in_javascript, run_javascript
from tests.interop.models import (
    Choice,
    Color,
    Days,
    Instants,
    LargerOrder,
    Money,
    Named,
    NamedAsInJavaScript,
    Numbers,
    Optionals,
    Order,
    Point,
    Reals,
    SmallerOrder,
    Spans,
    Texts,
    Tree,
    Unions,
)
from tests.interop.neutral import decoder_of, neutral

_UTC = datetime.UTC


def _as_dates(sent: Instants) -> Instants:
    """What is left of instants in JavaScript, which has milliseconds, and for which the time of a clock is one in UTC."""
    return Instants(_as_date(sent.one), [_as_date(instant) for instant in sent.many])


def _as_date(sent: datetime.datetime) -> datetime.datetime:
    return sent.replace(microsecond=sent.microsecond // 1000 * 1000, tzinfo=sent.tzinfo or _UTC, fold=0)


_RECORDED = golden.load(golden.JAVASCRIPT)

# What JavaScript is to read where it is not simply the value that was sent.
_READINGS: Mapping[str, Any] = {
    # Where the two sides' definitions of a struct differ, fields with an underscore at the beginning or before a digit are lost: the name is put into
    # camel case and back, and does not come back the same.
    "larger address": {},
    "names": {name: value for name, value in in_javascript(FIXTURES["names"]).items() if name not in ("_private", "with_digit_9")},
    "smaller order": {"name": "seven"},  # what was not sent is not there
    "named": in_javascript(NamedAsInJavaScript("Ada", 1234)),
    "larger order": in_javascript(Order(7, "seven", 2.5)),
}

# What Aster is to get back where JavaScript cannot hold, or does not know, all that was sent.
_RETURNED: Mapping[str, Any] = {
    "instants": _as_dates(FIXTURES["instants"]),
    "instants of a clock": _as_dates(FIXTURES["instants of a clock"]),
    "larger order": LargerOrder(weight=2.5, name="seven", id=7),
    "choice": Choice(struct.unpack("<f", struct.pack("<f", 0.1))[0]),  # where no type is declared, fractions have 32 bits
}

# What JavaScript wrote by itself, as Aster is to read it.
_OWN: Mapping[str, Any] = {
    "plain numbers for int64": Numbers(-5, 2**53 - 1, [0, -1, 2**63 - 1, -(2**63)]),
    "texts of every width": Texts("abc", ["", "\xe9\xff", "\u20ac", "\U0001d11e", "x" * 40]),
    "whole numbers for float64": Reals(2.0, [-0.0, float("nan"), float("-inf"), 0.1]),
    "an older order": Order(7, "seven", 2.5),
    "fields in camel case": Named("Ada", 1234),
    "absent and missing": Optionals(point=Point(1, 2), color=Color.GREEN),
    "a tree": Tree("root", [Tree("leaf")]),
    "dates at noon": Days(datetime.date(2024, 2, 29), [datetime.date(1969, 12, 31)]),
    "dates with milliseconds": Instants(
        datetime.datetime(2024, 2, 29, 10, 34, 56, 789_000, tzinfo=_UTC), [datetime.datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=_UTC)]
    ),
    "milliseconds for a duration": Spans(datetime.timedelta(microseconds=-1500), [datetime.timedelta(0), datetime.timedelta(days=1, microseconds=250)]),
    "sums": Money(decimal.Decimal("9.99"), [decimal.Decimal(2**70), decimal.Decimal("1E+5")]),
    "values that tell their own types": Unions(5, 2**40, None, 7, [1, "a", None], {"k": True}),
    "a fraction that tells its own type": _RETURNED["choice"],
    "a number that tells its own type": Choice(5.0),
}

_BYTES_WITHOUT_A_TYPE = "bytes that tell their own type"


def _decoded(cls: type[Any], payload: str) -> Any:
    return codec_of(cls).decoder(cls)(bytes.fromhex(payload))


@pytest.mark.parametrize("name", FIXTURES)
def test_javascript_read_what_aster_sent(name: str) -> None:
    assert _RECORDED["reads"][name] == (_READINGS[name] if name in _READINGS else in_javascript(FIXTURES[name]))


@pytest.mark.parametrize("name", [name for name, payload in _RECORDED["echoes"].items() if isinstance(payload, str) and name != "unions"])
def test_aster_reads_what_javascript_made_of_it(name: str) -> None:
    expected = _RETURNED.get(name, FIXTURES.get(name))
    assert identical(_decoded(class_of(expected), _RECORDED["echoes"][name]), expected)


def test_javascript_could_write_all_but_what_it_had_not_read() -> None:
    refused = {name: payload["refused"] for name, payload in _RECORDED["echoes"].items() if not isinstance(payload, str)}
    assert refused == {
        "larger address": 'Field "_hidden" is not nullable',
        "names": 'Field "_private" is not nullable',
        "smaller order": 'Field "weight" is not nullable',
    }
    assert list(_RECORDED["reads"]) == list(_RECORDED["echoes"]) == list(FIXTURES)


@pytest.mark.parametrize("name", _OWN)
def test_aster_reads_what_javascript_wrote_by_itself(name: str) -> None:
    expected = _OWN[name]
    assert identical(_decoded(class_of(expected), _RECORDED["own"][name]), expected)


@pytest.mark.parametrize("name", ["tree", "lists", "dicts", "money", "mixed tuples", "ids", "clocks", "enums"])
def test_the_specifications_decoder_reads_javascript_too(name: str) -> None:
    value = FIXTURES[name]
    assert identical(decoder_of(bytes.fromhex(_RECORDED["echoes"][name])).value(), neutral(value, tags_of(class_of(value))))


def test_fields_added_and_removed_and_in_another_order_do_not_keep_the_languages_apart() -> None:
    payload = _RECORDED["own"]["an older order"]
    assert _decoded(SmallerOrder, payload) == SmallerOrder("seven")
    assert _decoded(LargerOrder, payload) == LargerOrder("none", 2.5, "seven", [], None, 7)


def test_camel_case_of_javascript_is_snake_case_of_python() -> None:
    payload = _RECORDED["own"]["fields in camel case"]
    assert _decoded(Named, payload) == Named("Ada", 1234)
    assert _decoded(NamedAsInJavaScript, payload) == NamedAsInJavaScript("Ada", 1234)


def test_an_enum_in_a_union_comes_back_from_javascript_as_the_value_it_has_there() -> None:
    """It has no enums: a member is a string or a number to it, and goes as one where the field does not say that it is a member."""
    with pytest.raises(DecodeError, match=r"Unions\.color must be Color \| int, not str"):
        _decoded(Unions, _RECORDED["echoes"]["unions"])


def test_bytes_in_a_union_come_from_javascript_as_an_array_of_numbers() -> None:
    with pytest.raises(DecodeError, match=r"Choice\.value must be float \| bytes \| str, not UInt8Array"):
        _decoded(Choice, _RECORDED["own"][_BYTES_WITHOUT_A_TYPE])


def test_every_payload_that_javascript_wrote_by_itself_is_tested() -> None:
    assert set(_RECORDED["own"]) == {*_OWN, _BYTES_WITHOUT_A_TYPE}


@pytest.mark.timeout(60)  # node has to start, on a machine that may be busy
def test_javascript_reads_and_writes_today_what_was_recorded() -> None:
    build = os.environ.get("ASTER_FORY_JS")
    if not build:
        pytest.skip("ASTER_FORY_JS does not name a build of Fory's JavaScript")
    assert {**run_javascript(build), "node": ""} == {**_RECORDED, "node": ""}
