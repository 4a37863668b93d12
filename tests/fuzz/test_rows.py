"""What the fuzzing of rows stands on: that its grammar knows the layout, that its judge tells values apart, and that it sees what takes too long."""

from __future__ import annotations

import datetime
import random
import time
from collections import Counter
from decimal import Decimal
from typing import Any, cast

import pytest

from aster.codec import materialize
from aster.codec.row.schema import decode_schema
from aster.errors import DecodeError
from tests.codec.models import Choices, Label, Link, Point, Reals, Tree
from tests.fuzz.row import payload
from tests.fuzz.row_grammar import row_of
from tests.fuzz.row_models import CODEC, HEADS, ROOTS, Nest, message_of
from tests.fuzz.row_reading import alike, is_exactly, most_seconds, read_all, timed


def _is_value(root: type[Any], message: bytes) -> bool:
    try:
        materialize(CODEC.decoder(root)(message))
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_rows_of_the_grammar_are_values_and_refused_ones(root: type[Any]) -> None:
    schema, chance = decode_schema(HEADS[root][8:]), random.Random(1)
    values = Counter(_is_value(root, HEADS[root] + row_of(schema, chance)) for _ in range(300))
    assert values[True] >= 3
    assert values[False] >= 3 or not schema.structs[0].fields


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_payloads_come_with_the_schema_of_the_class_and_with_others(root: type[Any]) -> None:
    chance = random.Random(1)
    assert len({payload(root, chance).startswith(HEADS[root]) for _ in range(100)}) == 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (0.0, -0.0),
        ([1], (1,)),
        ({1}, frozenset({1})),
        ({1: "a", 2: "b"}, {2: "b", 1: "a"}),
        (Decimal("1.0"), Decimal("1.00")),
        (datetime.time(1), datetime.time(1, fold=1)),
        (datetime.datetime(2000, 1, 1), datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)),  # noqa: DTZ001  # what is under test
        (Point(1, 2), Point(1, 3)),
        ({float("nan"), 1.0}, {float("nan"), 2.0}),
    ],
)
def test_values_that_differ_are_not_alike(a: Any, b: Any) -> None:
    assert not alike(a, b)
    assert alike(a, a)
    assert alike([float("nan")], [float("nan")])


def test_a_value_that_is_not_of_its_type_all_the_way_down_is_seen() -> None:
    wrong: list[Any] = [
        Tree(1),  # pyright: ignore[reportArgumentType]
        Tree("a", [Point()]),  # pyright: ignore[reportArgumentType]
        Tree("a", ()),  # pyright: ignore[reportArgumentType]
        Link(True),
        Reals(1, [], {}, (0.0, ""), "", {}),
        Reals(1.0, [], {"a": "b"}, (0.0, ""), "", {}),  # pyright: ignore[reportArgumentType]
        Reals(1.0, [], {}, (0.0,), "", {}),  # pyright: ignore[reportArgumentType]
    ]
    assert not any(is_exactly(each, cast("type[Any]", type(each))) for each in wrong)
    right: list[Any] = [
        Tree("a", [Tree("b")], Tree("c")),
        Link(1, Link(2)),
        Choices(None, Point(), 1, Label("a"), ["a", 1, None], {1: b""}, (1,), (Point(), [()]), 1),
    ]
    assert all(is_exactly(each, cast("type[Any]", type(each))) for each in right)


def test_what_takes_too_long_each_time_is_a_finding() -> None:
    durations = iter((0.03, 0.0))

    def busy(seconds: float) -> None:
        began = time.process_time()
        while time.process_time() - began < seconds:
            pass

    assert timed(lambda: busy(next(durations)), lambda: 0.02)[1] < 0.02  # once is no proof
    with pytest.raises(AssertionError, match=r"took \d+ ms of processor time, more than 20 ms"):
        timed(lambda: busy(0.03), lambda: 0.02)
    assert (most_seconds(10), most_seconds(65_536), most_seconds(131_072)) == (0.1, 0.1, 0.2)


def test_all_of_a_view_is_read_however_deeply_it_is_nested() -> None:
    chance = random.Random(1)
    messages = [message_of(Nest, chance) for _ in range(30)]
    found = [read_all(CODEC.decoder(Nest)(message)) for message in messages]
    assert all(alike(value, materialize(CODEC.decoder(Nest)(message))) for (value, depth), message in zip(found, messages, strict=True) if depth < 40)
    assert max(depth for _, depth in found) == 50
