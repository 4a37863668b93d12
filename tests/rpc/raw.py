"""Peers without Aster's ends of a call: they send what a test tells them to, rules of the wire or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

import aster
from aster._protocol.call import ClientCall
from aster._protocol.events import Header, Hello, MethodEntry, ServiceEntry, Setting, Target, Trailer
from aster._protocol.frames import (
    SERVER_CONTROL_KINDS,
    FrameKind,
    FrameReader,
    decode_header,
    decode_hello,
    decode_trailer,
    encode_frame,
    encode_header,
    encode_header_start,
    encode_hello,
)
from aster._reactor import open_reactor
from aster.decorators import service_info
from aster.errors import AsterError
from aster.transports.base import Accept, Connection, ConnectionOptions, Stream, StreamSink, Transport
from aster.trust import Address, Identity
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.protocol.pair import limits_of
from tests.rpc.echo import PATTERNS
from tests.rpc.probes import until

__all__ = [
    "CLIENT_SETTINGS",
    "END",
    "HELLO",
    "LIMITS",
    "Raw",
    "RawClient",
    "RawOwner",
    "RawStream",
    "header_of",
    "manifest_of",
    "raw",
    "raw_client",
    "raw_connection",
    "raw_listener",
    "raw_server",
    "target_of",
]

END = encode_frame(FrameKind.END, b"")

LIMITS = limits_of(window=1 << 24, peer_window=1 << 24, message=1 << 24, metadata=1 << 20)
"""Higher than any test needs."""

CLIENT_SETTINGS: Mapping[int, int] = {Setting.WINDOW: LIMITS.window, Setting.MESSAGE_LIMIT: LIMITS.message, Setting.METADATA_LIMIT: LIMITS.metadata}
"""What a raw client says of itself; a server says besides how many calls it takes."""

HELLO = encode_hello(Hello((1,), CLIENT_SETTINGS))
"""A raw client's."""

_SERVER_SETTINGS: Mapping[int, int] = {**CLIENT_SETTINGS, Setting.CALL_LIMIT: 1000}
_OPTIONS = ConnectionOptions()


@dataclass
class RawStream:
    """What arrived on a stream, and how it ended. ``on_data`` is told of each piece."""

    on_data: Callable[[], None] = lambda: None
    received: bytearray = field(default_factory=bytearray)
    ended: anyio.Event = field(default_factory=anyio.Event)
    reset_code: int | None = None
    on_reset: Callable[[int], None] = lambda code: None
    stop_code: int | None = None

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
        self.stop_code = code  # raw peers go on

    def connection_lost(self, error: AsterError) -> None:
        self.ended.set()

    def frames(self) -> list[tuple[int, bytes]]:
        """What arrived so far, on the control stream or as responses."""
        limits = {**LIMITS.responses, **dict.fromkeys(SERVER_CONTROL_KINDS, 1 << 20)}
        return list(FrameReader(limits).feed(bytes(self.received)))

    async def trailer(self) -> Trailer:
        """The outcome, once it has arrived."""
        await self.ended.wait()
        assert self.reset_code is None, "an outcome is a trailer, never a reset"
        kind, payload = self.frames()[-1]
        assert kind == FrameKind.TRAILER
        return decode_trailer(payload, 1 << 20)


class RawOwner:
    """A connection's owner: gives each stream of the peer to ``accept``, and knows when the connection is gone, and why."""

    def __init__(self, accept: Callable[[Stream], StreamSink]) -> None:
        self._accept = accept
        self.lost = anyio.Event()
        self.why = ""

    def stream_opened(self, stream: Stream) -> StreamSink:
        return self._accept(stream)

    def streams_available(self) -> None:
        """Raw peers open few streams."""

    def connection_lost(self, error: AsterError) -> None:
        self.why = str(error)
        self.lost.set()


def _refuse_streams(stream: Stream) -> StreamSink:
    raise AssertionError("servers open no streams")


@dataclass
class RawClient:
    """A client that has said hello and got the server's."""

    connection: Connection
    hello: Hello

    async def outcome_of(self, target: Target, frames: bytes, metadata: Metadata | None = None) -> Trailer:
        """Send a header and some frames, and wait for the outcome."""
        call = ClientCall(target.pattern, LIMITS)
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
async def raw_connection(address: str, transport: Transport) -> AsyncGenerator[tuple[Connection, RawOwner]]:
    """A connection to the server at ``address`` on which nothing was said, and its owner."""
    async with anyio.create_task_group() as group:
        reactor = open_reactor(group)
        owner = RawOwner(_refuse_streams)
        connection = await transport.connect(Address.parse(address), identity=Identity.generate(), handler=owner, reactor=reactor, options=_OPTIONS)
        try:
            yield connection, owner
        finally:
            with anyio.CancelScope(shield=True):
                connection.close()
                await owner.lost.wait()
                reactor.close()


