"""Random services as plain data, and random edits of them.

A world is data until it is built, so that its next version is a changed copy; the classes of two versions share nothing but the names of the data.
"""

from __future__ import annotations

import dataclasses
import datetime as dt  # since a field of the type `datetime` is looked up among these names first
import enum
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, Optional, Union, get_type_hints

from hypothesis import strategies as st

from aster._contract import Contract, contract_of
from aster.codec import Codec, make_codec, wire_types
from aster.types import MethodInfo, RpcPattern, SerializationMode, ServiceInfo
from tests.contract.samples import samples

__all__ = ["Draw", "FieldPlan", "MethodPlan", "Types", "World", "draw_members", "edit_members", "edits", "worlds"]

Draw = Callable[[st.SearchStrategy[Any]], Any]

_SCALARS = ("bool", "int", "float", "str", "bytes", "date", "datetime", "time", "timedelta", "Decimal", "UUID")
_KEYS = ("str", "int", "bool", "date", "UUID", "tuple[str, int]", "tuple[int, int]", "Literal['a', 'b']")
_LITERALS = ("Literal['a', 'b']", "Literal['a']", "Literal[1, 2]", "Literal[True]", "Literal[b'x']")
_FIELDS = ("a", "b", "c_d", "cD", "e")
_MEMBERS = ("RED", "GREEN", "BLUE", "GOLD")
_ENUMS = ("Color", "Level")
_STRUCTS = ("Root", "Item", "Leaf")
_NAMES: Mapping[str, Any] = {
    "date": dt.date,
    "datetime": dt.datetime,
    "time": dt.time,
    "timedelta": dt.timedelta,
    "Decimal": Decimal,
    "UUID": uuid.UUID,
    "Optional": Optional,
    "Union": Union,
    "Literal": Literal,
}


@dataclass(frozen=True)
class FieldPlan:
    """A field: its type as Python writes it."""

    hint: str
    default: bool = False


@dataclass(frozen=True)
class MethodPlan:
    """A method, by what its decorator and annotations would say."""

    pattern: RpcPattern = RpcPattern.UNARY
    modes: tuple[SerializationMode, ...] = (SerializationMode.XLANG, SerializationMode.NATIVE)
    request: str = "Root"
    response: str = "Root"


@dataclass(frozen=True)
class World:
    """One version of a service. Types are known by the keys of these mappings; ``tags`` has those whose names on the wire are others."""

    enums: Mapping[str, Mapping[str, Any]]
    structs: Mapping[str, Mapping[str, FieldPlan]]
    methods: Mapping[str, MethodPlan]
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def classes(self) -> Mapping[str, type[Any]]:
        made: dict[str, Any] = {name: enum.Enum(name, dict(members)) for name, members in self.enums.items()}
        for name, fields in self.structs.items():
            made[name] = make_dataclass(name, [self._field(each, plan) for each, plan in fields.items()], kw_only=True)
        wire_types(made.values(), localns={**_NAMES, **made})  # which resolves the names once for all
        return made

    def _field(self, name: str, plan: FieldPlan) -> tuple[str, Any, Any]:
        return name, plan.hint, field(default_factory=lambda: samples(self.hints, self.resolved(plan.hint))[0]) if plan.default else field()

    def resolved(self, hint: str) -> Any:
        """A type as Python has it."""
        return eval(hint, {**_NAMES, **self.classes})  # our own text

    @cached_property
    def hints(self) -> Mapping[type, Mapping[str, Any]]:
        """The types of each dataclass's fields."""
        scope = {**_NAMES, **self.classes}
        return {cls: get_type_hints(cls, localns=scope) for cls in self.classes.values() if dataclasses.is_dataclass(cls)}

    @cached_property
    def info(self) -> ServiceInfo:
        """What ``@service`` would read from the class."""
        methods = {
            name: MethodInfo(name, plan.pattern, self.classes[plan.request], self.classes[plan.response], modes=plan.modes)
            for name, plan in self.methods.items()
        }
        # As the decorator does: what no method reaches is not known.
        reached = wire_types([cls for method in methods.values() for cls in (method.request_type, method.response_type)])
        tags = {cls: f"random/{self.tags.get(name, name)}" for name, cls in self.classes.items() if cls in reached}
        return ServiceInfo("Service", methods=methods, wire_tags=tags)

    @cached_property
    def contract(self) -> Contract:
        """The contract of it."""
        return contract_of(self.info)

    @cached_property
    def _codecs(self) -> dict[SerializationMode, Codec]:
        return {}

    def codec(self, mode: SerializationMode) -> Codec:
        """What a server or client would make of it."""
        if mode not in self._codecs:
            self._codecs[mode] = make_codec(mode, self.info.wire_tags)
        return self._codecs[mode]


