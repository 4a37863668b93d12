"""The bare engine: 60 bytes and the end of the stream, echoed. Aster's QUIC transport without any RPC on top."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from aster._reactor import Reactor, open_reactor
from aster.errors import AsterError
from aster.transports.base import Connection, ConnectionOptions, Stream, StreamSink
from aster.transports.quic import QuicTransport
from aster.trust import Address, Identity
from tests.benchmark.workloads import Calls

__all__ = ["IgnoringHandler", "IgnoringSink", "connect", "serve"]

_MESSAGE = bytes(60)


class IgnoringSink:
    """Ignores what it is told; the two ends below listen to what concerns them."""

    def data_received(self, data: bytes) -> None: ...

    def finished(self) -> None: ...

    def was_reset(self, code: int) -> None: ...

    def was_stopped(self, code: int) -> None: ...

    def connection_lost(self, error: AsterError) -> None: ...


class _Echo(IgnoringSink):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        self._stream.write(data)

    def finished(self) -> None:
        self._stream.finish()


class _Reply(IgnoringSink):
    def __init__(self, reactor: Reactor) -> None:
        self._waiter = reactor.waiter()
        self._received = 0
        self._ended = False

    def data_received(self, data: bytes) -> None:
        self._received += len(data)

    def finished(self) -> None:
        self._ended = True
        self._waiter.wake()

    async def wait(self) -> None:
        while not self._ended:
            await self._waiter.wait()
        assert self._received == len(_MESSAGE)


class IgnoringHandler:
    """Echoes whatever is opened; what else it is told it ignores."""

    def stream_opened(self, stream: Stream) -> StreamSink:
        return _Echo(stream)

    def streams_available(self) -> None: ...

    def connection_lost(self, error: AsterError) -> None: ...


@asynccontextmanager
async def _reactor() -> AsyncGenerator[Reactor]:
    async with anyio.create_task_group() as group:
        reactor = open_reactor(group)
        try:
            yield reactor
        finally:
            reactor.close()


@asynccontextmanager
async def serve() -> AsyncGenerator[str]:
    async with _reactor() as reactor:
        identity = Identity.generate()

        def accept(connection: Connection) -> IgnoringHandler:
            return IgnoringHandler()

        listener = await QuicTransport().listen("127.0.0.1", 0, identity=identity, accept=accept, reactor=reactor, options=ConnectionOptions())
        try:
            yield str(Address(identity.endpoint_id, "127.0.0.1", listener.port))
        finally:
            await listener.aclose()


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[Calls]:
    async with _reactor() as reactor:
        connection = await QuicTransport().connect(
            Address.parse(address), identity=Identity.generate(), handler=IgnoringHandler(), reactor=reactor, options=ConnectionOptions()
        )

        async def unary() -> None:
            reply = _Reply(reactor)
            stream = connection.open_stream(reply)
            stream.write(_MESSAGE)
            stream.finish()
            await reply.wait()

        try:
            yield Calls(unary)
        finally:
            connection.close()
