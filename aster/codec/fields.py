"""From a dataclass's type hints to shapes, refusing by class and field name what could not make the round trip exactly."""

from __future__ import annotations

import decimal
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, InitVar, fields
from enum import Enum, Flag
from inspect import getattr_static
from typing import Annotated, Any, Final, Literal, NewType, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict
from weakref import WeakKeyDictionary

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
    children,
    runtime_types,
)
from aster.codec.tags import is_wire_class

__all__ = ["default_of", "field_shapes", "wire_types"]

MAX_FIELDS = 128
"""Fields a dataclass may have: what a decoder accepts in a type definition from a peer, so that unknown types cannot fill its memory."""

MAX_ENUM_VALUE = 2**32 - 1
"""Fory sends an Enum whose values are all integers by value, in 32 bits."""

_VALUES: Mapping[object, Literal["list", "set", "frozenset"]] = {list: "list", set: "set", frozenset: "frozenset"}
_SUPPORTED = (
    "a field may be str, int, float, bool, bytes, date, datetime, time, timedelta, Decimal, UUID, an Enum, a dataclass, "
    "or list, set, frozenset, tuple, dict, Optional, Union or Literal of these"
)

_known: WeakKeyDictionary[type, tuple[FieldShape, ...]] = WeakKeyDictionary()


def wire_types(roots: Iterable[type], *, localns: Mapping[str, Any] | None = None) -> tuple[type, ...]:
    """Every dataclass and ``Enum`` that the roots reach through their fields: the roots first, then in the order of discovery.

    Type hints are resolved now, so the modules that they name must have been imported wholly.

    Args:
        roots: dataclasses (or ``Enum`` classes).
        localns: names that hints may use besides those of their module, for classes made inside functions.

    Raises:
        TypeError: a root is no such class, or a field's type cannot be sent; names class and field, and says what to do.
    """
    found = dict.fromkeys(roots)
    for root in found:
        _check_class(root, "a message")
    queue = list(found)
    for cls in queue:
        for reached in _reached(cls, localns):
            if reached not in found:
                found[reached] = None
                queue.append(reached)
    return tuple(found)


def field_shapes(cls: type, localns: Mapping[str, Any] | None = None) -> tuple[FieldShape, ...]:
    """The shape of each field of a dataclass, in the order of definition; none for an ``Enum``.

    Raises:
        TypeError: as ``wire_types`` does.
    """
    if issubclass(cls, Enum):
        return ()
    shapes = _known.get(cls)
    if shapes is None:
        shapes = _known[cls] = _read_fields(cls, localns)
    return shapes


def default_of(field: Field[Any]) -> typing.Callable[[], Any] | None:
    """What makes the default of a field, or ``None`` when it has none."""
    if field.default is not MISSING:
        value = field.default
        return lambda: value
    if field.default_factory is not MISSING:
        return field.default_factory
    return None


def _reached(cls: type, localns: Mapping[str, Any] | None) -> Iterable[type]:
    for field in field_shapes(cls, localns):
        yield from _classes_in(field.shape)


def _classes_in(shape: Shape) -> Iterable[type]:
    if isinstance(shape, EnumOf | Message):
        yield shape.cls
    for child in children(shape):
        yield from _classes_in(child)


def _read_fields(cls: type, localns: Mapping[str, Any] | None) -> tuple[FieldShape, ...]:
    hints = _resolve_hints(cls, localns)
    _refuse_init_vars(cls, hints)
    own = fields(cls)
    if len(own) > MAX_FIELDS:
        raise TypeError(f"{cls.__qualname__} has {len(own)} fields and a message may have {MAX_FIELDS}: group some of them in dataclasses of their own")
    return tuple(_Reader(cls, field.name).read(hints[field.name]) for field in own)


