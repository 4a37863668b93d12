"""The numbers on the page of limits and on that of types are those of the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import aster
from aster import _channel, _contract, _gate
from aster._contract import evolution, form
from aster._entrance import DECISION_TIME
from aster._protocol import frames
from aster.codec import engine as codec_engine
from aster.codec import fields, filling, fory, hashes, hints, making, walk
from aster.codec.row import codec as row_codec
from aster.codec.row import schema
from aster.transports.base import ConnectionOptions
from aster.transports.quic import admission, bounds, turns

_DOCS = Path(__file__).parent.parent / "docs"


def _cells(page: str) -> list[list[str]]:
    """The rows of a page's tables."""
    lines = (_DOCS / page).read_text("utf-8").splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| ")]


_LIMITS = {row[0]: row[1] for row in _cells("topics/limits.md")}
_TYPES = {row[0]: row[-1] for row in _cells("reference/types.md")}


def _size(number: int) -> str:
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number >> 10} KiB"


_OPTIONS = inspect.signature(aster.AsterServer).parameters
_SIZES = {"max_message_size", "max_metadata_size", "window", "max_connection_buffer"}
_TIMES = {"idle_timeout"}


@pytest.mark.parametrize("row", [row for row in _LIMITS if row.startswith("`")])
def test_an_option_has_the_default_that_the_page_of_limits_gives(row: str) -> None:
    name = row.strip("`")
    default = _OPTIONS[name].default
    expected = "none" if default is None else _size(default) if name in _SIZES else f"{default:g} s" if name in _TIMES else f"{default:,}"
    assert _LIMITS[row] == expected


_quic: Any = vars(bounds)
_walk: Any = vars(walk)
_evolution: Any = vars(evolution)
_form: Any = vars(form)

