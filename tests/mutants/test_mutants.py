"""A little of what ``python -m tests.mutants`` does: there is a mutant for each row and each law, and a broken package is told from a whole one."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from aster._protocol.states import (
    REQUESTS_MANY,
    REQUESTS_ONE,
    RESPONSES_MANY,
    RESPONSES_ONE,
    RESPONSES_UNKNOWN,
    SESSION_REQUESTS,
    SESSION_RESPONSES,
    TABLES,
)
from tests.mutants.laws import CARRIERS, law_mutants, sample
from tests.mutants.mutant import Mutant, differs, parsed
from tests.mutants.rows import count_rows, row_mutants
from tests.mutants.workspace import Workspace

_TABLES = (REQUESTS_MANY, REQUESTS_ONE, RESPONSES_MANY, RESPONSES_ONE, RESPONSES_UNKNOWN, SESSION_REQUESTS, SESSION_RESPONSES)


def test_each_row_has_a_mutant_without_it_and_one_that_leads_elsewhere() -> None:
    rows = sum(len(steps) for table in _TABLES for steps in table.values()) + len(TABLES)
    assert count_rows(parsed("aster._protocol.states")) == rows
    mutants = row_mutants()
    assert len({mutant.name for mutant in mutants}) == len(mutants) == 2 * rows
    whole = ast.unparse(parsed("aster._protocol.states"))
    assert all(differs(mutant.source, whole) for mutant in mutants)
    assert len({mutant.source for mutant in mutants}) == len(mutants)


@pytest.mark.parametrize("law", CARRIERS)
def test_each_law_has_mutants_that_differ(law: int) -> None:
    mutants = law_mutants(law)
    assert len({mutant.name for mutant in mutants}) == len(mutants) > 6
    drawn = sample(mutants, 6, 1)
    without = sample([mutant for mutant in mutants if mutant is not drawn[0]], 5, 1)
    assert drawn[1:] == without, "what else there is makes no difference"


def test_every_law_but_that_of_sessions_is_in_the_table() -> None:
    assert set(CARRIERS) == set(range(1, 17))


def test_code_that_only_looks_different_is_the_same() -> None:
    assert not differs("x = 1\n\n\n# why\ny = x", "x=1; y=x")
    assert differs("x = 1", "x = True")
    assert not differs("nonlocal x", "x = True")


_STATES_TEST = "tests/protocol/test_states.py"


def _sample(mutants: list[Mutant], name: str) -> Mutant:
    mutant = next(mutant for mutant in mutants if mutant.name == name)
    return replace(mutant, stages=((_STATES_TEST,),))


@pytest.mark.timeout(120)  # processes of pytest, which on a busy machine take seconds to begin
def test_mutants_are_killed_and_the_whole_package_is_not(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    row = _sample(row_mutants(), "REQUESTS_ONE[EMPTY][MESSAGE]:deleted")
    law = _sample(law_mutants(16), "aster._protocol.call:ServerCall.receive_data:return-early:0")
    assert workspace.judge(row).killer.startswith(_STATES_TEST)
    assert workspace.judge(law).killer.startswith(_STATES_TEST)
    whole = workspace.judge(replace(row, source=ast.unparse(parsed(row.module))))
    assert whole.counts
    assert whole.killer == ""
    assert not workspace.judge(replace(row, source="import nothing_of_this_name")).counts