def _resolve_hints(cls: type, localns: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:
        pass  # a class made inside a function: try again with the names that are visible there, its own among them
    names = {**(localns or {}), cls.__name__: cls}
    try:
        return get_type_hints(cls, localns=names, include_extras=True)
    except NameError as exc:
        where = f"at the top level of module {cls.__module__!r}, not in a function and not under TYPE_CHECKING"
        raise TypeError(f"a type hint of {cls.__qualname__} cannot be resolved: {exc}; define or import the name {where}") from exc


def _refuse_init_vars(cls: type, hints: Mapping[str, Any]) -> None:
    for name, hint in hints.items():
        if isinstance(hint, InitVar) or hint is InitVar:
            lost = "is an InitVar, which is no part of the value and would be lost"
            raise TypeError(f"{cls.__qualname__}.{name} cannot be sent: it {lost}; make it a field, or compute it in a classmethod")


def _check_class(cls: object, role: str) -> None:
    """Refuse what is not a dataclass or Enum whose instances Fory can make."""
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} cannot be {role}: it is not a class; use a dataclass")
    name = cls.__qualname__
    if not is_wire_class(cls):
        raise TypeError(f"{name} cannot be {role}: {_why_not(cls)}")
    if issubclass(cls, Enum):
        _check_enum(cls)
        return
    if not cls.__name__.isascii():
        raise TypeError(f"{name} cannot be {role}: its name is not ASCII, which Fory's names must be; rename it")
    try:
        object.__new__(cls)
    except TypeError as exc:
        raise TypeError(f"{name} cannot be {role}: its instances cannot be made without arguments ({exc}); use a plain, concrete dataclass") from exc


def _why_not(cls: type) -> str:
    if hasattr(cls, "__attrs_attrs__"):
        return "attrs classes are not supported; decorate it with @dataclasses.dataclass instead"
    if hasattr(cls, "__pydantic_fields__") or hasattr(cls, "model_fields"):
        return "pydantic models are not supported; use a dataclass, and validate in __post_init__"
    if hasattr(cls, "__struct_fields__"):
        return "msgspec structs are not supported; use a dataclass"
    if hasattr(cls, "__dataclass_fields__"):
        return "it inherits from a dataclass and is not one itself; decorate it with @dataclass too"
    if is_typeddict(cls):
        return "a TypedDict is not supported; use a dataclass"
    if issubclass(cls, tuple) and cls is not tuple:
        return "a NamedTuple is not supported; use a dataclass (frozen=True makes it hashable)"
    return "it is neither a dataclass nor an Enum; decorate it with @dataclass"


def _check_enum(cls: type[Enum]) -> None:
    name = cls.__qualname__
    values = [member.value for member in cls]
    if issubclass(cls, Flag):
        raise TypeError(f"{name} is a Flag, whose combinations are no members; send an int or a set of an Enum's members")
    if not values:
        raise TypeError(f"{name} has no members, so it has no value to send; give it one")
    if all(isinstance(value, int) and value >= 0 for value in values) and max(values) > MAX_ENUM_VALUE:
        raise TypeError(f"{name} has a value above {MAX_ENUM_VALUE}, which Fory cannot send; use smaller numbers, or strings")


