"""What a transport must do: carry reliable, ordered, two-way byte streams between two endpoints that have proved who they are.

The contract is QUIC's (RFC 9000, sections 2 and 3) without its details. It is made of plain calls and callbacks, so that a packet costs no task: methods never
block, and bytes are queued; callbacks come from the reactor, in the loop's thread, never from inside a method that the owner called, and never after the
stream's or connection's last one. ``aster.testing.check_transport`` proves a transport against it.

::

    Transport.listen  -> Listener   ~ accept(connection) -> ConnectionHandler     (server)
    Transport.connect -> Connection ~ ConnectionHandler                           (client)
    Connection.open_stream(sink) -> Stream     ~     ConnectionHandler.stream_opened(stream) -> sink
"""

from __future__ import annotations

import errno
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aster._reactor import Reactor
from aster.errors import AsterError
from aster.trust import Address, Identity, join_host_port
from aster.types import Peer

__all__ = [
    "Accept",
    "Connection",
    "ConnectionHandler",
    "ConnectionOptions",
    "Listener",
    "Stream",
    "StreamSink",
    "Transport",
    "checked_transport",
    "listen_error",
    "server_full",
    "tell_lost",
]

logger = logging.getLogger("aster")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What both kinds of endpoint may choose for a connection.

    Attributes:
        idle_timeout: seconds of silence after which a connection counts as lost.
        keepalive: seconds of silence after which this side sends something that must be acknowledged.
        max_streams: how many streams the peer may have open at a time.
        handshake_timeout: seconds that a handshake may take on the listening side before it is dropped.
        max_connections: how many connections a listener has at a time. One without a call takes some 100 KB.
        max_connections_per_address: how many of them come from one address, of an IPv6 address its network of 64 bits; for transports with addresses.
    """

    idle_timeout: float = 30.0
    keepalive: float = 10.0
    max_streams: int = 1257
    handshake_timeout: float = 10.0
    max_connections: int = 4096
    max_connections_per_address: int = 1024


class StreamSink(Protocol):
    """The owner's half of a stream: what the transport calls. Each half of a stream ends once, by ``finished`` or by ``was_reset``."""

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer's half, in order, once, never empty."""
        ...

    def finished(self) -> None:
        """The peer's half ended, and all of it was delivered."""
        ...

    def was_reset(self, code: int) -> None:
        """The peer's half was torn down; bytes written before may be missing."""
        ...

    def was_stopped(self, code: int) -> None:
        """The peer does not want this half: what is written from here on goes nowhere. This half counts as reset."""
        ...

    def connection_lost(self, error: AsterError) -> None:
        """The connection ended while a half of this stream was still open. The last callback."""
        ...


class Stream(ABC):
    """One two-way stream. Every method returns at once, and does nothing once the half that it concerns, or the connection, has ended.

    Attributes:
        sink: where its bytes go; its owner may put another one in its place, from which the next callback on is used.
    """

    sink: StreamSink

    @property
    @abstractmethod
    def id(self) -> int:
        """Unique within the connection; client-initiated streams count 0, 4, 8 ... in the order in which they were opened (RFC 9000, section 2.1)."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Queue bytes. What is written in one step of the loop leaves together. The queue has no bound of its own: the credit of the call bounds it."""

    @abstractmethod
    def finish(self) -> None:
        """End this half after all that was queued. Alone, it may wait some milliseconds to leave with other data."""

    @abstractmethod
    def reset(self, code: int) -> None:
        """Tear this half down, also after ``finish`` while that is unacknowledged; queued bytes may be dropped. ``code`` is below 2**62."""

    @abstractmethod
    def stop(self, code: int) -> None:
        """Ask the peer to stop sending on this stream."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes queued here that have not been put on the network yet."""


class ConnectionHandler(Protocol):
    """The owner of a connection: what the transport calls."""

    def stream_opened(self, stream: Stream) -> StreamSink:
        """The peer opened a stream; its bytes go to the sink that is returned."""
        ...

    def streams_available(self) -> None:
        """``Connection.stream_credit`` has become positive again."""
        ...

    def connection_lost(self, error: AsterError) -> None:
        """The connection is gone, by either side or by the network. Called once, after every open stream's sink was told, also after ``close``."""
        ...


