"""A service's contract: what of its class decides whether two versions understand each other, in a form that belongs to no language.

The canonical form is JSON, written in one way only (RFC 8785): so that equal contracts are equal bytes, whose BLAKE3 hash is the contract id.
``docs/wire.md`` describes it for other languages.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, TypeVar, cast

from blake3 import blake3

from aster.types import RpcPattern, SerializationMode

__all__ = [
    "CONTRACT_LIMIT",
    "MAX_FORM_DEPTH",
    "Contract",
    "EnumType",
    "FieldType",
    "Form",
    "MalformedContractError",
    "MethodType",
    "Struct",
    "WireType",
    "decode_form",
    "encode_form",
    "id_of",
    "literal_of",
    "union_of",
]

T = TypeVar("T")

CONTRACT_LIMIT = 262_144
"""Bytes of a canonical form: some 4,000 fields. A peer's is read in one piece, and then compared: the worst that was found takes 0.6 s of the
client's, once for each server that it meets (measured)."""

MAX_FORM_DEPTH = 32
"""How many types a field may have inside each other: beyond any honest one, and far from the end of the stack."""

_LONGEST_NAME = 1_024
"""Characters of a name that a peer tells: one of a type has 161 at the most, and other names are shorter by custom. Each may be said again in a message."""

_EDITION = 1
_SCALARS = frozenset({"bool", "int", "float", "str", "bytes", "date", "datetime", "time", "timedelta", "decimal", "uuid"})
_ONE_INSIDE = frozenset({"list", "tuple", "set"})
_LITERALS = frozenset({"bool", "int", "str", "bytes", "type"})


class MalformedContractError(ValueError):
    """The bytes are no canonical form."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a field holds.

    Attributes:
        kind: the name of a scalar; ``type`` for a dataclass or an Enum; ``list``, ``tuple``, ``set`` (frozen or not), ``dict``, ``optional``, ``union``;
            ``items`` for a tuple of fixed length; or ``literal``.
        inside: the forms within; of a literal the one that its values have.
        name: of a ``type``.
        values: of a ``literal``: an int in decimal digits, bytes as hex, a member of an Enum by its name.
    """

    kind: str
    inside: tuple[Form, ...] = ()
    name: str = ""
    values: tuple[str | bool, ...] = ()

    def __str__(self) -> str:
        inside = list(map(str, self.inside))
        match self.kind:
            case "type":
                return self.name
            case "optional":
                return f"{inside[0]} | None"
            case "union":
                return " | ".join(inside)
            case "tuple":
                return f"tuple[{inside[0]}, ...]"
            case "items":
                return f"tuple[{', '.join(inside) or '()'}]"
            case "literal":
                return f"Literal[{', '.join(_literal(inside[0], value) for value in self.values)}]"
            case _:
                return f"{self.kind}[{', '.join(inside)}]" if inside else self.kind


def _literal(base: str, value: str | bool) -> str:
    if base == "bytes":
        return f"0x{value}"
    return repr(value) if base == "str" else str(value)


@dataclass(frozen=True, slots=True)
class FieldType:
    """A field of a dataclass; ``default`` tells whether its reader does without it: it has a default, or may be ``None``."""

    name: str
    form: Form
    default: bool


@dataclass(frozen=True, slots=True)
class Struct:
    """A dataclass, by its name on the wire, and its fields by name."""

    name: str
    fields: Mapping[str, FieldType]


@dataclass(frozen=True, slots=True)
class EnumType:
    """An ``Enum``, by its name on the wire; its members in their order, each with the number that it has in XLANG. In NATIVE its place is its number."""

    name: str
    members: tuple[tuple[str, int], ...]


WireType: TypeAlias = Struct | EnumType


@dataclass(frozen=True, slots=True)
class MethodType:
    """A method; ``modes`` are the serialization modes that it allows, by number, ``request`` and ``response`` names of types."""

    name: str
    pattern: RpcPattern
    modes: tuple[SerializationMode, ...]
    request: str
    response: str


@dataclass(frozen=True, slots=True)
class Contract:
    """What two versions of a service have to agree about; methods and types by name."""

    service: str
    version: int
    scope: str
    methods: Mapping[str, MethodType]
    types: Mapping[str, WireType]


def union_of(members: Iterable[Form]) -> Form:
    """The form of a union, whose members have no order."""
    return Form("union", tuple(sorted(set(members), key=lambda member: _json(_form_data(member)))))


