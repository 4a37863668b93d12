"""What a row holds, as its writer tells its reader: the names and types of the fields, once a stream.

A schema lists the structs that a message reaches, the message first. It is written as JSON in one way only, so that equal schemas are equal bytes:
``[["myapp.Order",[["id","str"],["lines",["list",["struct",1]]]]],["myapp.Line",[["sku","str"]]]]``. ``docs/wire.md`` describes it for other languages.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from aster.codec.shapes import DictOf, EnumOf, FieldShape, FixedTuple, LiteralOf, Message, Optional, Scalar, Shape, UnionOf, Values
from aster.codec.tags import short_name

__all__ = [
    "MAX_SCHEMA_BYTES",
    "MAX_TYPE_DEPTH",
    "MalformedSchemaError",
    "RowSchema",
    "RowStruct",
    "RowType",
    "are_alike",
    "decode_schema",
    "encode_schema",
    "schema_of",
]

MAX_SCHEMA_BYTES = 32 * 1024
"""The longest schema of a message, in bytes: some 1,000 fields. A peer's is read in one piece, and bound to a class: the worst that was found takes 70 ms and
5 MB (measured)."""

MAX_TYPE_DEPTH = 32
"""How many types a field of a peer's may have inside each other; as of its contract."""

_SCALARS = frozenset({"bool", "int", "float", "str", "bytes", "date", "datetime", "time", "timedelta", "decimal", "uuid"})
_NUMBER_INSIDE: Mapping[str, range] = {
    "list": range(1, 2),
    "tuple": range(1, 2),
    "set": range(1, 2),
    "optional": range(1, 2),
    "dict": range(2, 3),
    "items": range(1_000),
    "union": range(2, 129),
}
_NAME = re.compile(r"[!-~]+")
_LONGEST_NAME = 1_024
"""Characters of a name; as of a contract's."""


class MalformedSchemaError(ValueError):
    """The bytes are no schema."""


@dataclass(frozen=True, slots=True)
class RowType:
    """What a field or an element holds.

    Attributes:
        kind: the name of a scalar; ``struct`` or ``enum``; ``list``, ``tuple``, ``set``, ``dict``, ``optional``, ``union``; or ``items``, a tuple of
            fixed length.
        inside: the types within.
        name: of an enum.
        struct: the place of a struct in its schema.
    """

    kind: str
    inside: tuple[RowType, ...] = ()
    name: str = ""
    struct: int = -1

    def __str__(self) -> str:
        inside = list(map(str, self.inside))
        match self.kind:
            case "optional":
                return f"{inside[0]} | None"
            case "union":
                return " | ".join(inside)
            case "tuple":
                return f"tuple[{inside[0]}, ...]"
            case "items":
                return f"tuple[{', '.join(inside) or '()'}]"
            case "enum":
                return self.name
            case "struct":
                return "a dataclass"
            case _:
                return f"{self.kind}[{', '.join(inside)}]" if inside else self.kind


@dataclass(frozen=True, slots=True)
class RowStruct:
    """A dataclass, by its name on the wire, and its fields in the order in which they stand in a row: by name."""

    name: str
    fields: tuple[tuple[str, RowType], ...]


@dataclass(frozen=True, slots=True)
class RowSchema:
    """The structs of a message, itself the first of them."""

    structs: tuple[RowStruct, ...]


def are_alike(items: tuple[Any, ...]) -> bool:
    """Whether a tuple of fixed length is a list in a row, as Fory has it: its items are all of one type. Others are structs."""
    return len(set(items)) == 1


# Of a class


def schema_of(root: type, fields: Mapping[type, tuple[FieldShape, ...]], names: Mapping[type, str]) -> RowSchema:
    """The schema of a dataclass.

    Args:
        root: the class.
        fields: the fields of each dataclass that it reaches.
        names: what these dataclasses and the Enums are called on the wire.
    """
    places = {root: 0}
    queue = [root]
    structs: list[RowStruct] = []

    def row_type(shape: Shape) -> RowType:
        match shape:
            case Scalar(type_):
                return RowType(type_.__name__.lower())
            case LiteralOf(base, _):
                return row_type(base)
            case EnumOf(cls):
                return RowType("enum", name=names[cls])
            case Message(cls):
                if cls not in places:
                    places[cls] = len(places)
                    queue.append(cls)
                return RowType("struct", struct=places[cls])
            case Values(kind, item):
                return RowType("set" if kind == "frozenset" else kind, (row_type(item),))
            case FixedTuple(items):
                return RowType("items", tuple(map(row_type, items)))
            case DictOf(key, value):
                return RowType("dict", (row_type(key), row_type(value)))
            case Optional(item):
                return RowType("optional", (row_type(item),))
            case UnionOf(members):
                return RowType("union", tuple(map(row_type, members)))

    for cls in queue:
        own = sorted(fields[cls], key=lambda field: field.name)
        structs.append(RowStruct(names[cls], tuple((field.name, row_type(field.shape)) for field in own)))
    return RowSchema(tuple(structs))


