"""Python's values in the neutral form that the decoder of the specification has."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Mapping
from typing import Any, cast

from tests.interop.cursor import Cursor
from tests.interop.fixtures import class_of
from tests.interop.xlang_decoder import Date, Duration, Elements, Entries, Extension, Member, Scaled, Struct, Timestamp, XlangDecoder

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UUID, _TIME = "_aster/uuid", "_aster/time"


def neutral(value: Any, tags: Mapping[type, str]) -> Any:
    """What a decoder that knows nothing of Python makes of the value's payload.

    Args:
        value: what Aster was given to send.
        tags: the wire tags of its dataclasses.
    """
    match value:
        case enum.Enum():
            return Member(_number_of(value))
        case list() | tuple():
            return [neutral(item, tags) for item in cast("list[Any]", value)]
        case set() | frozenset():
            return Elements([neutral(item, tags) for item in cast("set[Any]", value)])
        case dict():
            return Entries([(neutral(key, tags), neutral(item, tags)) for key, item in cast("dict[Any, Any]", value).items()])
        case datetime.datetime(tzinfo=None):  # its mark: a second less, a billion nanoseconds more, and one for the fold
            since = value.replace(tzinfo=datetime.UTC) - _EPOCH
            return Timestamp(since.days * 86_400 + since.seconds - 1, 10**9 + since.microseconds * 1000 + value.fold)
        case datetime.datetime():
            since = value - _EPOCH
            return Timestamp(since.days * 86_400 + since.seconds, since.microseconds * 1000)
        case datetime.date():
            return Date((value - _EPOCH.date()).days)
        case datetime.timedelta():
            return Duration(value.days * 86_400 + value.seconds, value.microseconds * 1000)
        case decimal.Decimal():
            sign, digits, exponent = value.as_tuple()
            number = int("".join(map(str, digits)))
            return Scaled(-number if sign else number, -int(exponent))
        case uuid.UUID():
            return Extension(_UUID, value.bytes)
        case datetime.time():
            since_midnight = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
            return Extension(_TIME, since_midnight * 2 + value.fold)
        case _ if dataclasses.is_dataclass(value):
            names = sorted(field.name for field in dataclasses.fields(value))
            return Struct(_slashed(tags[class_of(value)]), {name: neutral(getattr(value, name), tags) for name in names})
        case _:
            return value


def decoder_of(data: bytes) -> XlangDecoder:
    """The specification's decoder, told what Aster's own extension types hold."""
    return XlangDecoder(data, {_UUID: lambda cursor: cursor.take(16), _TIME: Cursor.varint})


def _number_of(member: enum.Enum) -> int:
    """Its value, if all members have whole numbers that are not negative; else its place."""
    values = [other.value for other in type(member)]
    if all(isinstance(value, int) and value >= 0 for value in values):
        return int(member.value)
    return list(type(member)).index(member)


def _slashed(tag: str) -> str:
    """An automatic tag has only dots, of which the last one parts namespace and type."""
    return tag if "/" in tag else "/".join(tag.rsplit(".", 1))
