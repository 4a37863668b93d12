"""A transport within one process and one event loop, for tests and for parts of a program that talk as if they were apart.

It keeps the contract of ``base`` to the letter, the uncomfortable parts included: bytes arrive later and never from inside a call, a
reset drops what was not delivered and can be the first thing that a peer hears of a stream, and the number of streams is limited.
Identities are checked as over a network.
"""

from __future__ import annotations

import errno
import itertools
import logging
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import TypeAlias

import anyio.lowlevel

from aster._reactor import Condition, Reactor
from aster.errors import ConnectionLost, IdentityError, LocalProtocolError, RefusedError, UnreachableError
from aster.transports.base import (
    Accept,
    Connection,
    ConnectionHandler,
    ConnectionOptions,
    Listener,
    Stream,
    StreamSink,
    Transport,
    listen_error,
    server_full,
    tell_lost,
)
from aster.trust import Address, Identity
from aster.types import Peer

__all__ = ["MemoryTransport"]

logger = logging.getLogger("aster")

_FIRST_PORT = 49_152  # the first port that RFC 6335 leaves to private use; only for looks


class _Kind(Enum):
    DATA = auto()
    FINISH = auto()
    RESET = auto()
    STOP = auto()
    CLOSE = auto()


_Value: TypeAlias = bytes | int | tuple[int, str]
"""What is sent: bytes, the code of a reset, or code and reason of a close."""


class _MemoryStream(Stream):
    """One end of a stream; ``peer`` is the other."""

    def __init__(self, connection: _MemoryConnection, stream_id: int) -> None:
        self._connection = connection
        self._id = stream_id
        self.peer: _MemoryStream | None = None
        self.sending = True
        self.receiving = True
        self.undelivered = 0
        self.skipping = False

    @property
    def id(self) -> int:
        return self._id

    @property
    def unsent(self) -> int:
        return self.undelivered

    def write(self, data: bytes) -> None:
        if self.sending and data:
            self.undelivered += len(data)
            self._connection.send(self, _Kind.DATA, bytes(data))

    def finish(self) -> None:
        if self.sending:
            self.sending = False
            self._connection.send(self, _Kind.FINISH, b"")
            self._connection.forget_if_ended(self)

    def reset(self, code: int) -> None:
        if self.undelivered or self.sending:
            self.sending = False
            self.skipping = True
            self._connection.send(self, _Kind.RESET, code)
            self._connection.forget_if_ended(self)

    def stop(self, code: int) -> None:
        if self.receiving:
            self._connection.send(self, _Kind.STOP, code)


class _MemoryConnection(Connection):
    """One end of a connection. What an end sends waits in the other end's queue for a turn of that end's reactor."""

    def __init__(self, peer: Peer, reactor: Reactor, options: ConnectionOptions, *, is_client: bool) -> None:
        self._peer = peer
        self._reactor = reactor
        self._options = options
        self._ids = itertools.count(0, 4)
        self._is_client = is_client
        self._streams: dict[int, _MemoryStream] = {}
        self._queue: deque[tuple[_MemoryStream | None, _Kind, _Value]] = deque()
        self._scheduled = False
        self._waiting = Condition(reactor)
        self.credit = 0
        self.handler: ConnectionHandler | None = None
        self.other: _MemoryConnection | None = None
        self.closed = False
        self.on_lost: Callable[[], None] | None = None

    @property
    def peer(self) -> Peer:
        return self._peer

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def stream_credit(self) -> int:
        return 0 if self.closed else self.credit

    def open_stream(self, sink: StreamSink) -> Stream:
        if self.closed:
            raise ConnectionLost("the connection is closed")
        if not self._is_client:
            raise LocalProtocolError("only the client opens streams")
        if not self.credit:
            raise LocalProtocolError("the peer's limit of streams is reached; wait for streams_available")
        self.credit -= 1
        stream = _MemoryStream(self, next(self._ids))
        stream.sink = sink
        self._streams[stream.id] = stream
        return stream

    def send(self, stream: _MemoryStream | None, kind: _Kind, value: _Value) -> None:
        other = self.other
        if other is not None and not self.closed:
            other._queue.append((stream, kind, value))
            if not other._scheduled:
                other._scheduled = True
                other._reactor.call_soon(other._deliver)

    def forget_if_ended(self, stream: _MemoryStream) -> None:
        if stream.sending or stream.receiving or self._streams.pop(stream.id, None) is None:
            return
        if not self._is_client and self.other is not None:
            self.other._return_credit()

    def _return_credit(self) -> None:
        self.credit += 1
        if self.credit == 1:
            self._reactor.call_soon(self._tell_credit)

    def _tell_credit(self) -> None:
        if self.handler is not None and self.stream_credit:
            self.handler.streams_available()

    # Receiving: everything below runs from this end's reactor.

    def _deliver(self) -> None:
        self._scheduled = False
        try:
            self._deliver_queue()
        except Exception:
            logger.exception("internal error in the owner of a connection, which is closed; please report it")
            self.send(None, _Kind.CLOSE, (0, "internal error"))
            self.lose("closed by this side: internal error")
        if self.other is not None:
            self.other._waiting.notify_all()

    def _deliver_queue(self) -> None:
        queue = self._queue
        while queue and not self.closed:
            sender, kind, value = queue.popleft()
            if isinstance(value, tuple):
                code, reason = value
                self.lose(f"closed by the peer: {reason}" if reason else "closed by the peer", code, reason)
            elif sender is not None:
                self._deliver_to_stream(sender, kind, value)

    def _deliver_to_stream(self, sender: _MemoryStream, kind: _Kind, value: _Value) -> None:
        if isinstance(value, bytes):
            sender.undelivered -= len(value)
        if sender.skipping and kind in (_Kind.DATA, _Kind.FINISH):
            return
        stream = sender.peer or self._accept_stream(sender)
        sink = stream.sink
        if kind is _Kind.STOP:
            self._receive_stop(stream, sink, value)
        elif stream.receiving:
            if isinstance(value, bytes) and kind is _Kind.DATA:
                sink.data_received(value)
                return
            stream.receiving = False
            if kind is _Kind.FINISH:
                sink.finished()
            elif isinstance(value, int):
                sink.was_reset(value)
            self.forget_if_ended(stream)

    def _receive_stop(self, stream: _MemoryStream, sink: StreamSink, code: _Value) -> None:
        assert isinstance(code, int)
        if stream.sending:
            stream.reset(code)
            sink.was_stopped(code)

    def _accept_stream(self, sender: _MemoryStream) -> _MemoryStream:
        assert self.handler is not None
        stream = _MemoryStream(self, sender.id)
        sender.peer, stream.peer = stream, sender
        self._streams[stream.id] = stream
        stream.sink = self.handler.stream_opened(stream)
        return stream

    # Ending

    async def wait_acknowledged(self) -> None:
        other = self.other
        await self._waiting.wait_for(lambda: other is None or not other._queue or self.closed)

    def close(self, code: int = 0, reason: str = "") -> None:
        if not self.closed:
            self.send(None, _Kind.CLOSE, (code, reason))
            self._reactor.call_soon(lambda: self.lose("closed by this side"))

    def lose(self, why: str, code: int | None = None, reason: str = "") -> None:
        if self.closed:
            return
        self.closed = True
        error = ConnectionLost(f"the connection was {why}", code=code, reason=reason)
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.sending = stream.receiving = False
            tell_lost(stream.sink, error)
        self._waiting.notify_all()
        if self.handler is not None:
            tell_lost(self.handler, error)
        if self.on_lost is not None:
            self.on_lost()


