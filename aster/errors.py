"""Every exception of Aster, and whose fault each one is.

::

    AsterError
    ├── RpcError                     a call failed: code, message, details, trailers
    ├── ConnectError                 ``connect`` found no server to talk to
    │   ├── AddressError             the address is malformed (also a ValueError)
    │   ├── UnreachableError         nothing answered at the address in time
    │   ├── IdentityError            the peer did not prove the key that was expected of it
    │   ├── IncompatiblePeerError    something answered, but does not speak this protocol
    │   └── RefusedError             the server answered and turned this client away
    ├── KeyFileError                 an identity's key file cannot be read or written
    ├── DecodeError                  bytes from the peer are not a value of the declared type
    ├── ConnectionLost               the connection under a stream has gone
    └── ProtocolError                a rule of the wire was broken
        ├── LocalProtocolError       by this side: a bug in Aster, or in a custom transport
        └── RemoteProtocolError      by the peer

    AutoTagWarning (UserWarning)     a type has no explicit wire tag

A caller meets ``RpcError`` from calls and ``ConnectError`` from ``connect``. The others are met by those who write transports, read key files or drive the
protocol core by hand; when they break a call, the call raises ``RpcError`` with the matching code and the original as its ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aster.types import Metadata

__all__ = [
    "AddressError",
    "AsterError",
    "AutoTagWarning",
    "ConnectError",
    "ConnectionLost",
    "DecodeError",
    "IdentityError",
    "IncompatiblePeerError",
    "KeyFileError",
    "LocalProtocolError",
    "ProtocolError",
    "RefusedError",
    "RemoteProtocolError",
    "RpcError",
    "StatusCode",
    "UnknownDetail",
    "UnreachableError",
]


class StatusCode(IntEnum):
    """How a call ended. Names and numbers are gRPC's (grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AsterError(Exception):
    """The root of all exceptions that Aster raises."""


class RpcError(AsterError):
    """A call failed, here or at the peer.

    A handler raises one to fail its call with a chosen code; the caller receives an equal one. ``message`` arrives exactly as it was written.

    Attributes:
        code: why the call failed; never ``StatusCode.OK``.
        message: for people, in any Unicode; empty when there is nothing to add.
        details: dataclasses that describe the failure further; empty unless the handler gave some. They arrive as equal values of the caller's own classes,
            by their wire tags; what is unknown here, or no value of its type, as an ``UnknownDetail``.
        trailers: the metadata that the server sent after its last message.

    Raises:
        TypeError: ``message`` is not a ``str``, or ``details`` is no sequence, such as a single value.
        ValueError: ``code`` is ``StatusCode.OK`` or not a status code.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str = "",
        *,
        details: Sequence[object] = (),
        trailers: Metadata | None = None,
    ) -> None:
        try:
            code = StatusCode(code)
        except ValueError:
            raise ValueError(f"{code!r} is no status code: write StatusCode.NOT_FOUND, or another of StatusCode") from None
        if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
            raise TypeError(f"the message of an RpcError must be a str, not {type(message).__name__}: write str(...) around it")
        if code is StatusCode.OK:
            raise ValueError("an RpcError needs a failing status code, not StatusCode.OK; to succeed, return from the handler")
        if not isinstance(details, Sequence) or isinstance(details, (str, bytes, bytearray)):  # pyright: ignore[reportUnnecessaryIsInstance] (as above)
            raise TypeError(f"the details of an RpcError must be a list of dataclasses, not {type(details).__name__}: write details=[...]")
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details: tuple[object, ...] = tuple(details)
        self.trailers = trailers

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


@dataclass(frozen=True, slots=True)
class UnknownDetail:
    """A detail of an ``RpcError`` that is not understood here: its type is unknown, as that of a newer server is, or its bytes are no value of that type.

    Attributes:
        tag: the wire tag of its type.
        data: the value, encoded in the serialization mode of the call.
    """

    tag: str
    data: bytes


class ConnectError(AsterError):
    """No connection could be made; the subclass tells why, the message tells what to do."""


class AddressError(ConnectError, ValueError):
    """The address, or a part of it, is not of the form ``aster://<64 hex digits>@host:port``."""


class UnreachableError(ConnectError):
    """Nothing answered at the address within the connect timeout, or the host refused the datagrams."""


class IdentityError(ConnectError):
    """The peer did not prove that it holds the key expected of it. Never retried: the answer would be the same."""


class IncompatiblePeerError(ConnectError):
    """Something answered, but it speaks another protocol or no version that both sides know."""


class RefusedError(ConnectError):
    """The server answered, and turned this client away: it is full, is draining, or does not admit this endpoint."""


class KeyFileError(AsterError):
    """An identity's key file is missing, unreadable, too widely readable or not a key."""


class DecodeError(AsterError):
    """Bytes that a peer sent are not a value of the type that the method declares.

    Attributes:
        is_request: whether a handler found it out while it read its request, a row; left to pass, it ends the call with INVALID_ARGUMENT.
        of_row: whether that was found out while a received row was read, and not when it came.
    """

    is_request = False
    of_row = False


class ConnectionLost(AsterError):
    """The connection that carried a stream has ended.

    Attributes:
        silent: whether the peer was heard no more; else one of the two sides has ended it.
        code: the number of the application with which the peer closed it; ``None`` when something else ended it.
        reason: what the peer said with that, for people.
    """

    def __init__(self, message: str, *, silent: bool = False, code: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.silent = silent
        self.code = code
        self.reason = reason


class ProtocolError(AsterError):
    """A rule of the wire (``docs/wire.md``) was broken."""


class LocalProtocolError(ProtocolError):
    """This side was about to break a rule of the wire; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule of the wire.

    Attributes:
        code: the status that the call fails with.
    """

    def __init__(self, message: str, code: StatusCode = StatusCode.INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class AutoTagWarning(UserWarning):
    """A type of a service has no ``@wire_type``: its tag is derived from its module and name, and breaks when either changes."""