# Drawing


def _items(text: str) -> list[str]:
    """What commas part, those within brackets aside."""
    parts, depth = [""], 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


class Types:
    """Draws types for the fields of one struct, as Python writes them; ``later`` are those that may stand bare, since they lead to no circle."""

    def __init__(self, draw: Draw, later: tuple[str, ...]) -> None:
        self._draw = draw
        self._later = later

    def one_of(self, *options: Any) -> Any:
        return self._draw(st.sampled_from(options))

    def any(self, room: int = 2) -> str:
        """Any type, with at most so many containers around it."""
        forms: list[Callable[[int], str]] = [self._scalar, self._scalar, self._named]
        if room:
            forms += [self._optional, self._values, self._dict, self._items, self._union]
        return self.one_of(*forms)(room - 1)

    def related(self, hint: str) -> str:
        """A type that is much like another: what people change types to."""
        inside = hint[hint.find("[") + 1 : -1]
        others = [f"Optional[{hint}]", f"list[{hint}]", self.one_of("int", "str", "float", "bool", "Decimal")]
        # Of a class that holds itself in any other way than these there would be no values.
        may_stand_bare = not any(name in inside for name in _STRUCTS if name not in self._later)
        if hint.startswith("Optional["):
            others += [inside] if may_stand_bare else []
        elif hint.startswith("list["):
            others += [f"tuple[{inside}, ...]", *([f"tuple[{inside}, {inside}]"] if may_stand_bare else [])]
        elif hint.startswith("tuple[") and hint.endswith(", ...]"):
            others.append(f"list[{inside.removesuffix(', ...')}]")
        elif hint.startswith("tuple["):
            items = _items(inside)
            rows = [*items, "int"], items[:-1] or items, [self.related(items[0]), *items[1:]]
            others += [f"list[{items[0]}]", *(f"tuple[{', '.join(row)}]" for row in rows)]
        elif hint.startswith("Literal["):
            others += [self.one_of(*_LITERALS), self.one_of(*_LITERALS)]
        elif hint in _SCALARS:
            others.append(f"Union[{', '.join({hint: None, self.one_of(*_SCALARS): None, self.one_of(*_ENUMS, *self._later): None})}]")
        return self.one_of(*others)

    def _scalar(self, _room: int) -> str:
        return self.one_of(*_SCALARS, *_LITERALS, *_ENUMS)

    def _named(self, _room: int) -> str:
        if self._later and self.one_of(True, False):
            return self.one_of(*self._later)
        name = self.one_of(*_STRUCTS)
        return self.one_of(f"Optional[{name}]", f"list[{name}]", f"dict[str, {name}]")

    def _optional(self, room: int) -> str:
        return f"Optional[{self.any(room)}]"

    def _values(self, room: int) -> str:
        form = self.one_of("list[{}]", "tuple[{}, ...]", "set", "frozenset")
        return form.format(self.any(room)) if "{" in form else f"{form}[{self.one_of(*_KEYS, *_ENUMS)}]"

    def _dict(self, room: int) -> str:
        return f"dict[{self.one_of(*_KEYS, *_ENUMS)}, {self.any(room)}]"

    def _items(self, _room: int) -> str:
        # Without containers, since what brings its own type has no tuples as keys.
        if self.one_of(True, False):
            return f"tuple[{', '.join([self.any(0)] * self.one_of(1, 2, 3))}]"
        return f"tuple[{self.any(0)}, {self.any(0)}]"

    def _union(self, room: int) -> str:
        rows = [f"list[{self.any(0)}]", f"tuple[{self.any(0)}, ...]", f"tuple[{self.any(0)}, {self.any(0)}]"]
        kinds = [*_SCALARS, *_ENUMS, *self._later, self.one_of(*rows), "set[int]", "dict[str, int]"]
        members: list[str] = self._draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=3, unique=True))
        return f"Union[{', '.join(members)}]"


@st.composite
def worlds(draw: Draw) -> World:
    """A service of one to three methods, with Enums and dataclasses that may mention each other in any way."""
    enums = {name: draw_members(draw) for name in _ENUMS}
    structs: dict[str, dict[str, FieldPlan]] = {}
    for place, name in enumerate(_STRUCTS):
        hints = Types(draw, _STRUCTS[place + 1 :])
        names = draw(st.lists(st.sampled_from(_FIELDS), min_size=1, max_size=3, unique=True))
        structs[name] = {each: FieldPlan(hints.any(), draw(st.booleans())) for each in names}
    methods = {name: _method(draw) for name in draw(st.sampled_from([("one",), ("one", "two"), ("one", "two", "three")]))}
    return World(enums, structs, methods)


