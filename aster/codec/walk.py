"""The slow, exact walk over a value: finds what is wrong and where, and makes the few conversions that are promised.

The generated checks (``checks.py``) answer nearly every value with a plain yes. Whatever they do not pass comes here, so this module may be slow, and it is
the only one that words messages.
"""

from __future__ import annotations

import datetime
import decimal
import inspect
import reprlib
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, NoReturn, TypeVar

from aster.codec.lazy import is_lazy, plain
from aster.codec.making import Making
from aster.codec.shapes import DictOf, EnumOf, FieldShape, FixedTuple, LiteralOf, Message, Optional, Scalar, Shape, UnionOf, Values, runtime_types
from aster.codec.tags import described, short_name
from aster.errors import DecodeError

__all__ = ["INT64", "MAX_DECIMAL_DIGITS", "MAX_NESTING", "Direction", "Mismatch", "Walk", "is_encodable", "problem_with"]

T = TypeVar("T")

MAX_NESTING = 50
"""How many dataclasses may be nested in one message: beyond any honest data, and far from the end of the stack."""

_TOO_DEEP = f"is nested more than {MAX_NESTING} deep, or contains itself"

INT64 = range(-(2**63), 2**63)
"""The ints that Fory writes."""

_MAX_DECIMAL_EXPONENT = 10_000  # Fory's own limit, on both sides of zero
MAX_DECIMAL_DIGITS = 10_000
"""Digits of a Decimal, either way. The time that they take to read grows with their square: 2 ms for so many, 10 ms for the 24,083 that Fory takes."""

_MAX_DURATION = datetime.timedelta(microseconds=2**63 - 1)  # Fory counts microseconds in 64 bits
_MIN_DURATION = datetime.timedelta(microseconds=-(2**63))


class Direction(Enum):
    """Whether the value is about to be sent or was just received."""

    ENCODE = auto()
    DECODE = auto()


