"""Imports point to lower floors, each engine has one importer, and every module says what it exports.

The checker reads source text only, so that its own tests below can hand it made-up modules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parent.parent / "aster"
_MAX_LINES = 600

# A room is a module or package directly under aster/; "" is aster/__init__.py itself.
_FLOORS = {
    "types": 0,
    "errors": 0,
    "_reactor": 1,
    "codec": 1,
    "trust": 1,
    "_protocol": 1,
    "interceptors": 1,
    "_options": 1,
    "_policy": 1,
    "_signatures": 1,
    "_streams": 1,
    "_methods": 2,
    "_declarations": 2,
    "_contract": 2,
    "_descriptions": 2,
    "decorators": 2,
    "transports": 2,
    "_failures": 1,
    "_gate": 2,
    "_retries": 1,
    "_slots": 2,
    "_tasks": 2,
    "_details": 2,
    "arrow": 2,
    "_call": 3,
    "_channel": 3,
    "_client_connection": 3,
    "_connection": 3,
    "_server_connection": 3,
    "_endpoint": 3,
    "_entrance": 3,
    "_hosted": 3,
    "_incoming": 3,
    "_incoming_session": 3,
    "_intercepted": 3,
    "_invoke": 3,
    "_lifetime": 3,
    "_outgoing": 3,
    "_outgoing_session": 3,
    "_pump": 3,
    "_registry": 3,
    "_sessions": 3,
    "_stub": 3,
    "client": 4,
    "server": 4,
    "": 5,
    "testing": 5,
    "cli": 5,
}

# Rooms that may import a neighbour on their own floor, never in a circle; client and server are not here and must not be.
_NEIGHBOURS = {
    ("errors", "types"),
    ("_signatures", "codec"),
    ("_declarations", "_methods"),
    ("_contract", "_declarations"),
    ("_descriptions", "_contract"),
    ("decorators", "_methods"),
    ("decorators", "_declarations"),
    ("_policy", "trust"),
    ("_hosted", "_call"),
    ("_incoming", "_call"),
    ("_incoming", "_hosted"),
    ("_incoming_session", "_hosted"),
    ("_registry", "_hosted"),
    ("_server_connection", "_hosted"),
    ("_outgoing", "_call"),
    ("_outgoing", "_pump"),
    ("_invoke", "_pump"),
    ("_channel", "_endpoint"),
    ("_incoming_session", "_incoming"),
    ("_outgoing_session", "_outgoing"),
    ("_registry", "_incoming_session"),
    ("_sessions", "_channel"),
    ("_sessions", "_outgoing_session"),
    ("_sessions", "_stub"),
    ("_channel", "_lifetime"),
    ("_channel", "_outgoing"),
    ("_invoke", "_channel"),
    ("_invoke", "_outgoing"),
    ("_registry", "_incoming"),
    ("_stub", "_channel"),
    ("_stub", "_intercepted"),
    ("_stub", "_invoke"),
    ("_intercepted", "_channel"),
    ("_intercepted", "_invoke"),
    ("_intercepted", "_outgoing"),
    ("_intercepted", "_pump"),
    ("_options", "interceptors"),
    ("interceptors", "_failures"),
    ("interceptors", "codec"),
    ("_stub", "_outgoing"),
    ("testing", ""),
    ("cli", ""),
    ("_channel", "_client_connection"),
    ("_client_connection", "_connection"),
    ("_client_connection", "_endpoint"),
    ("_client_connection", "_outgoing"),
    ("_client_connection", "_outgoing_session"),
    ("_connection", "_endpoint"),
    ("_server_connection", "_connection"),
    ("_server_connection", "_endpoint"),
    ("_server_connection", "_entrance"),
    ("_server_connection", "_incoming"),
    ("_server_connection", "_incoming_session"),
    ("_sessions", "_client_connection"),
}

# Third-party package -> the only part of Aster that may import it.
_OWNERS = {"pyfory": "aster.codec", "aioquic": "aster.transports.quic", "pyarrow": "aster.arrow"}

# The protocol core does no I/O and reads no clock.
_NOT_IN_PROTOCOL = {"aioquic", "anyio", "asyncio", "datetime", "pyfory", "socket", "threading", "time", "trio"}

# Module-level names that are public in spelling only.
_NEVER_EXPORTED = {"logger"}


@dataclass(frozen=True)
class _Import:
    module: str
    name: str
    line: int

    @property
    def room(self) -> str | None:
        """The room of Aster that is imported; ``None`` for everything else."""
        root, _, rest = self.module.partition(".")
        if root != "aster":
            return None
        if rest:
            return rest.partition(".")[0]
        return self.name if self.name in _FLOORS else ""


def problems_of(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with one module of Aster, as sentences; empty when all is well."""
    tree = ast.parse(source)
    imports = list(_imports(tree, module if is_package else module.rpartition(".")[0]))
    return [
        *(f"line {found.line}: {problem}" for found in imports for problem in _import_problems(module, found)),
        *_export_problems(module, tree, is_package=is_package),
        *_length_problems(source),
    ]


