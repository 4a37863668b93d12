"""Cancellation at every checkpoint of a call: wherever it finds the handler, that unwinds exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
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


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


async def _converse(echo: Echo) -> None:
    async with aster.open_call(echo.chat) as open_call:
        for number in range(2):
            await open_call.send(Item(number))
            assert await open_call.receive() == Item(number)
            assert await open_call.receive() == Item(number)
        await open_call.end()
        with pytest.raises(anyio.EndOfStream):
            await open_call.receive()


EVERY_CALL = {**CALLS, "interactive": _converse}


@pytest.fixture(params=EVERY_CALL.values(), ids=list(EVERY_CALL))
def call(request: pytest.FixtureRequest) -> Call:
    """A call of each pattern, and one of ``open_call``."""
    return request.param


class Traced(Echo):
    """Tells where its handlers are at any moment, counts where a cancellation found them, and has its caller cancelled at a place of the test's choice."""

    def __init__(self) -> None:
        self.where = ""
        self.landed = Counter[str]()
        self.landed_before = False
        self.began = 0
        self.cleaned = 0
        self._place = self._interrupted_at = 0
        self._interrupt: Callable[[], object] = lambda: None

    def interrupt_at(self, place: int, interrupt: Callable[[], object]) -> None:
        """At the place of this number (from 1: checkpoints of handlers and their yields), call ``interrupt`` and go no further until a cancellation comes."""
        self._place, self._interrupted_at, self._interrupt = 0, place, interrupt

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
                    self._reach("yield")
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
                    self._reach("yield")
                    yield item
                self.where = "await"
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            self._landed()
            raise
        finally:
            await self._clean_up()

    async def _work(self, where: str) -> None:
        for _ in range(STEPS):
            if self._reach(where):
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()

    def _reach(self, where: str) -> bool:
        self.where = where
        self._place += 1
        if self._place != self._interrupted_at:
            return False
        self._interrupt()
        return True

    async def _clean_up(self) -> None:
        self.cleaned += 1
        try:
            await self._work("finally")
        except anyio.get_cancelled_exc_class():
            if not self.landed_before:
                self._landed()
            raise
        finally:
            self.where, self.landed_before = "", False

    def _landed(self) -> None:
        self.landed_before = True
        self.landed[self.where] += 1


def _places_of(call: Call) -> set[str]:
    yields = call not in (CALLS["unary"], CALLS["client stream"])
    return {"await", "finally"} | ({"yield"} if yields else set())


async def test_cancellation_after_any_turn_of_the_scheduler_unwinds_the_handler_exactly_once(running: Running, transport: Transport, call: Call) -> None:
    traced = Traced()
    # A window of one byte makes a streaming handler wait at each yield until the caller has taken what it yielded.
    async with assert_no_orphans(), running(traced, window=1, client={"window": 1}) as (_, client):
        echo = await client.client(Echo)

        async def settled() -> None:
            await calls_are_over(client)
            assert traced.began == traced.cleaned
            assert traced.where == ""

        # Trio runs in any order what can run, so that one turn is not the same place each time: of 300 sweeps 3 found no `finally`. Ten that all miss one
        # are a fault. Over QUIC it is the packets that say which turn a handler runs in.
        for _ in range(10 if isinstance(transport, MemoryTransport) else 1):
            assert await cancelled_at_every_step(lambda: call(echo), settled, transport) > 2 * STEPS
            if traced.landed.keys() >= _places_of(call):
                break
        await call(echo)  # and the connection is none the worse
    if isinstance(transport, MemoryTransport):
        assert traced.landed.keys() >= _places_of(call)


async def test_cancellation_at_every_place_of_a_handler_lands_there_exactly_once(running: Running, call: Call) -> None:
    traced = Traced()
    landed_at = set[str]()
    async with assert_no_orphans(), running(traced, window=1, client={"window": 1}) as (_, client):
        echo = await client.client(Echo)
        for place in count(1):
            traced.landed.clear()
            with anyio.CancelScope() as scope:
                traced.interrupt_at(place, scope.cancel)
                await call(echo)
            await calls_are_over(client)
            assert traced.began == traced.cleaned == place
            if not scope.cancelled_caught:  # there were fewer places: a whole call ran, and the connection is none the worse
                break
            assert traced.landed.total() == 1
            landed_at.update(traced.landed)
    assert not traced.landed
    assert landed_at == _places_of(call)
