"""One field's type hint as a shape, refused by class and field name where no exact copy could come out of Fory."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum, Flag
from inspect import getattr_static
from typing import Annotated, Any, Final, Literal, NewType, NoReturn, TypeGuard, TypeVar, Union, get_args, get_origin, is_typeddict

from aster.codec.shapes import (
    SCALARS,
    DictOf,
    EnumOf,
    FieldShape,
    FixedTuple,
    LiteralOf,
    Message,
    Optional,
    Scalar,
    Shape,
    UnionOf,
    Values,
    runtime_types,
)
from aster.codec.tags import is_wire_class, short_name
from aster.codec.walk import problem_with

__all__ = ["MAX_ENUM_VALUE", "FieldReader", "is_class", "objection_to"]

MAX_ENUM_VALUE = 2**32 - 1
"""Fory sends an Enum whose values are all integers by value, in 32 bits."""

_VALUES: Mapping[object, Literal["list", "set", "frozenset"]] = {list: "list", set: "set", frozenset: "frozenset"}
_SUPPORTED = (
    "a field may be str, int, float, bool, bytes, date, datetime, time, timedelta, Decimal, UUID, an Enum, a dataclass, "
    "or list, set, frozenset, tuple, dict, Optional, Union or Literal of these"
)

_STANDARD_MODULES = frozenset({"builtins", "collections", "collections.abc"})
_ALTERNATIVES: Mapping[str, str] = {
    "Sequence": "list[...]",
    "MutableSequence": "list[...]",
    "Iterable": "list[...]",
    "Iterator": "list[...], or a streaming method",
    "AsyncIterator": "list[...], or a streaming method",
    "Collection": "list[...]",
    "deque": "list[...]",
    "Mapping": "dict[..., ...]",
    "MutableMapping": "dict[..., ...]",
    "defaultdict": "dict[..., ...]",
    "OrderedDict": "dict[..., ...]",
    "Counter": "dict[..., int]",
    "Set": "set[...]",
    "MutableSet": "set[...]",
    "bytearray": "bytes",
    "memoryview": "bytes",
    "complex": "tuple[float, float]",
}


def is_class(value: object) -> TypeGuard[type[Any]]:
    """``isinstance(value, type)``, in a form that leaves no unknown type behind."""
    return isinstance(value, type)


def objection_to(cls: type[Any]) -> str | None:
    """Why Fory cannot make exact copies of a class's instances, and what to do; ``None`` when it can."""
    if hasattr(cls, "__pydantic_fields__") or hasattr(cls, "__is_pydantic_dataclass__"):
        return "is a pydantic model or dataclass, which is not supported; use a standard dataclass, and validate in __post_init__"
    if not is_wire_class(cls):
        return _why_no_wire_class(cls)
    if issubclass(cls, Enum):
        return _enum_objection(cls)
    try:
        object.__new__(cls)
    except TypeError as exc:
        return f"has instances that cannot be made without its constructor ({exc}); use a concrete dataclass that inherits from no built-in type"
    return None


def _why_no_wire_class(cls: type[Any]) -> str:
    if hasattr(cls, "__attrs_attrs__"):
        return "is an attrs class, which is not supported; decorate it with @dataclasses.dataclass instead"
    if hasattr(cls, "__struct_fields__"):
        return "is a msgspec struct, which is not supported; use a dataclass"
    if hasattr(cls, "__dataclass_fields__"):
        return "inherits from a dataclass but is not one itself; decorate it with @dataclass too"
    if is_typeddict(cls):
        return "is a TypedDict, which is not supported; use a dataclass"
    if issubclass(cls, tuple) and cls is not tuple:
        return "is a NamedTuple, which is not supported; use a dataclass (frozen=True makes it hashable)"
    if cls.__module__.partition(".")[0] in sys.stdlib_module_names:
        return "is not supported; send what it stands for as str or another supported type, such as a dataclass of your own"
    return "is neither a dataclass nor an Enum; decorate it with @dataclass, or send what it holds as another type, such as bytes or list[float]"


def _enum_objection(cls: type[Enum]) -> str | None:
    values = [member.value for member in cls]
    if issubclass(cls, Flag):
        return "is a Flag, whose combinations are no members; use an int, or a set of an Enum's members"
    if issubclass(cls, list | tuple | set | frozenset | dict) or hasattr(cls, "__dataclass_fields__"):
        return "is an Enum and a container or dataclass in one, and Fory cannot tell which; leave out the second base: a plain Enum's values may be of any type"
    if cls.__hash__ is None:
        return "is an Enum whose members have no hash, by which Fory finds them; give it a __hash__ beside its __eq__"
    if not values:
        return "has no members, so there is no value to send; give it one"
    if all(isinstance(value, int) and value >= 0 for value in values) and max(values) > MAX_ENUM_VALUE:
        return f"has a value above {MAX_ENUM_VALUE}, which Fory cannot send; use smaller numbers, or strings"
    return None


