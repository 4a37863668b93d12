"""Streams let other tasks run, also where neither end ever waits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from aster.decorators import client_stream, server_stream
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import calls_are_over

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
    def __init__(self) -> None:
        self.yielded, self.taken = Ticks(), Ticks()

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            self.yielded.message()
            yield Item(number)

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        number = 0
        async for _ in items:
            self.taken.message()
            number += 1
        return Item(number)


async def test_streams_of_small_messages_let_other_tasks_run_at_each_of_the_four_ends_but_not_for_each_message(running: Running) -> None:
    ticking, given, received = Ticking(), Ticks(), Ticks()

    async def requests() -> AsyncIterator[Item]:
        for number in range(_MESSAGES):
            given.message()
            yield Item(number)

    ends = {"yielded": ticking.yielded, "taken": ticking.taken, "given": given, "received": received}
    async with running(ticking) as (_, client), anyio.create_task_group() as group:
        for ticks in ends.values():
            group.start_soon(ticks.count)
        echo = await client.client(Echo)
        async with echo.count(Item(_MESSAGES)) as stream:
            assert await anext(stream) == Item(0)
            # All has arrived once the handler has long ended; what follows is taken without a wait.
            await calls_are_over(client)
            async for _ in stream:
                received.message()
        assert (await echo.total(requests())).number == _MESSAGES
        group.cancel_scope.cancel()
    most = {end: ticks.most for end, ticks in ends.items()}
    assert {end: 1 < most[end] <= _AT_MOST + 1 for end in ends} == dict.fromkeys(ends, True), most
