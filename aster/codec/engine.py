"""Fory instances made ready for a set of types. pyfory's objects are untyped, and stay behind ``Engine``.

Fory is told about *twins*, not about the user's classes. A twin is a dataclass with the same fields, whose hints are written in the few forms that Fory reads
(it fails on ``X | None``, ``Annotated``, ``Literal``, ``Final``, ``frozenset``), whose defaults say which fields a peer may leave out, and whose ``__new__``
makes an instance of the user's class. So the user's class is not changed, and reads and writes run at Fory's own speed, without a copy.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any

import pyfory  # pyright: ignore[reportMissingTypeStubs]  # it has none
from pyfory.meta import typedef_decoder, typedef_encoder  # pyright: ignore[reportMissingTypeStubs]  # it has none
from pyfory.meta.metastring import Encoding, MetaStringEncoder  # pyright: ignore[reportMissingTypeStubs]  # it has none

from aster.codec.fields import MAX_FIELDS, default_of
from aster.codec.filling import counted_default
from aster.codec.hashed import MapSerializer, SetSerializer
from aster.codec.hashes import HashTally
from aster.codec.keys import has_generated_hash
from aster.codec.serializers import (
    DecimalSerializer,
    TimeSerializer,
    TimestampSerializer,
    TupleSerializer,
    UuidSerializer,
    counted,
    counting_hash,
)
from aster.codec.shapes import EXTENSIONS, DictOf, EnumOf, FieldShape, FixedTuple, LiteralOf, Message, Optional, Scalar, Shape, UnionOf, Values, children
from aster.codec.stand_ins import stand_in
from aster.codec.tags import short_name
from aster.codec.walk import MAX_NESTING

__all__ = [
    "MAX_DEFINITION_BYTES",
    "MAX_GRAPH_BYTES",
    "Engine",
    "NoDefault",
    "Plan",
    "build_engine",
    "plan_engine",
    "reader_classes",
    "wrap",
]

MAX_GRAPH_BYTES = 16 * 1024 * 1024
"""About what the containers and dataclasses of one message may occupy once decoded, in bytes: 3 MB of nested empty lists would otherwise take 217 MB.

Honest messages of very many very small objects meet it too: more than some 110,000 dataclasses of three fields, whatever they take up on the wire. What the
fields hold by default that a message lacks may occupy as much once more.
"""

MAX_DEFINITION_BYTES = 16 * 1024
"""The longest type definition accepted from a peer: 128 fields with names of 100 characters, and a bound on what a decoder caches."""

_DEPTH_PER_CONTAINER = 2  # Fory counts a container and its items as separate levels

_fory: Any = pyfory
_typedef_encoder: Any = typedef_encoder
_typedef_decoder: Any = typedef_decoder

wrap: Callable[[bytes], Any] = _fory.Buffer
"""Makes the buffer that ``Engine.deserialize`` reads; its ``get_reader_index()`` then tells how far that came."""


def _mend_capitals(encoder: MetaStringEncoder) -> None:
    """Have an encoder write names of one capital and no other, such as ``Name``.

    For these it chooses the one encoding that neither namespaces nor fields have, and the search for its number fails. Fory in other languages chooses the
    next best then, and so do we; every Fory reads it.
    """
    choose = encoder.compute_encoding

    def compute_encoding(input_string: str, encodings: list[Encoding] | None = None) -> Encoding:
        encoding = choose(input_string, encodings)
        if encodings is None or encoding in encodings:
            return encoding
        return Encoding.ALL_TO_LOWER_SPECIAL if (len(input_string) + 1) * 5 < len(input_string) * 6 else Encoding.LOWER_UPPER_DIGIT_SPECIAL

    encoder.compute_encoding = compute_encoding


_mend_capitals(_typedef_encoder.NAMESPACE_ENCODER)
_mend_capitals(_typedef_encoder.FIELD_NAME_ENCODER)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine is built from; shared by all engines of a codec.

    Attributes:
        xlang: Fory's cross-language format rather than its Python one.
        names: each Enum and dataclass with the name that Fory knows it by.
        twins: what stands for each dataclass in Fory's eyes.
        max_depth: how many levels a value may have, in Fory's way of counting.
        tuple_keys: whether sets or dict keys hold tuples.
        counts: whether anything that an engine hashes is counted.
    """

    xlang: bool
    names: Mapping[type, str]
    twins: Mapping[type, type]
    max_depth: int
    tuple_keys: bool
    counts: bool