class FieldReader:
    """Reads the hint of one field; knows where it is for the sake of its messages."""

    def __init__(self, cls: type[Any], name: str) -> None:
        self._cls = cls
        self._name = name
        self._aliases: list[object] = []

    def read(self, hint: object) -> FieldShape:
        if not self._name.isascii():
            self._refuse("its name is not ASCII, which Fory's names must be", "rename it")
        attribute = getattr_static(self._cls, self._name, None)
        if hasattr(attribute, "__set__") and not isinstance(attribute, types.MemberDescriptorType):
            self._refuse("it is kept by a descriptor", "make it a plain field")
        return FieldShape(self._name, self._shape(hint))

    def _refuse(self, *what_and_mend: str) -> NoReturn:
        raise TypeError(f"{short_name(self._cls)}.{self._name} cannot be sent: {'; '.join(what_and_mend)}")

    def _shape(self, hint: Any) -> Shape:
        origin = get_origin(hint)
        args = get_args(hint)
        if origin in (Annotated, Final):
            return self._shape(args[0])
        if isinstance(hint, NewType):
            return self._shape(hint.__supertype__)
        if type(hint).__name__ == "TypeAliasType":
            return self._alias(hint)
        if hint is getattr(typing, "Self", None):
            return self._shape(self._cls)
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin is Literal:
            return self._literal(args)
        if origin in (list, set, frozenset, dict, tuple) and not hasattr(hint, "__args__"):
            return self._plain(origin)  # typing.List and its like, without arguments
        if origin in _VALUES:
            return self._values(_VALUES[origin], args[0])
        if origin is tuple:
            return self._tuple(args)
        if origin is dict:
            return DictOf(self._shape(args[0]), self._shape(args[1]))
        if origin is not None:
            self._refuse(f"{hint} is not supported", _alternative_to_generic(origin))
        return self._plain(hint)

    def _alias(self, hint: Any) -> Shape:
        """What a ``type`` statement, of Python 3.12 and later, defines."""
        if hint in self._aliases:
            self._refuse(f"the type alias {hint} contains itself", "make it a dataclass")
        self._aliases.append(hint)
        try:
            return self._shape(hint.__value__)
        finally:
            self._aliases.pop()

    def _plain(self, hint: Any) -> Shape:
        if hint in (list, set, frozenset, dict, tuple):
            inside = "str, int" if hint is dict else "int, ..." if hint is tuple else "int"
            self._refuse(f"a bare {hint.__name__} does not say what is in it", f"write, for instance, {hint.__name__}[{inside}]")
        if hint is Any or hint is object:
            self._refuse(f"{'Any' if hint is Any else 'object'} does not say what is in it", "name the type, or a Union of types")
        if hint is None or hint is type(None):
            self._refuse("None alone carries nothing", "write Optional[...]")
        if hint is Final:
            self._refuse("a bare Final does not say what it is", "write, for instance, Final[int]")
        if isinstance(hint, TypeVar) or not is_class(hint):
            self._refuse(f"{hint} is not supported", _SUPPORTED)
        if hint in SCALARS:
            return Scalar(hint)
        alternative = _ALTERNATIVES.get(hint.__name__) if hint.__module__ in _STANDARD_MODULES else None
        objection = f"is not supported; use {alternative}" if alternative else objection_to(hint)
        if objection is not None:
            self._refuse(f"{short_name(hint)} {objection}")
        return EnumOf(hint) if issubclass(hint, Enum) else Message(hint)

    def _values(self, kind: Literal["list", "set", "frozenset", "tuple"], arg: object) -> Values:
        item = self._shape(arg)
        if kind in ("list", "tuple") and isinstance(item, Message) and not fields(item.cls):
            self._refuse(f"{item} has no fields, and Fory limits items that take up no bytes", f"send their number, or give {item} a field")
        return Values(kind, item)

    def _tuple(self, args: tuple[Any, ...]) -> Shape:
        if len(args) == 2 and args[1] is Ellipsis:
            return self._values("tuple", args[0])
        return FixedTuple(tuple(self._shape(arg) for arg in args))

    def _union(self, args: tuple[Any, ...]) -> Shape:
        members: list[Shape] = []
        optional = False
        for arg in args:
            if arg is type(None):
                optional = True
                continue
            shape = self._shape(arg)
            if isinstance(shape, Optional):
                optional, shape = True, shape.item
            members.extend(shape.members if isinstance(shape, UnionOf) else (shape,))
        self._refuse_lookalikes(members)
        shape = members[0] if len(members) == 1 else UnionOf(tuple(members))
        return Optional(shape) if optional else shape

    def _refuse_lookalikes(self, members: list[Shape]) -> None:
        seen: dict[type, Shape] = {}
        for member in members:
            for type_ in runtime_types(member):
                # Inside a union Fory writes a tuple as a list and a frozenset as a set.
                kind = {tuple: list, frozenset: set}.get(type_, type_)
                if kind in seen:
                    self._refuse(f"its union's members {seen[kind]} and {member} look the same on the wire", "keep one of them, or wrap each in a dataclass")
                seen[kind] = member

    def _literal(self, values: tuple[Any, ...]) -> Shape:
        present = tuple(value for value in values if value is not None)
        kinds: set[type[Any]] = {type(value) for value in present}
        if len(kinds) != 1:
            self._refuse(f"{Literal[values]} mixes types" if kinds else "Literal[None] carries nothing", "keep its values of one type")
        base = self._plain(kinds.pop())
        assert isinstance(base, Scalar | EnumOf)  # typing allows no other values in a Literal
        for value in present:
            problem = problem_with(value)
            if problem is not None:
                self._refuse(f"its literal {value!r} {problem}")
        shape = LiteralOf(base, present)
        return Optional(shape) if None in values else shape


def _alternative_to_generic(origin: Any) -> str:
    if type(origin).__name__ == "TypeAliasType":
        return "a type alias cannot be sent with type arguments: write out what it stands for"
    if is_class(origin) and is_wire_class(origin):
        return "a generic dataclass cannot be sent with type arguments: make a dataclass for each case"
    alternative = _ALTERNATIVES.get(getattr(origin, "__name__", ""))
    return f"use {alternative}" if alternative else _SUPPORTED
