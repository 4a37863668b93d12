"""``docs/reference/errors.md`` has every message that a user can meet, and none that the package does not have.

A message is told by its looks rather than by who raises it, since problems are found by one function, put into words by another and raised by a third: every
string of the package counts that reads as a sentence, and whatever an exception is made of, or a warning or an error in the log says. What nobody meets by
itself is listed below with the reason.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

import aster
import aster.errors

_PACKAGE = Path(aster.__file__).parent
_PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"

_NOT_MESSAGES = ("Status codes", "Exceptions")
_FOREIGN_MESSAGES = "Messages of AnyIO and trio"

_SENTENCE = 3
"""Words that make a string a message, wherever it stands. Shorter ones are names, unless something is raised with them."""

_LETTERS = 7
"""Letters that a row has at the least."""

_REPORTERS = {"warn", "warn_explicit", "warning", "error", "exception", "critical"}
"""What tells a user something without raising it. ``debug`` and ``info`` are for those who look for them: their texts may have rows, and need none."""

_QUIET = {"debug", "info", "cast", "_require"}
"""Calls whose strings nobody meets. ``_require`` is the self-test of the engine, whose failures are one ``ImportError``."""

_FOR_AUTHORS_OF_TRANSPORTS = "testing/"
"""What its checks say stands beside each check."""

_WRITERS_OF_SOURCE = {"codec/checks.py", "codec/row/writer.py"}
"""Modules whose strings are source text: only what they raise is a message."""

# Strings that need no row, by the reason. One that the package does not have any more fails the test.
_INTERNAL: dict[str, tuple[str, ...]] = {
    "the end of messages that have a row": (
        "; what __post_init__ adds is in the copy that aster.materialize(...) makes",
        "write 'async with client.session(…) as session:', and call 'session' in it",
    ),
    "Python's own words": ("… object has no attribute …", "… index out of range"),
    "what is wrong is put in, and has a row of its own": (
        "address …: …",
        "address …: …; …",
        "listen address …: …; …",
        "key file … …",
        "advertise: …; …",
        "the endpoint id …; …",
        "cannot listen at …: …",
    ),
    "where something is wrong, at the beginning of a message": (
        "a call without a header",
        "each item of …",
        "a session without a service",
        "the session of …",
        "a session of …",
        "each item of serialization",
        "the contract of service … has a field",
    ),
    "what is expected or what to do, at the end of a message": (
        "True or False",
        "one SerializationMode, such as SerializationMode.NATIVE",
        "a CapabilityRequirement, such as aster.role('admin')",
        "a class; it is the class that is passed, Aster makes the instances",
        "a dataclass, whose instances are given as details of an RpcError",
        "pass another one: @service(name=...)",
        "rename the method",
        "a message is never None: declare an empty dataclass, which leaves room for fields later",
        "a message has one type: declare a dataclass with a field for the choice",
        "name … itself: the annotation of an 'async def' is what awaiting it gives",
        "declare a dataclass with a field of that type; generic dataclasses are written out, one for each argument",
        "name one class that is decorated with @dataclass",
        "an enum may be a field: declare a dataclass that holds it",
        "declare a dataclass with a field of that type",
        "async for response in ...{}(...)",
        "async with ...{}(...) as responses",
        ": for … use aster.with_options(stub, …=...)",
        "at the top level of module …, not in a function and not under TYPE_CHECKING",
        "a message may decode to … MiB of objects, counted at about the size of its containers and dataclasses",
        "it lacks too many fields, whose defaults may be … MiB of objects, and about … for each byte of the message",
        (
            "a field may be str, int, float, bool, bytes, date, datetime, time, timedelta, Decimal, UUID, an Enum, a dataclass, "
            "or list, set, frozenset, tuple, dict, Optional, Union or Literal of these"
        ),
        "list[...], or a streaming method",
        (
            "'namespace/TypeName', as in 'myapp/TaskRequest': exactly one '/', before it ASCII identifiers joined by '.', after it one, "
            "and … characters at most on each side"
        ),
        "make one with Identity.generate().save(path)",
        "choose a folder that this process's user may write to",
        "choose a folder that is not mounted read-only",
        "make room, or choose a folder on another disk",
        "choose a folder on a file system that allows hard links",
    ),
    "a value that is put into a message": (
        "set …",
        "delete …",
        "dict",
        "set",
        "which only an attack explains",
        "cannot be accepted: …",
        "it is …",
        "its text is none",
        "the fields of a struct",
        "a struct of …",
        "… of the stream…",
        "in … of the stream",
        "… and … more methods",
        "above the class",
        "above its @dataclass",
        "the server's limit",
        "the call's timeout",
        "(its text cannot be had: …)",
        "got … by position and … by name",
        "an instance of …",
        "a dict key",
        "an element of a …",
        "the server ended",
        "the server broke a rule of",
        "no Ed25519 key",
        "an unusable key",
        "the host has no address",
        "closed by the peer: …",
        "closed by the peer",
        "closed by this side",
        "closed by this side: internal error",
        "… of the roles …",
        "it does not say why",
        "the server does not admit this client",
    ),
    "a reason that the peer is given when a connection is closed, and shows after words of its own": (
        "the client gave up",
        "not the key in the address",
        "no version in common",
        "cancelled calls did not unwind in time",
        "the server is closing",
        "the server is draining",
        "ask the server's operator to add that id to admit=",
        "the server could not decide; its log has the reason",
    ),
    "becomes an error that has a row": (
        "a chunk of a map has … entries, and … are left",
        "a map has a declared type that nobody declared",
        "a reference to a key or value, and none is tracked here",
        "… has no method …",
        "no datetime in UTC can hold this instant",
        "a time of day is sent without its zone",
        "the engine does not behave as expected: …",
    ),
    "words of AnyIO, which completes them, or of Fory or PEM, which are looked for": (
        "beginning",
        "sending on",
        "receiving from",
        "graph memory budget",
        "ENCRYPTED PRIVATE KEY",
    ),
    "the line of a log that is there for itself": ("… ….… … in %.1f ms, … requests, … responses, request …",),
    "no message: the name of a task or a thread, a repr, a type": (
        "aster requests of …",
        "aster session of …",
        "aster interceptors of …",
        "aster socket reader",
        "<stub of … version …>",
        "Metadata | Mapping[str, MetadataValue] | Iterable[tuple[str, MetadataValue]]",
        "str | Iterable[str] | None",
        "Collection[str] | Callable[[Peer], bool | Awaitable[bool]]",
        "Mapping[str, str | Collection[str]] | Callable[[Peer], _Granted | Awaitable[_Granted]]",
    ),
}


@dataclass(frozen=True, slots=True)
class _Message:
    """A string of the package, with an ellipsis where a value is put in."""

    where: str
    text: str


def _text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    else:
        return None
    return re.sub(r"%[sdgr]", "…", text)


def _name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""


def _reports(call: ast.Call) -> bool:
    """Whether the strings of a call are for people, however short: an exception is made of them, or they are logged."""
    name = _name_of(call)
    return name in _REPORTERS or name in aster.errors.__all__ or name.endswith(("Error", "Warning"))


class _Finder:
    """Walks a module and gathers its messages."""

    def __init__(self, where: str, sentence: float) -> None:
        self._where = where
        self._sentence = sentence
        self.found: list[_Message] = []

    def visit(self, node: ast.AST, *, said: bool = False) -> None:
        """``said``: any string here is for people, and not only one that reads as a sentence."""
        text = _text_of(node)
        if text is not None:  # What is put into an f-string is a part of its text.
            words = sum(any(map(str.isalpha, word)) for word in text.split())
            if words >= (1 if said else self._sentence):
                self.found.append(_Message(f"{self._where}:{getattr(node, 'lineno', 0)}", text))
            return
        if isinstance(node, ast.Call) and _name_of(node) in _QUIET:
            return
        said = said or isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _reports(node))
        for child in _children(node):
            self.visit(child, said=said and not isinstance(child, (ast.keyword, ast.Compare)))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What may hold a message: not a docstring, an annotation, an assertion's text, or the mend at the end of a message."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "mend":
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (name == "msg" and isinstance(node, ast.Assert)):
            continue
        children = cast("list[object]", value) if isinstance(value, list) else [value]
        if name == "args" and isinstance(node, ast.Call) and _name_of(node) == "_refuse":
            children = children[:1]  # what is wrong; a mend may follow
        for child in children:
            if isinstance(child, ast.AST) and not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                yield child


def _messages(source: str, name: str) -> list[_Message]:
    finder = _Finder(name, float("inf") if name in _WRITERS_OF_SOURCE else _SENTENCE)
    finder.visit(ast.parse(source))
    return finder.found


def _messages_of_the_package() -> list[_Message]:
    files = {path.relative_to(_PACKAGE).as_posix(): path for path in sorted(_PACKAGE.rglob("*.py"))}
    return [message for name, path in files.items() if not name.startswith(_FOR_AUTHORS_OF_TRANSPORTS) for message in _messages(path.read_text("utf-8"), name)]


def _rows() -> dict[str, list[str]]:
    """What the rows of the page's tables begin with, by heading."""
    rows: dict[str, list[str]] = {}
    heading = ""
    for line in _PAGE.read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            cell = re.split(r"(?<!\\)\|", line)[1].strip().strip("`").strip()
            rows.setdefault(heading, []).append(cell.replace("\\|", "|"))
    return rows


