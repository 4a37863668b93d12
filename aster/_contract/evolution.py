"""Whether two versions of a service understand each other: what the one writes, the other must read as the same data.

What a mode reads of another version of a type is in ``fory.py`` and ``rows.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from aster._contract.form import Contract, MethodType
from aster._contract.fory import ForyReading
from aster._contract.reading import Reading
from aster._contract.rows import RowReading
from aster.types import SerializationMode

__all__ = ["MAX_DIFFERENCES", "contract_differences", "summary"]

MAX_DIFFERENCES = 10
"""Differences that a message names: the first few say what happened, and a text of hundreds is read by nobody."""

_LONGEST_LINE = 500
"""Characters of one of them: three names of the usual length, with room. A peer's names may be longer."""


def contract_differences(client: Contract, server: Contract) -> list[str]:
    """What keeps a client from calling a server, as sentences; nothing when all that the client has fits. What only the server has does not matter."""
    if client.scope != server.scope:
        return [f"the service has the scope {client.scope!r} at the client and {server.scope!r} at the server"]
    return [*_method_differences(client, server), *_type_differences(client, server)]


def summary(differences: list[str]) -> str:
    """The differences one a line, the first ``MAX_DIFFERENCES`` of them. What is in them may be a peer's words."""
    lines = [f"\n- {_printable(difference)}" for difference in differences[:MAX_DIFFERENCES]]
    left = len(differences) - MAX_DIFFERENCES
    return "".join(lines) + (f"\n- and {left} more" if left > 0 else "")


def _printable(text: str) -> str:
    cut = text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


def _method_differences(client: Contract, server: Contract) -> Iterator[str]:
    for name, method in sorted(client.methods.items()):
        other = server.methods.get(name)
        if other is None:
            yield f"{name}: the server has no such method"
        elif other.pattern is not method.pattern:
            yield f"{name}: it is {method.pattern.name} at the client and {other.pattern.name} at the server"
        elif not set(method.modes) & set(other.modes):
            yield f"{name}: the client has the modes {_names(method)}, and the server {_names(other)}; give them one in common by serialization="


def _type_differences(client: Contract, server: Contract) -> Iterator[str]:
    """Differences of types, each with all the methods that it concerns."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    readings: dict[tuple[str, SerializationMode], Reading] = {}
    for mode in SerializationMode:
        readings["request", mode] = _reading(client, server, mode, "client", "server")
        readings["response", mode] = _reading(server, client, mode, "server", "client")
    for name, method in sorted(client.methods.items()):
        for role, mode, sent, read in _messages(method, server.methods.get(name)):
            for difference in readings[role, mode].differences(sent, read):
                found.setdefault((role, difference), {})[name] = None
    for (role, difference), methods in found.items():
        yield f"{_listed(list(methods))} ({role}): {difference}"


def _reading(writer: Contract, reader: Contract, mode: SerializationMode, writer_name: str, reader_name: str) -> Reading:
    if mode is SerializationMode.ROW:
        return RowReading(writer, reader, writer_name, reader_name)
    return ForyReading(writer, reader, writer_name, reader_name, native=mode is SerializationMode.NATIVE)


def _messages(client: MethodType, server: MethodType | None) -> Iterator[tuple[str, SerializationMode, str, str]]:
    if server is None or server.pattern is not client.pattern:
        return
    for mode in client.modes:
        if mode in server.modes:
            yield "request", mode, client.request, server.request
            yield "response", mode, server.response, client.response


def _names(method: MethodType) -> str:
    return " and ".join(mode.name for mode in method.modes)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more methods"