@asynccontextmanager
async def raw_client(address: str, transport: Transport, settings: Mapping[int, int] | None = None) -> AsyncGenerator[RawClient]:
    """A raw client of the server at ``address``, which says hello with ``settings`` besides the usual ones."""
    async with raw_connection(address, transport) as (connection, _):
        arrived = anyio.Event()
        control = RawStream(arrived.set)
        connection.open_stream(control).write(encode_hello(Hello((1,), {**CLIENT_SETTINGS, **(settings or {})})))
        await arrived.wait()
        reader = FrameReader(dict.fromkeys(SERVER_CONTROL_KINDS, 1 << 20))
        kind, payload = next(iter(reader.feed(bytes(control.received))))
        assert kind == FrameKind.HELLO
        yield RawClient(connection, decode_hello(payload))


@dataclass
class Raw:
    """A client that has opened the control stream, and said what it was told to."""

    connection: Connection
    control: Stream
    heard: RawStream
    owner: RawOwner

    @property
    def lost(self) -> anyio.Event:
        """Set once the connection is gone."""
        return self.owner.lost

    @property
    def why(self) -> str:
        """What ended the connection."""
        return self.owner.why

    def call(self, data: bytes) -> tuple[Stream, RawStream]:
        """Open a stream and write to it."""
        sink = RawStream()
        stream = self.connection.open_stream(sink)
        stream.write(data)
        return stream, sink

    async def said_hello(self) -> None:
        """Wait for the server's hello."""
        await until(self.heard.frames)


@asynccontextmanager
async def raw(server: aster.AsterServer, transport: Transport, hello: bytes = HELLO) -> AsyncGenerator[Raw]:
    async with raw_connection(server.address, transport) as (connection, owner):
        heard = RawStream()
        peer = Raw(connection, connection.open_stream(heard), heard, owner)
        if hello:
            peer.control.write(hello)
        yield peer


def manifest_of(service: type) -> ServiceEntry:
    """What a server that serves ``service`` says of it."""
    info = service_info(service)
    methods = tuple(MethodEntry(method.name, method.pattern, frozenset(method.modes)) for method in info.methods.values())
    return ServiceEntry(info.name, info.version, False, bytes.fromhex(aster.contract_id(service)), methods)


@asynccontextmanager
async def raw_listener(transport: Transport, accept: Accept, options: ConnectionOptions = _OPTIONS) -> AsyncGenerator[str]:
    """The address of a server that says nothing by itself: each connection is its owner's, whom ``accept`` gives."""
    identity = Identity.generate()
    async with anyio.create_task_group() as group:
        reactor = open_reactor(group)
        listener = await transport.listen("127.0.0.1", 0, identity=identity, accept=accept, reactor=reactor, options=options)
        try:
            yield str(Address(identity.endpoint_id, listener.host, listener.port))
        finally:
            with anyio.CancelScope(shield=True):
                await listener.aclose()
                reactor.close()


@asynccontextmanager
async def raw_server(
    services: tuple[ServiceEntry, ...],
    transport: Transport,
    answer: Callable[[Stream, Header], None],
    settings: Mapping[int, int] | None = None,
    on_reset: Callable[[int], None] = lambda code: None,
    on_control: Callable[[Stream], None] = lambda stream: None,
) -> AsyncGenerator[str]:
    """The address of a server that says hello, with ``settings`` besides the usual ones, and answers each call as it is told to once its header has arrived.

    ``on_control`` is given each connection's control stream, on which hello was said.
    """

    def stream_opened(stream: Stream) -> StreamSink:
        sink = RawStream(lambda: reply(stream, sink), on_reset=on_reset)
        return sink

    def reply(stream: Stream, sink: RawStream) -> None:
        sink.on_data = lambda: None
        if stream.id == 0:
            stream.write(encode_hello(Hello((1,), {**_SERVER_SETTINGS, **(settings or {})}, services)))
            on_control(stream)
        else:
            kind, payload = next(iter(FrameReader(LIMITS.requests).feed(bytes(sink.received))))
            assert kind == FrameKind.HEADER
            answer(stream, decode_header(payload, 1 << 20))

    async with raw_listener(transport, lambda connection: RawOwner(stream_opened)) as address:
        yield address


def target_of(
    method: str, *, service: str = "Echo", version: int = 1, pattern: RpcPattern = RpcPattern.UNARY, mode: SerializationMode = SerializationMode.XLANG
) -> Target:
    """A target, by default a unary method of ``Echo``."""
    return Target(service, version, method, pattern, mode)


def header_of(method: str, timeout: float | None = None) -> bytes:
    """The header of a call of a method of ``Echo``, or of a unary one that it has not."""
    return encode_header(encode_header_start(target_of(method, pattern=PATTERNS.get(method, RpcPattern.UNARY))), timeout, Metadata())
