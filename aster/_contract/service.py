"""From a ``ServiceInfo`` to its contract."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import functools
import uuid
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from aster._contract.form import Contract, EnumType, FieldType, Form, MethodType, Struct, WireType, encode_form, id_of, literal_of, union_of
from aster._declarations import service_info
from aster.codec.fields import default_of, field_shapes
from aster.codec.shapes import DictOf, EnumOf, FixedTuple, LiteralOf, Message, Optional, Scalar, Shape, UnionOf, Values
from aster.codec.tags import registered_names
from aster.types import ServiceInfo

__all__ = ["contract_id", "contract_of", "known_contract"]

_SCALARS: Mapping[type, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    datetime.date: "date",
    datetime.datetime: "datetime",
    datetime.time: "time",
    datetime.timedelta: "timedelta",
    decimal.Decimal: "decimal",
    uuid.UUID: "uuid",
}


def contract_id(service: object) -> str:
    """The id of a service's contract: 64 hex digits, the BLAKE3 hash of its canonical form.

    Two services have one id exactly if they agree on name, version, scope, methods (with their patterns and serialization modes) and on all types that these
    reach (their wire tags, their fields with types and whether they have defaults, their Enums' members). Names of classes, timeouts, ``idempotent``,
    ``requires``, interceptors, values of defaults and docstrings do not count. A test that compares it notices a change of the contract.

    Args:
        service: a class decorated with ``@service``, or an instance.

    Raises:
        TypeError: it is no service.
        ValueError: its contract is larger than can be told to clients, or nests containers too deeply.
    """
    return id_of(encode_form(contract_of(service_info(service)))).hex()


@functools.lru_cache(maxsize=64)
def known_contract(service: type) -> tuple[Contract, bytes]:
    """The contract of a service's class and its id, worked out once: a client needs them for each session that it opens.

    Raises:
        ValueError: the contract is above the limit.
    """
    contract = contract_of(service_info(service))
    return contract, id_of(encode_form(contract))


def contract_of(info: ServiceInfo) -> Contract:
    """The contract of a service."""
    names = registered_names(info.wire_tags)
    methods = {
        method.name: MethodType(method.name, method.pattern, tuple(sorted(method.modes)), names[method.request_type], names[method.response_type])
        for method in info.methods.values()
    }
    types = {name: _type(cls, name, names) for cls, name in names.items()}
    return Contract(info.name, info.version, info.scoped, methods, types)


def _type(cls: type[Any], name: str, names: Mapping[type, str]) -> WireType:
    if issubclass(cls, Enum):
        members = list(cls)
        return EnumType(name, tuple((member.name, number) for member, number in zip(members, _numbers(members), strict=True)))
    own = {field.name: field for field in dataclasses.fields(cls)}
    fields = [
        FieldType(field.name, _form(field.shape, names), default_of(own[field.name]) is not None or isinstance(field.shape, Optional))
        for field in field_shapes(cls)
    ]
    return Struct(name, {field.name: field for field in fields})


def _numbers(members: list[Enum]) -> Iterable[int]:
    """What Fory writes for each member in XLANG: the values, if all of them are different whole numbers from 0 on, and else the places."""
    values = [member.value for member in members]
    by_value = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values) and len(set(values)) == len(values)
    return map(int, values) if by_value else range(len(values))


def _form(shape: Shape, names: Mapping[type, str]) -> Form:
    match shape:
        case Scalar(type_):
            return Form(_SCALARS[type_])
        case EnumOf(cls) | Message(cls):
            return Form("type", name=names[cls])
        case LiteralOf(base, values):
            return literal_of(_form(base, names), map(_literal, values))
        case Optional(item):
            return Form("optional", (_form(item, names),))
        case Values(kind, item):
            return Form("set" if kind == "frozenset" else kind, (_form(item, names),))
        case FixedTuple(items):
            return Form("items", tuple(_form(item, names) for item in items))
        case DictOf(key, value):
            return Form("dict", (_form(key, names), _form(value, names)))
        case UnionOf(members):
            return union_of(_form(member, names) for member in members)


def _literal(value: object) -> str | bool:
    match value:
        case Enum():
            return value.name
        case bytes():
            return value.hex()
        case bool() | str():
            return value
        case _:
            return str(value)
