"""Every chore can be run by the name that is written somewhere. Read from source text: nox itself need not be installed here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_FUNCTIONS = [node for node in ast.parse((_ROOT / "noxfile.py").read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
_NAMED = re.compile(r"-s \"?([a-z]+)")
"""In ``nox -s fuzz``; CI adds the version of an interpreter."""


def _is_session(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("nox.session") for decorator in function.decorator_list)


def test_whatever_takes_a_session_is_one() -> None:
    chores = [function for function in _FUNCTIONS if function.args.args]
    assert len(chores) > 5
    assert [function.name for function in chores if not _is_session(function)] == []


def test_the_sessions_that_pages_and_ci_name_exist() -> None:
    pages = [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md"), *(_ROOT / "tests").rglob("*.md"), *(_ROOT / ".ci").glob("run")]
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines() if "nox" in line]
    named = {name for line in lines for name in _NAMED.findall(line)}
    assert {"plain", "tests", "fuzz"} <= named
    assert named <= {function.name for function in _FUNCTIONS if _is_session(function)}