class _Reader:
    """Reads the hint of one field; knows where it is for the sake of its messages."""

    def __init__(self, cls: type, name: str) -> None:
        self._cls = cls
        self._name = name

    def read(self, hint: object) -> FieldShape:
        if not self._name.isascii():
            self._refuse("its name is not ASCII, which Fory's names must be", "rename it")
        attribute = getattr_static(self._cls, self._name, None)
        if hasattr(type(attribute), "__set__") and not isinstance(attribute, types.MemberDescriptorType):
            self._refuse("it is kept by a descriptor", "make it a plain field")
        return FieldShape(self._name, self._shape(hint))

    def _refuse(self, what: str, mend: str) -> NoReturn:
        raise TypeError(f"{self._cls.__qualname__}.{self._name} cannot be sent: {what}; {mend}")

    def _shape(self, hint: Any) -> Shape:
        origin = get_origin(hint)
        args = get_args(hint)
        if origin in (Annotated, Final) or isinstance(hint, NewType) or type(hint).__name__ == "TypeAliasType":
            return self._shape(_unwrapped(hint, origin, args))
        if hint is getattr(typing, "Self", None):
            return self._shape(self._cls)
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin is Literal:
            return self._literal(args)
        if origin in _VALUES:
            return self._values(_VALUES[origin], args[0])
        if origin is tuple:
            return self._tuple(args)
        if origin is dict:
            return DictOf(self._hashed(args[0], "a dict key"), self._shape(args[1]))
        if origin is not None:
            self._refuse(f"{hint} is not supported", _alternative(origin))
        return self._plain(hint)

    def _plain(self, hint: Any) -> Shape:
        if hint in (list, set, frozenset, dict, tuple):
            example = "dict[str, int]" if hint is dict else f"{hint.__name__}[int]"
            self._refuse(f"a bare {hint.__name__} does not say what is in it", f"write, for instance, {example}")
        if hint is Any or hint is object:
            self._refuse(f"{'Any' if hint is Any else 'object'} does not say what is in it", "name the type, or a Union of types")
        if hint is None or hint is type(None):
            self._refuse("None alone carries nothing", "write Optional[...]")
        if isinstance(hint, TypeVar) or not isinstance(hint, type):
            self._refuse(f"{hint} is not supported", _SUPPORTED)
        if hint in SCALARS:
            return Scalar(hint)
        if not is_wire_class(hint):
            self._refuse(f"{hint.__qualname__} is not supported", _alternative(hint))
        _check_class(hint, f"the type of {self._cls.__qualname__}.{self._name}")
        return EnumOf(hint) if issubclass(hint, Enum) else Message(hint)

    def _values(self, kind: Literal["list", "set", "frozenset", "tuple"], arg: object) -> Values:
        if kind in ("set", "frozenset"):
            return Values(kind, self._hashed(arg, f"an element of a {kind}"))
        item = self._shape(arg)
        if isinstance(item, Message) and not fields(item.cls):
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
        kinds = {type(value) for value in present}
        if len(kinds) != 1:
            self._refuse(f"{Literal[values]} mixes types" if kinds else "Literal[None] carries nothing", "keep its values of one type")
        base = self._plain(kinds.pop())
        assert isinstance(base, Scalar | EnumOf)  # typing allows no other values in a Literal
        shape = LiteralOf(base, present)
        return Optional(shape) if None in values else shape

    def _hashed(self, hint: object, role: str) -> Shape:
        shape = self._shape(hint)
        self._check_hashed(shape, role, in_tuple=False)
        return shape

    def _check_hashed(self, shape: Shape, role: str, *, in_tuple: bool) -> None:
        match shape:
            case Values("list" | "set", _) | DictOf():
                self._refuse(f"{shape} is not hashable, so it cannot be {role}", "use a tuple")
            case Values("frozenset", _):
                self._refuse(f"{shape} cannot be {role}: Fory reads it as a set", "use a tuple")
            case Values() | FixedTuple() if in_tuple:
                self._refuse(f"{shape} cannot be {role} inside another tuple or a union: Fory reads it as a list", "use a frozen dataclass")
            case Scalar(type_) if type_ is decimal.Decimal:
                # Hashes of Decimals collide at will: a small message could occupy the decoder for seconds.
                self._refuse(f"Decimal cannot be {role}, since a peer could choose values whose hashes collide", "use str or int")
            case Message(cls) if cls.__hash__ is None:
                self._refuse(f"{shape} is not hashable, so it cannot be {role}", "make it a frozen dataclass")
            case _:
                pass
        for child in children(shape):
            self._check_hashed(child, role, in_tuple=in_tuple or isinstance(shape, UnionOf | Values | FixedTuple))


def _unwrapped(hint: Any, origin: object, args: tuple[Any, ...]) -> object:
    if origin in (Annotated, Final):
        return args[0]
    return hint.__supertype__ if isinstance(hint, NewType) else hint.__value__


def _alternative(hint: Any) -> str:
    """What to use in place of an unsupported type."""
    abstract = {
        "Sequence": "list[...]",
        "MutableSequence": "list[...]",
        "Iterable": "list[...]",
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
        "complex": "a tuple[float, float]",
    }
    name = cast(str, getattr(hint, "__name__", ""))
    if name in abstract:
        return f"use {abstract[name]}"
    if isinstance(hint, type) and hint.__module__ not in ("builtins", "collections", "collections.abc", "typing"):
        if is_wire_class(hint):
            return "a generic dataclass cannot be sent with type arguments; make a dataclass for each case"
        return _why_not(hint)
    return _SUPPORTED