def _imports(tree: ast.Module, package: str) -> Iterator[_Import]:
    """Every import, wherever it stands: in a function and under ``TYPE_CHECKING`` it is a dependency all the same."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (_Import(alias.name, "", node.lineno) for alias in names)
            case ast.ImportFrom(names=names):
                yield from (_Import(_absolute(node, package), alias.name, node.lineno) for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"), args=[ast.Constant(value=str(name)), *_]):
                yield _Import(name, "", node.lineno)
            case _:
                pass


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    base = parents[: len(parents) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _room_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _import_problems(module: str, found: _Import) -> Iterator[str]:
    top = found.module.partition(".")[0]
    owner = _OWNERS.get(top)
    if owner is not None and not _is_within(module, owner):
        yield f"{module} imports {found.module}; only {owner} may import {top}"
    if _is_within(module, "aster._protocol") and top in _NOT_IN_PROTOCOL:
        yield f"{module} imports {found.module}; the protocol core does no I/O and reads no clock"
    if found.room is not None:
        yield from _floor_problems(_room_of(module), found.room)


def _floor_problems(importer: str, imported: str) -> Iterator[str]:
    unknown = [room for room in (importer, imported) if room not in _FLOORS]
    if unknown:
        yield f"aster.{unknown[0]} has no floor; give it one in _FLOORS"
    elif importer != imported and (importer, imported) not in _NEIGHBOURS and _FLOORS[importer] <= _FLOORS[imported]:
        yield (
            f"{_shown(importer)} (floor {_FLOORS[importer]}) imports {_shown(imported)} (floor {_FLOORS[imported]}); "
            f"imports point to lower floors, so move the shared part down"
        )


def _shown(room: str) -> str:
    return f"aster.{room}" if room else "aster itself"


def _length_problems(source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > _MAX_LINES:
        yield f"it has {lines} lines, above {_MAX_LINES}; it holds two rooms: split it"


def _export_problems(module: str, tree: ast.Module, *, is_package: bool) -> Iterator[str]:
    statements = list(_top_level(tree.body))
    defined = {name for statement in statements for name in _defined(statement)}
    bound = defined | {
        alias.asname or alias.name.partition(".")[0] for node in statements if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    # What a package's __init__ takes from inside the package is there to be passed on.
    passed_on = {name for node in statements if is_package for name in _inner_imports(node, module)}
    public = {name for name in defined | passed_on if not name.startswith("_")} - _NEVER_EXPORTED
    exported = _exported(statements)
    if exported is None:
        if public:
            yield f"it has public names but no __all__ as a plain list of strings: {', '.join(sorted(public))}"
        return
    if missing := public - set(exported):
        yield f"__all__ lacks {', '.join(sorted(missing))}; add them, or begin their names with an underscore"
    if ghosts := set(exported) - bound:
        yield f"__all__ names what the module does not hold: {', '.join(sorted(ghosts))}"
    if len(set(exported)) != len(exported):
        yield "__all__ names something twice"
    if exported != sorted(exported, key=_export_order):
        yield f"__all__ is not sorted; write it as {sorted(exported, key=_export_order)}"


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run at import, those inside ``if``, ``try`` and ``with`` included."""
    for statement in body:
        yield statement
        match statement:
            case ast.If(body=first, orelse=second):
                yield from _top_level([*first, *second])
            case ast.Try(body=first, handlers=handlers, orelse=second, finalbody=last):
                yield from _top_level([*first, *(inner for handler in handlers for inner in handler.body), *second, *last])
            case ast.With(body=first):
                yield from _top_level(first)
            case _:
                pass


def _defined(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec" | "TypeVarTuple"))):
            pass  # notation of the module's own annotations, whatever its spelling
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case _:
            pass


def _inner_imports(statement: ast.stmt, package: str) -> Iterator[str]:
    if isinstance(statement, ast.ImportFrom) and _is_within(_absolute(statement, package), package):
        yield from (alias.asname or alias.name for alias in statement.names)


def _exported(statements: list[ast.stmt]) -> list[str] | None:
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=elements)):
                return [element.value for element in elements if isinstance(element, ast.Constant) and isinstance(element.value, str)]
            case _:
                pass
    return None


