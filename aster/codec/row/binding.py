"""From what a peer's rows hold to how a class of ours reads them: worked out once for each schema and class.

A field of ours that the peer does not send has its default; one of the peer's that is none of ours is never looked at; and one whose type has changed is
refused here, by its name, before any row is read.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aster.codec.fields import default_of
from aster.codec.hashes import check_set
from aster.codec.making import Making
from aster.codec.post_init import run_post_init
from aster.codec.row.arrays import array_items, array_of, map_parts
from aster.codec.row.cells import Cell, CheckRegion, FixedCell, ReadRegion, VariableCell, layout_check, malformed
from aster.codec.row.containers import RowList, RowMap, RowSet, hashable, plain_map
from aster.codec.row.readers import bytes_reader, checked, even_tuple, field_reader, member_named, mixed_tuple, read_text, slot_of, union_reader
from aster.codec.row.scalars import FIXED, VARIABLE
from aster.codec.row.schema import RowSchema, RowStruct, RowType, are_alike
from aster.codec.row.views import Origin, view_setter
from aster.codec.shapes import DictOf, EnumOf, FieldShape, FixedTuple, LiteralOf, Message, Optional, Scalar, Shape, UnionOf, Values
from aster.codec.tags import short_name
from aster.codec.walk import MAX_NESTING
from aster.errors import DecodeError

__all__ = ["Classes", "StructReader", "bind"]

_LONGEST_TYPE = 200
"""Characters of a peer's type that a message repeats."""