def encode_schema(schema: RowSchema, root: type) -> bytes:
    """The schema as bytes, a multiple of eight, for the sake of whoever reads the row behind it in place.

    Raises:
        TypeError: it is above a limit, so that no receiver would read it; names the class.
    """
    form = [[struct.name, [[name, _form(type_)] for name, type_ in struct.fields]] for struct in schema.structs]
    data = json.dumps(form, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    try:
        decode_schema(data)
    except MalformedSchemaError as exc:
        raise TypeError(f"{short_name(root)} cannot be sent in rows: of its schema, {exc}; split the message, or use SerializationMode.XLANG") from None
    return data


def _form(type_: RowType) -> Any:
    if type_.kind == "struct":
        return ["struct", type_.struct]
    if type_.kind == "enum":
        return ["enum", type_.name]
    return [type_.kind, *map(_form, type_.inside)] if type_.inside or type_.kind == "items" else type_.kind


# Of a peer


def decode_schema(data: bytes) -> RowSchema:
    """A schema that a peer sent.

    Raises:
        MalformedSchemaError: the bytes are none.
    """
    if len(data) > MAX_SCHEMA_BYTES:
        raise MalformedSchemaError(f"it takes {len(data)} bytes, and the limit is {MAX_SCHEMA_BYTES}")
    try:
        form = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise MalformedSchemaError(f"it is not JSON: {exc}") from None
    structs = _list_of(form, "the structs")
    if not structs:
        raise MalformedSchemaError("it has no structs")
    schema = RowSchema(tuple(_struct(struct, len(structs)) for struct in structs))
    if len({struct.name for struct in schema.structs}) < len(structs):
        raise MalformedSchemaError("two of its structs have one name")
    return schema


def _struct(form: Any, structs: int) -> RowStruct:
    name, own = _pair_of(form, "a struct")
    fields: list[tuple[str, RowType]] = []
    for each in _list_of(own, "the fields of a struct"):
        field, type_ = _pair_of(each, "a field")
        fields.append((_name_of(field), _type(type_, structs, MAX_TYPE_DEPTH)))
    names = [field for field, _ in fields]
    if names != sorted(set(names)):
        raise MalformedSchemaError(f"the fields of {_name_of(name)} are not in the order of their names, each once")
    return RowStruct(_name_of(name), tuple(fields))


def _type(form: Any, structs: int, depth: int) -> RowType:
    if isinstance(form, str) and form in _SCALARS:
        return RowType(form)
    if depth == 0:
        raise MalformedSchemaError(f"it has more than {MAX_TYPE_DEPTH} types inside each other")
    match _list_of(form, "a type"):
        case ["struct", int(place)] if 0 <= place < structs and not isinstance(place, bool):
            return RowType("struct", struct=place)
        case ["enum", name]:
            return RowType("enum", name=_name_of(name))
        case [str(kind), *inside] if len(inside) in _NUMBER_INSIDE.get(kind, ()):
            types = tuple(_type(each, structs, depth - 1) for each in inside)
            _check_members(kind, types)
            return RowType(kind, types)
        case other:
            raise MalformedSchemaError(f"{reprlib.repr(other)} is no type")


def _check_members(kind: str, types: tuple[RowType, ...]) -> None:
    """Of a union's members and of nulls each is there once: else a short schema would take long to bind."""
    banned = {"optional": {"optional"}, "union": {"optional", "union"}}.get(kind, set[str]())
    if any(each.kind in banned for each in types) or (kind == "union" and len(set(types)) < len(types)):
        raise MalformedSchemaError("a union or a null in it holds another one, or one member twice")


def _list_of(form: Any, what: str) -> list[Any]:
    if not isinstance(form, list):
        raise MalformedSchemaError(f"{what} must be an array, not {reprlib.repr(form)}")
    return cast("list[Any]", form)


def _pair_of(form: Any, what: str) -> list[Any]:
    pair = _list_of(form, what)
    if len(pair) != 2:
        raise MalformedSchemaError(f"{what} must be a name and what it has, not {len(pair)} things")
    return pair


def _name_of(form: Any) -> str:
    if not isinstance(form, str) or len(form) > _LONGEST_NAME or not _NAME.fullmatch(form):
        raise MalformedSchemaError(f"{reprlib.repr(form)} is no name")
    return form
