"""What bounds the defaults of fields that a message lacks, of which a peer with an older class has some for each instance, and no bytes at all."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

__all__ = ["FREE_FILLINGS", "MADE", "PER_BYTE", "TooMuchFilled", "allowance", "counted_default", "filling"]

FREE_FILLINGS = 65_536
"""Fields that any message may have filled in, besides ``PER_BYTE`` for each of its bytes. In a message of 2 KB, a quarter of a million UUIDs took 0.9 s."""

PER_BYTE = 4
MADE = 4
"""As how many fields one is counted whose default a factory makes: it takes so much longer, some microseconds."""

_SLOT = 16
"""Bytes that a field is counted with, whatever it holds."""

_MOST_BYTES = 0
_MOST_FIELDS = 1


class TooMuchFilled(Exception):
    """A message has so many instances without these fields that their defaults would be more than is accepted."""


class _Filling(threading.local):
    """What may still be filled in, in the message that this thread decodes: bytes and fields. Whoever decodes one puts an ``allowance`` here, and then what
    was here before, since a factory or a ``__hash__`` may decode something as well."""

    left = (0, 0)


filling: Any = _Filling()


def allowance(size: int, most: int) -> list[int]:
    """For a message of so many bytes; ``most``: bytes that it may take up."""
    return [most, FREE_FILLINGS + PER_BYTE * size]


def counted_default(make: Callable[[], Any], *, is_new: bool) -> Callable[[], Any]:
    """``make``, with what it makes taken from what is left. ``is_new``: whether a factory makes it.

    Raises, when it is called:
        TooMuchFilled: nothing is left.
    """
    size = _Size() if is_new else None
    fields = MADE if is_new else 1

    def fill() -> Any:
        left = filling.left
        value = make()
        left[_MOST_BYTES] -= _SLOT if size is None else _SLOT + (size.each or size.of(value))
        left[_MOST_FIELDS] -= fields
        if left[_MOST_BYTES] < 0 or left[_MOST_FIELDS] < 0:
            raise TooMuchFilled
        return value

    return fill


class _Size:
    """How large the values are that a factory makes.

    Attributes:
        each: bytes, once two of them were looked at: what these have in common, such as constants, is there only once.
    """

    def __init__(self) -> None:
        self.each = 0
        self._first: tuple[object, set[int]] | None = None

    def of(self, value: object) -> int:
        """Of one of the first two."""
        first = self._first
        if first is None:
            seen = set[int]()
            size = _size_of(value, seen)
            self._first = value, seen  # the value too, so that nothing else has its ids
            return size
        self.each = _size_of(value, set(first[1])) or 1
        self._first = None
        return self.each


def _size_of(value: object, seen: set[int]) -> int:
    """About what a value takes up, with all that is in it but what was seen."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    parts = list(_parts(value))
    slots = _SLOT * len(parts) if dataclasses.is_dataclass(value) else 0
    return sys.getsizeof(value) + slots + sum(_size_of(part, seen) for part in parts)


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value)
        return [*entries, *entries.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return cast("Iterable[object]", value)
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()