_SEQUENCES = ("list", "tuple")
_MADE: Mapping[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


@dataclass(frozen=True, slots=True)
class Classes:
    """What is known of the types of a codec.

    Attributes:
        fields: the fields of each dataclass.
        names: what these and the Enums are called on the wire.
        views: the class of the views of each dataclass.
    """

    fields: Mapping[type, tuple[FieldShape, ...]]
    names: Mapping[type, str]
    views: Mapping[type, type]
    _defaults: dict[tuple[type, str], tuple[str, ReadRegion]] = dataclasses.field(default_factory=dict[tuple[type, str], tuple[str, ReadRegion]])

    def default(self, cls: type, field: dataclasses.Field[Any], shape: Shape) -> tuple[str, ReadRegion]:
        """What gives a field that a peer does not send: one for all schemas, since peers can make up many that have none of ours."""
        key = cls, field.name
        step = self._defaults.get(key)
        if step is None:
            step = self._defaults[key] = field.name, _default_reader(cls, field, shape)
        return step


def bind(schema: RowSchema, root: type, classes: Classes, *, is_request: bool) -> StructReader:
    """What reads the rows of a schema as a class.

    Raises:
        DecodeError: they are no such rows; names the field.
    """
    theirs = schema.structs[0].name
    if theirs != classes.names[root]:
        tag = classes.names[root]
        raise DecodeError(f"the peer sent a row of {theirs}, not of a {short_name(root)}, whose tag is {tag}: give both ends' classes one tag, by @wire_type")
    binding = _Binding(schema, classes, is_request)
    reader = binding.struct(0, root)
    binding.complete()
    return reader


class _Changed(Exception):
    """What the peer writes has no place in the own type."""


@dataclass(slots=True, eq=False)
class StructReader:
    """Reads the rows of one dataclass; see ``RowReader``."""

    origin: Origin
    view: type[Any]
    show: Callable[[object, tuple[bytes, int, int, StructReader]], None]
    check: CheckRegion
    fields: tuple[ReadRegion, ...] = ()
    slots: Mapping[str, tuple[int, int, Cell]] = dataclasses.field(default_factory=dict[str, tuple[int, int, Cell]])
    steps: tuple[tuple[str, ReadRegion], ...] = ()
    lacking: int = 0
    post_init: Callable[[Any], None] | None = None

    def read(self, buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
        """What is in a region, as a view or as a plain instance."""
        self.check(buffer, start, stop)
        if making is None:
            view = object.__new__(self.view)
            self.show(view, (buffer, start, stop, self))
            return view
        if making.depth > MAX_NESTING:
            malformed(f"is nested more than {MAX_NESTING} deep")
        making.free -= self.lacking
        if making.free < 0:
            malformed("has too many fields that its peer does not send; read the view of it instead, or update the peer")
        making.depth += 1
        kept, making.kept = making.kept, {}
        value = object.__new__(self.origin.cls)
        keep = object.__setattr__  # what the class does about attributes is not for this
        for name, read in self.steps:  # two plain values share no list
            keep(value, name, copy.deepcopy(kept[name]) if name in kept else read(buffer, start, stop, making))
        making.depth -= 1
        if self.post_init is not None:
            run_post_init(value, self.post_init, is_request=self.origin.is_request, of_row=True)
        return value


class _Binding:
    """Structs are completed in turn, not inside each other, so that they may contain themselves and chains of them may be long."""

    def __init__(self, schema: RowSchema, classes: Classes, is_request: bool) -> None:
        self._schema = schema
        self._classes = classes
        self._is_request = is_request
        self._readers: dict[int, StructReader] = {}
        self._incomplete: list[tuple[StructReader, RowStruct]] = []
        self._origin: Origin

    def struct(self, place: int, cls: type) -> StructReader:
        """The reader of a struct whose name is that of the class; perhaps still incomplete."""
        reader = self._readers.get(place)
        if reader is None:
            theirs = self._schema.structs[place]
            variable = [index for index, (_, type_) in enumerate(theirs.fields) if _base(type_).kind not in FIXED]
            view = self._classes.views[cls]
            reader = StructReader(Origin(cls, "", self._is_request), view, view_setter(view), layout_check(len(theirs.fields), variable))
            self._readers[place] = reader
            self._incomplete.append((reader, theirs))
        return reader

    def complete(self) -> None:
        """Add the fields of all structs, of those too that are found on the way."""
        for reader, theirs in self._incomplete:
            self._add_fields(reader, theirs)

    def _add_fields(self, reader: StructReader, theirs: RowStruct) -> None:
        cls = reader.origin.cls
        sent = {name: (place, type_) for place, (name, type_) in enumerate(theirs.fields)}
        own = {field.name: field for field in dataclasses.fields(cls)}
        slots: dict[str, tuple[int, int, Cell]] = {}
        steps: list[tuple[str, ReadRegion]] = []
        for field in self._classes.fields[cls]:
            if field.name in sent:
                place, type_ = sent[field.name]
                slots[field.name] = place, slot_of(place, len(theirs.fields)), self._field(cls, field, type_)
                steps.append((field.name, field_reader(f".{field.name}", *slots[field.name])))
            else:
                steps.append(self._classes.default(cls, own[field.name], field.shape))
        reader.slots, reader.steps, reader.fields = slots, tuple(steps), tuple(read for _, read in steps)
        reader.lacking = len(steps) - len(slots)
        reader.post_init = getattr(cls, "__post_init__", None)

    def _field(self, cls: type, field: FieldShape, theirs: RowType) -> Cell:
        self._origin = Origin(cls, f".{field.name}", self._is_request)
        try:
            return self._cell(theirs, field.shape)
        except _Changed:
            said = self._schema.structs[theirs.struct].name if theirs.kind == "struct" else str(theirs)
            said = said if len(said) <= _LONGEST_TYPE else f"{said[:_LONGEST_TYPE]}..."
            where = f"{short_name(cls)}.{field.name}"
            raise DecodeError(f"the peer's rows have {said} for {where}, which is {field.shape} here: give both ends one type") from None

    def _cell(self, theirs: RowType, own: Shape) -> Cell:
        nullable = theirs.kind == "optional"
        if nullable and not isinstance(own, Optional):
            raise _Changed
        theirs = _base(theirs)
        own = own.item if isinstance(own, Optional) else own
        if isinstance(own, UnionOf) and theirs.kind != "union":
            return self._member(theirs, own, nullable)
        if theirs.kind != "union" and not self._looks_like(theirs, own):
            raise _Changed
        if theirs.kind in FIXED:
            fixed = FIXED[theirs.kind]
            return FixedCell(fixed.code, fixed.width, checked(fixed.from_number, own), nullable, str(own))
        return VariableCell(self._variable(theirs, own), nullable, str(own), is_bytes=own == Scalar(bytes))

    def _member(self, theirs: RowType, union: UnionOf, nullable: bool) -> Cell:
        """The member of a union of ours that the peer's type is. No two of them look the same, so that at most one is."""
        for member in union.members:
            if self._looks_like(theirs, member):
                return self._cell(RowType("optional", (theirs,)) if nullable else theirs, Optional(member))
        raise _Changed

    def _looks_like(self, theirs: RowType, member: Shape) -> bool:
        """Whether the two are of one kind, whatever is inside of them."""
        match member:
            case Scalar() | LiteralOf(Scalar()):
                return _is_kind(theirs, member)
            case EnumOf(cls) | LiteralOf(EnumOf(cls), _):
                return theirs.kind == "enum" and theirs.name == self._classes.names[cls]
            case Message(cls):
                return theirs.kind == "struct" and self._schema.structs[theirs.struct].name == self._classes.names[cls]
            case Values(kind, _):
                return theirs.kind in _SEQUENCES if kind in _SEQUENCES else theirs.kind == "set"
            case FixedTuple():
                return theirs.kind == "items"
            case DictOf():
                return theirs.kind == "dict"
            case _:
                return False

    def _variable(self, theirs: RowType, own: Shape) -> ReadRegion:
        if theirs.kind == "union":
            # A null is what tells which member is there.
            return union_reader([self._cell(RowType("optional", (_base(inside),)), Optional(own)) for inside in theirs.inside])
        match own:
            case Scalar() | LiteralOf(Scalar(), _):
                if own == Scalar(str):
                    return read_text
                scalar = VARIABLE[theirs.kind]
                return bytes_reader(checked(None if own == Scalar(bytes) else scalar.from_bytes, own))
            case EnumOf(cls) | LiteralOf(EnumOf(cls), _):
                return bytes_reader(checked(member_named(cls), own))
            case Message(cls):
                return self.struct(theirs.struct, cls).read
            case Values(kind, item):
                return self._values(theirs, kind, item)
            case FixedTuple(items):
                return self._tuple(theirs, items)
            case DictOf(key, value):
                return self._dict(theirs, key, value)
            case _:
                raise _Changed

    def _values(self, theirs: RowType, kind: str, item: Shape) -> ReadRegion:
        made, origin = _MADE[kind], self._origin
        cell = self._inside(theirs.inside[0], item)

        def read_sequence(buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
            array = array_of(buffer, start, stop, cell)
            return RowList[Any](array, made, origin) if making is None else made(array_items(array, making))

        def read_set(buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
            items = hashable(array_of(buffer, start, stop, cell), making or Making(stop - start), check_set)
            return RowSet(items) if making is None and made is set else made(items)

        return read_sequence if kind in _SEQUENCES else read_set

    def _inside(self, theirs: RowType, own: Shape) -> Cell:
        """What an element holds. A list in it says in its messages that it is in something, without saying in which element."""
        outer, self._origin = self._origin, replace(self._origin, field=f"{self._origin.field}[…]")
        try:
            return self._cell(theirs, own)
        finally:
            self._origin = outer

    def _tuple(self, theirs: RowType, items: tuple[Shape, ...]) -> ReadRegion:
        if len(theirs.inside) != len(items):
            raise _Changed
        cells = [self._cell(inside, item) for inside, item in zip(theirs.inside, items, strict=True)]
        return even_tuple(cells) if are_alike(theirs.inside) else mixed_tuple(cells)

    def _dict(self, theirs: RowType, key: Shape, value: Shape) -> ReadRegion:
        origin = self._origin
        keys, values = self._inside(theirs.inside[0], key), self._inside(theirs.inside[1], value)

        def read(buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
            parts = map_parts(buffer, start, stop, keys, values)
            return RowMap[Any](*parts, origin) if making is None else plain_map(*parts, making)

        return read


def _base(type_: RowType) -> RowType:
    return type_.inside[0] if type_.kind == "optional" else type_


def _is_kind(theirs: RowType, own: Shape) -> bool:
    base = own.base if isinstance(own, LiteralOf) else own
    return isinstance(base, Scalar) and base.type.__name__.lower() == theirs.kind


def _default_reader(cls: type, field: dataclasses.Field[Any], shape: Shape) -> ReadRegion:
    """What a field gives that the peer does not send."""
    default = default_of(field)
    if default is None:
        if not isinstance(shape, Optional):
            raise DecodeError(f"the peer's rows have no {short_name(cls)}.{field.name}, which has no default: give it one here, or send it there")
        return lambda _buffer, _start, _stop, _making: None
    return lambda _buffer, _start, _stop, _making: default()
