"""From the fields of a dataclass to columns: the types of Arrow, and what makes arrays of those types from values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import attrgetter, itemgetter
from typing import Any, NoReturn

from aster.arrow.engine import pa
from aster.arrow.scalars import Build, enum_column, scalar_column
from aster.codec import is_exactly
from aster.codec.fields import field_shapes
from aster.codec.row import RowList, RowMap, RowSet, check_filled
from aster.codec.shapes import DictOf, EnumOf, FixedTuple, LiteralOf, Message, Optional, Scalar, Shape, UnionOf, Values, runtime_types
from aster.codec.tags import short_name
from aster.codec.walk import Mismatch

__all__ = ["Column", "arrays_of", "columns_of", "type_check"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: name, type and nullability as ``field``, how its values are got from what they are in, and what makes an array of them."""

    field: Any
    get: Callable[[Any], Any]
    build: Build


def columns_of(cls: type[Any], asked: Iterable[Any] | None, around: tuple[type, ...] = ()) -> list[Column]:
    """The columns of a class: one for each field, or those that a schema asks for. ``around``: the classes that it is in."""
    shapes = {field.name: field.shape for field in field_shapes(cls)}
    chosen = dict.fromkeys(shapes).items() if asked is None else [(field.name, field) for field in asked]
    if len(dict(chosen)) < len(chosen):
        raise ValueError(f"the schema has a field of {short_name(cls)} twice, in {', '.join(name for name, _ in chosen)}")
    for name, _ in chosen:
        if name not in shapes:
            raise ValueError(f"the schema has a field {name!r}, and {short_name(cls)} has none: its fields are {', '.join(shapes)}")
    return [_column(f"{short_name(cls)}.{name}", name, attrgetter(name), shapes[name], field, (*around, cls)) for name, field in chosen]


def _column(where: str, name: str, get: Callable[[Any], Any], shape: Shape, asked: Any, around: tuple[type, ...]) -> Column:
    """``where``: what messages call it. ``asked``: the field of a schema, or ``None``."""
    nullable = isinstance(shape, Optional) if asked is None else asked.nullable
    item = shape.item if isinstance(shape, Optional) else shape
    type_, build = _array(where, item, None if asked is None else asked.type, around)
    return Column(pa.field(name, type_, nullable=nullable), get, _with_nulls(type_check(shape, nullable=nullable), build))


def _with_nulls(check: Callable[[Sequence[Any]], bool], build: Build) -> Build:
    def with_nulls(values: Sequence[Any]) -> Any:
        if not check(values):
            return build(values)
        present = build([value for value in values if value is not None])
        counts = accumulate(value is not None for value in values)
        places = [None if value is None else count - 1 for value, count in zip(values, counts, strict=True)]
        spread = _spread_struct if pa.types.is_struct(present.type) and present.type.num_fields else _spread
        return spread(present, places)

    return with_nulls


def _spread(present: Any, places: Sequence[int | None]) -> Any:
    """The values of an array that go to some places, and nulls in the others."""
    return present.take(pa.array(places, pa.int64()))


def _spread_struct(present: Any, places: Sequence[int | None]) -> Any:
    """The same for structs, whose fields have values where the struct is null: Parquet refuses nulls there unless the field may have them."""
    filled = _filled(present, places) if len(present) else _blanks(present, len(places))
    return _struct_array(filled.type, [filled.field(place) for place in range(filled.type.num_fields)], pa.array([place is None for place in places]))


def _filled(present: Any, places: Sequence[int | None]) -> Any:
    """The values that go to some places, and any in the others."""
    try:
        behind = pa.concat_arrays([present, _blanks(present, 1)])  # a copy of a present one for each null would be large where that is
    except pa.ArrowNotImplementedError:  # of extension types
        return _spread(present, [place or 0 for place in places])
    return _spread(behind, [len(present) if place is None else place for place in places])