_NUMBERS: Mapping[str, str] = {
    "what a message decodes to": _size(codec_engine.MAX_GRAPH_BYTES) + ", counted at about the size of its containers and dataclasses",
    "defaults of fields that a message lacks": (
        f"{filling.FREE_FILLINGS:,}, and {filling.PER_BYTE} for each byte, where one that a factory makes counts as {filling.MADE}; "
        f"{_size(codec_engine.MAX_GRAPH_BYTES)}, counted at about their size"
    ),
    "dataclasses nested in a message": f"{walk.MAX_NESTING}",
    "other values of a message with the hash of one": f"{hashes.MAX_COLLISIONS}; and not many more than {hashes.COMPARISONS} on average",
    "keys of a map or set after which it is looked at where their hashes lead": f"{hashes.FEW:,}",
    "fields of a dataclass": f"{fields.MAX_FIELDS}",
    "type definitions that only peers have": f"{fory.MAX_FOREIGN_DEFINITIONS}",
    "bytes of a frame with a part of a message": _size(frames.CHUNK_SIZE),
    "an error's message and details": _size(frames.TRAILER_LIMIT),
    "a schema of rows, in [ROW](rows.md)": _size(schema.MAX_SCHEMA_BYTES),
    "types inside each other in a field of such a schema": f"{schema.MAX_TYPE_DEPTH}",
    "schemas of peers that are remembered, for each type of message": (
        f"{_size(row_codec.MAX_REMEMBERED)}, of which each takes {_size(row_codec.SMALLEST)} or more"
    ),
    "fields that `aster.materialize` fills in because the peer's rows do not have them": f"{making.FREE_DEFAULTS:,}, and one for each 4 bytes of the row",
    "details of an error": f"{frames.MAX_DETAILS}",
    "why a client leaves a session, in its own words": _size(frames.CHUNK_SIZE),
    "calls and sessions that wait for one service": f"{_gate.MAX_WAITING:,}",
    "a client's hello": _size(frames.CLIENT_HELLO_LIMIT),
    "a server's hello": _size(frames.HELLO_LIMIT),
    "a service's contract": _size(_contract.CONTRACT_LIMIT),
    "types inside each other in a field": f"{_contract.MAX_FORM_DEPTH}",
    "how often a client asks for a service's contract on a connection": "once",
    "contracts of servers that a stub remembers": f"{_channel.REMEMBERED_CONTRACTS}",
    "differences that an error names": f"{_contract.MAX_DIFFERENCES}, of {_evolution['_LONGEST_LINE']} characters each",
    "characters of a name in a server's contract": f"{_form['_LONGEST_NAME']:,}",
    "handshakes that are under way without a proof of address": f"{admission.RETRY_ABOVE}",
    "handshakes under way": f"{admission.MAX_HANDSHAKES:,}",
    "handshakes under way at one address that proved itself": f"{admission.MAX_HANDSHAKES_PER_ADDRESS}",
    "handshakes that begin in a second": f"{admission.MAX_RATE}",
    "those without a proof of address": f"{admission.MAX_UNPROVED_RATE}",
    "those at one address that proved itself": f"{admission.MAX_RATE_PER_ADDRESS}",
    "time for the handshake, and for the hello after it, each": f"{ConnectionOptions().handshake_timeout:g} s",
    "time for `admit` and `authorize` together": f"{DECISION_TIME:g} s",
    "bytes of each of the handshake's three parts": _size(_quic["_MAX_CRYPTO"]),
    "bytes sent to an address that has shown nothing": "3 times what came from it",
    "a peer's turn": f"{turns.TURN * 1000:g} ms",
    "the turns of all peers that always have more, together": "half of the time, while others are there",
    "datagrams that wait for a peer's turn": f"{turns.LARGEST_INBOX}",
    "bytes under way of one stream, and of all streams": f"{_size(bounds.STREAM_WINDOW)}, {_size(bounds.CONNECTION_WINDOW)}",
    "pieces of a stream behind its first gap, and of the handshake": f"{_quic['_MAX_PIECES']}, {_quic['_MAX_CRYPTO_PIECES']}",
    "ranges of an acknowledgement": f"{_quic['_MAX_ACK_RANGES']}",
    "acknowledged pieces of a stream behind its first gap": f"{_quic['_MAX_ISLANDS']}",
    "packets that wait for an acknowledgement": f"{_quic['_MAX_IN_FLIGHT']:,}",
    "packets of acknowledgements alone that are remembered": f"{2 * _quic['_MAX_BARE_ACKS']}",
    "connection ids of the peer": f"8 in use, {_quic['_MAX_ID_NUMBERS']} numbers",
    "connection ids that the peer may retire": "those it was given",
}


def test_the_page_of_limits_has_the_numbers_of_the_code() -> None:
    assert {row: text for row, text in _LIMITS.items() if not row.startswith("`") and row != "Limit"} == _NUMBERS


def test_the_time_for_a_policys_answer_is_everywhere_that_of_the_code() -> None:
    trust = " ".join((_DOCS / "topics/trust.md").read_text("utf-8").split())
    assert f"one that takes more than {DECISION_TIME:g} seconds" in trust
    assert f"takes more than {DECISION_TIME:g} s, turns" in " ".join(inspect.cleandoc(aster.AsterServer.__doc__ or "").split())


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        ("`timedelta`", [f"{_walk['_MAX_DURATION'].days:,} days"]),
        ("`Decimal`", [f"{walk.MAX_DECIMAL_DIGITS:,} digits", f"exponents to {_walk['_MAX_DECIMAL_EXPONENT']:,}"]),
        ("an `Enum`, `IntEnum` or `StrEnum`", [f"2<sup>{(hints.MAX_ENUM_VALUE + 1).bit_length() - 1}</sup> - 1"]),
        ("a dataclass", [f"{fields.MAX_FIELDS} fields", f"{walk.MAX_NESTING} levels"]),
    ],
)
def test_the_page_of_types_has_the_numbers_of_the_code(row: str, numbers: list[str]) -> None:
    assert [number for number in numbers if number not in _TYPES[row]] == []
