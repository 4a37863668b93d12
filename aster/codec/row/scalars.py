"""How single values stand in a row: those of fixed width by their number, the others by bytes. Both directions of each, side by side.

Bool, int, float, str, bytes, date and aware datetimes stand as Apache Fory's row format has them. For the others it has no place, so they take what is nearest:
an Enum its member's name, a Decimal its text, a UUID its 16 bytes, a timedelta its microseconds.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aster.codec.walk import problem_with

__all__ = ["FIXED", "VARIABLE", "FixedScalar", "VariableScalar"]


@dataclass(frozen=True, slots=True)
class FixedScalar:
    """A value that takes so many bytes in an array, and eight in a struct.

    Attributes:
        code: of the number, as the ``struct`` module has it.
        width: bytes.
        to_number: the number of a value; ``None`` when the value is the number.
        from_number: the value of a number, whatever number it is; ``None`` likewise. Raises ValueError or OverflowError.
    """

    code: str
    width: int
    to_number: Callable[[Any], Any] | None = None
    from_number: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class VariableScalar:
    """A value that is as many bytes as it needs.

    Attributes:
        to_bytes: the bytes of a value.
        from_bytes: the value of some bytes, whatever bytes they are. Raises ValueError.
    """

    to_bytes: Callable[[Any], bytes]
    from_bytes: Callable[[bytes], Any]


_MICROSECOND = datetime.timedelta(microseconds=1)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_FIRST_DAY = datetime.date(1970, 1, 1).toordinal()
_FIRST_INSTANT = (datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH) // _MICROSECOND
_LAST_INSTANT = (datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH) // _MICROSECOND

_CLOCKS = 2**62
"""What stands for a clock that showed 1970-01-01 00:00: far from any instant's microseconds, which are within 2**58 of zero."""


def _bool_of(number: int) -> bool:
    if number > 1:
        raise ValueError(f"it is {number}")
    return number == 1


def _days_of(value: datetime.date) -> int:
    return value.toordinal() - _FIRST_DAY


def _date_of(days: int) -> datetime.date:
    return datetime.date.fromordinal(days + _FIRST_DAY)


def _number_of_datetime(value: datetime.datetime) -> int:
    """Microseconds since 1970. A naive datetime names no instant: it goes as what its clock shows, doubled, with the fold, in a range of its own."""
    if value.utcoffset() is None:
        return _CLOCKS + 2 * ((value.replace(tzinfo=None) - _NAIVE_EPOCH) // _MICROSECOND) + value.fold
    micros = (value - _EPOCH) // _MICROSECOND
    if not _FIRST_INSTANT <= micros <= _LAST_INSTANT:
        raise ValueError("no datetime in UTC can hold this instant")
    return micros


def _datetime_of(number: int) -> datetime.datetime:
    if number < _CLOCKS // 2:
        return _EPOCH + datetime.timedelta(microseconds=number)
    micros, fold = divmod(number - _CLOCKS, 2)
    return (_NAIVE_EPOCH + datetime.timedelta(microseconds=micros)).replace(fold=fold)


def _number_of_time(value: datetime.time) -> int:
    _refuse_problem(value)
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return (seconds * 1_000_000 + value.microsecond) * 2 + value.fold


def _time_of(number: int) -> datetime.time:
    micros, fold = divmod(number, 2)
    seconds, micros = divmod(micros, 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return datetime.time(hours, minutes, seconds, micros, fold=fold)


def _timedelta_of(micros: int) -> datetime.timedelta:
    value = datetime.timedelta(microseconds=micros)
    _refuse_problem(value)
    return value


def _micros_of(value: datetime.timedelta) -> int:
    return value // _MICROSECOND


_PLAINLY = decimal.Context(capitals=1)
"""The writer's own context may ask for a small ``e``."""

_DECIMAL = re.compile(rb"-?[0-9]+(\.[0-9]+)?(E[+-][0-9]{1,5})?")


def _decimal_of(data: bytes) -> decimal.Decimal:
    if not _DECIMAL.fullmatch(data):
        raise ValueError("its text is none")
    value = decimal.Decimal(data.decode())
    _refuse_problem(value)
    return value


def _text_of(value: decimal.Decimal) -> bytes:
    _refuse_problem(value)
    return _PLAINLY.to_sci_string(value).encode()


def _uuid_of(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=data)


def _refuse_problem(value: object) -> None:
    problem = problem_with(value)
    if problem is not None:
        raise ValueError(problem)


FIXED: Mapping[str, FixedScalar] = {
    "bool": FixedScalar("B", 1, None, _bool_of),
    "int": FixedScalar("q", 8),
    "float": FixedScalar("d", 8),
    "date": FixedScalar("i", 4, _days_of, _date_of),
    "datetime": FixedScalar("q", 8, _number_of_datetime, _datetime_of),
    "time": FixedScalar("q", 8, _number_of_time, _time_of),
    "timedelta": FixedScalar("q", 8, _micros_of, _timedelta_of),
}

VARIABLE: Mapping[str, VariableScalar] = {
    "str": VariableScalar(str.encode, bytes.decode),
    "bytes": VariableScalar(bytes, bytes),
    "decimal": VariableScalar(_text_of, _decimal_of),
    "uuid": VariableScalar(lambda value: value.bytes, _uuid_of),
}
