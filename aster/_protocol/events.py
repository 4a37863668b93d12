"""What frames say, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from aster.errors import StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode

__all__ = [
    "SUCCESS",
    "CloseCode",
    "Describe",
    "Description",
    "GoAway",
    "Header",
    "Hello",
    "MethodEntry",
    "ResetCode",
    "ServiceEntry",
    "Setting",
    "Target",
    "Trailer",
    "TrailerOrigin",
]

_NO_METADATA = Metadata()


class CloseCode:
    """Why a connection was closed, as a number of the application (RFC 9000 section 20.2)."""

    NORMAL = 0
    PROTOCOL = 1
    VERSION = 2
    HELLO_TIMEOUT = 3
    CLEANUP_OVERDUE = 4
    REFUSED = 5
    """The server does not admit this client."""


class ResetCode(IntEnum):
    """Why a half of a call's stream was torn down."""

    CANCELLED = 1
    DEADLINE = 2
    PROTOCOL = 3
    NOT_NEEDED = 4
    """With STOP_SENDING: the call has its outcome, further requests are not read."""


class TrailerOrigin(IntEnum):
    """Who decided on the outcome that a trailer carries."""

    HANDLER = 0
    """The handler, by returning or raising."""
    DEADLINE = 1
    """The call's own deadline, as the server's clock saw it."""
    CAP = 2
    """The server's cap on deadlines."""
    REFUSED = 3
    """The server, before a handler saw the call: it is safe to send again."""
    SERVER = 4
    """The server, while a handler was running."""


class Target(NamedTuple):
    """What a call is addressed to; equal for all calls of one method by one client."""

    service: str
    version: int
    method: str
    pattern: RpcPattern
    mode: SerializationMode


class Header(NamedTuple):
    """The beginning of a call: its target, the remaining time in seconds (``None``: no deadline), and metadata."""

    target: Target
    timeout: float | None
    metadata: Metadata


class Trailer(NamedTuple):
    """The outcome of a call. Details are pairs of a wire tag and an encoded value."""

    status: StatusCode = StatusCode.OK
    origin: TrailerOrigin = TrailerOrigin.HANDLER
    message: str = ""
    details: tuple[tuple[str, bytes], ...] = ()
    metadata: Metadata = _NO_METADATA


SUCCESS = Trailer()
"""The outcome of most calls, shared rather than made again for each."""


class Setting(IntEnum):
    """Numbers that a hello announces, each about its sender."""

    WINDOW = 1
    """Bytes that it takes on each direction of a call before it has to grant more."""
    MESSAGE_LIMIT = 2
    """Bytes of the largest message that it accepts."""
    METADATA_LIMIT = 3
    """Bytes of the most metadata that it accepts at a time."""
    CALL_LIMIT = 4
    """Calls that it serves at a time on a connection."""
    SESSION_LIMIT = 5
    """Sessions that it serves at a time on a connection."""
    CLEANUP_MILLISECONDS = 6
    """How long its handlers may take to unwind."""


class MethodEntry(NamedTuple):
    """A method in the manifest."""

    name: str
    pattern: RpcPattern
    modes: frozenset[SerializationMode]


class ServiceEntry(NamedTuple):
    """A service in the manifest; ``contract_id`` is empty when the server computes none."""

    name: str
    version: int
    session: bool
    contract_id: bytes
    methods: tuple[MethodEntry, ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """What each side says of itself on the control stream; the services are the server's manifest."""

    versions: tuple[int, ...]
    settings: Mapping[int, int]
    services: tuple[ServiceEntry, ...] = ()
    extensions: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


class Describe(NamedTuple):
    """A client asks for the contract of a service in the manifest."""

    service: str
    version: int


class Description(NamedTuple):
    """The answer: the canonical form of that service's contract."""

    service: str
    version: int
    form: bytes


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server takes no calls above ``last_stream`` (-1: none at all) on this connection."""

    last_stream: int
    reason: str = ""
