"""Schemas made at random: dataclasses that mention each other in any way, values of them, and a judge of what was decoded that shares nothing with the codec.

A schema is data until it is built, so that a peer's version of it can be derived by changing some fields.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Final, Literal, NewType, Optional, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from aster.codec import Codec, make_codec, wire_types
from aster.types import SerializationMode
from tests.codec.models import Color, Depth, Level, UserId
from tests.codec.values import DATETIME_ENDS, clocks, decimals, floats, integers, spans, texts

Draw = Callable[[st.SearchStrategy[Any]], Any]
T = TypeVar("T")

_UTC = datetime.UTC
_NAMES = ("a", "b", "c_d", "Name", "x1", "_hidden", "value", "depth")
_MAX_DEPTH = 50


def _time(shown: datetime.time, fold: int) -> datetime.time:
    return shown.replace(fold=fold)


_offsets = st.sampled_from([_UTC, datetime.timezone(datetime.timedelta(hours=14)), datetime.timezone(-datetime.timedelta(hours=12))])
_SCALARS: Mapping[type, st.SearchStrategy[Any]] = {
    str: texts | st.sampled_from(["", "\0", "\N{GRINNING FACE}" * 3, "\N{LATIN SMALL LETTER E WITH ACUTE}"]),
    int: integers,
    float: floats | st.sampled_from([-0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 1.7976931348623157e308]),
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
    datetime.date: st.dates(),
    # Zones with rules have tests of their own: two clock times that they repeat can differ in a set and be one instant.
    datetime.datetime: clocks
    | st.datetimes(datetime.datetime(2, 1, 1), datetime.datetime(9998, 12, 31), timezones=_offsets)  # noqa: DTZ001  # the bounds of a clock
    | st.sampled_from([end.replace(tzinfo=_UTC) for end in DATETIME_ENDS]),
    datetime.time: st.builds(_time, st.times(), st.integers(0, 1)),
    datetime.timedelta: spans,
    uuid.UUID: st.uuids() | st.just(uuid.UUID(int=2**128 - 1)),
}
_ENUMS: tuple[type[enum.Enum], ...] = (Color, Level, Depth)
_LITERALS: tuple[Any, ...] = (Literal["a", ""], Literal[1, -(2**63)], Literal[b"x"], Literal[True], Literal[Color.RED, Color.BLUE], Literal[Level.HIGH])


@dataclass(frozen=True)
class ClassPlan:
    """A dataclass to be: its fields' hints name other classes of the schema as strings."""

    name: str
    fields: Mapping[str, Any]
    is_key: bool
    frozen: bool
    slots: bool
    kw_only: bool

    def build(self) -> type[Any]:
        return make_dataclass(self.name, self.fields.items(), frozen=self.frozen, slots=self.slots, kw_only=self.kw_only)


@dataclass(frozen=True)
class Schema:
    """Some dataclasses, the first of which is the message; those that may be keys come last."""

    plans: tuple[ClassPlan, ...]

    @cached_property
    def classes(self) -> Mapping[str, type[Any]]:
        made = {plan.name: plan.build() for plan in self.plans}
        wire_types(made.values(), localns=made)  # which resolves the names once for all
        return made

    @property
    def root(self) -> type[Any]:
        return self.classes[self.plans[0].name]

    def codec(self, mode: SerializationMode) -> Codec:
        return make_codec(mode, {cls: f"random/{name}" for name, cls in self.classes.items()})

    @cached_property
    def hints(self) -> Mapping[type, Mapping[str, Any]]:
        """The types of each class's fields, names resolved."""
        return {cls: get_type_hints(cls, localns=dict(self.classes), include_extras=True) for cls in self.classes.values()}


# Types


