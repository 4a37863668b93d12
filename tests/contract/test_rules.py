"""The rules on the page about changing a service, one by one: the verdict says so, and the codec does so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aster._contract import contract_differences
from aster.codec import materialize
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.contract.samples import same, samples
from tests.contract.worlds import FieldPlan, MethodPlan, World

_BOTH = (SerializationMode.XLANG, SerializationMode.NATIVE)
_LEVELS: Mapping[str, Any] = {"LOW": 1, "HIGH": 5}


def _world(fields: Mapping[str, FieldPlan], level: Mapping[str, Any] = _LEVELS, modes: tuple[SerializationMode, ...] = _BOTH) -> World:
    structs = {"Root": fields, "Item": {"a": FieldPlan("int")}, "Leaf": {"b": FieldPlan("str")}}
    return World({"Color": {"RED": "r", "BLUE": "b"}, "Level": level}, structs, {"ask": MethodPlan(modes=modes)})


def _check(writer: World, reader: World, *, fits: bool, confirmed: bool = True) -> None:
    """Judge requests, and have them read."""
    differences = [found for found in contract_differences(writer.contract, reader.contract) if "(request)" in found]
    assert (not differences) is fits, differences
    arrived = [_arrives(value, writer, reader, mode) for mode in writer.methods["ask"].modes for value in samples(writer.hints, writer.classes["Root"])]
    assert all(arrived) is fits or not confirmed


def _arrives(value: Any, writer: World, reader: World, mode: SerializationMode) -> bool:
    data = writer.codec(mode).encoder(writer.classes["Root"])(value)
    try:
        return same(value, materialize(reader.codec(mode).decoder(reader.classes["Root"])(data)))
    except DecodeError:
        return False


_TYPES = [
    ("int", "Optional[int]", True),
    ("Optional[int]", "int", False),
    ("list[int]", "list[Optional[int]]", True),
    ("list[Optional[int]]", "list[int]", False),
    ("Literal['a']", "Literal['a', 'b']", True),
    ("Literal['a', 'b']", "Literal['a']", False),
    ("Literal['a']", "str", True),
    ("str", "Literal['a']", False),
    ("int", "Union[int, str]", True),
    ("Union[int, str]", "int", False),
    ("Union[int, str]", "Optional[int]", False),
    ("Union[int, str]", "Union[int, str, bytes]", True),
    ("Color", "Union[Color, int]", False),
    ("list[Color]", "Union[list[Color], int]", False),
    ("list[int]", "list[Union[int, str]]", False),
    ("list[Item]", "list[Union[Item, Leaf]]", True),
    ("list[UUID]", "list[Union[UUID, int]]", True),
    ("list[int]", "tuple[int, ...]", True),
    ("tuple[int, ...]", "list[int]", True),
    ("tuple[int, int]", "list[int]", True),
    ("tuple[int, int]", "tuple[int, int, int]", False),
    ("list[int]", "tuple[int, int]", False),
    ("tuple[int, int]", "tuple[int, Optional[int]]", False),
    ("Union[list[int], str]", "Union[tuple[int, ...], str]", True),
    ("Union[tuple[int, ...], str]", "Union[list[int], str]", False),
    ("set[int]", "frozenset[int]", True),
    ("bool", "int", True),
    ("bool", "float", True),
    ("bool", "str", True),
    ("bool", "Decimal", True),
    ("int", "str", True),
    ("int", "Decimal", True),
    ("int", "float", False),
    ("list[bool]", "list[int]", False),
    ("str", "int", False),
    ("float", "str", False),
    ("date", "datetime", False),
    ("Item", "Leaf", False),
    ("dict[str, int]", "dict[int, int]", False),
]


@pytest.mark.parametrize(("written", "read", "fits"), _TYPES, ids=[f"{written} as {read}" for written, read, _ in _TYPES])
def test_a_type_may_become_another(written: str, read: str, fits: bool) -> None:
    _check(_world({"f": FieldPlan(written)}), _world({"f": FieldPlan(read)}), fits=fits)


@pytest.mark.parametrize(
    ("written", "read", "fits"),
    [
        ("list[int]", "tuple[int, ...]", True),
        ("tuple[int, ...]", "list[int]", True),
        ("list[int]", "set[int]", False),
        ("dict[str, int]", "dict[str, Union[int, str]]", True),
        ("dict[str, int]", "dict[int, int]", False),
        ("tuple[int, int]", "tuple[int, Union[int, str]]", True),
        ("tuple[int, int]", "tuple[int, int, int]", False),
        ("tuple[int, int]", "tuple[int]", False),
        ("tuple[int, int]", "tuple[int, ...]", False),
        ("tuple[int, int]", "list[int]", False),
    ],
)
def test_a_type_may_become_another_in_rows(written: str, read: str, fits: bool) -> None:
    row = (SerializationMode.ROW,)
    _check(_world({"f": FieldPlan(written)}, modes=row), _world({"f": FieldPlan(read)}, modes=row), fits=fits)


def test_a_field_more_needs_a_default_or_none() -> None:
    old = _world({"f": FieldPlan("int")})
    for hint, default, fits in (("int", True, True), ("Optional[int]", False, True), ("int", False, False), ("Item", True, True)):
        _check(old, _world({"f": FieldPlan("int"), "g": FieldPlan(hint, default)}), fits=fits)


def test_a_field_less_is_passed_over_where_fory_finds_its_end() -> None:
    new = _world({"f": FieldPlan("int")})
    for hint, fits in (
        ("Item", True),
        ("Color", True),
        ("list[Color]", True),
        ("dict[str, Color]", True),
        ("Union[Item, Leaf]", True),
        ("set[Color]", False),
        ("dict[Color, int]", False),
        ("set[tuple[int, int]]", False),
        ("Union[Color, int]", False),
        ("tuple[Color, int]", False),
    ):
        _check(_world({"f": FieldPlan("int"), "g": FieldPlan(hint)}), new, fits=fits)


def test_an_unknown_field_of_a_type_that_is_known_must_fit_as_well() -> None:
    for field, fits in ((FieldPlan("int"), True), (FieldPlan("bytes"), False)):
        old = _world({"f": FieldPlan("list[Item]"), "g": FieldPlan("Item")})
        new = World(old.enums, {**old.structs, "Root": {"f": FieldPlan("list[Item]")}, "Item": {"a": field}}, old.methods)
        _check(old, new, fits=fits)


def test_another_name_of_a_field_or_tag_does_not_fit() -> None:
    one = _world({"f": FieldPlan("int", default=True)})
    _check(one, _world({"g": FieldPlan("int")}), fits=False)
    # The old value is lost then, though nothing is refused.
    _check(one, _world({"g": FieldPlan("int", default=True)}), fits=True)
    _check(_world({"f": FieldPlan("Item")}), World(one.enums, {**one.structs, "Root": {"f": FieldPlan("Item")}}, one.methods, {"Item": "Other"}), fits=False)
    _check(_world({"foo_bar": FieldPlan("int")}), _world({"fooBar": FieldPlan("int")}), fits=True)


_ENUMS: list[tuple[Mapping[str, Any], Mapping[str, Any], bool, bool]] = [
    ({"LOW": 1, "HIGH": 5}, {"LOW": 1, "HIGH": 5, "TOP": 9}, True, True),
    ({"LOW": 1, "HIGH": 5, "TOP": 9}, {"LOW": 1, "HIGH": 5}, False, False),
    ({"LOW": 1, "HIGH": 5}, {"LOW": 1, "TOP": 9, "HIGH": 5}, True, False),
    ({"LOW": 1, "HIGH": 5}, {"HIGH": 5, "LOW": 1}, True, False),
    ({"LOW": 1, "HIGH": 5}, {"LOW": 5, "HIGH": 1}, False, True),
    ({"LOW": 1, "HIGH": 5}, {"LOW": 2, "HIGH": 5}, False, True),
    ({"LOW": 1, "HIGH": 5}, {"LEAST": 1, "MOST": 5}, True, True),
    ({"LOW": "l", "HIGH": "h"}, {"LOW": "x", "HIGH": "y", "TOP": "t"}, True, True),
    ({"LOW": "l", "HIGH": "h"}, {"HIGH": "h", "LOW": "l"}, False, False),
    ({"LOW": "l", "HIGH": "h"}, {"TOP": "t", "LOW": "l", "HIGH": "h"}, False, False),
]


@pytest.mark.parametrize(("written", "read", "xlang", "native"), _ENUMS)
def test_an_enum_may_change_by_number_in_xlang_and_by_place_in_native(written: Mapping[str, Any], read: Mapping[str, Any], xlang: bool, native: bool) -> None:
    for mode, fits in zip(_BOTH, (xlang, native), strict=True):
        for hint in ("Level", "list[Level]", "Union[Level, Color]"):
            worlds = [_world({"f": FieldPlan(hint)}, level, (mode,)) for level in (written, read)]
            _check(*worlds, fits=fits)
