"""A value of the wrong type, or one that cannot be sent, never becomes bytes: the error names the field."""

from __future__ import annotations

import datetime
import decimal
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.types import SerializationMode
from tests.codec.models import (
    CODECS,
    MODES,
    Choices,
    Color,
    Containers,
    Derived,
    Label,
    Level,
    Link,
    Moment,
    Normalised,
    Point,
    Price,
    Reals,
    Scalars,
    TaskRequest,
    Tree,
)
from tests.codec.test_round_trip import round_trip
from tests.codec.values import values_of

modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


@dataclass
class Sub(TaskRequest):
    more: int = 0


@dataclass(frozen=True)
class Point3(Point):
    z: int = 0


def wrong(value: object) -> Any:
    """A value for a place where the type checker knows that it does not belong."""
    return value


def fails(mode: SerializationMode, error: type[Exception], message: str, value: Any, cls: type | None = None) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        CODECS[mode].encoder(cls or type(value))(value)


@modes
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (TaskRequest(priority=wrong("high")), "TaskRequest.priority must be int, not str"),
        (TaskRequest(priority=True), "TaskRequest.priority must be int, not bool"),
        (TaskRequest(priority=wrong(1.0)), "TaskRequest.priority must be int, not float"),
        (TaskRequest(priority=wrong(None)), "TaskRequest.priority must be int, not None"),
        (TaskRequest(priority=Whole(3)), "TaskRequest.priority must be int, not Whole"),
        (TaskRequest(priority=Level.LOW), "TaskRequest.priority must be int, not Level"),
        (TaskRequest(task_id=Text("a")), "TaskRequest.task_id must be str, not Text"),
        (TaskRequest(task_id=wrong(b"a")), "TaskRequest.task_id must be str, not bytes"),
        (Tree("a", [Tree("b"), Tree("c", [Tree(wrong(3))])]), "Tree.children[1].children[0].name must be str, not int"),
        (Tree("a", parent=Tree("b", wrong(None))), "Tree.parent.children must be list[Tree], not None"),
        (Tree("a", wrong((Tree("b"),))), "Tree.children must be list[Tree], not tuple"),
        (Derived("a", size=1, weight=True), "Derived.weight must be float, not bool"),
        (Moment(wrong(datetime.date(2020, 1, 1))), "Moment.instant must be datetime, not date"),
        (Link(1, wrong(Label("a"))), "Link.next must be Link, not Label"),
        (Reals(0.0, [], {"a": wrong("b")}, (0.0, ""), "", {}), "Reals.table['a'] must be float, not str"),
        (Reals(0.0, [], {wrong(1): 1.0}, (0.0, ""), "", {}), "Reals.table key 0 must be str, not int"),
        (Reals(0.0, [], {}, wrong((0.0, "", 1)), "", {}), "Reals.pair must be tuple[float, str], not 3 items"),
        (Reals(0.0, [], {}, (0.0, wrong(1)), "", {}), "Reals.pair[1] must be str, not int"),
        (Reals(0.0, [], {}, (0.0, ""), wrong(b""), {}), "Reals.either must be float | str, not bytes"),
        (Reals(0.0, [], {}, (0.0, ""), "", {"k": [wrong((1.0,))]}), "Reals.inner['k'][0] must be tuple[float, float], not 1 items"),
    ],
)
def test_the_error_names_the_field_and_both_types(mode: SerializationMode, value: Any, message: str) -> None:
    fails(mode, TypeError, message, value)


@modes
@given(data=st.data())
def test_the_error_finds_its_way_into_any_container(mode: SerializationMode, data: st.DataObject) -> None:
    value = data.draw(values_of(Containers))
    fails(mode, TypeError, "Containers.names element 0 must be str, not int", replace(value, names={1}))
    fails(mode, TypeError, "Containers.points[0] must be Point, not Point3", replace(value, points=[Point3()]))
    fails(mode, TypeError, "Containers.gaps[1] must be int, not str", replace(value, gaps=[None, "a"]))
    fails(mode, TypeError, "Containers.grid['a'][0][1][1] must be bytes, not str", replace(value, grid={"a": [{1: (True, "")}]}))
    fails(mode, TypeError, "Containers.frozen[0] must be frozenset[str], not set", replace(value, frozen=[set[str]()]))
    fails(mode, TypeError, "Containers.chosen must be frozenset[int], not set", replace(value, chosen={1}))
    fails(mode, TypeError, "Containers.path must be tuple[str, ...], not list", replace(value, path=["a"]))
    fails(mode, TypeError, "Containers.by_point[Point(x=1, y=0)].value must be str, not int", replace(value, by_point={Point(1): Label("a", wrong(3))}))


@modes
@given(value=values_of(Choices))
def test_a_union_takes_its_members_and_nothing_else(mode: SerializationMode, value: Choices) -> None:
    fails(mode, TypeError, "Choices.either must be int | str, not bool", replace(value, either=True))
    fails(mode, TypeError, "Choices.mixed[0] must be int | str, not float", replace(value, mixed=[wrong(1.5)]))
    fails(mode, TypeError, "Choices.tupled[0] must be int, not str", replace(value, tupled=wrong(("a",))))
    fails(mode, TypeError, "Choices.tupled must be str | tuple[int, ...], not list", replace(value, tupled=wrong([1])))


