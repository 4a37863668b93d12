"""The kit of the laws' tests does what it says, since a test that exercises nothing would prove nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.statistics import collector, describe_statistics

from tests.laws.conftest import EXHAUSTED, examples_of
from tests.laws.world import Setting, World, exercises

pytestmark = pytest.mark.anyio

_LAWS = set(range(1, 17))

_examples = Counter[Setting]()


@pytest.fixture
def _as_many_as_are_asked_for(setting: Setting) -> Generator[None]:
    _examples.clear()
    yield
    assert _examples[setting] == examples_of(setting)


@pytest.mark.usefixtures("_as_many_as_are_asked_for")
@exercises("an example")
@given(number=st.integers())
async def test_each_setting_has_its_number_of_examples_and_each_is_counted(world: World, number: int) -> None:
    assert world.counts["an example"] == _examples[world.setting], "each test begins with no counts"
    world.count("an example")
    _examples[world.setting] += 1


def test_a_test_with_too_few_different_examples_is_noticed() -> None:
    @given(st.booleans())
    def draws_little(_: bool) -> None:
        pass

    said, recorder = list[Any](), cast(Any, collector)
    with recorder.with_value(said.append):
        draws_little()
    assert EXHAUSTED in describe_statistics(said[0])


@pytest.fixture
def _statistics_are_there(request: pytest.FixtureRequest) -> Generator[None]:
    yield
    assert "Stopped because" in vars(request.node)["hypothesis_statistics"]


@pytest.mark.usefixtures("_statistics_are_there")
@given(number=st.integers())
async def test_hypothesis_leaves_its_statistics_where_the_kit_looks(world: World, number: int) -> None:
    """Known after the test alone."""


def test_each_law_has_one_file() -> None:
    numbers = [int(match[1]) for path in Path(__file__).parent.glob("test_law_*.py") if (match := re.match(r"test_law_(\d\d)_", path.name))]
    assert sorted(numbers) == sorted(_LAWS)