def _documented() -> list[str]:
    return [row for heading, rows in _rows().items() if heading not in (*_NOT_MESSAGES, _FOREIGN_MESSAGES) for row in rows]


def _without_row(messages: Iterable[_Message], rows: Iterable[str]) -> list[str]:
    known = list(rows)
    internal = {text for texts in _INTERNAL.values() for text in texts}
    return [f"{message.where}: {message.text}" for message in messages if message.text not in internal and not any(row in message.text for row in known)]


_ADVICE = """these messages have no row in docs/reference/errors.md. Give each one there, with its cause and its mend: its first cell is a part of the message,
in which an ellipsis (…) stands for each value that is put in. If nobody meets it, or only inside another message, add it to _INTERNAL of this test, under the
reason:
"""


def test_every_message_that_a_user_can_meet_is_in_the_error_reference() -> None:
    messages = _messages_of_the_package()
    assert len(messages) > 300
    missing = _without_row(messages, _documented())
    assert missing == [], _ADVICE + "\n".join(missing)


def test_the_messages_in_the_error_reference_are_those_of_the_package() -> None:
    texts = "\n".join(_strings(_PACKAGE.rglob("*.py")))
    assert [row for row in _documented() if row not in texts] == []


def test_every_row_says_enough_to_be_searched_for() -> None:
    # A row such as "must be" would stand for messages that nobody has written yet, and none of them would be missed.
    assert [row for row in _documented() if sum(map(str.isalpha, row)) < _LETTERS] == []