class _MemoryListener(Listener):
    def __init__(
        self, transport: MemoryTransport, host: str, port: int, identity: Identity, accept: Accept, reactor: Reactor, options: ConnectionOptions
    ) -> None:
        self._transport = transport
        self._host = host
        self._port = port
        self.identity = identity
        self.accept = accept
        self.reactor = reactor
        self.options = options
        self.refusing = False
        self.connections: set[_MemoryConnection] = set()

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        return self._port

    def refuse(self) -> None:
        self.refusing = True

    async def aclose(self) -> None:
        self._transport.listeners.pop((self._host, self._port), None)
        for connection in list(self.connections):
            connection.send(None, _Kind.CLOSE, (0, "the server is closing"))
            connection.lose("closed by this side")


class MemoryTransport(Transport):
    """Endpoints that are given the same instance reach each other, and nobody else does."""

    def __init__(self) -> None:
        self.listeners: dict[tuple[str, int], _MemoryListener] = {}
        self._ports = itertools.count(_FIRST_PORT)

    async def listen(self, host: str, port: int, *, identity: Identity, accept: Accept, reactor: Reactor, options: ConnectionOptions) -> Listener:
        await anyio.lowlevel.checkpoint()
        port = port or next(self._ports)
        if (host, port) in self.listeners:
            raise listen_error(host, port, errno.EADDRINUSE)
        listener = _MemoryListener(self, host, port, identity, accept, reactor, options)
        self.listeners[host, port] = listener
        return listener

    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        await anyio.lowlevel.checkpoint()
        listener = self.listeners.get((address.host, address.port))
        if listener is None:
            raise UnreachableError(f"nothing answers at {address.host}:{address.port} in this MemoryTransport; serve with transport= the same instance")
        if listener.identity.endpoint_id != address.endpoint_id:
            raise IdentityError(
                f"{address.host}:{address.port} proved {listener.identity.endpoint_id}, where {address.endpoint_id} was expected; "
                "get its current address from server.address"
            )
        if listener.refusing:
            raise RefusedError(f"the server at {address.host}:{address.port} takes no new connections: it is closing")
        if len(listener.connections) >= listener.options.max_connections:
            raise RefusedError(f"{address.host}:{address.port} refused this client: {server_full(listener.options.max_connections)}")
        client = _MemoryConnection(Peer(address.endpoint_id, f"{address.host}:{address.port}"), reactor, options, is_client=True)
        server = _MemoryConnection(Peer(identity.endpoint_id, "memory"), listener.reactor, listener.options, is_client=False)
        client.other, server.other = server, client
        client.credit = listener.options.max_streams
        client.handler = handler
        listener.connections.add(server)
        server.on_lost = lambda: listener.connections.discard(server)
        server.handler = listener.accept(server)
        return client
