"""The functions that read fields, elements, tuples and unions: closures made once for each place in a schema."""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from aster.codec.making import Making
from aster.codec.row.arrays import array_of, item_at
from aster.codec.row.cells import Cell, FixedCell, ReadRegion, VariableCell, bitmap_bytes, layout_check, malformed, read_slot
from aster.codec.shapes import LiteralOf, Shape
from aster.codec.walk import Mismatch

__all__ = ["bytes_reader", "checked", "even_tuple", "field_reader", "member_named", "mixed_tuple", "read_text", "slot_of", "union_reader"]


def slot_of(place: int, fields: int) -> int:
    """How far the slot of a field is from the beginning of its row."""
    return bitmap_bytes(fields) + 8 * place


# Values


def checked(convert: Callable[[Any], Any] | None, own: Shape) -> Callable[[Any], Any] | None:
    """The same with its errors worded, and with a literal's values enforced; ``None`` where nothing is to be done."""
    allowed = own.values if isinstance(own, LiteralOf) else None
    if convert is None and allowed is None:
        return None

    def run(raw: Any) -> Any:
        try:
            value = raw if convert is None else convert(raw)
        except (ValueError, OverflowError) as exc:
            raise Mismatch(ValueError, f"is no {own} that can be read: {exc}") from None
        if allowed is not None and value not in allowed:
            malformed(f"must be {own}, not {reprlib.repr(value)}")
        return value

    return run


def member_named(cls: type[Enum]) -> Callable[[bytes], Enum]:
    """The member of an Enum by its name."""
    by_name: Mapping[bytes, Enum] = {member.name.encode(): member for member in cls}

    def find(name: bytes) -> Enum:
        member = by_name.get(name)
        if member is None:
            raise ValueError(f"it has no member {name[:80]!r}")
        return member

    return find


def bytes_reader(convert: Callable[[bytes], Any] | None) -> ReadRegion:
    """Reads a value that is all of its region."""
    if convert is None:
        return lambda buffer, start, stop, _making: buffer[start:stop]
    return lambda buffer, start, stop, _making: convert(buffer[start:stop])


def read_text(buffer: bytes, start: int, stop: int, _making: Making | None) -> str:
    """A string; a function of its own, since nothing is read more often."""
    try:
        return buffer[start:stop].decode()
    except UnicodeDecodeError as exc:
        raise Mismatch(ValueError, f"is no str that can be read: {exc}") from None


# Fields


def field_reader(step: str, place: int, slot: int, cell: Cell) -> ReadRegion:
    """Reads one field of a row that was accepted. ``step`` is how messages name it behind what it is in."""
    byte, bit = place >> 3, 1 << (place & 7)
    if isinstance(cell, FixedCell):
        unpack, convert = struct.Struct(f"<{cell.code}").unpack_from, cell.convert

        def read_fixed(buffer: bytes, start: int, _stop: int, _making: Making | None) -> Any:
            try:
                if buffer[start + byte] & bit:
                    return _null(cell)
                (number,) = unpack(buffer, start + slot)
                return number if convert is None else convert(number)
            except Mismatch as exc:
                exc.path.append(step)
                raise

        return read_fixed
    region = cell.read

    def read_variable(buffer: bytes, start: int, _stop: int, making: Making | None) -> Any:
        try:
            if buffer[start + byte] & bit:
                return _null(cell)
            size, offset = read_slot(buffer, start + slot)
            at = start + offset
            return region(buffer, at, at + size, making)
        except Mismatch as exc:
            exc.path.append(step)
            raise

    return read_variable


def _null(cell: Cell) -> None:
    if not cell.nullable:
        malformed(f"is null, and must be {cell.expected}")


# Tuples of fixed length, and unions


def even_tuple(cells: Sequence[Cell]) -> ReadRegion:
    """Reads a tuple whose items are alike, and which is an array.

    Each item has a cell of its own, since the items need not be alike here: of ``tuple[Color, Literal[Color.RED]]`` one takes more than the other.
    """

    def read(buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
        arrays = [array_of(buffer, start, stop, cell) for cell in cells]
        if arrays[0].count != len(arrays):
            malformed(f"has {arrays[0].count} items, and must have {len(arrays)}")
        return tuple[Any, ...](item_at(array, place, making) for place, array in enumerate(arrays))

    return read


def mixed_tuple(cells: Sequence[Cell]) -> ReadRegion:
    """Reads a tuple whose items differ, and which is a row."""
    check = layout_check(len(cells), [place for place, cell in enumerate(cells) if isinstance(cell, VariableCell)])
    items = [field_reader(f"[{place}]", place, slot_of(place, len(cells)), cell) for place, cell in enumerate(cells)]

    def read(buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
        check(buffer, start, stop)
        return tuple[Any, ...](item(buffer, start, stop, making) for item in items)

    return read


def union_reader(cells: Sequence[Cell]) -> ReadRegion:
    """Reads a row with one field a member, of which one is not null. The cells are nullable."""
    check = layout_check(len(cells), [place for place, cell in enumerate(cells) if isinstance(cell, VariableCell)])
    members = [field_reader("", place, slot_of(place, len(cells)), cell) for place, cell in enumerate(cells)]
    bitmap = bitmap_bytes(len(cells))
    all_null = (1 << len(cells)) - 1

    def read(buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
        check(buffer, start, stop)
        present = ~int.from_bytes(buffer[start : start + bitmap], "little") & all_null
        if not present or present & (present - 1):
            malformed(f"must have one member of its union, not {present.bit_count()}")
        return members[present.bit_length() - 1](buffer, start, stop, making)

    return read