class _Hints:
    """Draws types that may stand in a field. ``declared`` is lost inside unions and mixed tuples, where tuples and sets of tuples are no keys."""

    def __init__(self, draw: Draw, classes: list[str], keys: list[str], own: int = 0) -> None:
        self._draw = draw
        self._classes = classes
        self._keys = keys
        self._whole = keys + classes[own + 1 :]  # without a way back to the class itself

    def field(self) -> Any:
        hint = self.any(room=3)
        return Final[hint] if self._one_of(8) else hint

    def varied(self, hint: Any) -> Any:
        """A type of the same form with something else inside, where it has an inside."""
        args = get_args(hint)
        match get_origin(hint):
            case form if form is list:
                return list[self.varied(args[0])]
            case form if form is dict:
                return dict[args[0], self.varied(args[1])]
            case form if form is tuple and args:
                return tuple[self.varied(args[0]), *args[1:]]
            case form if form is Union:
                return Optional[self.varied(args[0])]  # noqa: UP045  # it may be a name
            case _:
                return self.any(room=1)

    def any(self, *, room: int, declared: bool = True) -> Any:
        make = [self._scalar, self._scalar, self._class]
        if room:
            make += [self._optional, self._values, self._values, self._table, self._mixed, self._union]
        hint = self._draw(st.sampled_from(make))(room - 1, declared)
        return Annotated[hint, "note"] if self._one_of(10) else hint

    def _one_of(self, number: int) -> bool:
        return self._draw(st.integers(1, number)) == number

    def _scalar(self, _room: int, _declared: bool) -> Any:
        return self._draw(st.sampled_from([*_SCALARS, Decimal, UserId, *_ENUMS, *_LITERALS]))

    def _class(self, _room: int, _declared: bool) -> Any:
        """Any class; one that could contain this one needs a way out."""
        name = self._draw(st.sampled_from(self._classes + self._keys))
        bare = [name] if name in self._whole else []
        return self._draw(st.sampled_from([*bare, Optional[name], list[name], dict[str, name]]))  # noqa: UP045  # it is a name

    def _optional(self, room: int, declared: bool) -> Any:
        return Optional[self.any(room=room, declared=declared)]  # noqa: UP045  # it may be a name

    def _values(self, room: int, declared: bool) -> Any:
        match self._draw(st.sampled_from(["list", "tuple", "set", "frozenset"])):
            case "list":
                return list[self.any(room=room, declared=declared)]
            case "tuple":
                return tuple[self.any(room=room, declared=declared), ...]
            case "set":
                return set[self.key(room=room, declared=declared)]
            case _:
                return frozenset[self.key(room=room, declared=declared)]

    def _table(self, room: int, declared: bool) -> Any:
        return dict[self.key(room=room, declared=declared), self.any(room=room, declared=declared)]

    def _mixed(self, room: int, _declared: bool) -> Any:
        return tuple[tuple(self.any(room=room, declared=False) for _ in range(self._draw(st.integers(0, 3))))]

    def _union(self, room: int, _declared: bool) -> Any:
        """Of members that can be told apart: at most one of each kind."""
        wanted: set[Any] = self._draw(st.sets(st.sampled_from([*_SCALARS, Decimal, *_ENUMS, "class", "key", "row", "set", "dict"]), min_size=2, max_size=4))
        return Union[tuple(self._member(kind, room) for kind in sorted(wanted, key=str))]  # noqa: UP007  # it may hold names

    def _member(self, kind: Any, room: int) -> Any:
        match kind:
            case "class":
                return self._draw(st.sampled_from(self._classes))
            case "key":
                return self._draw(st.sampled_from(self._keys))
            case "row":
                item = self.any(room=max(room, 0) // 2, declared=False)
                return self._draw(st.sampled_from([list[item], tuple[item, ...], tuple[item, item]]))
            case "set":
                item = self.key(room=0, declared=False)
                return self._draw(st.sampled_from([set[item], frozenset[item]]))
            case "dict":
                return dict[self.key(room=0, declared=False), self.any(room=0, declared=False)]
            case _:
                return kind

    def key(self, *, room: int, declared: bool) -> Any:
        """A type that can be hashed, here and at the peer."""
        kinds = ["scalar", "scalar", "class", "optional"] + (["pair", "words"] if declared and room > 0 else [])
        match self._draw(st.sampled_from(kinds)):
            case "class":
                return self._draw(st.sampled_from(self._keys))
            case "optional":
                return Optional[self.key(room=0, declared=False)]  # noqa: UP045  # it may be a name
            case "pair":
                return tuple[self.key(room=0, declared=False), self.key(room=0, declared=False)]
            case "words":
                return tuple[str, ...]
            case _:
                return self._draw(st.sampled_from([*_SCALARS, UserId, *_ENUMS, *_LITERALS]))


def _plan(draw: Draw, name: str, hints: _Hints, *, is_key: bool) -> ClassPlan:
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3 if is_key else 4, unique=True))
    fields = {each: hints.key(room=1, declared=True) if is_key else hints.field() for each in names}
    return ClassPlan(name, fields, is_key, frozen=is_key or draw(st.booleans()), slots=draw(st.booleans()), kw_only=draw(st.booleans()))


@st.composite
def schemas(draw: Draw) -> Schema:
    """One to three dataclasses that may mention each other and themselves, and one or two that may be keys."""
    classes = [f"Class{number}" for number in range(draw(st.integers(1, 3)))]
    keys = [f"Key{number}" for number in range(draw(st.integers(1, 2)))]
    plans = [_plan(draw, name, _Hints(draw, classes, keys, number), is_key=False) for number, name in enumerate(classes)]
    for number, name in enumerate(keys):  # a key mentions those before it only, so that its hash ends
        hints = _Hints(draw, classes, keys[:number] or ["int"])
        plans.append(_plan(draw, name, hints, is_key=True))
    return Schema(tuple(plans))


