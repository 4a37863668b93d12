"""Behaviours of calls run on both backends, over memory and over QUIC: four times each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import aster
from aster._hosted import HostedMethod
from aster._incoming import IncomingCall
from aster._protocol.events import Header
from aster._server_connection import ServerConnection
from aster.errors import RpcError, StatusCode
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport

_ADMIT = ServerConnection.admit

Running = Callable[..., AbstractAsyncContextManager[tuple[aster.AsterServer, aster.AsterClient]]]


@pytest.fixture(params=[MemoryTransport, QuicTransport], ids=["memory", "quic"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """A transport for the server and the clients of one test."""
    return request.param()


@pytest.fixture
def running(transport: Transport) -> Running:
    """``async with running(TaskService(), debug=True) as (server, client)``: a server of some services, and a client of it."""

    @asynccontextmanager
    async def run(*services: object, client: dict[str, Any] | None = None, **options: Any) -> AsyncGenerator[tuple[aster.AsterServer, aster.AsterClient]]:
        async with (
            aster.serve(services, transport=transport, **options) as server,
            aster.connect(server.address, transport=transport, **(client or {})) as connected,
        ):
            yield server, connected

    return run


@pytest.fixture(params=[False, True], ids=["scope", "native"])
def native(request: pytest.FixtureRequest, anyio_backend: tuple[str, dict[str, Any]]) -> bool:
    """Whether asyncio's own cancellation is used, which knows no shields."""
    if request.param and anyio_backend[0] != "asyncio":
        pytest.skip("trio has scopes only")
    return request.param


@dataclass
class Refusals:
    """How often the server refuses a call before a handler sees it; the refusals that it gave are counted."""

    left: int = 0
    given: int = 0

    def admit(self, connection: ServerConnection, call: IncomingCall, header: Header) -> HostedMethod:
        """What stands before the connection's own decision."""
        if self.left:
            self.left -= 1
            self.given += 1
            raise RpcError(StatusCode.UNAVAILABLE, "refused")
        return _ADMIT(connection, call, header)


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    """Set how many there are to be."""
    refusals = Refusals()

    def admit(connection: ServerConnection, call: IncomingCall, header: Header) -> HostedMethod:
        return refusals.admit(connection, call, header)

    monkeypatch.setattr(ServerConnection, "admit", admit)
    return refusals
