"""The code of the documentation runs, prints what the page says, and the reference agrees with the package (its errors: see ``test_error_reference.py``).

How a page is read: a ``python`` block whose first line is a comment with a file's name, ``# server.py``, is that file; the other blocks of a page are
one program together. A ``text`` block after a program is its output. Pages may import the tutorial's ``service.py``. Where a page has a ``server.py``, it is
started first, and the other programs find its address in the environment; ``log`` blocks are what it prints after that. Files named ``test_...`` are run by
pytest.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_overloads

import pytest

import aster

_ROOT = Path(__file__).parent.parent
_DOCS = _ROOT / "docs"
_TUTORIAL = _DOCS / "tutorial.md"
_API = _DOCS / "reference" / "api.md"
_ERRORS = _DOCS / "reference" / "errors.md"
_PAGES = [_ROOT / "README.md", *sorted(_DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")
_LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")
_UNNAMED = "page.py"
_RUN = "anyio.run(main)"

_PATIENCE = 30
"""Seconds for one program, which takes less than one on a machine that is not busy with anything else."""


@dataclass
class _Page:
    """The files of a page, and what the programs among them print."""

    files: dict[str, str] = field(default_factory=dict[str, str])
    outputs: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def programs(self) -> list[str]:
        """The files to run, in the page's order."""
        return [name for name, text in self.files.items() if name.startswith("test_") or (name != "server.py" and _RUN in text)]


def _read(path: Path) -> _Page:
    page, last = _Page(), ""
    for language, text in _FENCE.findall(path.read_text("utf-8")):
        if language == "python":
            named = _FILE_NAME.match(text)
            last = named[1] if named else _UNNAMED
            page.files[last] = page.files.get(last, "") + text
        elif language == "log":
            page.outputs["server.py"] = page.outputs.get("server.py", "") + text
        elif language == "text":
            assert last, f"{path.name}: output without a program before it"
            page.outputs[last] = page.outputs.get(last, "") + text
    return page


def _name(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


_WITH_CODE = [path for path in _PAGES if _read(path).files]


def _write_files(page: _Page, folder: Path, backend: str) -> None:
    files = {"service.py": _read(_TUTORIAL).files["service.py"]} | page.files
    for name, text in files.items():
        (folder / name).write_text(text.replace(_RUN, f"anyio.run(main, backend={backend!r})"), "utf-8")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(aster.__file__).parent.parent), "PYTHONWARNINGS": "error"}


def _run(name: str, folder: Path, environment: dict[str, str]) -> str:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", name] if name.startswith("test_") else [name]
    result = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    assert (result.returncode, result.stderr) == (0, ""), f"{name} printed {result.stdout!r}"
    return result.stdout


@contextmanager
def _serving(page: _Page, folder: Path, environment: dict[str, str]) -> Generator[None]:
    """Run the page's server, if it has one, and put its address into ``environment``."""
    if "server.py" not in page.files:
        yield
        return
    with subprocess.Popen([sys.executable, "server.py"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            environment["ASTER_ENDPOINT_ADDR"] = server.stdout.readline().strip()
            yield
            server.send_signal(signal.SIGTERM)
            assert server.wait(_PATIENCE) == 0
            assert server.stdout.read() == page.outputs.get("server.py", "")
        finally:
            server.kill()


@pytest.mark.timeout(240)  # the tutorial has seven programs, and each is given its time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("path", _WITH_CODE, ids=_name)
def test_the_programs_of_a_page_run_and_print_what_it_says(path: Path, backend: str, tmp_path: Path) -> None:
    page, environment = _read(path), _environment()
    assert page.programs, "no block of the page runs: a program ends with anyio.run(main)"
    _write_files(page, tmp_path, backend)
    with _serving(page, tmp_path, environment):
        for name in page.programs:
            output = _run(name, tmp_path, environment)
            if name in page.outputs:
                assert output == page.outputs[name], name


@pytest.mark.timeout(120)  # pyright reads all dependencies: seconds with a warm cache, but a cold one on a busy machine needs its time
@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed; install the package with its [test] extra")
def test_a_strict_type_checker_accepts_the_programs_of_all_pages(tmp_path: Path) -> None:
    # One run for all pages, each in a folder of its own: a file finds the service.py beside it.
    for path in _WITH_CODE:
        folder = tmp_path / path.stem
        folder.mkdir()
        _write_files(_read(path), folder, "asyncio")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(_ROOT)]}), "utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    report: Any = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout)
    assert report["summary"]["filesAnalyzed"] > len(_WITH_CODE)
    assert [(found["file"], found["range"]["start"]["line"] + 1, found["message"]) for found in report["generalDiagnostics"]] == []