def _export_order(name: str) -> tuple[int, list[int | str]]:
    """Constants, then classes, then the rest, numbers by value: the order that ruff's RUF022 writes."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


_MODULES = sorted(_PACKAGE.rglob("*.py"))


def _module_name(path: Path) -> str:
    parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_walk_finds_the_package() -> None:
    assert {"aster.types", "aster.errors"} <= {_module_name(path) for path in _MODULES}


@pytest.mark.parametrize("path", _MODULES, ids=_module_name)
def test_a_module_keeps_to_its_floor_and_says_what_it_exports(path: Path) -> None:
    assert problems_of(_module_name(path), path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py") == []


def test_neighbours_live_on_one_floor_and_form_no_circle() -> None:
    assert all(_FLOORS[importer] == _FLOORS[imported] for importer, imported in _NEIGHBOURS)
    graph = {room: {imported for importer, imported in _NEIGHBOURS if importer == room} for room in _FLOORS}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aster.types", "from aster.errors import RpcError"),
        ("aster._protocol.call", "from aster.codec import wire_type"),
        ("aster._protocol.call", "from aster import codec"),
        ("aster._protocol.call", "from ..codec import wire_type"),
        ("aster._protocol.call", "from .. import codec"),
        ("aster.decorators", "import aster.transports.memory"),
        ("aster.transports.memory", "from aster.decorators import service"),
        ("aster.client", "from aster.server import AsterServer"),
        ("aster.server", "from aster.client import AsterClient"),
        ("aster._call", "from aster._connection import Connection"),
        ("aster._call", "import aster"),
        ("aster._call", "from aster import serve"),
        ("aster", "from aster.testing import check_transport as _check"),
        ("aster.codec", "def _late():\n    from aster.client import AsterClient"),
        ("aster.codec", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from aster.client import AsterClient"),
        ("aster.codec", "import importlib\nimportlib.import_module('aster.client')"),
        ("aster.unheard_of", "from aster.types import Peer"),
        ("aster.codec", "from aster.unheard_of import thing"),
    ],
)
def test_an_import_that_does_not_point_down_is_reported(module: str, source: str) -> None:
    assert problems_of(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aster.errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from aster.types import Metadata"),
        ("aster._protocol.call", "from aster import errors\nfrom aster._protocol.frames import Frame\nfrom . import states\nfrom .events import Ended"),
        ("aster.transports.quic.engine", "import aioquic.quic.connection\nfrom aster.transports.base import Stream\nfrom aster._reactor import Reactor"),
        ("aster.codec.xlang", "import pyfory"),
        ("aster._client_connection", "from aster._connection import PeerConnection"),
        ("aster.testing.laws", "import aster\nfrom aster.client import AsterClient\nfrom aster.server import AsterServer"),
        ("aster.client", "import asterisk\nimport anyio, time"),
    ],
)
def test_an_import_that_points_down_or_stays_in_its_room_is_allowed(module: str, source: str) -> None:
    assert problems_of(module, source) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aster.client", "import pyfory"),
        ("aster.codec_tools", "import pyfory"),
        ("aster.transports.memory", "from aioquic.quic.connection import QuicConnection"),
        ("aster.transports.quic_tools", "import aioquic"),
        *(("aster._protocol.session", f"import {name}") for name in sorted(_NOT_IN_PROTOCOL)),
        ("aster._protocol.session", "from time import monotonic"),
        ("aster._protocol.session", "import anyio.abc"),
    ],
)
def test_an_engine_or_a_clock_in_the_wrong_room_is_reported(module: str, source: str) -> None:
    assert problems_of(module, source)


@pytest.mark.parametrize(
    "source",
    [
        "def thing(): ...",
        "class Thing: ...",
        "LIMIT = 1",
        "LIMIT: int = 1",
        "try:\n    LIMIT = 1\nexcept ImportError:\n    LIMIT = 2",
        "__all__ = ('thing',)\ndef thing(): ...",
        "__all__ = []\nasync def thing(): ...",
        "__all__ = ['thing', 'Thing']\ndef thing(): ...\nclass Thing: ...",
        "__all__ = ['Thing', 'LIMIT']\nLIMIT = 1\nclass Thing: ...",
        "__all__ = ['Http10', 'Http2']\nclass Http2: ...\nclass Http10: ...",
        "__all__ = ['thing', 'thing']\ndef thing(): ...",
        "__all__ = ['ghost']",
    ],
)
def test_an_export_list_that_is_absent_incomplete_unsorted_or_wrong_is_reported(source: str) -> None:
    assert len(problems_of("aster.types", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "",
        "import logging\nfrom typing import TypeVar\nT = TypeVar('T')\nlogger = logging.getLogger('aster')\n_LIMIT = 1\ndef _thing(): ...",
        "__all__ = ['LIMIT', 'Http2', 'Http10', 'thing']\nLIMIT = 1\nclass Http2: ...\nclass Http10: ...\ndef thing():\n    inner = 1",
    ],
)
def test_a_complete_and_sorted_export_list_is_allowed(source: str) -> None:
    assert problems_of("aster.types", source) == []


def test_what_a_package_takes_from_inside_itself_must_be_exported() -> None:
    source = "from aster.types import Peer\nfrom aster.codec.tags import wire_type"
    assert problems_of("aster.codec", source, is_package=True) == ["it has public names but no __all__ as a plain list of strings: wire_type"]
    assert problems_of("aster.codec", f"{source}\n__all__ = ['wire_type']", is_package=True) == []
    assert problems_of("aster.codec", "from .tags import wire_type", is_package=True)


def test_a_module_over_600_lines_is_reported() -> None:
    assert problems_of("aster.types", "\n" * 600) == []
    assert problems_of("aster.types", "\n" * 601)
