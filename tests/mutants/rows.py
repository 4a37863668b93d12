"""Two mutants for each row of the transition tables: the row is gone, or it leads to another state."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

from tests.mutants.mutant import Mutant, parsed

__all__ = ["count_rows", "row_mutants"]

_MODULE = "aster._protocol.states"
_STAGES = (("tests/protocol",), ("tests/laws",), ("tests/rpc",))


def count_rows(tables: ast.Module) -> int:
    """How many rows the tables of a module have."""
    return sum(1 for _ in _rows(tables))


def row_mutants() -> list[Mutant]:
    """All of them, in the order of the source."""
    tree = parsed(_MODULE)
    return [mutant for name, place, _ in _rows(tree) for mutant in (_without(tree, name, place), _redirected(tree, name, place))]


_Place = tuple[int, int | None, int]
"""A statement of the module, the entry of its outer dictionary (None if its rows are there already), and the entry that is the row."""


def _rows(tree: ast.Module) -> Iterator[tuple[str, _Place, ast.expr]]:
    """The name, place and destination of each row."""
    for number, node in enumerate(tree.body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        table = ast.unparse(node.target)
        for outer, (key, value) in enumerate(_entries(node.value)):
            if not isinstance(value, ast.Dict):
                yield f"{table}[{_last(key)}]", (number, None, outer), value
                continue
            for inner, (step, following) in enumerate(_entries(value)):
                yield f"{table}[{_last(key)}][{_last(step)}]", (number, outer, inner), following


def _entries(table: ast.Dict) -> Iterator[tuple[ast.expr, ast.expr]]:
    for key, value in zip(table.keys, table.values, strict=True):
        assert key is not None
        yield key, value


def _last(expression: ast.expr) -> str:
    return ast.unparse(expression).rpartition(".")[2]


def _copied(tree: ast.Module, place: _Place) -> tuple[ast.Module, ast.Dict, ast.Dict]:
    """A copy of the module, its table that has the row, and the dictionary that the row is an entry of."""
    changed = copy.deepcopy(tree)
    number, outer, _ = place
    statement = changed.body[number]
    assert isinstance(statement, ast.AnnAssign)
    table = statement.value
    assert isinstance(table, ast.Dict)
    rows = table if outer is None else table.values[outer]
    assert isinstance(rows, ast.Dict)
    return changed, table, rows


def _without(tree: ast.Module, name: str, place: _Place) -> Mutant:
    changed, _, rows = _copied(tree, place)
    line = rows.values[place[2]].lineno
    del rows.keys[place[2]], rows.values[place[2]]
    return Mutant(f"{name}:deleted", "rows", _MODULE, line, "the row is gone", ast.unparse(changed), _STAGES)


def _redirected(tree: ast.Module, name: str, place: _Place) -> Mutant:
    """The row leads to the state that comes after its own in the table, or, of the patterns, has the tables of the next."""
    changed, table, rows = _copied(tree, place)
    _, outer, row = place
    before = rows.values[row]
    choices = rows.values if outer is None else [key for key in table.keys if key is not None]
    texts = [ast.unparse(choice) for choice in choices]
    following = choices[(texts.index(ast.unparse(before)) + 1) % len(choices)]
    rows.values[row] = copy.deepcopy(following)
    what = f"{ast.unparse(before)} is {ast.unparse(following)}"
    return Mutant(f"{name}:redirected", "rows", _MODULE, before.lineno, what, ast.unparse(changed), _STAGES)
