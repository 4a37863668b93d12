"""A mutant: the package with one module changed in one place."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

__all__ = ["PACKAGE", "ROOT", "Mutant", "differs", "module_path", "parsed"]

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "aster"


@dataclass(frozen=True)
class Mutant:
    """One change of one module, and the tests that are to notice it."""

    name: str
    """Where and what, without line numbers, so that it stays the same while lines move."""
    group: str
    """``rows``, or the law that the changed function carries."""
    module: str
    line: int
    what: str
    source: str
    """The whole module, changed."""
    stages: tuple[tuple[str, ...], ...]
    """What pytest is given, the likeliest to notice first; each only if those before it did not."""


def module_path(module: str, package: Path = PACKAGE) -> Path:
    """The file of a module, by its dotted name."""
    path = package.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def parsed(module: str) -> ast.Module:
    """The tree of a module as it is."""
    return ast.parse(module_path(module).read_text("utf-8"))


def differs(one: str, other: str) -> bool:
    """Whether a source compiles, and to other code than another does, wherever their lines are."""
    try:
        compile(one, "<mutant>", "exec")
    except SyntaxError:
        return False
    return _essence(compile(one, "<mutant>", "exec")) != _essence(compile(other, "<mutant>", "exec"))


def _essence(code: CodeType) -> tuple[object, ...]:
    # As text, since 1 == True == 1.0.
    constants = tuple(_essence(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts)
    return code.co_name, code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_exceptiontable, constants
