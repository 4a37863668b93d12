"""What ``connect`` raises when a server takes the connection and then does not do its part."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import aster
from aster.errors import IncompatiblePeerError, RefusedError, UnreachableError
from aster.testing import SimulatedNetwork, assert_no_orphans, virtual_time_backend
from aster.transports.base import Connection, ConnectionOptions, Stream, Transport
from tests.backends import require_backend
from tests.rpc.raw import RawOwner, RawStream, raw_listener

pytestmark = pytest.mark.anyio

_OPTIONS = ConnectionOptions()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Virtual time: silence lasts seconds."""
    require_backend(request.param)
    return virtual_time_backend(request.param)


class Wordless:
    """A server that lets clients in and says no hello."""

    def __init__(self) -> None:
        self.address = ""
        self.connections = list[Connection]()
        self.spoken_to = anyio.Event()

    def accept(self, connection: Connection) -> RawOwner:
        self.connections.append(connection)
        return RawOwner(self._stream_opened)

    def _stream_opened(self, stream: Stream) -> RawStream:
        self.spoken_to.set()
        return RawStream()


@asynccontextmanager
async def _wordless(transport: Transport, options: ConnectionOptions = _OPTIONS) -> AsyncGenerator[Wordless]:
    server = Wordless()
    async with raw_listener(transport, server.accept, options) as server.address:
        yield server


async def _connect(address: str, transport: Transport) -> None:
    async with aster.connect(address, transport=transport, idle_timeout=2.0):
        raise AssertionError


async def test_a_server_that_falls_silent_before_its_hello_is_unreachable_and_has_not_refused() -> None:
    network = SimulatedNetwork()
    async with assert_no_orphans(), _wordless(network) as server, anyio.create_task_group() as group:

        async def cut() -> None:
            await server.spoken_to.wait()
            network.partition()

        group.start_soon(cut)
        with pytest.raises(UnreachableError, match=r"took this client's connection, and then was heard no more: .* idle for"):
            await _connect(server.address, network)


async def test_a_server_that_hangs_up_before_its_hello_has_refused() -> None:
    network = SimulatedNetwork()
    async with assert_no_orphans(), _wordless(network) as server, anyio.create_task_group() as group:

        async def hang_up() -> None:
            await server.spoken_to.wait()
            server.connections[0].close(7, "not today")

        group.start_soon(hang_up)
        with pytest.raises(RefusedError, match=r"turned this client away: .*not today"):
            await _connect(server.address, network)


async def test_a_server_that_allows_no_streams_is_none_of_this_protocol() -> None:
    network = SimulatedNetwork()
    async with assert_no_orphans(), _wordless(network, ConnectionOptions(max_streams=0)) as server:
        with pytest.raises(IncompatiblePeerError, match="allows no stream"):
            await _connect(server.address, network)
