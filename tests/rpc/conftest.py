"""Behaviours of calls run on both backends, over memory and over QUIC: four times each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import aster
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport

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