def test_no_message_has_two_rows_in_the_error_reference() -> None:
    rows = _documented()
    assert sorted({row for row in rows if rows.count(row) > 1}) == []


def test_what_needs_no_row_is_in_the_package_and_needs_none() -> None:
    texts = {message.text for message in _messages_of_the_package()}
    internal = [text for texts in _INTERNAL.values() for text in texts]
    assert [text for text in internal if text not in texts] == [], "remove these from _INTERNAL: the package has them no more"
    assert [text for text in internal if any(row in text for row in _documented())] == [], "remove these from _INTERNAL: they have a row"


def test_the_messages_of_anyio_and_trio_in_the_error_reference_are_theirs() -> None:
    specs = [importlib.util.find_spec(name) for name in ("anyio._backends._asyncio", "anyio._core._exceptions", "trio._core._run")]
    texts = "\n".join(_strings(Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None))
    documented = _rows()[_FOREIGN_MESSAGES]
    assert documented
    assert [row for row in documented if row not in texts] == []


def test_the_error_reference_has_every_exception_and_every_status_code() -> None:
    text = _PAGE.read_text("utf-8")
    names = [*aster.errors.__all__, *aster.StatusCode.__members__]
    assert [name for name in names if f"`{name}`" not in text] == []


def _strings(paths: Iterable[Path]) -> Iterator[str]:
    for path in sorted(paths):
        yield from filter(None, map(_text_of, ast.walk(ast.parse(path.read_text("utf-8")))))


# The finder itself


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise TypeError(f"{name} is bad")', ["… is bad"]),
        ('raise Refused("no")', ["no"]),
        ('error = RpcError(StatusCode.ABORTED, "gone")', ["gone"]),
        ('return "x" if ok else "the port is missing"', ["the port is missing"]),
        ('fail("the port is missing")', ["the port is missing"]),
        ('self._refuse("its name is not ASCII", "give it another name")', ["its name is not ASCII"]),
        ('raise ValueError("a long one "\n"in two pieces")', ["a long one in two pieces"]),
        ('raise ValueError("zero" if none else f"more than {limit}")', ["zero", "more than …"]),
        ('logger.warning("%s of %d", a, b)', ["… of …"]),
        ('warnings.warn("old", DeprecationWarning)', ["old"]),
        ('logger.info("the peer has gone")', []),
        ('"""A docstring of many words."""', []),
        ('def f(x: "A | B | C") -> "D | E | F": ...', []),
        ('assert x, "as it should be"', []),
        ('mend = "write something else there"', []),
        ('names = ["one", "two words"]', []),
    ],
)
def test_a_string_is_a_message_by_its_looks_or_its_use(source: str, found: list[str]) -> None:
    assert [message.text for message in _messages(source, "made_up.py")] == found


def test_a_message_without_a_row_is_found_and_named() -> None:
    messages = _messages('raise TypeError(f"{name} is quite new")', "made_up.py")
    assert _without_row(messages, ["is old"]) == ["made_up.py:1: … is quite new"]
    assert _without_row(messages, ["is old", "is quite"]) == []


def test_of_generated_source_only_what_is_raised_is_a_message() -> None:
    source = 'line = f"if {x} is not None: return False"\nraise TypeError("no")'
    assert [message.text for message in _messages(source, next(iter(_WRITERS_OF_SOURCE)))] == ["no"]