class Mismatch(Exception):
    """A value is not of its shape. The path grows from the inside out while the exception rises."""

    def __init__(self, kind: type[TypeError] | type[ValueError], text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.path: list[str] = []

    def describe(self, root: str) -> str:
        """The message, with where the value was."""
        return f"{root}{''.join(reversed(self.path))} {self.text}"


class Walk:
    """Walks values of one set of dataclasses in one direction.

    Args:
        direction: which conversions to make.
        fields: the fields of each dataclass.
        readers: for classes that Fory makes under a stand-in type, that type.
    """

    def __init__(self, direction: Direction, fields: Mapping[type, tuple[FieldShape, ...]], readers: Mapping[type, type]) -> None:
        self._decoding = direction is Direction.DECODE
        self._fields = fields
        self._readers = readers
        self._making = Making()

    def to_send(self, cls: type[T], value: T) -> T:
        """The value with its conversions made, for one that is about to be sent.

        Raises:
            TypeError, ValueError: it is no value of the class; names the field.
        """
        if type(value) is not cls:
            raise TypeError(f"this call expects a {short_name(cls)}, not {described(value, cls)}")
        try:
            return Walk(Direction.ENCODE, self._fields, self._readers).message(cls, value)  # all views in it share a ``Making``
        except Mismatch as exc:
            raise exc.kind(exc.describe(short_name(cls))) from None
        except RecursionError:
            raise ValueError(f"this {short_name(cls)} is nested too deeply to be sent from here") from None

    def message(self, cls: type, value: Any, depth: int = 0) -> Any:
        """The value, or an equal one of exactly the declared types.

        Raises:
            Mismatch: it is not a value of the class.
        """
        if type(value) is self._readers.get(cls):
            object.__setattr__(value, "__class__", cls)
        if type(value) is not cls:
            _fail(value, short_name(cls), unknown_tag=self._decoding and type(value).__name__ == _UNKNOWN)
        if depth > MAX_NESTING:
            raise Mismatch(ValueError, _TOO_DEEP)
        changed: dict[str, Any] = {}
        for field in self._fields[cls]:
            try:
                old = getattr(value, field.name, _ABSENT)
                new = self._value(field.shape, old, depth)
            except Mismatch as exc:
                exc.path.append(f".{field.name}")
                raise
            if new is not old or (not self._decoding and _is_on_the_class_alone(value, field.name)):
                changed[field.name] = new
        return self._replaced(cls, value, changed) if changed else value

    def _replaced(self, cls: type[Any], value: Any, changed: dict[str, Any]) -> Any:
        """A decoded value is ours to change; one that is to be sent is the caller's, so a copy goes."""
        target = value if self._decoding else object.__new__(cls)
        if not self._decoding:
            changed = {field.name: getattr(value, field.name) for field in self._fields[cls]} | changed
        for name, new in changed.items():
            object.__setattr__(target, name, new)
        return target

    def _value(self, shape: Shape, value: Any, depth: int) -> Any:
        if is_lazy(value):
            value = self._made(value, depth)
            if isinstance(shape, Message) and type(value) is shape.cls:  # what a row was made into is of exactly its types
                return value
        match shape:
            case Scalar(type_):
                return self._scalar(type_, value)
            case EnumOf(cls):
                return value if type(value) is cls else _fail(value, short_name(cls))
            case LiteralOf():
                return value if _is_literal(shape, value) else _fail_literal(shape, value)
            case Message(cls):
                return self.message(cls, value, depth + 1)
            case Optional(item):
                return None if value is None else self._value(item, value, depth)
            case Values(kind, item):
                return self._values(kind, item, shape, value, depth)
            case FixedTuple(items):
                return self._fixed_tuple(items, shape, value, depth)
            case DictOf(key, item):
                return self._dict(key, item, shape, value, depth)
            case UnionOf(members):
                return self._union(members, shape, value, depth)

    def _made(self, value: Any, depth: int) -> Any:
        """The plain value of a received row, or of a part of one, that is inside so many dataclasses."""
        self._making.depth = depth + 1
        try:
            return plain(value, self._making)
        except DecodeError:
            if self._making.depth > MAX_NESTING:
                raise Mismatch(ValueError, _TOO_DEEP) from None
            raise

    def _scalar(self, expected: type, value: Any) -> Any:
        if expected is float and type(value) is int:
            try:
                return float(value)
            except OverflowError:
                raise Mismatch(ValueError, f"is too large for a float: {reprlib.repr(value)}") from None
        if type(value) is not expected:
            _fail(value, expected.__name__)
        # Of what was received only an int may be out of range: peers can send unsigned ones, which other languages have.
        problem = problem_with(value) if expected is int or not self._decoding else None
        if problem is not None:
            raise Mismatch(ValueError, problem)
        return value

    def _values(self, kind: str, item: Shape, shape: Shape, value: Any, depth: int) -> Any:
        expected = next(runtime_types(shape))
        wire = _WIRE_TYPES.get(expected) if self._decoding else None
        if type(value) is not expected and type(value) is not wire:
            _fail(value, str(shape))
        step = "[{}]" if kind in ("list", "tuple") else " element {}"
        new = [self._at(step, index, item, element, depth) for index, element in enumerate(value)]
        same = type(value) is expected and all(map(_is, new, value))
        return value if same else expected(new)

    def _fixed_tuple(self, items: tuple[Shape, ...], shape: Shape, value: Any, depth: int) -> Any:
        if not _is_of(value, tuple, list if self._decoding else tuple):
            _fail(value, str(shape))
        if len(value) != len(items):
            raise Mismatch(TypeError, f"must be {shape}, not {len(value)} items")
        new = [self._at("[{}]", index, item, element, depth) for index, (item, element) in enumerate(zip(items, value, strict=True))]
        return value if _is_of(value, tuple) and all(map(_is, new, value)) else tuple(new)

    def _dict(self, key: Shape, item: Shape, shape: Shape, value: Any, depth: int) -> Any:
        if not _is_of(value, dict):
            _fail(value, str(shape))
        new = [
            (self._at(" key {}", index, key, old_key, depth), self._at("[{}]", reprlib.repr(old_key), item, old, depth))
            for index, (old_key, old) in enumerate(value.items())
        ]
        same = all(a is c and b is d for (a, b), (c, d) in zip(new, value.items(), strict=True))
        return value if same else dict(new)

    def _union(self, members: tuple[Shape, ...], shape: Shape, value: Any, depth: int) -> Any:
        for member in members:
            if self._may_be(member, value):
                return self._value(member, value, depth)
        if type(value) is int and Scalar(float) in members:
            return self._scalar(float, value)
        return _fail(value, str(shape))

    def _may_be(self, member: Shape, value: Any) -> bool:
        for type_ in runtime_types(member):
            if _is_of(value, type_, self._readers.get(type_, type_), _WIRE_TYPES.get(type_, type_) if self._decoding else type_):
                return True
        return False

    def _at(self, step: str, where: object, shape: Shape, value: Any, depth: int) -> Any:
        try:
            return self._value(shape, value, depth)
        except Mismatch as exc:
            exc.path.append(step.format(where))
            raise


_ABSENT = object()


def _is_on_the_class_alone(value: object, name: str) -> bool:
    """Whether an attribute is the class's, as a default without ``init`` is: Fory looks for it in the instance, and in slots, which are descriptors."""
    return name not in getattr(value, "__dict__", ()) and not hasattr(inspect.getattr_static(type(value), name, _ABSENT), "__get__")


# What Fory may hand back in place of these: it has no frozenset, and no tuple where the element types are not declared.
_WIRE_TYPES: Mapping[type, type] = {tuple: list, frozenset: set}


def _is_of(value: Any, *types: type) -> bool:
    """Whether the value is of exactly one of the types. (Not ``isinstance``: a subclass would be cut down to its base on the wire.)"""
    return type(value) in types


def _is(a: object, b: object) -> bool:
    return a is b


_UNKNOWN = "UnknownStruct"  # what Fory makes of a value whose tag it does not know


def _fail(value: object, expected: str, *, unknown_tag: bool = False) -> NoReturn:
    if unknown_tag:
        raise Mismatch(TypeError, f"must be {expected}, and has a tag that is unknown here: give the peer's class the tag that {expected} has, by @wire_type")
    if value is _ABSENT:
        raise Mismatch(TypeError, f"must be {expected}, and is not set")
    found = "None" if value is None else short_name(type(value))
    if found == expected:
        found = f"another class of that name (from {type(value).__module__})"
    raise Mismatch(TypeError, f"must be {expected}, not {found}")


def _is_literal(shape: LiteralOf, value: object) -> bool:
    return type(value) is next(runtime_types(shape)) and value in shape.values


def _fail_literal(shape: LiteralOf, value: object) -> NoReturn:
    if type(value) is next(runtime_types(shape)):
        raise Mismatch(ValueError, f"must be {shape}, not {reprlib.repr(value)}")
    _fail(value, str(shape))


def is_encodable(text: str) -> bool:
    """Whether a string has a UTF-8 form: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem_with(value: object) -> str | None:
    """Why a scalar, though of a type that can be sent, cannot; ``None`` when it can."""
    limit = _LIMITS.get(type(value))
    return None if limit is None else limit(value)


def _str_problem(value: str) -> str | None:
    return None if is_encodable(value) else "holds a lone surrogate, which has no UTF-8 form; send such data as bytes"


def _int_problem(value: int) -> str | None:
    return None if value in INT64 else f"does not fit in 64 bits: {reprlib.repr(value)}; send it as str or Decimal"


def _decimal_problem(value: decimal.Decimal) -> str | None:
    if not value.is_finite():
        return f"must be finite, not {value}; use Optional[Decimal] for the absence of a number"
    _, digits, exponent = value.as_tuple()
    if len(digits) > MAX_DECIMAL_DIGITS or abs(int(exponent)) > _MAX_DECIMAL_EXPONENT:
        return f"has too many digits or too large an exponent (the limits are {MAX_DECIMAL_DIGITS:,} and {_MAX_DECIMAL_EXPONENT:,})"
    return None


def _datetime_problem(value: datetime.datetime) -> str | None:
    if value.utcoffset() is None:  # a clock's time, which astimezone() would take for one of this machine's clock
        return None
    try:
        value.astimezone(datetime.UTC)
    except OverflowError:
        return "is outside the years 1 to 9999 once it is in UTC"
    return None


def _time_problem(value: datetime.time) -> str | None:
    return None if value.tzinfo is None else "has a time zone, which cannot be sent; send a datetime, or the zone in a field of its own"


def _timedelta_problem(value: datetime.timedelta) -> str | None:
    return None if _MIN_DURATION <= value <= _MAX_DURATION else f"is longer than {_MAX_DURATION.days:,} days, which does not fit in 64 bits of microseconds"


_LIMITS: Mapping[type, Callable[[Any], str | None]] = {
    str: _str_problem,
    int: _int_problem,
    decimal.Decimal: _decimal_problem,
    datetime.datetime: _datetime_problem,
    datetime.time: _time_problem,
    datetime.timedelta: _timedelta_problem,
}
