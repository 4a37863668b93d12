"""Fory's type definitions, read from the specification's words: how a message tells the names and fields of its classes."""

from __future__ import annotations

from dataclasses import dataclass

from tests.interop.cursor import Cursor, Malformed
from tests.interop.murmur3 import first_half

LIST, SET, MAP, ENUM, NAMED_ENUM, NAMED_COMPATIBLE_STRUCT, NAMED_EXT = 22, 23, 24, 25, 26, 30, 32

_SEED = 47
_STRUCT_BY_NAME = 0b1110_0000  # a struct, compatible, registered by name
_ENUM_BY_NAME, _EXT_BY_NAME = 1, 3

# In each place two bits choose among encodings of their own order; 0 is UTF-8 everywhere.
_NAMESPACE_ENCODINGS = ("utf8", "escaped", "six")
_TYPE_NAME_ENCODINGS = ("utf8", "escaped", "six", "capitalised")
_FIELD_NAME_ENCODINGS = ("utf8", "escaped", "six")

_FIVE = "abcdefghijklmnopqrstuvwxyz._$|"
_SIX = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_NAMESPACE_ENDS, _NAME_ENDS = "._", "$_"  # the last two of the 64 characters differ by place


@dataclass(frozen=True)
class FieldType:
    """A type as a definition states it.

    Attributes:
        id: Fory's number of the type; 0 when every value brings its own.
        nullable: whether a byte before each value tells if there is one.
        arguments: of a list or set its element's type, of a map those of key and value.
    """

    id: int
    nullable: bool = False
    arguments: tuple[FieldType, ...] = ()


@dataclass(frozen=True)
class Definition:
    """The wire tag of a class with its fields in the order in which their values come."""

    tag: str
    kind: int
    fields: tuple[tuple[str, FieldType], ...] = ()


def read_definition(cursor: Cursor) -> Definition:
    """Read a definition, whose header must be the hash of the rest.

    Raises:
        Malformed: it breaks a rule of the specification.
    """
    header = cursor.fixed("<Q")
    size = header & 0xFF
    if size == 0xFF:
        size += cursor.varuint()
    body = cursor.take(size)
    if header != _header_of(body):
        raise Malformed(f"a definition's header is {header:016x}, not {_header_of(body):016x}")
    inner = Cursor(body)
    kind = inner.byte()
    definition = _struct(inner, kind) if kind & 0x80 else _other(inner, kind)
    inner.expect_end()
    return definition


def _header_of(body: bytes) -> int:
    low = min(len(body), 0xFF)
    shifted = first_half(body + low.to_bytes(2, "little"), _SEED) << 12 & (2**64 - 1)
    signed = shifted - 2**64 if shifted >= 2**63 else shifted
    return abs(signed) & 0xFFFF_FFFF_FFFF_F000 | low


def _struct(cursor: Cursor, kind: int) -> Definition:
    if kind & 0xE0 != _STRUCT_BY_NAME:
        raise Malformed(f"a struct's definition has the kind {kind:08b}")
    count = kind & 0x1F
    if count == 0x1F:
        count += cursor.varuint()
    tag = _tag(cursor)
    return Definition(tag, NAMED_COMPATIBLE_STRUCT, tuple(_field(cursor) for _ in range(count)))


def _other(cursor: Cursor, kind: int) -> Definition:
    if kind not in (_ENUM_BY_NAME, _EXT_BY_NAME):
        raise Malformed(f"a definition has the kind {kind:08b}")
    return Definition(_tag(cursor), NAMED_ENUM if kind == _ENUM_BY_NAME else NAMED_EXT)


def _tag(cursor: Cursor) -> str:
    namespace = _name(cursor, _NAMESPACE_ENCODINGS, _NAMESPACE_ENDS)
    return f"{namespace}/{_name(cursor, _TYPE_NAME_ENCODINGS, _NAME_ENDS)}"


def _name(cursor: Cursor, encodings: tuple[str, ...], ends: str) -> str:
    head = cursor.byte()
    size = head >> 2
    if size == 63:
        size += cursor.varuint()
    return _text(cursor.take(size), encodings[head & 3], ends)


def _field(cursor: Cursor) -> tuple[str, FieldType]:
    head = cursor.byte()
    if head & 1:
        raise Malformed("a field tracks references")
    size = (head >> 2 & 15) + 1
    if size == 16:
        size += cursor.varuint()
    type_ = _arguments(cursor, cursor.varuint(), nullable=bool(head & 2))
    return _text(cursor.take(size), _FIELD_NAME_ENCODINGS[head >> 6], _NAME_ENDS), type_


def _nested(cursor: Cursor) -> FieldType:
    head = cursor.varuint()
    if head & 1:
        raise Malformed("an element tracks references")
    return _arguments(cursor, head >> 2, nullable=bool(head & 2))


def _arguments(cursor: Cursor, id_: int, *, nullable: bool) -> FieldType:
    count = {LIST: 1, SET: 1, MAP: 2}.get(id_, 0)
    return FieldType(id_, nullable, tuple(_nested(cursor) for _ in range(count)))


def _text(data: bytes, encoding: str, ends: str) -> str:
    if encoding == "utf8":
        return data.decode()
    if encoding == "six":
        return _unpacked(data, 6, _SIX + ends)
    text = _unpacked(data, 5, _FIVE)
    if encoding == "capitalised":
        return text[:1].upper() + text[1:]
    first, *others = text.split("|")  # a bar comes before what is a capital
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def _unpacked(data: bytes, width: int, alphabet: str) -> str:
    """Characters of so many bits each; the very first bit says whether what would be the last one is padding."""
    bits = "".join(f"{byte:08b}" for byte in data)
    count = (len(bits) - 1) // width - int(bits[0])
    return "".join(alphabet[int(bits[1 + index * width : 1 + (index + 1) * width], 2)] for index in range(count))
