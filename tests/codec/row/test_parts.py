"""Lists, tuples, dicts and sets of a received row: as Python's own to those who read, and unchangeable."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from aster.codec import materialize
from aster.codec.row import RowList, RowMap, RowSet
from tests.codec.models import Containers, Label, Point
from tests.codec.row.rows import codec_of, view_of
from tests.codec.row.test_views import ORDER, Line

# Lists and tuples


def test_lists_and_tuples_are_sequences() -> None:
    view = view_of(ORDER)
    lines = view.lines
    assert {RowList, Sequence} <= set(type(lines).__mro__)
    assert (len(lines), lines[0], lines[-1], lines[1:], lines[::-1]) == (3, Line("a", 1), Line("c", 3), ORDER.lines[1:], ORDER.lines[::-1])
    assert list(lines) == ORDER.lines
    assert list(reversed(lines)) == ORDER.lines[::-1]
    assert Line("b", 2) in lines
    assert (lines.index(Line("b", 2)), lines.count(Line("b", 2)), lines.index(Line("c", 3), 1)) == (1, 1, 2)
    for index in (3, -4, 2**80):
        with pytest.raises(IndexError, match="list index out of range"):
            lines[index]
    with pytest.raises(TypeError, match="list indices must be integers, not str"):
        lines["a"]
    with pytest.raises(TypeError, match="unhashable"):
        hash(lines)
    assert repr(lines) == repr(ORDER.lines)
    assert materialize(lines) == ORDER.lines
    assert type(materialize(lines)[0]) is Line


def test_a_list_equals_lists_and_a_tuple_equals_tuples() -> None:
    @dataclass
    class Both:
        many: list[int]
        path: tuple[int, ...]

    view = view_of(Both([1, 2], (1, 2)), codec_of(Both))
    assert view.many == [1, 2] == view.many
    assert view.path == (1, 2) == view.path
    assert hash(view.path) == hash((1, 2))
    assert view.many != (1, 2)
    assert view.path != [1, 2]
    assert view.many != view.path
    assert view.many != [1, 2, 3]
    assert view.many != [2, 1]
    assert view.many != "12"
    assert (type(materialize(view.many)), type(materialize(view.path))) == (list, tuple)


# Dicts


def test_dicts_are_mappings() -> None:
    view = view_of(dataclasses.replace(ORDER, notes={"x": Line("n", 9), "y": Line("m", 8)}))
    notes = view.notes
    assert {RowMap, Mapping} <= set(type(notes).__mro__)
    assert (len(notes), notes["y"].sku, notes.get("z"), "x" in notes, "z" in notes) == (2, "m", None, True, False)
    assert list(notes) == ["x", "y"]
    assert dict(notes.items()) == {"x": Line("n", 9), "y": Line("m", 8)}
    assert [line.count for line in notes.values()] == [9, 8]
    assert notes == {"y": Line("m", 8), "x": Line("n", 9)} == notes
    assert notes != {"x": Line("n", 9)}
    assert notes != []
    with pytest.raises(KeyError, match="'z'"):
        notes["z"]
    with pytest.raises(TypeError, match="unhashable"):
        hash(notes)
    assert repr(notes) == "{'x': Line(sku='n', count=9), 'y': Line(sku='m', count=8)}"
    assert type(materialize(notes)) is dict


def test_keys_may_be_dataclasses_and_views_of_them() -> None:
    table = {Point(1, 2): Label("a"), Point(3, 4): Label("b")}
    view = view_of(Containers([], set(), frozenset(), {}, (), (1, ""), [Point(1, 2)], table, set(), {}, [], {}, set(), {}, []))
    assert view.by_point[Point(3, 4)].key == "b"
    assert view.by_point[view.points[0]].key == "a"
    assert view.points[0] in view.by_point


# Sets


def test_sets_are_sets_that_nobody_changes() -> None:
    @dataclass
    class Tagged:
        tags: set[str]
        fixed: frozenset[str]

    view = view_of(Tagged({"a", "b"}, frozenset("f")), codec_of(Tagged))
    tags: set[str] = view.tags
    assert {RowSet, set} <= set(type(tags).__mro__)
    assert tags == {"a", "b"} == tags
    assert (len(tags), "a" in tags, tags | {"c"}, tags & {"a"}, {"c"} | tags) == (2, True, {"a", "b", "c"}, {"a"}, {"a", "b", "c"})
    assert type(view.fixed) is frozenset
    assert repr(view_of(Tagged({"a"}, frozenset()), codec_of(Tagged)).tags) == "{'a'}"
    for plain in (materialize(tags), copy.copy(tags), copy.deepcopy(tags), tags.copy(), tags | {"a"}, pickle.loads(pickle.dumps(tags))):
        assert type(plain) is set
        assert plain == {"a", "b"}
    assert type(materialize(view).tags) is set


# What would change them


@dataclass
class Parts:
    items: list[int]
    path: tuple[int, ...]
    table: dict[str, int]
    tags: set[int]


_PARTS = Parts([1], (1,), {"a": 1}, {1})


def _public(*kinds: type) -> set[str]:
    return {name for name in set(dir(kinds[0])).difference(*map(dir, kinds[1:])) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("field", "kind", "methods"),
    [
        ("items", "list", {"copy"} | _public(list, tuple)),
        ("table", "dict", {"copy"} | _public(dict, Mapping) - {"fromkeys"}),
        ("tags", "set", _public(set, frozenset)),
    ],
)
def test_a_method_that_would_change_a_part_says_what_to_do(field: str, kind: str, methods: set[str]) -> None:
    part = getattr(view_of(_PARTS, codec_of(Parts)), field)
    for name in methods:
        assert not hasattr(part, name)
        with pytest.raises(AttributeError, match=rf"cannot {name}: this {kind} is a view of a received row; change the copy that aster.materialize"):
            getattr(part, name)
    with pytest.raises(AttributeError, match="object has no attribute 'nothing'"):
        _ = part.nothing


def test_a_tuple_has_no_more_than_a_tuple_has() -> None:
    with pytest.raises(AttributeError, match="'tuple' object has no attribute 'append'"):
        view_of(_PARTS, codec_of(Parts)).path.append(2)


@pytest.mark.parametrize(
    "statement",
    [
        *("view.items[0] = 1", "del view.items[0]", "view.items[:] = []", "view.table['a'] = 2", "del view.table['a']"),
        *("view.items + [2]", "[2] + view.items", "view.path + (2,)", "2 * view.items", "view.items * 2", "view.table | {'b': 2}", "{'b': 2} | view.table"),
        *("view.items += [2]", "view.items *= 2", "view.table |= {'b': 2}"),
        *("view.tags |= {2}", "view.tags &= {2}", "view.tags -= {1}", "view.tags ^= {1}"),
    ],
)
def test_an_operator_that_would_change_a_part_says_what_to_do(statement: str) -> None:
    view = view_of(_PARTS, codec_of(Parts))
    with pytest.raises(TypeError, match=r"cannot .*: this (sequence|dict|set) is a view of a received row; change the copy that aster.materialize"):
        exec(statement, {"view": view})
    assert view == _PARTS
