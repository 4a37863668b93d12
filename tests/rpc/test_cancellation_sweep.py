"""Cancellation at every checkpoint of a call: wherever it finds the handler, that unwinds exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import CALLS, Call, backend_for, calls_are_over, cancelled_at_every_step

pytestmark = pytest.mark.anyio

STEPS = 3
"""Checkpoints in each part of a handler whose cancellation is swept: enough for a cancel to land in the middle of it."""

STEPS_OVER_QUIC = 100
"""The same of a ``finally`` when packets take hundreds of turns of the scheduler, and the cancels of a sweep are as far apart."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


@pytest.fixture(params=CALLS.values(), ids=list(CALLS))
def call(request: pytest.FixtureRequest) -> Call:
    """A call of each pattern."""
    return request.param


class Traced(Echo):
    """Tells where its handlers are at any moment, and counts where a cancellation found them."""

    def __init__(self, transport: Transport) -> None:
        self.cleanup_steps = STEPS if isinstance(transport, MemoryTransport) else STEPS_OVER_QUIC
        self.where = ""
        self.landed = Counter[str]()
        self.landed_before = False
        self.began = 0
        self.cleaned = 0

    @rpc
    async def same(self, item: Item) -> Item:
        self.began += 1
        try:
            await self._work("await")
            return item
        except anyio.get_cancelled_exc_class():
            self._landed()
            raise
        finally:
            await self._clean_up()

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        self.began += 1
        try:
            for number in range(item.number):
                await self._work("await")
                # Two in a row, so that the second has to wait for the caller to take the first.
                for _ in range(2):
                    self.where = "yield"
                    yield Item(number)
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            self._landed()
            raise
        finally:
            await self._clean_up()

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        self.began += 1
        try:
            total = Item()
            self.where = "await"
            async for item in items:
                total.number += item.number
                await self._work("await")
            return total
        except anyio.get_cancelled_exc_class():
            self._landed()
            raise
        finally:
            await self._clean_up()

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        self.began += 1
        try:
            self.where = "await"
            async for item in items:
                await self._work("await")
                for _ in range(2):
                    self.where = "yield"
                    yield item
                self.where = "await"
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            self._landed()
            raise
        finally:
            await self._clean_up()

    async def _work(self, where: str, steps: int = STEPS) -> None:
        self.where = where
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()

    async def _clean_up(self) -> None:
        self.cleaned += 1
        try:
            await self._work("finally", self.cleanup_steps)
        except anyio.get_cancelled_exc_class():
            if not self.landed_before:
                self._landed()
            raise
        finally:
            self.where, self.landed_before = "", False

    def _landed(self) -> None:
        self.landed_before = True
        self.landed[self.where] += 1


async def test_cancellation_at_every_checkpoint_of_a_call_unwinds_the_handler_exactly_once(running: Running, transport: Transport, call: Call) -> None:
    traced = Traced(transport)
    # A window of one byte makes a streaming handler wait at each yield until the caller has taken what it yielded.
    async with assert_no_orphans(), running(traced, window=1, client={"window": 1}) as (_, client):
        echo = await client.client(Echo)

        async def settled() -> None:
            await calls_are_over(client)
            assert traced.began == traced.cleaned
            assert traced.where == ""

        times = await cancelled_at_every_step(lambda: call(echo), settled, transport)
        await call(echo)  # and the connection is none the worse
    assert times > 2 * STEPS
    assert traced.landed["await"]
    assert traced.landed["finally"]
    assert traced.landed["yield"] or call not in (CALLS["server stream"], CALLS["bidi stream"])


async def test_cancellation_at_every_checkpoint_of_an_interactive_call_unwinds_the_handler(running: Running, transport: Transport) -> None:
    traced = Traced(transport)
    async with assert_no_orphans(), running(traced, window=1, client={"window": 1}) as (_, client):
        echo = await client.client(Echo)

        async def converse() -> None:
            async with aster.open_call(echo.chat) as open_call:
                for number in range(2):
                    await open_call.send(Item(number))
                    assert await open_call.receive() == Item(number)
                    assert await open_call.receive() == Item(number)
                await open_call.end()
                with pytest.raises(anyio.EndOfStream):
                    await open_call.receive()

        async def settled() -> None:
            await calls_are_over(client)
            assert traced.began == traced.cleaned
            assert traced.where == ""

        times = await cancelled_at_every_step(converse, settled, transport)
    assert times > 2 * STEPS
    assert traced.landed["await"]
    assert traced.landed["finally"]
