"""pyright and mypy, both strict, find the types that the decorators promise, and refuse what they must."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

# A checker reads the standard library and all dependencies: seconds with a warm cache, but a cold one on a busy machine needs its time.
pytestmark = pytest.mark.timeout(120)

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_CASES = [_HERE / name for name in ("services.py", "accepted.py", "refused.py")]

_Error: TypeAlias = tuple[str, int, str]
"""File, line counted from 1, and what was said."""


def _run(tool: str, *arguments: str | Path) -> str:
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; install the package with its [test] extra")
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(_ROOT)}
    command = [sys.executable, "-m", tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), f"{tool} did not work: {done.stdout}{done.stderr}"
    return done.stdout


def _pyright(files: list[Path]) -> list[_Error]:
    report: Any = json.loads(_run("pyright", "--outputjson", "--pythonpath", sys.executable, *files))
    assert report["summary"]["filesAnalyzed"] == len(files)
    return [(Path(found["file"]).name, found["range"]["start"]["line"] + 1, found["message"]) for found in report["generalDiagnostics"]]


def _mypy(files: list[Path]) -> list[_Error]:
    lines = _run("mypy", "--output=json", "--no-error-summary", *files).splitlines()
    reports: Iterator[Any] = map(json.loads, lines)
    return [(Path(found["file"]).name, found["line"], found["message"]) for found in reports if found["severity"] == "error"]


@dataclass(frozen=True)
class _Checker:
    """One checker, and the comment that excuses a line to it."""

    errors: Callable[[list[Path]], list[_Error]]
    mark: re.Pattern[str]
    unneeded_mark: str


_CHECKERS = pytest.mark.parametrize(
    "checker",
    [
        _Checker(_pyright, re.compile(r"  # pyright: ignore\[.*?\]"), "  # pyright: ignore[reportArgumentType]"),
        _Checker(_mypy, re.compile(r"  # type: ignore\[.*?\]"), "  # type: ignore[arg-type]"),
    ],
    ids=["pyright", "mypy"],
)


@_CHECKERS
def test_both_checkers_find_what_the_cases_expect(checker: _Checker) -> None:
    assert checker.errors(_CASES) == []


@_CHECKERS
def test_exactly_the_marked_lines_are_refused(checker: _Checker, tmp_path: Path) -> None:
    marked = (_HERE / "refused.py").read_text(encoding="utf-8")
    bare = tmp_path / "refused_without_marks.py"
    bare.write_text(checker.mark.sub("", marked), encoding="utf-8")
    expected = {number for number, line in enumerate(marked.splitlines(), 1) if checker.mark.search(line)}
    assert len(expected) > 30
    assert {line for _, line, _ in checker.errors([bare])} == expected


@_CHECKERS
def test_a_wrong_expectation_and_a_needless_mark_are_noticed(checker: _Checker, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    lines = [
        "from typing import assert_type",
        "from tests.typing.services import Answer, Ask, TaskService",
        "async def check(tasks: TaskService) -> None:",
        "    assert_type(await tasks.get(Ask()), Ask)",
        "    assert_type(await tasks.get(Ask()), Answer)" + checker.unneeded_mark,
    ]
    wrong.write_text("\n".join(lines), encoding="utf-8")
    assert {line for _, line, _ in checker.errors([wrong])} == {4, 5}
