"""How values travel that Fory sends inexactly, cannot send, or lets a peer attack with. Beside ``engine.py`` the only module that touches pyfory."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import pyfory  # pyright: ignore[reportMissingTypeStubs]  # it has none

__all__ = ["MAX_COLLISIONS", "DecimalSerializer", "HashTally", "TimeSerializer", "TimestampSerializer", "UuidSerializer"]

MAX_COLLISIONS = 100
"""Different UUIDs or Decimals of one message that may share a hash with another: by chance, not even one does."""

_fory: Any = pyfory
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_FIRST_INSTANT = datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH
_LAST_INSTANT = datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH


class _Serializer(_fory.Serializer):
    """One whose values always take up bytes, which spares them Fory's limit on those that do not."""

    def __init__(self, resolver: Any, type_: type) -> None:
        super().__init__(resolver, type_)  # pyright: ignore[reportUnknownMemberType]  # pyfory's
        self.read_data_always_advances = True


class TimestampSerializer(_Serializer):
    """Seconds and nanoseconds since 1970, as Fory has it, computed without floats."""

    def write(self, context: Any, value: datetime.datetime) -> None:
        since = value - _EPOCH
        if not _FIRST_INSTANT <= since <= _LAST_INSTANT:
            raise OverflowError("no datetime in UTC can hold this instant")
        context.write_int64(since.days * 86_400 + since.seconds)
        context.write_uint32(since.microseconds * 1000)

    def read(self, context: Any) -> datetime.datetime:
        seconds = context.read_int64()
        return _EPOCH + datetime.timedelta(seconds=seconds, microseconds=context.read_uint32() // 1000)


class HashTally:
    """Counts the values of one message that differ and have one hash, which honest data hardly does and which makes a set or dict quadratically slow."""

    __slots__ = ("_collisions", "first")

    def __init__(self) -> None:
        self.first: dict[int, object] = {}
        self._collisions = 0

    def add(self, value: object) -> None:
        if self.first.setdefault(hash(value), value) != value:
            self._collisions += 1
            if self._collisions > MAX_COLLISIONS:
                raise ValueError(f"more than {MAX_COLLISIONS} different values have the same hash, which only an attack explains")

    def clear(self) -> None:
        self.first.clear()
        self._collisions = 0


class UuidSerializer(_Serializer):
    def __init__(self, resolver: Any, type_: type, tally: HashTally) -> None:
        super().__init__(resolver, type_)
        self._tally = tally

    def write(self, context: Any, value: uuid.UUID) -> None:
        context.write_bytes(value.bytes)

    def read(self, context: Any) -> uuid.UUID:
        value = uuid.UUID(bytes=context.read_bytes(16))
        self._tally.add(value)
        return value


class DecimalSerializer(_Serializer):
    """Fory's own, and the tally."""

    def __init__(self, resolver: Any, type_: type, tally: HashTally) -> None:
        super().__init__(resolver, type_)
        self.need_to_write_ref = False
        self._inner = resolver.get_type_info(type_).serializer
        self._tally = tally

    def write(self, context: Any, value: decimal.Decimal) -> None:
        self._inner.write(context, value)

    def read(self, context: Any) -> decimal.Decimal:
        value = self._inner.read(context)
        self._tally.add(value)
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