@dataclass(slots=True)
class Engine:
    """One Fory instance. Used by one thread at a time and never re-entered: Fory crashes the process otherwise.

    Attributes:
        tally: the hashes of the message that was decoded last; to be cleared before the next.
        failures: how many decodes have failed in it.
        serialize: value to bytes.
        deserialize: buffer, from ``wrap``, to a value whose types are unchecked.
        release_buffer: free the write buffer, which never shrinks by itself.
        definitions: the type definitions cached so far, which grow by one for each that a peer makes up.
    """

    serialize: Callable[[Any], bytes]
    deserialize: Callable[[Any], Any]
    release_buffer: Callable[[], None]
    definitions: Sized
    tally: HashTally
    failures: int = 0


def plan_engine(xlang: bool, names: Mapping[type, str], fields: Mapping[type, tuple[FieldShape, ...]], readers: Mapping[type, type]) -> Plan:
    """Describe an engine for these types; ``fields`` holds those of each dataclass."""
    twins = {cls: _twin(cls, readers.get(cls, cls)) for cls in fields}
    for cls, twin in twins.items():
        _annotate(twin, cls, fields[cls], twins)
    containers = max((_containers(field.shape) for own in fields.values() for field in own), default=0)
    # A path through a value passes MAX_NESTING dataclasses that may contain themselves, and each of the others at most once.
    max_depth = (MAX_NESTING + len(fields) + 1) * (1 + _DEPTH_PER_CONTAINER * containers) + _DEPTH_PER_CONTAINER
    tuple_keys = any(_has_tuple_keys(field.shape) for own in fields.values() for field in own)
    # NATIVE has tuples wherever a peer wants them.
    counts = not xlang or tuple_keys or any(map(_has_hash, fields))
    return Plan(xlang, names, twins, max_depth, tuple_keys, counts)


def build_engine(plan: Plan) -> Engine:
    """Make a Fory instance and have it work out all of its types now, rather than in a call. Takes milliseconds.

    Raises:
        TypeError: Fory refuses a type; names the class.
    """
    fory: Any = _fory.Fory(
        xlang=plan.xlang,
        ref=False,
        strict=True,
        compatible=True,
        max_depth=plan.max_depth,
        max_type_fields=MAX_FIELDS,
        max_type_meta_bytes=MAX_DEFINITION_BYTES,
        max_graph_memory_bytes=MAX_GRAPH_BYTES,
    )
    resolver = fory.type_resolver
    tally = HashTally()
    _extend(resolver, uuid.UUID, "_aster.uuid", UuidSerializer(resolver, uuid.UUID, tally, counts_tuples=plan.tuple_keys))
    _extend(resolver, datetime.time, "_aster.time", TimeSerializer(resolver, datetime.time))
    record = resolver.get_type_info(decimal.Decimal)
    record.serializer = DecimalSerializer(record.serializer, tally)
    if not plan.xlang:  # the other format has no tuples where the type of an element is not declared
        record = resolver.get_type_info(tuple)
        record.serializer = TupleSerializer(record.serializer)
    resolver.get_type_info(dict).serializer = MapSerializer(resolver)
    resolver.get_type_info(set).serializer = SetSerializer(resolver)
    # Fory's own goes through a float, which loses microseconds. Assigned, because registering one would change the type's number on the wire.
    resolver.get_type_info(datetime.datetime).serializer = TimestampSerializer(resolver, datetime.datetime)
    # Where the type of an element is not declared, a frozenset goes as the set that it will arrive as (XLANG does so by itself).
    resolver._types_info[frozenset] = resolver.get_type_info(set)
    for cls, name in plan.names.items():
        resolver._types_info[cls] = resolver.register_type(plan.twins.get(cls, cls), name=name)
    for cls, twin in plan.twins.items():
        try:
            _let_stand_for(resolver, twin, cls)
        except Exception as exc:
            raise TypeError(f"Fory cannot send {short_name(cls)} ({plan.names[cls]!r}): {exc}; shorten or split it") from exc

    def release_buffer() -> None:
        fory.buffer = _fory.Buffer.allocate(32)

    deserialize = counted(fory.deserialize, tally) if plan.counts else fory.deserialize
    return Engine(fory.serialize, deserialize, release_buffer, resolver._meta_shared_type_info, tally)


def reader_classes(classes: Iterable[type]) -> Mapping[type, type]:
    """For some dataclasses a subclass, under which Fory makes and fills in their instances; these get their own class back afterwards.

    It allows assignment, which slots of a frozen dataclass need. (Without slots Fory writes to ``__dict__``, which nothing forbids.) And it counts hashes
    that collide: a peer can put instances of any class into a set, in a field that nobody declared.
    """
    return {cls: _reader(cls) for cls in classes if _forbids_assignment(cls) or _has_hash(cls)}


def _reader(cls: type) -> type:
    namespace: dict[str, Any] = {"__slots__": (), "__setattr__": object.__setattr__}
    if _has_hash(cls):
        namespace["__hash__"] = counting_hash(cls.__hash__, is_generated=has_generated_hash(cls))
    return stand_in(cls, namespace)