def _blanks(like: Any, count: int) -> Any:
    """So many values that nobody sees, in an array with the type and the dictionaries of one that is empty."""
    type_ = like.type
    if pa.types.is_dictionary(type_):
        names = like.dictionary if len(like.dictionary) else _blanks(like.dictionary, 1)
        return pa.DictionaryArray.from_arrays(pa.array([0] * count, type_.index_type), names, ordered=type_.ordered)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _list_array(type_, [0] * count, like.values)
    if pa.types.is_map(type_):
        return _map_array(type_, [0] * count, like.keys, like.items)
    if pa.types.is_struct(type_) and type_.num_fields:
        return _struct_array(type_, [_blanks(like.field(place), count) for place in range(type_.num_fields)])
    return pa.array([None] * count, pa.struct([pa.field("", type_, nullable=False)])).field(0)  # pyarrow's own blanks


def type_check(shape: Shape, *, nullable: bool) -> Callable[[Sequence[Any]], bool]:
    """What refuses values of types that are not the shape's, and tells whether ``None`` is among the others."""
    item = shape.item if isinstance(shape, Optional) else shape
    expected = shape if nullable else item
    allowed = {*runtime_types(expected), *_also(item)}

    def check(values: Sequence[Any]) -> bool:
        types = set(map(type, values))
        if unknown := types - allowed:
            for value in values:
                if type(value) in unknown and not (isinstance(item, Message) and is_exactly(value, item.cls)):
                    raise Mismatch(TypeError, f"must be {expected}, not {_kind_of(value)}")
            allowed.update(unknown)  # the views of one more codec
        return type(None) in types

    return check


def _kind_of(value: object) -> str:
    return "None" if value is None else short_name(type(value))


def _also(shape: Shape) -> Iterator[type]:
    """What else values of a shape may be."""
    match shape:
        case Values("list" | "tuple", _):
            yield RowList
        case Values("set", _):
            yield RowSet
        case DictOf():
            yield RowMap
        case Scalar(type_) if type_ is float:
            yield int  # as in what is sent
        case _:
            pass


def _array(where: str, shape: Shape, asked: Any, around: tuple[type, ...]) -> tuple[Any, Build]:
    """The type of Arrow for a shape, and what makes an array of values of the shape, which are not ``None``."""
    match shape:
        case Scalar(type_):
            return scalar_column(where, type_, asked)
        case EnumOf(cls):
            return enum_column(where, cls, asked)
        case LiteralOf(inner, _) | Optional(inner):
            return _array(where, inner, asked, around)
        case Values(_, item):
            return _lists(where, item, asked, around)
        case DictOf(key, value):
            return _maps(where, key, value, asked, around)
        case FixedTuple(items):
            return _tuples(where, items, asked, around)
        case Message(cls):
            if cls in around and asked is None:
                _refuse(where, f"leads back to {shape}, and the type of a column must end somewhere", "give each level a class of its own")
            return _of_rows(*_structs(columns_of(cls, _parts_asked(where, asked), around), asked))
        case UnionOf():
            return _refuse(where, f"is {shape}, and a column has one type", "make an Optional field for each")


def _refuse(where: str, problem: str, mend: str) -> NoReturn:
    raise TypeError(f"{where} {problem}: {mend}, or leave the field out by a schema= of the others")


def _check_asked(where: str, asked: Any, needed: str, *are: Callable[[Any], bool]) -> None:
    if asked is not None and not any(is_one(asked) for is_one in are):
        raise TypeError(f"{where} is {needed} in a column, and the schema has {asked}")


def _lists(where: str, item: Shape, asked: Any, around: tuple[type, ...]) -> tuple[Any, Build]:
    _check_asked(where, asked, "a list", pa.types.is_list, pa.types.is_large_list)
    column = _column(where, "item", list, item, None if asked is None else asked.value_field, around)
    type_ = pa.list_(column.field) if asked is None else asked
    return type_, lambda values: _list_array(type_, map(len, values), column.build(list(chain.from_iterable(values))))


