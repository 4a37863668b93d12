"""Writes rows, in Apache Fory's row format: for each dataclass one generated function that goes straight from attributes to bytes.

For ``Order(id: str, amount: float)`` it reads, with the fields in the order of their names::

    def write(value, prefix):
        nulls = 0
        end = 24
        item = value.amount
        s0 = item
        item = value.id
        d1 = item.encode()
        size = len(d1)
        s1 = end << 32 | size
        p1 = ZEROS[-size & 7]
        ...
        head = pack(nulls, s0, s1)
        if not prefix:
            return head + d1 + p1
        return b"".join((prefix, head, d1, p1))

What a value's types are is checked before; what does not fit in its place raises ``struct.error`` or ValueError here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from aster.codec.row.cells import bitmap_bytes
from aster.codec.row.scalars import FIXED, VARIABLE, FixedScalar
from aster.codec.row.schema import RowSchema, RowStruct, RowType, are_alike
from aster.codec.shapes import DictOf, EnumOf, FixedTuple, LiteralOf, Optional, Shape, UnionOf, Values, runtime_types

__all__ = ["WriteRow", "write_functions"]

WriteRow: TypeAlias = Callable[[Any, bytes], bytes]
"""Called with a value and what to put before it."""

_ToBytes: TypeAlias = Callable[[Any], bytes]

_ZEROS = tuple(bytes(count) for count in range(8))
_WORD = struct.Struct("<Q")


def write_functions(schema: RowSchema, shapes: Sequence[Mapping[str, Shape]]) -> Sequence[WriteRow]:
    """A function for each struct of a schema. ``shapes``: for each of them those of its fields by name."""
    writer = _Writer(schema)
    for place, own in enumerate(schema.structs):
        writer.functions.append(writer.struct(own, shapes[place]))
    return writer.functions


class _Writer:
    def __init__(self, schema: RowSchema) -> None:
        self._schema = schema
        self.functions: list[WriteRow] = []

    def struct(self, own: RowStruct, shapes: Mapping[str, Shape]) -> WriteRow:
        return _compiled(own, [(name, type_, self._element(type_, shapes[name])) for name, type_ in own.fields])

    def _element(self, type_: RowType, shape: Shape) -> FixedScalar | _ToBytes:
        """What makes the number or the bytes of a value that is not null."""
        if isinstance(shape, Optional):
            type_, shape = type_.inside[0], shape.item
        if type_.kind in FIXED:
            return FIXED[type_.kind]
        return self._variable(type_, shape.base if isinstance(shape, LiteralOf) else shape)

    def _variable(self, type_: RowType, shape: Shape) -> _ToBytes:
        match shape:
            case EnumOf(cls):
                encoded: dict[Any, bytes] = {member: member.name.encode() for member in cls}  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportGeneralTypeIssues]
                return encoded.__getitem__
            case Values(_, item):
                return self._array(type_.inside[0], item)
            case FixedTuple(items):
                return self._items(type_, items)
            case DictOf(key, value):
                return self._map(type_, key, value)
            case UnionOf(members):
                return self._union(type_, members)
            case _ if type_.kind == "struct":
                functions, place = self.functions, type_.struct
                return lambda value: functions[place](value, b"")
            case _:
                return VARIABLE[type_.kind].to_bytes

    def _array(self, type_: RowType, shape: Shape) -> _ToBytes:
        element = self._element(type_, shape)
        nullable = isinstance(shape, Optional)
        return _fixed_array(element, nullable=nullable) if isinstance(element, FixedScalar) else _variable_array(element, nullable=nullable)

    def _items(self, type_: RowType, items: tuple[Shape, ...]) -> _ToBytes:
        if are_alike(type_.inside):
            return self._array(type_.inside[0], items[0])
        own = [(str(place), inside, self._element(inside, item)) for place, (inside, item) in enumerate(zip(type_.inside, items, strict=True))]
        write = _compiled(RowStruct("items", tuple((name, inside) for name, inside, _ in own)), own, access="value[{}]")
        return lambda value: write(value, b"")

    def _map(self, type_: RowType, key: Shape, value: Shape) -> _ToBytes:
        keys, values = self._array(type_.inside[0], key), self._array(type_.inside[1], value)

        def to_bytes(mapping: dict[Any, Any]) -> bytes:
            written = keys(mapping)
            return b"".join((_WORD.pack(len(written)), written, values(mapping.values())))

        return to_bytes

    def _union(self, type_: RowType, members: tuple[Shape, ...]) -> _ToBytes:
        """A struct with one field a member, of which one is not null."""
        fixed = bitmap_bytes(len(members)) + 8 * len(members)
        all_null = 2 ** len(members) - 1
        by_type: dict[type, Callable[[Any], bytes]] = {}
        for place, (inside, member) in enumerate(zip(type_.inside, members, strict=True)):
            element = self._element(inside, member)
            nulls = (all_null ^ (1 << place)).to_bytes(bitmap_bytes(len(members)), "little")
            alone = _alone(element, nulls + bytes(8 * place), bytes(8 * (len(members) - place - 1)), fixed)
            types = set(runtime_types(member))
            # In tuples whose items are alike one writer serves several shapes, which may differ in this.
            by_type.update(dict.fromkeys(types | {set, frozenset} if types & {set, frozenset} else types, alone))
        return lambda value: by_type[type(value)](value)


def _alone(element: FixedScalar | _ToBytes, before: bytes, after: bytes, fixed: int) -> _ToBytes:
    """Writes the one value of a union between the slots of the others."""
    if isinstance(element, FixedScalar):
        pack, to_number, rest = struct.Struct(f"<{element.code}").pack, element.to_number, bytes(8 - element.width) + after
        return lambda value: b"".join((before, pack(value if to_number is None else to_number(value)), rest))

    def to_bytes(value: Any) -> bytes:
        data = element(value)
        return b"".join((before, _WORD.pack(fixed << 32 | len(data)), after, data, _ZEROS[-len(data) & 7]))

    return to_bytes


def _fixed_array(element: FixedScalar, *, nullable: bool) -> _ToBytes:
    code, width, to_number = element.code, element.width, element.to_number

    def to_bytes(values: Any) -> bytes:
        count = len(values)
        nulls = bytearray(bitmap_bytes(count))
        if nullable:
            numbers: list[Any] = []
            for place, value in enumerate(values):
                if value is None:
                    nulls[place >> 3] |= 1 << (place & 7)
                    numbers.append(0)
                else:
                    numbers.append(value if to_number is None else to_number(value))
        else:
            numbers = values if to_number is None else list(map(to_number, values))
        return b"".join((_WORD.pack(count), nulls, struct.pack(f"<{count}{code}", *numbers), _ZEROS[-count * width & 7]))

    return to_bytes


def _variable_array(element: _ToBytes, *, nullable: bool) -> _ToBytes:
    def to_bytes(values: Any) -> bytes:
        count = len(values)
        end = 8 + bitmap_bytes(count) + 8 * count
        nulls = bytearray(bitmap_bytes(count))
        words: list[int] = []
        parts: list[bytes] = []
        for place, value in enumerate(values):
            if nullable and value is None:
                nulls[place >> 3] |= 1 << (place & 7)
                words.append(0)
                continue
            data = element(value)
            size = len(data)
            words.append(end << 32 | size)
            parts.append(data)
            if size & 7:
                parts.append(_ZEROS[-size & 7])
            end += size + (-size & 7)
        return b"".join((_WORD.pack(count), nulls, struct.pack(f"<{count}Q", *words), *parts))

    return to_bytes


_PADDING = {1: "7x", 4: "4x", 8: ""}


def _compiled(own: RowStruct, fields: list[tuple[str, RowType, FixedScalar | _ToBytes]], access: str = "value.{}") -> WriteRow:
    """The function of one struct, as source that has been compiled."""
    words = bitmap_bytes(len(fields)) // 8
    namespace: dict[str, Any] = {"ZEROS": _ZEROS}
    lines = ["def write(value, prefix):", " nulls = 0", f" end = {8 * (words + len(fields))}"]
    parts: list[str] = []
    layout = f"<{words}Q"
    for place, (name, type_, element) in enumerate(fields):
        indent = " "
        is_fixed = isinstance(element, FixedScalar)
        lines.append(f" item = {access.format(name)}")
        if type_.kind == "optional":
            nothing = f"s{place} = 0" if is_fixed else f"s{place} = 0; d{place} = p{place} = b''"
            lines += [" if item is None:", f"  nulls |= {1 << place}", f"  {nothing}", " else:"]
            indent = "  "
        if isinstance(element, FixedScalar):
            layout += element.code + _PADDING[element.width]
            namespace[f"convert{place}"] = element.to_number
            lines.append(f"{indent}s{place} = item" if element.to_number is None else f"{indent}s{place} = convert{place}(item)")
        else:
            layout += "Q"
            parts += [f"d{place}", f"p{place}"]
            namespace[f"convert{place}"] = element
            kind = type_.inside[0].kind if type_.kind == "optional" else type_.kind
            data = {"str": "item.encode()", "bytes": "item"}.get(kind, f"convert{place}(item)")
            lines += [
                f"{indent}d{place} = {data}",
                f"{indent}size = len(d{place})",
                f"{indent}s{place} = end << 32 | size",
                f"{indent}p{place} = ZEROS[-size & 7]",
                f"{indent}end = end + size + 7 & -8",
            ]
    namespace["pack"] = struct.Struct(layout).pack
    bitmap = ["nulls"] if words == 1 else [f"nulls >> {64 * word} & {2**64 - 1}" for word in range(words)]
    numbers = ", ".join([*bitmap, *(f"s{place}" for place in range(len(fields)))])
    lines.append(f" head = pack({numbers})")
    if len(parts) <= 4:  # up to here adding is faster than joining, where no megabytes are copied once more by it
        lines += [" if not prefix:", f"  return {' + '.join(['head', *parts])}"]
    lines.append(f' return b"".join(({", ".join(["prefix", "head", *parts])}))')
    exec(compile("\n".join(lines), f"<aster row of {own.name}>", "exec"), namespace)  # of identifiers and numbers only, and of field names, which are ASCII
    return namespace["write"]
