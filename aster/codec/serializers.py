"""How values travel that Fory sends inexactly, cannot send, or lets a peer attack with. Beside ``engine.py`` the only module that touches pyfory."""

from __future__ import annotations

import datetime
import decimal
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pyfory  # pyright: ignore[reportMissingTypeStubs]  # it has none
from pyfory import serializer as fory_serializer  # pyright: ignore[reportMissingTypeStubs]  # it has none

from aster.codec.hashes import HashTally
from aster.codec.walk import MAX_DECIMAL_DIGITS

__all__ = [
    "DecimalSerializer",
    "TimeSerializer",
    "TimestampSerializer",
    "TupleSerializer",
    "UuidSerializer",
    "WrappingSerializer",
    "counted",
    "counting_hash",
    "is_ours",
]

_fory: Any = pyfory
_fory_serializers: Any = fory_serializer
_NANOS = 1_000_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_FIRST_INSTANT = datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH
_LAST_INSTANT = datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH

_TOO_MANY_DIGITS = f"a Decimal of more than {MAX_DECIMAL_DIGITS} digits"
_read_decimal_parts: Callable[[Any], tuple[int, int]] = _fory_serializers._read_decimal_parts  # which bounds the scale
_LARGEST_DECIMAL = 10**MAX_DECIMAL_DIGITS - 1
_EXACT = decimal.Context(prec=MAX_DECIMAL_DIGITS, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


class _Serializer(_fory.Serializer):
    """One whose values always take up bytes, which spares them Fory's limit on those that do not."""

    def __init__(self, resolver: Any, type_: type) -> None:
        super().__init__(resolver, type_)  # pyright: ignore[reportUnknownMemberType]  # pyfory's
        self.read_data_always_advances = True


class TimestampSerializer(_Serializer):
    """Seconds and nanoseconds since 1970, as Fory has it, computed without floats.

    A naive datetime names no instant, for which Fory has no type. It goes as if its clock showed UTC, with one second less and a billion nanoseconds more,
    which no instant has, and its fold as one nanosecond. Whoever adds the two up sees the time of the clock.
    """

    def write(self, context: Any, value: datetime.datetime) -> None:
        naive = value.utcoffset() is None
        since = value.replace(tzinfo=datetime.UTC) - _EPOCH if naive else value - _EPOCH
        if not _FIRST_INSTANT <= since <= _LAST_INSTANT:
            raise OverflowError("no datetime in UTC can hold this instant")
        seconds, nanos = since.days * 86_400 + since.seconds, since.microseconds * 1000
        context.write_int64(seconds - 1 if naive else seconds)
        context.write_uint32(_NANOS + nanos + value.fold if naive else nanos)

    def read(self, context: Any) -> datetime.datetime:
        seconds, nanos = context.read_int64(), context.read_uint32()
        if nanos < _NANOS:
            return _EPOCH + datetime.timedelta(seconds=seconds, microseconds=nanos // 1000)
        micros, fold = divmod(nanos - _NANOS, 1000)
        if micros >= 1_000_000:
            raise ValueError(f"{nanos} nanoseconds are part of no timestamp")
        return (_NAIVE_EPOCH + datetime.timedelta(seconds=seconds + 1, microseconds=micros)).replace(fold=fold)  # which refuses all but 0 and 1


class _Decoding(threading.local):
    tally: HashTally | None = None


_decoding = _Decoding()


def counting_hash(own: Callable[..., int], *, is_generated: bool) -> Callable[[Any], int]:
    """A ``__hash__`` that counts, while a message is decoded. ``is_generated``: whether ``@dataclass`` wrote it, which takes the hashes of the fields, and
    puts them into no set as one of a class's own may."""
    take = _hash_alone if is_generated else _hash

    def __hash__(self: object) -> int:
        tally = _decoding.tally
        if tally is None:
            return own(self)
        hashed = take(own, self)
        tally.add(self, hashed)
        return hashed

    return __hash__


def _hash(own: Callable[[Any], int], value: object) -> int:
    return own(value)


def _hash_alone(own: Callable[[Any], int], value: object) -> int:
    """The hash of a value, without those in it being counted, which nothing is compared with."""
    tally, _decoding.tally = _decoding.tally, None
    try:
        return own(value)
    finally:
        _decoding.tally = tally


def counted(deserialize: Callable[[Any], Any], tally: HashTally) -> Callable[[Any], Any]:
    """``deserialize``, with the hashes that it takes counted in ``tally``."""

    def run(buffer: Any) -> Any:
        outer, _decoding.tally = _decoding.tally, tally  # a value's own __hash__ may decode something too
        try:
            return deserialize(buffer)
        finally:
            _decoding.tally = outer

    return run


class WrappingSerializer(_Serializer):
    """Fory's own, with something between what it reads and who asked for it."""

    def __init__(self, inner: Any, type_: type) -> None:
        super().__init__(inner.type_resolver, type_)
        self.need_to_write_ref = False
        self._inner = inner

    def write(self, context: Any, value: object) -> None:
        self._inner.write(context, value)


class TupleSerializer(WrappingSerializer):
    def __init__(self, inner: Any) -> None:
        super().__init__(inner, tuple)

    def read(self, context: Any) -> tuple[object, ...]:
        value = self._inner.read(context)
        if _decoding.tally is not None:
            try:
                hashed = _hash_alone(hash, value)
            except TypeError:  # it holds a list, say, and can be no key
                return value
            _decoding.tally.add(value, hashed)
        return value


_make_tuple_serializer: Any = _fory.TupleSerializer


def _tuple_serializer(resolver: Any, *args: Any) -> Any:
    made = _make_tuple_serializer(resolver, *args)
    sign = _sign_of(resolver)
    return TupleSerializer(made) if sign is not None and sign.counts_tuples else made


def _sign_of(resolver: Any) -> UuidSerializer | None:
    """What tells that a Fory is ours."""
    record = resolver._types_info.get(uuid.UUID)
    return record.serializer if record is not None and isinstance(record.serializer, UuidSerializer) else None


def is_ours(resolver: Any) -> bool:
    """Whether a Fory was made by ``build_engine``."""
    return _sign_of(resolver) is not None


# Fory looks this name up whenever it makes the serializer of a declared tuple, for definitions that peers send too, and offers no other way in.
# A Fory that is not ours gets what it always got.
_fory_serializers.TupleSerializer = _tuple_serializer


class UuidSerializer(_Serializer):
    def __init__(self, resolver: Any, type_: type, tally: HashTally, *, counts_tuples: bool) -> None:
        super().__init__(resolver, type_)
        self._tally = tally
        self.counts_tuples = counts_tuples

    def write(self, context: Any, value: uuid.UUID) -> None:
        context.write_bytes(value.bytes)

    def read(self, context: Any) -> uuid.UUID:
        value = uuid.UUID(bytes=context.read_bytes(16))
        self._tally.add(value, hash(value))
        return value


class DecimalSerializer(WrappingSerializer):
    """The bytes are Fory's own, but are not turned into Decimals digit by digit, which takes several times as long: 4 MiB may hold two million of them."""

    def __init__(self, inner: Any, tally: HashTally) -> None:
        super().__init__(inner, decimal.Decimal)
        self._tally = tally

    def write(self, context: Any, value: Any) -> None:
        if len(value.as_tuple().digits) > MAX_DECIMAL_DIGITS:
            raise ValueError(_TOO_MANY_DIGITS)
        self._inner.write(context, value)

    def read(self, context: Any) -> decimal.Decimal:
        scale, unscaled = _read_decimal_parts(context)
        if not -_LARGEST_DECIMAL <= unscaled <= _LARGEST_DECIMAL:
            raise ValueError(_TOO_MANY_DIGITS)
        value = decimal.Decimal(unscaled)
        if scale:
            value = value.scaleb(-scale, _EXACT)
        self._tally.add(value, hash(value))
        return value


class TimeSerializer(_Serializer):
    """Microseconds since midnight, doubled, plus the fold."""

    def write(self, context: Any, value: datetime.time) -> None:
        if value.tzinfo is not None:
            raise ValueError("a time of day is sent without its zone")
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        context.write_varint64((seconds * 1_000_000 + value.microsecond) * 2 + value.fold)

    def read(self, context: Any) -> datetime.time:
        micros, fold = divmod(context.read_varint64(), 2)
        seconds, micros = divmod(micros, 1_000_000)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return datetime.time(hours, minutes, seconds, micros, fold=fold)