@modes
@given(value=values_of(Normalised))
def test_a_literal_takes_its_values_and_nothing_else(mode: SerializationMode, value: Normalised) -> None:
    fails(mode, ValueError, "Normalised.mode must be one of 'r', 'w', not 'x'", replace(value, mode=wrong("x")))
    fails(mode, TypeError, "Normalised.size must be one of 1, 2, not bool", replace(value, size=wrong(True)))
    fails(mode, ValueError, f"Normalised.shade must be one of {Color.RED!r}, not {Color.BLUE!r}", replace(value, shade=wrong(Color.BLUE)))


@modes
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (TaskRequest(priority=2**63), "TaskRequest.priority does not fit in 64 bits"),
        (TaskRequest(priority=-(2**63) - 1), "TaskRequest.priority does not fit in 64 bits"),
        (TaskRequest(task_id="ab\ud800"), "TaskRequest.task_id holds a lone surrogate"),
        (Tree("a", [Tree("\udfff")]), "Tree.children[0].name holds a lone surrogate"),
        (Moment(datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=1)))), "Moment.instant is outside the years 1 to 9999"),
        (Moment(datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1)))), "Moment.instant is outside the years 1 to 9999"),
        (Price(decimal.Decimal("NaN")), "Price.amount must be finite, not NaN"),
        (Price(decimal.Decimal("-Infinity")), "Price.amount must be finite, not -Infinity"),
        (Price(decimal.Decimal("1e-10001")), "Price.amount has too many digits or too large an exponent"),
        (Reals(10**400, [], {}, (0.0, ""), "", {}), "Reals.field is too large for a float"),
        (Reals(0.0, [10**400], {}, (0.0, ""), "", {}), "Reals.many[0] is too large for a float"),
    ],
)
def test_what_does_not_fit_is_a_value_error_that_names_the_field(mode: SerializationMode, value: Any, message: str) -> None:
    fails(mode, ValueError, message, value)
    assert round_trip(CODECS[mode], TaskRequest("next")) == TaskRequest("next")


@modes
@given(value=values_of(Scalars))
def test_scalars_beyond_the_wires_range_are_refused(mode: SerializationMode, value: Scalars) -> None:
    fails(mode, ValueError, "Scalars.span is longer than", replace(value, span=datetime.timedelta.max))
    fails(mode, ValueError, "Scalars.span is longer than", replace(value, span=datetime.timedelta.min))
    fails(mode, ValueError, "Scalars.clock has a time zone", replace(value, clock=datetime.time(1, tzinfo=datetime.UTC)))


@modes
def test_integers_out_of_range_are_found_wherever_they_are(mode: SerializationMode) -> None:
    big = 2**63
    point = Point(big)
    empty = Containers([], set(), frozenset(), {}, (), (0, ""), [], {}, set(), {}, [], {}, set(), {}, [])
    for value, where in [
        (replace(empty, numbers=[0, big]), "numbers[1]"),
        (replace(empty, chosen=frozenset({big})), "chosen element 0"),
        (replace(empty, pair=(big, "")), "pair[0]"),
        (replace(empty, by_point={point: Label("")}), "by_point key 0.x"),
        (replace(empty, grid={"a": [{big: (True, b"")}]}), "grid['a'][0] key 0"),
        (replace(empty, gaps=[None, big]), "gaps[1]"),
        (replace(empty, old={"a": [big]}), "old['a'][0]"),
    ]:
        fails(mode, ValueError, f"Containers.{where} does not fit in 64 bits", value)


@modes
def test_nesting_without_end_is_refused_before_anything_is_written(mode: SerializationMode) -> None:
    loop = Tree("loop")
    loop.children.append(loop)
    with pytest.raises(ValueError, match=r"^Tree(\.children\[0\]){51} is nested more than 50 deep, or contains itself$"):
        CODECS[mode].encoder(Tree)(loop)
    deep = Tree("leaf")
    for _ in range(51):
        deep = Tree("node", [deep])
    with pytest.raises(ValueError, match="is nested more than 50 deep"):
        CODECS[mode].encoder(Tree)(deep)


@modes
@pytest.mark.parametrize(("value", "found"), [(Tree("a"), "a Tree"), (None, "None"), (5, "a int"), (Sub(), "a Sub"), (TaskRequest, "a type")])
def test_the_root_must_be_of_exactly_the_type(mode: SerializationMode, value: Any, found: str) -> None:
    fails(mode, TypeError, f"this call expects a TaskRequest, not {found}", value, TaskRequest)


@modes
def test_a_class_defined_twice_is_told_apart(mode: SerializationMode) -> None:
    twice = type("TaskRequest", (), {})
    fails(mode, TypeError, f"this call expects a TaskRequest, not an instance of another class of that name ({__name__}.TaskRequest)", twice(), TaskRequest)
    another = type("Tree", (), {})
    fails(mode, TypeError, f"Tree.children[0] must be Tree, not another class of that name (from {__name__})", Tree("a", [wrong(another())]))


@modes
def test_a_field_that_is_not_set_is_named(mode: SerializationMode) -> None:
    value = TaskRequest()
    del value.priority
    del value.task_id
    value.priority = 3
    value.task_id = "x"
    assert round_trip(CODECS[mode], value) == value
    bare = object.__new__(Link)
    fails(mode, TypeError, "Link.value must be int, and is not set", bare)