def _forbids_assignment(cls: type) -> bool:
    return _has_slotted_fields(cls) and cls.__setattr__ is not object.__setattr__


def _has_hash(cls: type[Any]) -> bool:
    return cls.__hash__ is not None and cls.__hash__ is not object.__hash__


def _has_slotted_fields(cls: type) -> bool:
    return any(isinstance(getattr_static(cls, field.name, None), types.MemberDescriptorType) for field in dataclasses.fields(cls))


def _twin(cls: type[Any], made: type[Any]) -> type:
    """A twin, still without fields, since their hints name other twins."""

    def new(_twin: type) -> object:
        return object.__new__(made)

    namespace: dict[str, Any] = {"__new__": new, "__module__": cls.__module__}
    if _has_slotted_fields(cls):
        namespace["__slots__"] = ()  # tells Fory to go through attributes, not through __dict__
    return type(cls.__name__, (), namespace)


def _annotate(twin: type, cls: type, own: tuple[FieldShape, ...], twins: Mapping[type, type]) -> None:
    by_name = {field.name: field for field in dataclasses.fields(cls)}
    twin.__annotations__ = {field.name: _hint(field.shape, twins) for field in own}
    for field in own:
        setattr(twin, field.name, dataclasses.field(default_factory=_filler(cls, by_name[field.name], field.shape)))
    dataclasses.dataclass(init=False, repr=False, eq=False)(twin)


def _filler(cls: type, field: dataclasses.Field[Any], shape: Shape) -> Callable[[], Any]:
    """What a field gets when a message lacks it."""
    default = default_of(field)
    if default is not None:
        return counted_default(default, is_new=field.default_factory is not dataclasses.MISSING)
    if isinstance(shape, Optional):
        return counted_default(lambda: None, is_new=False)

    def missing() -> NoDefault:
        raise NoDefault(f"{short_name(cls)}.{field.name} is missing, and has no default")

    return missing


class NoDefault(Exception):
    """A message lacks a field that has no default."""


def _hint(shape: Shape, twins: Mapping[type, type]) -> Any:
    """The shape as Fory wants it written. A union's value carries its own type, since Fory's unions mistake bool for int."""
    match shape:
        case Scalar(type_):
            return Any if type_ in EXTENSIONS else type_
        case EnumOf(cls):
            return cls
        case Message(cls):
            return twins[cls]
        case LiteralOf(base, _):
            return _hint(base, twins)
        case Values("list", item):
            return typing.List[_hint(item, twins)]  # noqa: UP006  # Fory wants the typing module's forms
        case Values("tuple", item):
            return typing.Tuple[_hint(item, twins), ...]  # noqa: UP006
        case Values(_, item):
            return typing.Set[_hint(item, twins)]  # noqa: UP006
        case FixedTuple(items):
            return typing.Tuple[tuple(_hint(item, twins) for item in items)] if items else Any  # noqa: UP006
        case DictOf(key, value):
            return typing.Dict[_hint(key, twins), _hint(value, twins)]  # noqa: UP006
        case Optional(item):
            return typing.Optional[_hint(item, twins)]  # noqa: UP045
        case UnionOf():
            return Any


def _containers(shape: Shape) -> int:
    inside = max(map(_containers, children(shape)), default=0)
    return inside + isinstance(shape, Values | DictOf | FixedTuple)


def _has_tuple_keys(shape: Shape) -> bool:
    hashed = shape.key if isinstance(shape, DictOf) else shape.item if isinstance(shape, Values) and shape.kind in ("set", "frozenset") else None
    return (hashed is not None and _has_tuple(hashed)) or any(map(_has_tuple_keys, children(shape)))


def _has_tuple(shape: Shape) -> bool:
    return isinstance(shape, FixedTuple) or (isinstance(shape, Values) and shape.kind == "tuple") or any(map(_has_tuple, children(shape)))


def _extend(resolver: Any, type_: type, name: str, serializer: object) -> None:
    """Register an extension type, complete: at the first use of one without a definition Fory would replace our serializer by a guess of its own."""
    record = resolver.register_type(type_, name=name, serializer=serializer)
    record.type_def = _typedef_encoder.encode_typedef(resolver, type_)


def _let_stand_for(resolver: Any, twin: type, cls: type) -> None:
    """Have the resolver answer for a class what it answers for the twin.

    Its lookup table is keyed by the class that a type's record names at the moment when the record is first asked for; so the record names the user's class
    for that moment, and then the twin again, from which Fory builds the readers of other versions of the type.
    """
    record = resolver.get_type_info(twin)
    record.cls = cls
    try:
        resolver.get_type_info(cls)
    finally:
        record.cls = twin
    # What cannot be read again would otherwise be refused by every receiver.
    _typedef_decoder.decode_typedef(wrap(record.type_def.encoded), resolver)
