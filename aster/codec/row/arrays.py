"""Arrays and maps in a row: regions that hold many elements of one kind, which are read one by one or all in turn."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aster.codec.making import Making
from aster.codec.row.cells import Cell, FixedCell, ReadRegion, beyond, bitmap_bytes, is_null, malformed, overlap, read_slot, too_short
from aster.codec.walk import Mismatch

__all__ = ["ArrayCell", "array_items", "array_of", "item_at", "map_parts"]

_NEAR = 8
"""Nulls beside an element that are passed over one by one."""

_read_number = struct.Struct("<Q").unpack_from


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
        too_short(stop - start, 8)
    return _read_number(buffer, start)[0]


def item_at(array: ArrayCell, place: int, making: Making | None = None) -> Any:
    """One element; ``place`` is one of its places.

    Its region is compared with those beside it, so that whoever reads all elements one by one finds out what overlaps, as ``array_items`` does.
    """
    buffer, start, cell = array.buffer, array.start, array.cell
    try:
        if is_null(buffer, start + 8, place):
            return None if cell.nullable else malformed(f"is null, and must be {cell.expected}")
        if isinstance(cell, FixedCell):
            (number,) = struct.unpack_from(f"<{cell.code}", buffer, array.data + place * cell.width)
            return number if cell.convert is None else cell.convert(number)
        size, offset = read_slot(buffer, array.data + place * 8)
        at, end = start + offset, start + offset + size
        if end > array.stop:
            beyond(end - array.stop)
        if at < _end_before(array, place) or end > _start_behind(array, place):
            overlap()
        return cell.read(buffer, at, end, making)
    except Mismatch as exc:
        exc.path.append(f"[{place}]")
        raise


def _end_before(array: ArrayCell, place: int) -> int:
    """Where the region of the element before ends; of the first one: the slots."""
    bits, near = array.start + 8, max(0, place - _NEAR)
    while place > near and is_null(array.buffer, bits, place - 1):
        place -= 1
    if place and place == near:
        place = _last_present(array.buffer[bits : bits + (place + 7) // 8], place) + 1
    if not place:
        return array.data + 8 * array.count
    size, offset = read_slot(array.buffer, array.data + 8 * (place - 1))
    return array.start + offset + size


def _last_present(nulls: bytes, count: int) -> int:
    """The last of so many places that is not null; -1 if there is none."""
    # The bits behind them count as null, and so do whole bytes of nulls, which are passed over at once.
    present = nulls[:-1] + bytes([nulls[-1] | (0xFF << (count - 8 * (len(nulls) - 1))) & 0xFF])
    rest = present.rstrip(b"\xff")
    return 8 * (len(rest) - 1) + (~rest[-1] & 0xFF).bit_length() - 1 if rest else -1


def _start_behind(array: ArrayCell, place: int) -> int:
    """Where the region of the element behind begins; of the last one: the end of the array."""
    place += 1
    bits, near = array.start + 8, place + _NEAR
    while place < array.count and place < near and is_null(array.buffer, bits, place):
        place += 1
    if place == near and place < array.count:
        place = _first_present(array.buffer[bits : array.data], place)
    if place >= array.count:
        return array.stop
    return array.start + read_slot(array.buffer, array.data + 8 * place)[1]


def _first_present(nulls: bytes, place: int) -> int:
    """The first place from this one on that is not null, which may be one behind the last."""
    first = place >> 3
    begun = nulls[first] | (1 << (place & 7)) - 1
    if begun != 0xFF:
        return 8 * first + _lowest_zero(begun)
    rest = nulls[first + 1 :].lstrip(b"\xff")
    return 8 * (len(nulls) - len(rest)) + (_lowest_zero(rest[0]) if rest else 0)


def _lowest_zero(bits: int) -> int:
    return (~bits & (bits + 1)).bit_length() - 1


def array_items(array: ArrayCell, making: Making | None = None) -> Iterator[Any]:
    """All elements in turn."""
    cell = array.cell
    nulls = array.buffer[array.start + 8 : array.data]
    has_nulls = bool(nulls.strip(b"\0")) and bool(int.from_bytes(nulls, "little") & (1 << array.count) - 1)
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
                overlap()
            end = at + size
            if end > stop:
                beyond(end - stop)
            value = read(buffer, at, at + size, making)
        except Mismatch as exc:
            exc.path.append(f"[{place}]")
            raise
        yield value


# Maps


def map_parts(buffer: bytes, start: int, stop: int, keys: Cell, values: Cell) -> tuple[ArrayCell, ArrayCell]:
    """The keys and values of the map in a region."""
    middle = start + 8 + _number_at(buffer, start, stop)
    if middle > stop:
        beyond(middle - stop)
    parts = array_of(buffer, start + 8, middle, keys), array_of(buffer, middle, stop, values)
    if parts[0].count != parts[1].count:
        malformed(f"has {parts[0].count} keys and {parts[1].count} values")
    return parts
