"""A decoder of XLANG payloads that was written from Apache Fory's specification, and shares no code with Aster or pyfory.

It knows compatible mode, types that are registered by name, and no references: what Aster sends, and what may answer it. Values come out in a neutral
form, since the specification says nothing of Python: a timestamp, say, is two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.interop.cursor import Cursor, Malformed
from tests.interop.definitions import ENUM, LIST, MAP, NAMED_COMPATIBLE_STRUCT, NAMED_ENUM, NAMED_EXT, SET, Definition, FieldType, read_definition

_XLANG = 0x01
_NULL, _NOT_NULL = 0xFD, 0xFF
_UNKNOWN = FieldType(0)
_NAMED = (NAMED_ENUM, NAMED_COMPATIBLE_STRUCT, NAMED_EXT)

# Bits of the byte before the elements of a list, and of the one before a chunk of a map.
_HAS_NULL, _DECLARED, _SAME_TYPE = 2, 4, 8
_KEY_NULL, _KEY_DECLARED, _VALUE_NULL, _VALUE_DECLARED = 2, 4, 16, 32
_LIST_BITS = _HAS_NULL | _DECLARED | _SAME_TYPE
_MAP_BITS = _KEY_NULL | _KEY_DECLARED | _VALUE_NULL | _VALUE_DECLARED


@dataclass(frozen=True)
class Struct:
    """A dataclass: its wire tag, and its fields sorted by name."""

    tag: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Member:
    """A member of an Enum: by its number, which is all that travels."""

    number: int


@dataclass(frozen=True)
class Extension:
    """A value of an extension type."""

    tag: str
    content: Any


@dataclass(frozen=True)
class Timestamp:
    """An instant since 1970 in UTC."""

    seconds: int
    nanoseconds: int


@dataclass(frozen=True)
class Duration:
    """A length of time."""

    seconds: int
    nanoseconds: int


@dataclass(frozen=True)
class Date:
    """A day, by its number since 1970-01-01."""

    days: int


@dataclass(frozen=True)
class Scaled:
    """A decimal: ``unscaled`` times ten to the minus ``scale``."""

    unscaled: int
    scale: int


@dataclass(frozen=True)
class Elements:
    """A set, in the order in which its elements came."""

    items: list[Any]


@dataclass(frozen=True)
class Entries:
    """A map, in the order in which its entries came. (Not a dict: a key may be a struct.)"""

    pairs: list[tuple[Any, Any]]


class XlangDecoder:
    """Decodes one payload.

    Args:
        data: the payload.
        extensions: for each extension type, by wire tag, what reads its content. Nothing in a payload tells how long that is.

    Attributes:
        definitions: the type definitions of the payload, in their order; complete once ``value`` has returned.
    """

    def __init__(self, data: bytes, extensions: Mapping[str, Callable[[Cursor], Any]]) -> None:
        self._cursor = Cursor(data)
        self._extensions = extensions
        self.definitions: list[Definition] = []

    def value(self) -> Any:
        """The one value of the payload.

        Raises:
            Malformed: the payload breaks the specification, or uses what this decoder does not know.
        """
        if self._cursor.byte() != _XLANG:
            raise Malformed("the payload does not begin with the header of XLANG")
        value = self._if_present(self._dynamic)
        self._cursor.expect_end()
        return value

    def _if_present(self, read: Callable[[], Any]) -> Any:
        flag = self._cursor.byte()
        if flag not in (_NULL, _NOT_NULL):
            raise Malformed(f"{flag:#x} stands where a value or its absence is announced")
        return None if flag == _NULL else read()

    def _dynamic(self) -> Any:
        """A value that brings its own type."""
        return self._body(*self._type())

    def _type(self) -> tuple[FieldType, Definition | None]:
        id_ = self._cursor.varuint()
        definition = self._shared_definition() if id_ in _NAMED else None
        if definition is not None and definition.kind != id_:
            raise Malformed(f"{definition.tag} is defined as {definition.kind} and used as {id_}")
        arguments = {LIST: (_UNKNOWN,), SET: (_UNKNOWN,), MAP: (_UNKNOWN, _UNKNOWN)}.get(id_, ())
        return FieldType(id_, arguments=arguments), definition

    def _shared_definition(self) -> Definition:
        marker = self._cursor.varuint()
        index, known = divmod(marker, 2)
        if not known:
            if index != len(self.definitions):
                raise Malformed(f"definition {index} follows {len(self.definitions)} others")
            self.definitions.append(read_definition(self._cursor))
        return self.definitions[index]

    def _field(self, type_: FieldType) -> Any:
        if type_.nullable:
            return self._if_present(lambda: self._declared(type_))
        return self._declared(type_)

    def _declared(self, type_: FieldType) -> Any:
        """A value whose type was declared, which for the names of classes is not enough."""
        if type_.id == 0 or type_.id in _NAMED:
            own, definition = self._type()
            if type_.id not in (0, own.id):
                raise Malformed(f"a field of type {type_.id} holds a value of type {own.id}")
            return self._body(own, definition)
        return self._body(type_, None)

    def _body(self, type_: FieldType, definition: Definition | None) -> Any:
        if definition is not None:
            return self._named(definition)
        read = _SCALARS.get(type_.id)
        if read is not None:
            return read(self._cursor)
        if type_.id == LIST:
            return self._elements(type_.arguments[0])
        if type_.id == SET:
            return Elements(self._elements(type_.arguments[0]))
        if type_.id == MAP:
            return self._map(*type_.arguments)
        raise Malformed(f"type {type_.id} is unknown")

    def _named(self, definition: Definition) -> Any:
        if definition.kind == NAMED_ENUM:
            return Member(self._cursor.varuint())
        if definition.kind == NAMED_EXT:
            return Extension(definition.tag, self._extensions[definition.tag](self._cursor))
        values = {name: self._field(type_) for name, type_ in definition.fields}
        return Struct(definition.tag, dict(sorted(values.items())))

    def _elements(self, declared: FieldType) -> list[Any]:
        count = self._cursor.varuint()
        if count == 0:
            return []
        head = self._cursor.byte()
        if head & ~_LIST_BITS:
            raise Malformed(f"the elements of a list begin with {head:#x}")
        read = self._reader(declared, bool(head & _DECLARED)) if head & _SAME_TYPE else self._dynamic
        return [self._if_present(read) if head & _HAS_NULL else read() for _ in range(count)]

    def _reader(self, declared: FieldType, is_declared: bool) -> Callable[[], Any]:
        """What reads one of several values of one type, which stands here unless it was declared."""
        type_, definition = (declared, None) if is_declared else self._type()
        return lambda: self._body(type_, definition)

    def _map(self, key: FieldType, value: FieldType) -> Entries:
        count = self._cursor.varuint()
        pairs: list[tuple[Any, Any]] = []
        while len(pairs) < count:
            pairs.extend(self._chunk(key, value))
        if len(pairs) != count:
            raise Malformed(f"a map of {count} entries has {len(pairs)}")
        return Entries(pairs)

    def _chunk(self, key: FieldType, value: FieldType) -> list[tuple[Any, Any]]:
        head = self._cursor.byte()
        if head & ~_MAP_BITS:
            raise Malformed(f"a chunk of a map begins with {head:#x}")
        if head & (_KEY_NULL | _VALUE_NULL):  # such an entry has a chunk of its own, without a size
            found = None if head & _KEY_NULL else self._reader(key, bool(head & _KEY_DECLARED))()
            return [(found, None if head & _VALUE_NULL else self._reader(value, bool(head & _VALUE_DECLARED))())]
        size = self._cursor.byte()
        if size == 0:
            raise Malformed("a chunk of a map is empty")
        read_key = self._reader(key, bool(head & _KEY_DECLARED))
        read_value = self._reader(value, bool(head & _VALUE_DECLARED))
        return [(read_key(), read_value()) for _ in range(size)]


def _boolean(cursor: Cursor) -> bool:
    number = cursor.byte()
    if number > 1:
        raise Malformed(f"{number} is no bool")
    return bool(number)


def _string(cursor: Cursor) -> str:
    size, encoding = divmod(cursor.varuint(), 4)
    if encoding == 3:
        raise Malformed("a string has an encoding that is reserved")
    return cursor.take(size).decode(("latin-1", "utf-16-le", "utf-8")[encoding])


def _binary(cursor: Cursor) -> bytes:
    return cursor.take(cursor.varuint())


def _duration(cursor: Cursor) -> Duration:
    duration = Duration(cursor.varint(), cursor.fixed("<i"))
    if not 0 <= duration.nanoseconds < 10**9:
        raise Malformed(f"{duration} is not normalised")
    return duration


def _decimal(cursor: Cursor) -> Scaled:
    scale = cursor.varint()
    head, big = divmod(cursor.varuint(), 2)
    if not big:
        return Scaled(head >> 1 ^ -(head & 1), scale)
    size, negative = divmod(head, 2)
    digits = cursor.take(size)
    if not digits or not digits[-1]:
        raise Malformed("a decimal's number is longer than need be")
    number = int.from_bytes(digits, "little")
    return Scaled(-number if negative else number, scale)


_SCALARS: Mapping[int, Callable[[Cursor], Any]] = {
    1: _boolean,
    5: Cursor.varint,
    7: Cursor.varint,
    19: lambda cursor: cursor.fixed("<f"),
    20: lambda cursor: cursor.fixed("<d"),
    21: _string,
    ENUM: lambda cursor: Member(cursor.varuint()),
    37: _duration,
    38: lambda cursor: Timestamp(cursor.fixed("<q"), cursor.fixed("<I")),
    39: lambda cursor: Date(cursor.varint()),
    40: _decimal,
    41: _binary,
    48: _binary,  # strictly an array of small numbers, but the same bytes
}