def literal_of(base: Form, values: Iterable[str | bool]) -> Form:
    """The form of a literal, whose values have no order."""
    return Form("literal", (base,), values=tuple(sorted(set(values))))


def id_of(form: bytes) -> bytes:
    """The id of the contract that has this canonical form: 32 bytes."""
    return blake3(form).digest()


# Writing


def encode_form(contract: Contract) -> bytes:
    """A contract's canonical form.

    Raises:
        ValueError: it is above ``CONTRACT_LIMIT``, or a field has more than ``MAX_FORM_DEPTH`` types inside each other.
    """
    form = _json(_contract_data(contract)).encode()
    if len(form) > CONTRACT_LIMIT:
        raise ValueError(f"the contract of service {contract.service!r} takes {len(form)} bytes; the limit is {CONTRACT_LIMIT} bytes: make several of it")
    deepest = max((_depth(field.form) for type_ in contract.types.values() if isinstance(type_, Struct) for field in type_.fields.values()), default=0)
    if deepest > MAX_FORM_DEPTH:
        where = f"the contract of service {contract.service!r} has a field"
        raise ValueError(f"{where} with {deepest} types inside each other; the limit is {MAX_FORM_DEPTH}: make dataclasses of some")
    return form


def _json(data: object) -> str:
    """As RFC 8785 has it, for the values that occur here: no fractions, no numbers beyond 53 bits, and keys of ASCII."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _depth(form: Form) -> int:
    return 1 + max(map(_depth, form.inside), default=0)


def _contract_data(contract: Contract) -> dict[str, object]:
    return {
        "aster": _EDITION,
        "methods": [_method_data(contract.methods[name]) for name in sorted(contract.methods)],
        "scope": contract.scope,
        "service": contract.service,
        "types": [_type_data(contract.types[name]) for name in sorted(contract.types)],
        "version": contract.version,
    }


def _method_data(method: MethodType) -> dict[str, object]:
    return {
        "modes": [mode.name for mode in method.modes],
        "name": method.name,
        "pattern": method.pattern.name,
        "request": method.request,
        "response": method.response,
    }


def _type_data(type_: WireType) -> dict[str, object]:
    if isinstance(type_, EnumType):
        return {"members": [[name, number] for name, number in type_.members], "name": type_.name}
    fields = [type_.fields[name] for name in sorted(type_.fields)]
    return {"fields": [{"default": field.default, "name": field.name, "type": _form_data(field.form)} for field in fields], "name": type_.name}


def _form_data(form: Form) -> object:
    if form.kind in _SCALARS:
        return form.kind
    return [form.kind, form.name] if form.kind == "type" else [form.kind, *map(_form_data, form.inside), *form.values]


# Reading


def decode_form(form: bytes) -> Contract:
    """The contract that has this canonical form, whatever the bytes are.

    Raises:
        MalformedContractError: they are no canonical form, or above ``CONTRACT_LIMIT``, or nest more than ``MAX_FORM_DEPTH`` types.
    """
    if len(form) > CONTRACT_LIMIT:
        raise MalformedContractError(f"it takes {len(form)} bytes, above the limit of {CONTRACT_LIMIT} bytes")
    try:
        data: object = json.loads(form.decode())
    except (ValueError, RecursionError) as exc:
        raise MalformedContractError(f"it is not JSON: {exc}") from exc
    contract = _read_contract(data)
    # One contract has one form. So whatever reading was lenient about is refused here: an order, a name that came twice, a blank, a lone surrogate.
    if _json(_contract_data(contract)).encode(errors="replace") != form:
        raise MalformedContractError("it is not written in the canonical way")
    _check_names(contract)
    return contract


def _read_contract(data: object) -> Contract:
    read = _object(data, "aster", "methods", "scope", "service", "types", "version")
    if read["aster"] != _EDITION:
        raise MalformedContractError(f"it is of edition {reprlib.repr(read['aster'])}; this version of Aster reads edition {_EDITION}")
    methods = {method.name: method for method in map(_read_method, _array(read["methods"]))}
    types = {type_.name: type_ for type_ in map(_read_type, _array(read["types"]))}
    scope = _member({"shared": "shared", "stream": "stream"}, read["scope"])
    return Contract(_text(read["service"]), _number(read["version"]), scope, methods, types)


def _check_names(contract: Contract) -> None:
    structs = {name for name, type_ in contract.types.items() if isinstance(type_, Struct)}
    for method in contract.methods.values():
        for name in (method.request, method.response):
            if name not in structs:
                _refuse(name, "the name of a type with fields")
    for type_ in contract.types.values():
        for field in type_.fields.values() if isinstance(type_, Struct) else ():
            for name in _names_in(field.form):
                if name not in contract.types:
                    _refuse(name, "the name of a type")


def _names_in(form: Form) -> Iterator[str]:
    if form.kind == "type":
        yield form.name
    for inner in form.inside:
        yield from _names_in(inner)


def _read_method(data: object) -> MethodType:
    read = _object(data, "modes", "name", "pattern", "request", "response")
    modes = tuple(_member(SerializationMode.__members__, mode) for mode in _array(read["modes"]))
    pattern = _member(RpcPattern.__members__, read["pattern"])
    return MethodType(_text(read["name"]), pattern, modes, _text(read["request"]), _text(read["response"]))


def _read_type(data: object) -> WireType:
    if _has(data, "members"):
        read = _object(data, "members", "name")
        return EnumType(_text(read["name"]), tuple(_read_member(member) for member in _array(read["members"])))
    read = _object(data, "fields", "name")
    fields = {field.name: field for field in map(_read_field, _array(read["fields"]))}
    return Struct(_text(read["name"]), fields)


def _read_member(data: object) -> tuple[str, int]:
    match _array(data):
        case [name, number]:
            return _text(name), _number(number)
        case _:
            return _refuse(data, "a member of an Enum")


def _read_field(data: object) -> FieldType:
    read = _object(data, "default", "name", "type")
    default = read["default"]
    if not isinstance(default, bool):
        _refuse(default, "true or false")
    return FieldType(_text(read["name"]), _read_form(read["type"], MAX_FORM_DEPTH), default)


def _read_form(data: object, room: int) -> Form:
    if not room:
        raise MalformedContractError(f"it has more than {MAX_FORM_DEPTH} types inside each other")
    if isinstance(data, str) and data in _SCALARS:
        return Form(data)

    def inside(items: list[object], *without: str) -> tuple[Form, ...]:
        forms = tuple(_read_form(item, room - 1) for item in items)
        return _refuse(data, "a type") if any(form.kind in without for form in forms) else forms

    match _array(data):
        case ["type", name]:
            return Form("type", name=_text(name))
        case ["dict", key, value]:
            return Form("dict", inside([key, value]))
        case ["items", *items]:
            return Form("items", inside(items))
        case ["union", first, second, *others]:
            return union_of(inside([first, second, *others], "union", "optional"))
        case ["optional", item]:
            return Form("optional", inside([item], "optional"))
        case ["literal", base, *values] if values:
            return _read_literal(_read_form(base, room - 1), values)
        case [str(kind), item] if kind in _ONE_INSIDE:
            return Form(kind, inside([item]))
        case _:
            return _refuse(data, "a type")


def _read_literal(base: Form, values: list[object]) -> Form:
    if base.kind not in _LITERALS:
        _refuse(base.kind, "the type of a literal")
    wanted = bool if base.kind == "bool" else str
    return literal_of(base, (value if isinstance(value, wanted) else _refuse(value, "a literal") for value in values))


def _object(data: object, *keys: str) -> Mapping[str, object]:
    if not isinstance(data, dict) or set(cast("dict[str, object]", data)) != set(keys):
        _refuse(cast("object", data), f"an object with {', '.join(keys)}")
    return cast("dict[str, object]", data)


def _has(data: object, key: str) -> bool:
    return isinstance(data, dict) and key in data


def _array(data: object) -> list[object]:
    return cast("list[object]", data) if isinstance(data, list) else _refuse(data, "an array")


def _text(data: object) -> str:
    return data if isinstance(data, str) and len(data) <= _LONGEST_NAME else _refuse(data, f"a text of at most {_LONGEST_NAME} characters")


def _number(data: object) -> int:
    return data if type(data) is int and 0 <= data < 1 << 53 else _refuse(data, "a whole number")


def _member(members: Mapping[str, T], data: object) -> T:
    member = members.get(data) if isinstance(data, str) else None
    return _refuse(data, f"one of {', '.join(members)}") if member is None else member


def _refuse(data: object, expected: str) -> NoReturn:
    raise MalformedContractError(f"it has {reprlib.repr(data)} in the place of {expected}")