class Connection(ABC):
    """One authenticated connection to a peer."""

    @property
    @abstractmethod
    def peer(self) -> Peer:
        """Who is at the other end, as the handshake proved it."""

    @property
    @abstractmethod
    def stream_credit(self) -> int:
        """How many streams may be opened now without passing the peer's limit."""

    @abstractmethod
    def open_stream(self, sink: StreamSink) -> Stream:
        """Open a stream; the peer learns of it with the first bytes.

        Raises:
            LocalProtocolError: ``stream_credit`` is zero.
            ConnectionLost: the connection has ended.
        """

    @abstractmethod
    async def wait_acknowledged(self) -> None:
        """Wait until the peer has acknowledged everything that was written, finished or reset, or until the connection is gone."""

    @abstractmethod
    def close(self, code: int = 0, reason: str = "") -> None:
        """Tell the peer and drop the connection; what is unacknowledged may be lost. Idempotent. ``connection_lost`` follows from the reactor.

        The peer's owner is given a ``ConnectionLost`` that has ``code`` and ``reason``. QUIC cuts a reason to 256 bytes.
        """

    @property
    @abstractmethod
    def open_streams(self) -> int:
        """How many streams have a half that has not ended; for tests and statistics."""


Accept = Callable[[Connection], ConnectionHandler]


class Listener(ABC):
    """A bound address at which peers connect."""

    @property
    @abstractmethod
    def host(self) -> str:
        """The host that it is bound to, as a numeric address or, in memory, a name."""

    @property
    @abstractmethod
    def port(self) -> int:
        """The port that it is bound to."""

    @abstractmethod
    def refuse(self) -> None:
        """Take no new connection from here on: new peers are told so. Connections made before go on. Idempotent."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close what connections are left, send what tells their peers, release the address. Idempotent; safe under cancellation."""


class Transport(ABC):
    """Makes listeners and connections."""

    @abstractmethod
    async def listen(self, host: str, port: int, *, identity: Identity, accept: Accept, reactor: Reactor, options: ConnectionOptions) -> Listener:
        """Listen at ``host`` and ``port`` (0: the system chooses).

        ``accept`` is called once for each peer that has proved its identity, before its first stream.

        Raises:
            AddressError: the host does not resolve.
            OSError: the address is in use, not this machine's, or not allowed to this program; make it with ``listen_error``.
        """

    @abstractmethod
    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        """Connect, and prove both identities. The caller sets the time limit. Cancellation leaves nothing behind.

        Raises:
            UnreachableError: nothing is there, or the handshake got no answer.
            IdentityError: the peer's key is not the one in the address.
            IncompatiblePeerError: something else answers there.
            RefusedError: the server turned this client away during the handshake, as when it has as many connections as it takes.
        """


def checked_transport(transport: object) -> Transport:
    """The ``transport`` option of ``serve`` and ``connect``, if it is one.

    Raises:
        TypeError: it is something else, such as a transport's name or class.
    """
    if isinstance(transport, Transport):
        return transport
    got = transport.__name__ if isinstance(transport, type) else repr(transport)
    raise TypeError(f"transport must be an instance of a Transport, not {got}; write QuicTransport() or MemoryTransport(), or leave it out for QUIC")


def server_full(most: int) -> str:
    """Why a listener that has ``most`` connections refuses another client."""
    return f"the server is at its max_connections of {most}"


def tell_lost(owner: StreamSink | ConnectionHandler, error: AsterError) -> None:
    """Call an owner's ``connection_lost``. One that fails is a bug in Aster: it is logged, since the others must be told all the same."""
    try:
        owner.connection_lost(error)
    except Exception:
        logger.exception("internal error in the owner of a lost connection; please report it")


_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "address already in use; stop the other server, choose another port, or port 0",
    errno.EADDRNOTAVAIL: "not an address of this machine; use one of its own such as 127.0.0.1 or ::1, or 0.0.0.0 for all of IPv4",
    errno.EACCES: "permission denied; ports below 1024 may need privileges: choose a higher port, or port 0",
}


def listen_error(host: str, port: int, code: int | None, reason: str | None = None) -> OSError:
    """Why ``listen`` failed and what to do, as the subclass of ``OSError`` that goes with ``code``, a number of ``errno``.

    Args:
        reason: what the system says, for codes without a remedy of their own.
    """
    remedy = _LISTEN_REMEDIES.get(code or 0) or f"{reason or 'the system does not say why'}; check the host and the port"
    return OSError(code or 0, f"cannot listen at {join_host_port(host, port)}: {remedy}")
