"""One change of one field, which random services and edits would come to rarely: two versions of a service whose message has one field, or two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import assume
from hypothesis import strategies as st

from aster.types import SerializationMode
from tests.contract.worlds import Draw, FieldPlan, MethodPlan, Types, World, draw_members, edit_members

__all__ = ["CHANGES", "changes"]

_PLACES = (*["{}"] * 4, "Optional[{}]", "list[{}]", "tuple[{}, ...]", "dict[str, {}]", "tuple[{}, {}]", "tuple[{}, int]", "tuple[{}]", "Union[{}, time]")
"""Where in a field the changed type stands. A union with ``time``, since that may be beside any other type."""

_USUAL = (
    "int",
    "bool",
    "Literal['a', 'b']",
    "Optional[int]",
    "list[int]",
    "tuple[int, ...]",
    "tuple[int, int]",
    "tuple[str, int]",
    "Color",
    "Item",
    "Union[int, str]",
)
"""What often stands there: of all types, those that a rule has something to say of."""

_KEYED = ("set[{}]", "frozenset[{}]", "dict[{}, int]")
_KEYS = ("str", "int", "date", "Color", "tuple[str, int]", "tuple[int, int]", "tuple[Color, int]", "Literal['a', 'b']")

CHANGES = ("type", "key", "enum", "spelling", "less", "more", "default")
"""What may change."""


@st.composite
def changes(draw: Draw, kind: str) -> tuple[World, World]:
    """One change, and the versions before and after it; the field that changes stands beside another one half of the time."""
    types = Types(draw, ("Item", "Leaf"))
    old, new = _fields(draw, types, kind)
    if draw(st.booleans()):
        beside = FieldPlan(_any(types), draw(st.booleans()))
        old, new = {"z": beside, **old}, {"z": beside, **new}
    world = _world(draw, old)
    changed = replace(world, structs={**world.structs, "Root": new})
    if kind == "enum":
        changed = replace(changed, enums={**world.enums, "Color": edit_members(draw, world.enums["Color"])})
    return world, changed


def _fields(draw: Draw, types: Types, kind: str) -> tuple[dict[str, FieldPlan], dict[str, FieldPlan]]:
    place = draw(st.sampled_from(_PLACES))
    inner = _any(types)
    field = FieldPlan(place.replace("{}", inner))
    match kind:
        case "type":
            other = types.related(inner) if draw(st.integers(0, 3)) else _any(types)
            return {"f": field}, {"f": FieldPlan(place.replace("{}", other))}
        case "key":
            keyed = draw(st.sampled_from(_KEYED))
            pairs = st.lists(st.sampled_from(_KEYS), min_size=2, max_size=2, unique=True)
            one, other = draw(st.one_of(pairs, st.permutations(["Literal['a', 'b']", "str"])))  # the one read as the other is the one change that fits
            return {"f": FieldPlan(keyed.format(one))}, {"f": FieldPlan(keyed.format(other))}
        case "enum":
            hint = draw(st.sampled_from([*_PLACES, *_KEYED])).replace("{}", "Color")
            return {"f": FieldPlan(hint)}, {"f": FieldPlan(hint)}
        case "spelling":
            # Two fields that a reader takes for one, when it has the one or the other of them alone.
            plans = {name: FieldPlan("int") for name in draw(st.lists(st.sampled_from(["c_d", "cD"]), min_size=1, max_size=2, unique=True))}
            return plans, {draw(st.sampled_from(["c_d", "cD"])): FieldPlan("int")}
        case "less":
            # A set or mapping, whose keys are the harder part to pass over, as often as all others together.
            gone = FieldPlan(draw(st.sampled_from(_KEYED)).format(draw(st.sampled_from(_KEYS)))) if draw(st.booleans()) else field
            return {"a": FieldPlan("int"), "f": gone}, {"a": FieldPlan("int")}
        case "more":
            return {"a": FieldPlan("int")}, {"a": FieldPlan("int"), "f": replace(field, default=draw(st.booleans()))}
        case _:
            return {"f": field}, {"f": replace(field, default=True)}


def _any(types: Types) -> str:
    """Any type that may stand in each of the places: where a value brings its own type, tuples cannot be keys."""
    hint = types.any(1) if types.one_of(True, False, False) else types.one_of(*_USUAL)
    assume(not re.search(r"(set|dict)\[tuple", hint))
    return hint


def _world(draw: Draw, fields: Mapping[str, FieldPlan]) -> World:
    enums = {"Color": draw_members(draw), "Level": {"LOW": 1, "HIGH": 5}}
    structs = {"Root": fields, "Item": {"a": FieldPlan("int")}, "Leaf": {"b": FieldPlan("str")}}
    return World(enums, structs, {"ask": MethodPlan(modes=(draw(st.sampled_from(SerializationMode)),))})
