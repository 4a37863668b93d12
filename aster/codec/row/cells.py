"""Where things are in a row, and that they are inside of it. Whoever reads at a place has let this module look at it first.

A row or an array is a *region* of a buffer, from ``start`` to ``stop``. What is inside is found by slots: numbers themselves, or the place of a smaller
region (``offset << 32 | size``, from the start of the region around; in memory the size comes first). A region is accepted when its fixed part fits, and when
the regions within come one behind the other: what overlaps could be read again and again, and a small row become a huge value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from aster.codec.making import Making
from aster.codec.walk import Mismatch

__all__ = [
    "Cell",
    "CheckRegion",
    "FixedCell",
    "ReadRegion",
    "VariableCell",
    "beyond",
    "bitmap_bytes",
    "is_null",
    "layout_check",
    "malformed",
    "overlap",
    "read_slot",
    "too_short",
]

ReadRegion: TypeAlias = Callable[[bytes, int, int, Making | None], Any]
"""Called with a buffer, the start and stop of a region, and how to read it: lazily (``None``), or as a part of a plain value."""

CheckRegion: TypeAlias = Callable[[bytes, int, int], None]

read_slot = struct.Struct("<II").unpack_from
"""The size of a region, and how far it is from the start of the one around."""


@dataclass(frozen=True, slots=True)
class FixedCell:
    """Values that stand in their slots.

    Attributes:
        code: of the number, as the ``struct`` module has it.
        width: bytes in an array.
        convert: the value of a number, if it is not the number itself.
        nullable: whether a null is ``None`` rather than refused.
        expected: what the value must be, for messages.
    """

    code: str
    width: int
    convert: Callable[[Any], Any] | None
    nullable: bool
    expected: str


@dataclass(frozen=True, slots=True)
class VariableCell:
    """Values whose slots tell their regions.

    Attributes:
        read: the value in a region.
        nullable: whether a null is ``None`` rather than refused.
        expected: what the value must be, for messages.
        is_bytes: whether the region is the value.
    """

    read: ReadRegion
    nullable: bool
    expected: str
    is_bytes: bool = False


Cell: TypeAlias = FixedCell | VariableCell


def malformed(text: str) -> NoReturn:
    """Refuse what a peer sent."""
    raise Mismatch(ValueError, text)


def is_null(buffer: bytes, bits: int, place: int) -> int:
    """Whether the bits that begin at ``bits`` have one for ``place``."""
    return buffer[bits + (place >> 3)] >> (place & 7) & 1


# Rows


def bitmap_bytes(count: int) -> int:
    """Bytes of the bits that tell which of so many values are null."""
    return (count + 63) // 64 * 8


def layout_check(fields: int, variable: Sequence[int]) -> CheckRegion:
    """A function that accepts the region of a row: so many fields, of which those in these places have regions of their own."""
    fixed = bitmap_bytes(fields) + 8 * fields
    chosen = set(variable)
    layout = f"<{bitmap_bytes(fields)}x" + "".join("II" if place in chosen else "8x" for place in range(fields))
    unpack = struct.Struct(layout).unpack_from

    def check(buffer: bytes, start: int, stop: int) -> None:
        length = stop - start
        if length < fixed:
            too_short(length, fixed)
        end = fixed
        numbers = iter(unpack(buffer, start))
        for size, offset in zip(numbers, numbers, strict=True):
            if offset >= end:
                end = offset + size
            elif offset or size:
                _refuse_unless_null(buffer, start, stop, fixed, variable, unpack)
                return
        if end > length:
            _refuse_unless_null(buffer, start, stop, fixed, variable, unpack)

    return check


def _refuse_unless_null(buffer: bytes, start: int, stop: int, fixed: int, variable: Sequence[int], unpack: Callable[[bytes, int], tuple[int, ...]]) -> None:
    """The same for rows whose nulls have slots that hold anything, as some of Fory's writers leave them."""
    end = fixed
    numbers = iter(unpack(buffer, start))
    for place, size, offset in zip(variable, numbers, numbers, strict=True):
        if not is_null(buffer, start, place):
            if offset < end:
                overlap()
            end = offset + size
    if start + end > stop:
        beyond(start + end - stop)


def too_short(size: int, fixed: int) -> NoReturn:
    malformed(f"takes {size} bytes, fewer than the {fixed} that its fields begin with")


def overlap() -> NoReturn:
    malformed("holds parts that overlap, or are not in the order of their slots")


def beyond(excess: int) -> NoReturn:
    malformed(f"holds a part that ends {excess} bytes behind it")
