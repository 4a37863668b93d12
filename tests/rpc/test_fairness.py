"""Streams let other tasks run, also where neither end ever waits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from aster.decorators import client_stream, server_stream
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item

pytestmark = pytest.mark.anyio

_MESSAGES = 1_500
"""Small ones, fewer than the credit window takes, so that nobody waits for credit."""

_AT_MOST = 2 * 128
"""Small messages between two turns of another task: ``aster._call`` waits a round after each 128, and trio runs a round's tasks in any order, so that the other
task may be first in one round and last in the next."""


class Ticks:
    """Counts turns of the loop, and the most messages that passed between two of them."""

    def __init__(self) -> None:
        self.turn = 0
        self.most = 0
        self._last = -1
        self._run = 0

    async def count(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.turn += 1

    def message(self) -> None:
        """A message passes."""
        self._run = self._run + 1 if self._last == self.turn else 1
        self._last = self.turn
        self.most = max(self.most, self._run)


class Ticking(Echo):
    def __init__(self, ticks: Ticks) -> None:
        self.ticks = ticks

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            self.ticks.message()
            yield Item(number)

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        number = 0
        async for _ in items:
            self.ticks.message()
            number += 1
        return Item(number)


async def test_streams_of_small_messages_let_other_tasks_run_at_each_of_the_four_ends(running: Running) -> None:
    at_server, at_client = Ticks(), Ticks()

    async def requests() -> AsyncIterator[Item]:
        for number in range(_MESSAGES):
            at_client.message()
            yield Item(number)

    async with running(Ticking(at_server)) as (_, client), anyio.create_task_group() as group:
        group.start_soon(at_server.count)
        group.start_soon(at_client.count)
        echo = await client.client(Echo)
        async with echo.count(Item(_MESSAGES)) as stream:
            assert await anext(stream) == Item(0)
            # All has arrived once the handler has long ended; what follows is taken without a wait.
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            async for _ in stream:
                at_client.message()
        assert (await echo.total(requests())).number == _MESSAGES
        group.cancel_scope.cancel()
    assert 1 < at_server.most <= _AT_MOST + 1
    assert 1 < at_client.most <= _AT_MOST + 1