def draw_members(draw: Draw) -> dict[str, Any]:
    """The members of an Enum: of one kind of value, or without numbers."""
    names = draw(st.lists(st.sampled_from(_MEMBERS), min_size=1, max_size=3, unique=True))
    values: tuple[Any, ...] = draw(st.sampled_from([(1, 5, 7), ("r", "g", "b"), (0, 1, 2)]))
    return dict(zip(names, values, strict=False))


_MODES = ((SerializationMode.XLANG, SerializationMode.NATIVE), *((mode,) for mode in SerializationMode), tuple(SerializationMode))


def _method(draw: Draw) -> MethodPlan:
    modes = draw(st.sampled_from(_MODES))
    return MethodPlan(draw(st.sampled_from(RpcPattern)), modes, draw(st.sampled_from(_STRUCTS)), draw(st.sampled_from(_STRUCTS)))


@st.composite
def edits(draw: Draw, world: World) -> World:
    """The next version, one to three edits away."""
    for _ in range(draw(st.integers(1, 3))):
        edit = draw(st.sampled_from([_edit_fields, _edit_fields, _edit_fields, _edit_enum, _edit_methods, _edit_tags]))
        world = edit(draw, world)
    return world


def _edit_fields(draw: Draw, world: World) -> World:
    place: int = draw(st.integers(0, len(_STRUCTS) - 1))
    name: str = _STRUCTS[place]
    hints = Types(draw, _STRUCTS[place + 1 :])
    fields = dict(world.structs[name])
    chosen = draw(st.sampled_from(list(fields)))
    other = draw(st.sampled_from(_FIELDS))
    match draw(st.sampled_from(["add", "remove", "rename", "retype", "relate", "relate", "default", "reorder"])):
        case "add":
            fields.setdefault(other, FieldPlan(hints.any(), draw(st.booleans())))
        case "remove" if len(fields) > 1:
            del fields[chosen]
        case "rename" if other not in fields:
            fields[other] = fields.pop(chosen)
        case "retype":
            fields[chosen] = replace(fields[chosen], hint=hints.any())
        case "relate":
            fields[chosen] = replace(fields[chosen], hint=hints.related(fields[chosen].hint))
        case "default":
            fields[chosen] = replace(fields[chosen], default=not fields[chosen].default)
        case _:
            fields = dict(reversed(fields.items()))
    return replace(world, structs={**world.structs, name: fields})


def _edit_enum(draw: Draw, world: World) -> World:
    name: str = draw(st.sampled_from(_ENUMS))
    return replace(world, enums={**world.enums, name: edit_members(draw, world.enums[name])})


def edit_members(draw: Draw, before: Mapping[str, Any]) -> dict[str, Any]:
    """The members of an Enum in its next version."""
    members = dict(before)
    new = draw(st.sampled_from(_MEMBERS))
    match draw(st.sampled_from(["add", "add first", "remove", "rename", "reorder", "others"])):
        case "add" if new not in members:
            members[new] = 9 if isinstance(next(iter(members.values())), int) else "nine"
        case "add first" if new not in members:
            members = {new: 9 if isinstance(next(iter(members.values())), int) else "nine", **members}
        case "remove" if len(members) > 1:
            del members[draw(st.sampled_from(list(members)))]
        case "rename" if new not in members:
            members = {new if place == 0 else each: value for place, (each, value) in enumerate(members.items())}
        case "reorder":
            members = dict(reversed(members.items()))
        case _:
            members = draw_members(draw)
    return members


def _edit_methods(draw: Draw, world: World) -> World:
    methods = dict(world.methods)
    name = draw(st.sampled_from(list(methods)))
    match draw(st.sampled_from(["add", "remove", "pattern", "modes", "message"])):
        case "add":
            methods["four"] = _method(draw)
        case "remove" if len(methods) > 1:
            del methods[name]
        case "pattern":
            methods[name] = replace(methods[name], pattern=draw(st.sampled_from(RpcPattern)))
        case "modes":
            methods[name] = replace(methods[name], modes=_method(draw).modes)
        case _:
            methods[name] = replace(methods[name], request=draw(st.sampled_from(_STRUCTS)))
    return replace(world, methods=methods)


def _edit_tags(draw: Draw, world: World) -> World:
    name: str = draw(st.sampled_from([*_ENUMS, *_STRUCTS]))
    return replace(world, tags={**world.tags, name: f"Other{name}"})