def _list_array(type_: Any, lengths: Iterable[int], items: Any) -> Any:
    arrays, offset = (pa.LargeListArray, pa.int64()) if pa.types.is_large_list(type_) else (pa.ListArray, pa.int32())
    return arrays.from_arrays(_offsets(lengths, offset), items, type=type_)


def _offsets(lengths: Iterable[int], type_: Any) -> Any:
    return pa.array(accumulate(lengths, initial=0), type_)


def _maps(where: str, key: Shape, value: Shape, asked: Any, around: tuple[type, ...]) -> tuple[Any, Build]:
    if isinstance(key, Optional):
        _refuse(where, "has keys that may be None, which a map of Arrow cannot hold", "give it other keys")
    _check_asked(where, asked, "a map", pa.types.is_map)
    keys = _column(where, "key", list, key, None if asked is None else asked.key_field, around)
    items = _column(where, "value", list, value, None if asked is None else asked.item_field, around)
    type_ = pa.map_(keys.field.type, items.field) if asked is None else asked

    def build(values: Sequence[Any]) -> Any:
        held = [item for mapping in values for item in mapping.values()]
        return _map_array(type_, map(len, values), keys.build(list(chain.from_iterable(values))), items.build(held))

    return type_, build


def _map_array(type_: Any, lengths: Iterable[int], keys: Any, items: Any) -> Any:
    return pa.MapArray.from_arrays(_offsets(lengths, pa.int32()), keys, items, type_)


def _parts_asked(where: str, asked: Any) -> list[Any] | None:
    """The fields of the struct that a schema asks for."""
    _check_asked(where, asked, "a struct", pa.types.is_struct)
    return None if asked is None else [asked.field(place) for place in range(asked.num_fields)]


def _tuples(where: str, items: Sequence[Shape], asked: Any, around: tuple[type, ...]) -> tuple[Any, Build]:
    parts = _parts_asked(where, asked) or [None] * len(items)
    _check_asked(where, asked, f"a struct of {len(items)}", lambda asked: asked.num_fields == len(items))
    columns = [
        _column(f"{where}[{place}]", str(place), itemgetter(place), item, part, around) for place, (item, part) in enumerate(zip(items, parts, strict=True))
    ]
    type_, build = _structs(columns, asked)

    def checked(values: Sequence[Any]) -> Any:
        for value in values:
            if len(value) != len(columns):
                raise Mismatch(TypeError, f"must be a tuple of {len(columns)} items, not {len(value)}")
        return build(values)

    return type_, checked


def _structs(columns: Sequence[Column], asked: Any) -> tuple[Any, Build]:
    fields = [column.field for column in columns]
    type_ = pa.struct(fields) if asked is None else asked
    if not fields:  # from_arrays could not tell how many there are
        return type_, lambda values: pa.array([{} for _ in values], type_)
    return type_, lambda values: _struct_array(type_, arrays_of(columns, values))


def _of_rows(type_: Any, build: Build) -> tuple[Any, Build]:
    """The same for structs that may be views, of which not too many fields are filled in."""
    names = [field.name for field in type_]

    def checked(values: Sequence[Any]) -> Any:
        check_filled(values, names)
        return build(values)

    return type_, checked


def _struct_array(type_: Any, parts: Sequence[Any], nulls: Any = None) -> Any:
    return pa.StructArray.from_arrays(parts, fields=[type_.field(place) for place in range(type_.num_fields)], mask=nulls)


def arrays_of(columns: Sequence[Column], values: Sequence[Any]) -> list[Any]:
    """An array for each column of some rows, or of tuples."""
    made: list[Any] = []
    for column in columns:
        try:
            made.append(column.build(_gathered(column.get, values)))
        except Mismatch as exc:
            exc.path.append(f".{column.field.name}")
            raise
    return made


def _gathered(get: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    try:
        return list(map(get, values))
    except AttributeError as exc:
        raise Mismatch(TypeError, f"is not set: {exc}") from exc
