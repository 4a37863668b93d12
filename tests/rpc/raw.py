"""Peers without Aster's ends of a call: they send what a test tells them to, rules of the wire or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from aster._protocol.call import CallLimits, ClientCall
from aster._protocol.events import Header, Hello, MethodEntry, ServiceEntry, Setting, Target, Trailer
from aster._protocol.frames import (
    FrameKind,
    FrameReader,
    decode_header,
    decode_hello,
    encode_frame,
    encode_header,
    encode_header_start,
    encode_hello,
)
from aster._reactor import open_reactor
from aster.decorators import service_info
from aster.errors import AsterError
from aster.transports.base import Connection, ConnectionOptions, Stream, StreamSink, Transport
from aster.trust import Address, Identity
from aster.types import Metadata, RpcPattern, SerializationMode

__all__ = ["END", "RawClient", "RawStream", "header_of", "manifest_of", "raw_client", "raw_connection", "raw_server", "target_of"]

END = encode_frame(FrameKind.END, b"")

_LIMITS = CallLimits.create(window=1 << 24, peer_window=1 << 24, message=1 << 24, metadata=1 << 20)
_SETTINGS: dict[int, int] = {Setting.WINDOW: 1 << 24, Setting.MESSAGE_LIMIT: 1 << 24, Setting.METADATA_LIMIT: 1 << 20, Setting.CALL_LIMIT: 1000}
_OPTIONS = ConnectionOptions()


@dataclass
class RawStream:
    """What arrived on a stream, and how it ended. ``on_data`` is told of each piece."""

    on_data: Callable[[], None] = lambda: None
    received: bytearray = field(default_factory=bytearray)
    ended: anyio.Event = field(default_factory=anyio.Event)
    reset_code: int | None = None
    on_reset: Callable[[int], None] = lambda code: None

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.on_data()

    def finished(self) -> None:
        self.ended.set()

    def was_reset(self, code: int) -> None:
        self.reset_code = code
        self.ended.set()
        self.on_reset(code)

    def was_stopped(self, code: int) -> None:
        """Raw peers go on."""

    def connection_lost(self, error: AsterError) -> None:
        self.ended.set()


class _Handler:
    """A connection's owner: gives each stream of the peer to ``accept``, and knows when the connection is gone."""

    def __init__(self, accept: Callable[[Stream], StreamSink]) -> None:
        self._accept = accept
        self.lost = anyio.Event()

    def stream_opened(self, stream: Stream) -> StreamSink:
        return self._accept(stream)

    def streams_available(self) -> None:
        """Raw peers open few streams."""

    def connection_lost(self, error: AsterError) -> None:
        self.lost.set()


@dataclass
class RawClient:
    """A client that has said hello and got the server's."""

    connection: Connection
    hello: Hello

    async def outcome_of(self, target: Target, frames: bytes, metadata: Metadata | None = None) -> Trailer:
        """Send a header and some frames, and wait for the outcome."""
        call = ClientCall(target.pattern, _LIMITS)
        sink = RawStream()
        stream = self.connection.open_stream(sink)
        stream.write(call.send_header(encode_header_start(target), None, metadata or Metadata()) + frames)
        await sink.ended.wait()
        stream.finish()
        assert sink.reset_code is None, "an outcome is a trailer, never a reset"
        call.receive_data(bytes(sink.received))
        assert call.trailer is not None
        return call.trailer


@asynccontextmanager
async def raw_connection(address: str, transport: Transport) -> AsyncGenerator[tuple[Connection, anyio.Event]]:
    """A connection to the server at ``address`` on which nothing was said, and the event of its loss."""
    async with anyio.create_task_group() as group:
        reactor = open_reactor(group)
        handler = _Handler(lambda stream: RawStream())
        connection = await transport.connect(Address.parse(address), identity=Identity.generate(), handler=handler, reactor=reactor, options=_OPTIONS)
        try:
            yield connection, handler.lost
        finally:
            with anyio.CancelScope(shield=True):
                connection.close()
                await handler.lost.wait()
                reactor.close()


@asynccontextmanager
async def raw_client(address: str, transport: Transport, settings: Mapping[int, int] | None = None) -> AsyncGenerator[RawClient]:
    """A raw client of the server at ``address``, which says hello with ``settings`` besides the usual ones."""
    async with raw_connection(address, transport) as (connection, _):
        arrived = anyio.Event()
        control = RawStream(arrived.set)
        usual = {key: value for key, value in _SETTINGS.items() if key != Setting.CALL_LIMIT}  # which clients need not give
        connection.open_stream(control).write(encode_hello(Hello((1,), usual | dict(settings or {}))))
        await arrived.wait()
        reader = FrameReader({FrameKind.HELLO: 1 << 20, FrameKind.GO_AWAY: 1 << 20})
        kind, payload = next(iter(reader.feed(bytes(control.received))))
        assert kind == FrameKind.HELLO
        yield RawClient(connection, decode_hello(payload))


def manifest_of(service: type) -> ServiceEntry:
    """What a server that serves ``service`` says of it."""
    info = service_info(service)
    methods = tuple(MethodEntry(method.name, method.pattern, frozenset(method.modes)) for method in info.methods.values())
    return ServiceEntry(info.name, info.version, False, b"", methods)


@asynccontextmanager
async def raw_server(
    services: tuple[ServiceEntry, ...],
    transport: Transport,
    answer: Callable[[Stream, Header], None],
    settings: Mapping[int, int] | None = None,
    on_reset: Callable[[int], None] = lambda code: None,
) -> AsyncGenerator[str]:
    """The address of a server that says hello, with ``settings`` besides the usual ones, and answers each call as it is told to once its header has arrived."""
    identity = Identity.generate()

    def stream_opened(stream: Stream) -> StreamSink:
        sink = RawStream(lambda: reply(stream, sink), on_reset=on_reset)
        return sink

    def reply(stream: Stream, sink: RawStream) -> None:
        sink.on_data = lambda: None
        if stream.id == 0:
            stream.write(encode_hello(Hello((1,), _SETTINGS | dict(settings or {}), services)))
        else:
            kind, payload = next(iter(FrameReader(_LIMITS.requests).feed(bytes(sink.received))))
            assert kind == FrameKind.HEADER
            answer(stream, decode_header(payload, 1 << 20))

    async with anyio.create_task_group() as group:
        reactor = open_reactor(group)
        listener = await transport.listen(
            "127.0.0.1", 0, identity=identity, accept=lambda connection: _Handler(stream_opened), reactor=reactor, options=_OPTIONS
        )
        try:
            yield str(Address(identity.endpoint_id, listener.host, listener.port))
        finally:
            with anyio.CancelScope(shield=True):
                await listener.aclose()
                reactor.close()


def target_of(
    method: str, *, service: str = "Echo", version: int = 1, pattern: RpcPattern = RpcPattern.UNARY, mode: SerializationMode = SerializationMode.XLANG
) -> Target:
    """A target, by default a unary method of ``Echo``."""
    return Target(service, version, method, pattern, mode)


def header_of(method: str) -> bytes:
    """The header of a call of a unary method of ``Echo``."""
    return encode_header(encode_header_start(target_of(method)), None, Metadata())