@st.composite
def relatives(draw: Draw, schema: Schema) -> Schema:
    """What a peer may take the schema for: some fields are of another type, gone, or new."""
    plans: list[ClassPlan] = list(schema.plans)
    classes, keys = [plan.name for plan in plans if not plan.is_key], [plan.name for plan in plans if plan.is_key]
    changes: int = draw(st.integers(1, 3))
    for _ in range(changes):
        number: int = draw(st.integers(0, len(classes) - 1))
        hints = _Hints(draw, classes, keys, number)
        fields: dict[str, Any] = {**plans[number].fields}
        name = draw(st.sampled_from([*fields, *_NAMES[:2]]))
        if name in fields and len(fields) > 1 and draw(st.booleans()):
            del fields[name]
        else:
            fields[name] = hints.varied(fields[name]) if name in fields else hints.field()
        plans[number] = replace(plans[number], fields=fields)
    return Schema(tuple(plans))


# Values


class _Maker:
    """Draws a value of a type. ``room`` is how many dataclasses may still be nested in it."""

    def __init__(self, draw: Draw, schema: Schema) -> None:
        self._draw = draw
        self._schema = schema

    def instance(self, cls: type[T], room: int) -> T:
        return cls(**{name: self._value(hint, room - 1) for name, hint in self._schema.hints[cls].items()})

    def _value(self, hint: Any, room: int) -> Any:
        origin: Any = get_origin(hint)
        args = get_args(hint)
        if origin in (Annotated, Final):
            return self._value(args[0], room)
        if isinstance(hint, NewType):
            return self._value(hint.__supertype__, room)
        if origin is Literal:
            return self._draw(st.sampled_from(args))
        if origin is Union:
            return self._member(args, room)
        if origin in (list, set, frozenset) or (origin is tuple and args[1:] == (...,)):
            return cast("Any", origin)(self._value(args[0], room) for _ in range(self._size(room)))
        if origin is tuple:
            return tuple(self._value(arg, room) for arg in args)
        if origin is dict:
            return {self._value(args[0], room): self._value(args[1], room) for _ in range(self._size(room))}
        if dataclasses.is_dataclass(hint):
            return self.instance(cast("type[Any]", hint), room)
        return self._draw(st.sampled_from(list(hint)) if issubclass(hint, enum.Enum) else decimals if hint is Decimal else _SCALARS[hint])

    def _size(self, room: int) -> int:
        return self._draw(st.integers(0, 3)) if room > 0 else 0

    def _member(self, args: tuple[Any, ...], room: int) -> Any:
        if type(None) in args and (room <= 0 or self._draw(st.booleans())):
            return None
        members = [arg for arg in args if arg is not type(None)]
        flat = [arg for arg in members if not dataclasses.is_dataclass(arg)]
        return self._value(self._draw(st.sampled_from(flat if room <= 0 and flat else members)), room)


@st.composite
def values_in(draw: Draw, schema: Schema) -> Any:
    """A message of a schema; one that can hold its like is sometimes nested as deeply as may be."""
    value = _Maker(draw, schema).instance(schema.root, room=3)
    name = next((name for name, hint in schema.hints[schema.root].items() if schema.root in get_args(hint) and type(None) in get_args(hint)), None)
    if name is not None and draw(st.booleans()):
        plain = replace(value, **{name: None})
        for _ in range(draw(st.sampled_from([1, 20, _MAX_DEPTH - 4]))):
            plain = replace(plain, **{name: plain})
        return plain
    return value


# The judge


def is_exactly(value: Any, hint: Any, schema: Schema) -> bool:
    """Whether a value is of a type, all the way down, judged by the hints alone."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Final):
        return is_exactly(value, args[0], schema)
    if isinstance(hint, NewType):
        return is_exactly(value, hint.__supertype__, schema)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is Union:
        return any(is_exactly(value, arg, schema) for arg in args)
    if hint is type(None):
        return value is None
    if type(value) is not (origin or hint):
        return False
    if origin is dict:
        return all(is_exactly(key, args[0], schema) and is_exactly(item, args[1], schema) for key, item in value.items())
    if origin is tuple and args[1:] != (...,):
        return len(value) == len(args) and all(is_exactly(item, arg, schema) for item, arg in zip(value, args, strict=True))
    if origin is not None:
        return all(is_exactly(item, args[0], schema) for item in value)
    if dataclasses.is_dataclass(hint):
        return all(is_exactly(getattr(value, name), inner, schema) for name, inner in schema.hints[cast("type[Any]", hint)].items())
    return not isinstance(value, datetime.datetime) or value.tzinfo in (None, _UTC)
