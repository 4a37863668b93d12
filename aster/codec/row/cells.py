"""Where things are in a row, and that they are inside of it. Whoever reads at a place has let this module look at it first.

A row or an array is a *region* of a buffer, from ``start`` to ``stop``. What is inside is found by slots: numbers themselves, or the place of a smaller
region (``offset << 32 | size``, from the start of the region around; in memory the size comes first). A region is accepted when its fixed part fits, and when
the regions within come one behind the other: what overlaps could be read again and again, and a small row become a huge value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from aster.codec.row.writer import bitmap_bytes
from aster.codec.walk import Mismatch

__all__ = [
    "FREE_DEFAULTS",
    "ArrayCell",
    "Cell",
    "CheckRegion",
    "FixedCell",
    "Making",
    "ReadRegion",
    "VariableCell",
    "array_items",
    "array_of",
    "check_order",
    "is_null",
    "item_at",
    "layout_check",
    "malformed",
    "map_parts",
    "read_slot",
]

FREE_DEFAULTS = 4_096
"""Fields that a plain value may have filled in though no byte of its row stands for them, besides one for each four bytes. A peer's class may have fewer fields
than ours, and its rows none at all: of 4 MB of these each instance of a hundred fields with defaults would take a hundred times its bytes."""


class Making:
    """A plain value that is being made.

    Attributes:
        depth: how many dataclasses are around.
        free: how many fields may still be filled in that the peer does not send.
        kept: the defaults that the view of it has made, by their fields.
    """

    __slots__ = ("depth", "free", "kept")

    def __init__(self, size: int, kept: Mapping[str, Any] | None = None) -> None:
        self.depth = 0
        self.kept: Mapping[str, Any] = kept or {}
        self.free = FREE_DEFAULTS + size // 4


ReadRegion: TypeAlias = Callable[[bytes, int, int, Making | None], Any]
"""Called with a buffer, the start and stop of a region, and how to read it: lazily (``None``), or as a part of a plain value."""

CheckRegion: TypeAlias = Callable[[bytes, int, int], None]

read_slot = struct.Struct("<II").unpack_from
"""The size of a region, and how far it is from the start of the one around."""

_read_number = struct.Struct("<Q").unpack_from


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


def layout_check(fields: int, variable: Sequence[int]) -> CheckRegion:
    """A function that accepts the region of a row: so many fields, of which those in these places have regions of their own."""
    fixed = bitmap_bytes(fields) + 8 * fields
    chosen = set(variable)
    layout = f"<{bitmap_bytes(fields)}x" + "".join("II" if place in chosen else "8x" for place in range(fields))
    unpack = struct.Struct(layout).unpack_from

    def check(buffer: bytes, start: int, stop: int) -> None:
        length = stop - start
        if length < fixed:
            _too_short(length, fixed)
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
                _overlap()
            end = offset + size
    if start + end > stop:
        _beyond(start + end - stop)


def _too_short(size: int, fixed: int) -> NoReturn:
    malformed(f"takes {size} bytes, fewer than the {fixed} that its fields begin with")


def _overlap() -> NoReturn:
    malformed("holds parts that overlap, or are not in the order of their slots")


def _beyond(excess: int) -> NoReturn:
    malformed(f"holds a part that ends {excess} bytes behind it")


# Arrays


@dataclass(frozen=True, slots=True)
class ArrayCell:
    """An array that was found in a buffer.

    Attributes:
        buffer: the bytes that it is in.
        start, stop: its region.
        count: how many elements it has.
        data: where their slots begin.
        cell: what the elements are.
    """

    buffer: bytes
    start: int
    stop: int
    count: int
    data: int
    cell: Cell


def array_of(buffer: bytes, start: int, stop: int, cell: Cell) -> ArrayCell:
    """The array in a region; what its slots say is not looked at yet."""
    count = _number_at(buffer, start, stop)
    data = start + 8 + bitmap_bytes(count)
    width = cell.width if isinstance(cell, FixedCell) else 8
    if data + count * width > stop:
        malformed(f"has {count} elements, which do not fit in its {stop - start} bytes")
    return ArrayCell(buffer, start, stop, count, data, cell)


def _number_at(buffer: bytes, start: int, stop: int) -> int:
    """What an array or map begins with: how many elements it has, or the size of its keys."""
    if stop - start < 8:
        _too_short(stop - start, 8)
    return _read_number(buffer, start)[0]


def item_at(array: ArrayCell, place: int, making: Making | None = None) -> Any:
    """One element; ``place`` is one of its places."""
    buffer, start, cell = array.buffer, array.start, array.cell
    try:
        if is_null(buffer, start + 8, place):
            return None if cell.nullable else malformed(f"is null, and must be {cell.expected}")
        if isinstance(cell, FixedCell):
            (number,) = struct.unpack_from(f"<{cell.code}", buffer, array.data + place * cell.width)
            return number if cell.convert is None else cell.convert(number)
        size, offset = read_slot(buffer, array.data + place * 8)
        at = start + offset
        if at + size > array.stop:
            _beyond(at + size - array.stop)
        return cell.read(buffer, at, at + size, making)
    except Mismatch as exc:
        exc.path.append(f"[{place}]")
        raise


def array_items(array: ArrayCell, making: Making | None = None) -> Iterator[Any]:
    """All elements in turn."""
    cell = array.cell
    has_nulls = bool(array.buffer[array.start + 8 : array.data].strip(b"\0"))
    if has_nulls and not cell.nullable:
        malformed(f"has a null element, and must have {cell.expected} only")
    bits = array.start + 8 if has_nulls else None
    if isinstance(cell, FixedCell):
        return _fixed_items(array, cell, bits, at_once=making is not None)
    return _variable_items(array, cell.read, bits, making)


def _fixed_items(array: ArrayCell, cell: FixedCell, bits: int | None, *, at_once: bool) -> Iterator[Any]:
    buffer, convert = array.buffer, cell.convert
    numbers: Iterator[Any]
    if at_once:
        numbers = iter(struct.unpack_from(f"<{array.count}{cell.code}", buffer, array.data))
    else:
        slots = memoryview(buffer)[array.data : array.data + array.count * cell.width]
        numbers = (number for (number,) in struct.iter_unpack(f"<{cell.code}", slots))
    if bits is None and convert is None:
        return numbers

    def items() -> Iterator[Any]:
        for place, number in enumerate(numbers):
            if bits is not None and is_null(buffer, bits, place):
                yield None
            elif convert is None:
                yield number
            else:
                try:
                    value = convert(number)
                except Mismatch as exc:
                    exc.path.append(f"[{place}]")
                    raise
                yield value

    return items()


def _variable_items(array: ArrayCell, read: ReadRegion, bits: int | None, making: Making | None) -> Iterator[Any]:
    buffer, start, stop = array.buffer, array.start, array.stop
    end = array.data + 8 * array.count
    for place, (size, offset) in enumerate(struct.iter_unpack("<II", memoryview(buffer)[array.data : end])):
        if bits is not None and is_null(buffer, bits, place):
            yield None
            continue
        at = start + offset
        try:
            if at < end:
                _overlap()
            end = at + size
            if end > stop:
                _beyond(end - stop)
            value = read(buffer, at, at + size, making)
        except Mismatch as exc:
            exc.path.append(f"[{place}]")
            raise
        yield value


def check_order(array: ArrayCell) -> None:
    """Refuse an array with regions that overlap, without looking into them."""
    if isinstance(array.cell, VariableCell):
        for _ in _variable_items(array, _nothing, array.start + 8, None):
            pass


def _nothing(_buffer: bytes, _start: int, _stop: int, _making: Making | None) -> None:
    return None


# Maps


def map_parts(buffer: bytes, start: int, stop: int, keys: Cell, values: Cell) -> tuple[ArrayCell, ArrayCell]:
    """The keys and values of the map in a region."""
    middle = start + 8 + _number_at(buffer, start, stop)
    if middle > stop:
        _beyond(middle - stop)
    parts = array_of(buffer, start + 8, middle, keys), array_of(buffer, middle, stop, values)
    if parts[0].count != parts[1].count:
        malformed(f"has {parts[0].count} keys and {parts[1].count} values")
    return parts
