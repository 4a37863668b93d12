"""Bytes in received rows, without copying them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from aster.codec.making import FREE_DEFAULTS
from aster.codec.row.cells import VariableCell, is_null, read_slot
from aster.codec.row.containers import RowList, RowMap
from aster.codec.row.views import ROW, RowReader
from aster.codec.walk import Mismatch

__all__ = ["buffer_of", "check_filled", "kept_by"]


def kept_by(value: object) -> bytes:
    """The received message that a view keeps in memory; empty for what is plain."""
    return cast("bytes", getattr(value, ROW)[0]) if hasattr(type(value), ROW) else b""


def check_filled(values: Iterable[object], names: Iterable[str]) -> None:
    """See that not too many of these fields would be filled in of views in a column, as ``Making`` does of those that become plain.

    Raises:
        DecodeError: there are more than their messages and their rows allow.
    """
    filled, allowed, message = 0, 0, b""
    lacking = dict[RowReader, int]()
    for value in values:
        if hasattr(type(value), ROW):
            buffer, start, stop, reader = cast("tuple[bytes, int, int, RowReader]", getattr(value, ROW))
            if reader not in lacking:
                lacking[reader] = sum(name not in reader.slots for name in names)
            filled += lacking[reader]
            allowed += (stop - start) // 4 + (FREE_DEFAULTS if buffer is not message else 0)
            message = buffer
    if filled > allowed:
        reader = next(iter(lacking))
        raise reader.origin.refused(Mismatch(ValueError, "has too many fields that its peer does not send; leave them out by a schema= of the others"))


def _none(key: object) -> ValueError:
    return ValueError(f"{key!r} is None, which has no bytes; look at the value first")


def _default(value: object, key: str) -> memoryview:
    """Of a field that the peer does not send."""
    if value is None:
        raise _none(key)
    if type(value) is not bytes:
        raise TypeError(f"buffer_of is for bytes, and {key!r} is a {type(value).__name__}")
    return memoryview(value)


def buffer_of(view: Any, key: Any) -> memoryview:
    """The bytes of a ``bytes`` field or element where they are, in the received message, without a copy.

    The memoryview is read-only, and keeps the whole message in memory while it lives.

    Args:
        view: a received row, or a list or dict in one.
        key: the name of a field, an index, or a key.

    Raises:
        TypeError: ``view`` is none, ``key`` is of a wrong type, or what is there is declared as something else than ``bytes``.
        AttributeError, IndexError, KeyError: nothing is there.
        ValueError: ``None`` is there.
        DecodeError: the peer sent what is no such row.
    """
    if isinstance(view, RowList | RowMap):
        located = cast("RowList[Any] | RowMap[Any]", view)
        array, place = located.slot(key)
        start, stop, bits, slot, cell = array.start, array.stop, array.start + 8, array.data + 8 * place, array.cell
        buffer, origin = array.buffer, located.origin
    elif hasattr(view, ROW):
        if not isinstance(key, str):
            raise TypeError(f"buffer_of takes the name of a field where it is given a row, not {key!r}")
        reader: RowReader
        buffer, start, stop, reader = getattr(view, ROW)
        if key not in reader.slots:
            return _default(getattr(view, key), key)
        place, slot, cell = reader.slots[key]
        bits, slot, origin = start, start + slot, reader.origin
    else:
        raise TypeError(f"buffer_of takes a received row, or a list or dict in one, not {type(view).__name__}; its mode must be SerializationMode.ROW")
    if not isinstance(cell, VariableCell) or not cell.is_bytes:
        raise TypeError(f"buffer_of is for bytes, and {key!r} is declared as {cell.expected}")
    if is_null(buffer, bits, place):
        if cell.nullable:
            raise _none(key)
        raise origin.refused(Mismatch(ValueError, f"is null at {key!r}, and must be bytes"))
    size, offset = read_slot(buffer, slot)
    at = start + offset
    if at + size > stop:
        raise origin.refused(Mismatch(ValueError, f"ends outside of its row at {key!r}"))
    return memoryview(buffer)[at : at + size]