@pytest.mark.parametrize("path", [_ROOT / "CHANGELOG.md", *_PAGES], ids=_name)
def test_the_relative_links_of_a_page_lead_somewhere(path: Path) -> None:
    targets = [target for target, _ in _LINK.findall(path.read_text("utf-8")) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_page_can_be_reached_from_the_index() -> None:
    reached, waiting = set[Path](), [_DOCS / "index.md"]
    while waiting:
        path = waiting.pop()
        if path.suffix == ".md" and path not in reached:
            reached.add(path)
            waiting += [(path.parent / target).resolve() for target, _ in _LINK.findall(path.read_text("utf-8")) if "://" not in target]
    assert {path for path in _PAGES if path.is_relative_to(_DOCS)} <= reached


# The reference


def _tables(path: Path) -> dict[str, dict[str, list[str]]]:
    """The rows of a page's tables by heading and by what their first cell names."""
    tables: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip("`")
        elif line.startswith("| `"):
            cells = [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            tables.setdefault(heading, {})[cells[0]] = cells[1:]
    return tables


_DOCUMENTED_OPTIONS = {
    "aster.serve": aster.AsterServer,
    "aster.connect": aster.AsterClient,
    "aster.with_options": aster.with_options,
}


def _value(text: str) -> object:
    """A default as a table writes it: a literal, or a serialization mode by its name."""
    mode = text.removeprefix("SerializationMode.")
    return ast.literal_eval(text.replace(",", "")) if mode == text else aster.SerializationMode[mode]


@pytest.mark.parametrize("name", _DOCUMENTED_OPTIONS)
def test_the_reference_has_every_option_with_its_default(name: str) -> None:
    documented = {option: cells[0] for option, cells in _tables(_API)[name].items()}
    parameters = inspect.signature(_DOCUMENTED_OPTIONS[name]).parameters
    assert list(documented) == list(parameters)
    for option, parameter in parameters.items():
        if documented[option] == "required":
            assert parameter.default is inspect.Parameter.empty, option
        elif documented[option] == "as it was":
            assert parameter.default is None or isinstance(parameter.default, type), option
        else:
            assert _value(documented[option]) == parameter.default, option


@pytest.mark.parametrize(("heading", "decorator"), [("aster.service", aster.service), ("Method decorators", aster.rpc)])
def test_the_reference_has_every_option_of_the_decorators(heading: str, decorator: Any) -> None:
    documented = {option: cells[0] for option, cells in _tables(_API)[heading].items()}
    # The last overload is the one with keyword options only.
    parameters = inspect.signature(get_overloads(decorator)[-1]).parameters
    assert list(documented) == list(parameters)
    for option, parameter in parameters.items():
        assert _value(documented[option]) == parameter.default, option


def test_the_reference_has_every_public_name() -> None:
    text = _API.read_text("utf-8") + _ERRORS.read_text("utf-8")
    assert [name for name in aster.__all__ if f"`{name}`" not in text and f"`aster.{name}`" not in text] == []


def test_the_serialization_modes_of_the_reference_are_those_of_the_package() -> None:
    assert list(_tables(_API)["aster.SerializationMode"]) == list(aster.SerializationMode.__members__)
