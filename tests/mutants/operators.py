"""The ways in which a function is broken: each takes a node of its tree and gives what to put in its place, or None where it does not apply."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping

__all__ = ["OPERATORS", "Function", "Operator", "broken"]

Function = ast.FunctionDef | ast.AsyncFunctionDef
Operator = Callable[[ast.AST], ast.AST | list[ast.stmt] | None]


def _drop_statement(node: ast.AST) -> ast.AST | None:
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return ast.Pass() if isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Raise | ast.Delete) and not is_docstring else None


def _negate_condition(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.If | ast.While | ast.IfExp):
        return None
    changed = copy.deepcopy(node)
    changed.test = ast.UnaryOp(ast.Not(), changed.test)
    return changed


_SWAPPED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def _swap_comparison(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Compare):
        return None
    changed = copy.deepcopy(node)
    changed.ops[0] = _SWAPPED[type(changed.ops[0])]()
    return changed


def _swap_and_or(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.BoolOp):
        return None
    changed = copy.deepcopy(node)
    changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return changed


def _unshield(node: ast.AST) -> ast.AST | None:
    is_shield = isinstance(node, ast.keyword) and node.arg == "shield" and isinstance(node.value, ast.Constant) and node.value.value is True
    return ast.keyword("shield", ast.Constant(False)) if is_shield else None


def _off_by_one(node: ast.AST) -> ast.AST | None:
    return ast.Constant(node.value + 1) if isinstance(node, ast.Constant) and type(node.value) is int else None


def _drop_finally(node: ast.AST) -> ast.AST | list[ast.stmt] | None:
    if not isinstance(node, ast.Try) or not node.finalbody:
        return None
    changed = copy.deepcopy(node)
    changed.finalbody = []
    return changed if changed.handlers else changed.body


def _return_early(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, Function):
        return None
    changed = copy.deepcopy(node)
    # The rest stays, so that a generator is one still.
    changed.body.insert(0, ast.Return())
    return changed


OPERATORS: Mapping[str, Operator] = {
    "drop-statement": _drop_statement,
    "negate-condition": _negate_condition,
    "swap-comparison": _swap_comparison,
    "swap-and-or": _swap_and_or,
    "unshield": _unshield,
    "off-by-one": _off_by_one,
    "drop-finally": _drop_finally,
    "return-early": _return_early,
}


class _Once(ast.NodeTransformer):
    """Applies an operator at the one place of this number, and counts the places."""

    def __init__(self, operator: Operator, number: int) -> None:
        self._operator = operator
        self._number = number
        self.count = 0
        self.line = 0
        self.what = ""

    def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt]:
        changed = self._operator(node)
        if changed is not None:
            self.count += 1
            if self.count == self._number + 1:
                self.line = getattr(node, "lineno", 0)
                self.what = ast.unparse(node).partition("\n")[0]
                return changed
        return self.generic_visit(node)


def broken(tree: ast.Module, function: Function, operator: Operator) -> Iterator[tuple[str, int, str]]:
    """Every source that the operator makes of a module by changing the function, with the line and the beginning of what was there."""
    where = next((parent, place) for parent in ast.walk(tree) for place, child in enumerate(getattr(parent, "body", None) or ()) if child is function)
    parent, place = where
    body: list[object] = getattr(parent, "body")  # noqa: B009 - a module or a class: pyright knows no common type of them
    number = 0
    while True:
        once = _Once(operator, number)
        body[place] = once.visit(copy.deepcopy(function))
        source = ast.unparse(ast.fix_missing_locations(tree))
        body[place] = function
        if once.count <= number:
            return
        yield source, once.line, once.what
        number += 1
