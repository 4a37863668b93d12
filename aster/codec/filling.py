"""What bounds the defaults of fields that a message lacks, of which a peer with an older class has some for each instance, and no bytes at all."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

__all__ = ["TooMuchFilled", "counted_default", "filled"]

_SLOT = 16
"""Bytes that a field is counted with, whatever it holds: about what its instance takes for it."""


class TooMuchFilled(Exception):
    """A message has so many instances without these fields that their defaults would take up more than is accepted."""


class _Filled(threading.local):
    """The bytes of the defaults that were filled in for the message that this thread decodes. Whoever has decoded one sets them to zero again."""

    size = 0


filled = _Filled()


def counted_default(make: Callable[[], Any], most: int, *, is_new: bool) -> Callable[[], Any]:
    """``make``, with what it makes counted in ``filled``: each time as large as the first time. ``is_new``: whether that is another value each time.

    Raises, when it is called:
        TooMuchFilled: it would be more than ``most`` bytes.
    """
    each = 0

    def fill() -> Any:
        nonlocal each
        if filled.size > most:
            raise TooMuchFilled
        value = make()
        each = each or _SLOT + (_size_of(value, set()) if is_new else 0)
        filled.size += each
        return value

    return fill


def _size_of(value: object, seen: set[int]) -> int:
    """About what a value takes up, with all that is in it."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    return sys.getsizeof(value) + sum(_size_of(part, seen) for part in _parts(value))


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value)
        return [*entries, *entries.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return cast("Iterable[object]", value)
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()
