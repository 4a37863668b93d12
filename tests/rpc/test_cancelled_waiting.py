"""Cancellation at every await of ``server.drain()`` and ``server.serve()``: it ends the waiting, and nothing else."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.decorators import rpc
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import Witness, backend_for, cancelled_at_every_step, error_of, until

pytestmark = pytest.mark.anyio

CALLS = 3
STEPS = 6
"""Turns that a handler takes to end, and to unwind: enough for a cancellation to land among them."""

LONG = 600.0
"""Seconds of grace that no test waits for."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


async def _turns() -> None:
    for _ in range(STEPS):
        await anyio.lowlevel.checkpoint()


class Held(Echo):
    """Handlers that end some turns after they are let, and unwind in as many."""

    def __init__(self) -> None:
        self.witness = Witness()
        self.let = anyio.Event()

    @rpc
    async def same(self, item: Item) -> Item:
        with self.witness.watch():
            try:
                await self.let.wait()
                await _turns()
            finally:
                with anyio.CancelScope(shield=True):
                    await _turns()
        return item


class Served:
    """A server with calls that run, and what they end with."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.service: Held
        self.server: aster.AsterServer
        self.ends = Counter[aster.StatusCode]()

    @asynccontextmanager
    async def again(self) -> AsyncGenerator[None]:
        """A new one; whatever was cancelled within, it can be drained afterwards, takes no new call, and leaves nothing."""
        transport, self.service = self._transport, Held()
        async with (
            assert_no_orphans(),
            aster.serve([self.service], transport=transport, drain_grace=0) as self.server,
            aster.connect(self.server.address, transport=transport) as client,
        ):
            echo = await client.client(Echo)
            async with anyio.create_task_group() as group:
                for number in range(CALLS):
                    group.start_soon(self._call, echo, number)
                await until(lambda: self.service.witness.began == CALLS)
                yield
                await self.server.drain(LONG if self.service.let.is_set() else 0)
            assert self.service.witness.running == 0
            # Drained, it is waited for no more.
            await self.server.serve()
            # Such a call waits for a connection, and would for the whole of connect_timeout, which has to be long for a busy machine.
            assert (await error_of(aster.with_options(echo, timeout=0.05).same(Item()))).code == aster.StatusCode.DEADLINE_EXCEEDED
            assert self.service.witness.began == CALLS

    async def _call(self, echo: Echo, number: int) -> None:
        try:
            assert await echo.same(Item(number)) == Item(number)
        except aster.RpcError as exc:
            self.ends[exc.code] += 1
        else:
            self.ends[aster.StatusCode.OK] += 1


async def test_cancelling_a_drain_in_its_grace_at_every_step_lets_the_calls_end(transport: Transport, native: bool) -> None:
    served = Served(transport)

    async def drain() -> None:
        served.service.let.set()
        await served.server.drain(LONG)

    times = await cancelled_at_every_step(drain, anyio.lowlevel.checkpoint, transport, served.again, native=native)
    assert times > STEPS
    # asyncio's own ends a task before its first line, that which lets the handlers end: once the calls are cancelled by the drain that follows.
    assert served.ends == Counter({aster.StatusCode.OK: (times + 1 - native) * CALLS, aster.StatusCode.UNAVAILABLE: native * CALLS})


async def test_cancelling_a_drain_that_cancels_handlers_at_every_step_leaves_a_server_that_can_be_drained_again(transport: Transport, native: bool) -> None:
    served = Served(transport)
    times = await cancelled_at_every_step(lambda: served.server.drain(0), anyio.lowlevel.checkpoint, transport, served.again, native=native)
    assert times > STEPS
    assert served.ends == {aster.StatusCode.UNAVAILABLE: (times + 1) * CALLS}


async def test_cancelling_serve_at_every_step_gives_the_signals_back_and_the_server_goes_on(transport: Transport, native: bool) -> None:
    served = Served(transport)

    async def drain_later(server: aster.AsterServer) -> None:
        await _turns()
        await server.drain(0)

    async def serve() -> None:
        await served.server.serve()

    async def signals_are_given_back() -> None:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    @asynccontextmanager
    async def around() -> AsyncGenerator[None]:
        async with served.again(), anyio.create_task_group() as group:
            group.start_soon(partial(drain_later, served.server))
            yield

    times = await cancelled_at_every_step(serve, signals_are_given_back, transport, around, native=native)
    assert times > STEPS
    assert served.ends == {aster.StatusCode.UNAVAILABLE: (times + 1) * CALLS}
