"""Calls above what a server takes at a time wait for their turn: none fails for that, none is overtaken, and one that gives up costs nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

import aster
from aster import RpcError, StatusCode
from aster._endpoint import EndpointOptions
from aster.decorators import bidi_stream, client_stream, rpc, server_stream
from aster.testing import live_connections
from aster.transports.base import Connection, ConnectionOptions, Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import CALLS, Call, backend_for, calls_are_over, until

pytestmark = pytest.mark.anyio

each_pattern = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


Limit = Callable[[int], dict[str, int]]


@pytest.fixture(params=["calls", "streams"])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """What a server is given so that it takes so many calls at a time: by the limit that its hello names, or by that of its transport alone."""
    if request.param == "calls":
        return lambda calls: {"max_concurrent_calls": calls}
    for_transport = EndpointOptions.for_transport

    def limit_streams(calls: int) -> dict[str, int]:
        def few(self: EndpointOptions) -> ConnectionOptions:
            return replace(for_transport(self), max_streams=calls + 1)  # and the one for control

        monkeypatch.setattr(EndpointOptions, "for_transport", few)
        return {}

    return limit_streams


class Gated(Echo):
    """Its handlers wait until they are let go; notes the number of each call's first request in the order in which they began."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()
        self.order: list[int] = []
        self.running = 0
        self.most = 0

    @asynccontextmanager
    async def _turn(self, item: Item) -> AsyncGenerator[None]:
        self.order.append(item.number)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go_on.wait()
            yield
        finally:
            self.running -= 1

    @rpc
    async def same(self, item: Item) -> Item:
        async with self._turn(item):
            return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        async with self._turn(item):
            pass
        yield item

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        item = await anext(items)
        async with self._turn(item):
            return item

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        item = await anext(items)
        async with self._turn(item):
            pass
        yield item


async def _interactively(echo: Echo, number: int) -> list[int]:
    async with aster.open_call(echo.chat) as call:
        await call.send(Item(number))
        await call.end()
        return await numbers_of(call)


async def call_with(echo: Echo, number: int) -> None:
    """A call of a pattern that goes by the number, which is what comes back."""
    item = Item(number)
    match number % 5:
        case 0:
            assert await echo.same(item) == item
        case 1:
            assert await numbers_of(echo.count(item)) == [number]
        case 2:
            assert await echo.total([item]) == item
        case 3:
            assert await numbers_of(echo.chat([item])) == [number]
        case _:
            assert await _interactively(echo, number) == [number]


async def call_within(scope: anyio.CancelScope, echo: Echo, number: int) -> None:
    with scope:
        await call_with(echo, number)


def client_end_of(server: aster.AsterServer) -> Connection:
    """The client's end of the only connection to a server."""
    (end,) = (connection for connection in live_connections() if connection.peer.endpoint_id == server.endpoint_id)
    return end


async def test_calls_above_the_limit_wait_and_all_succeed(running: Running, limit: Limit) -> None:
    gated, done = Gated(), list[int]()

    async def call(echo: Echo, number: int) -> None:
        await call_with(echo, number)
        done.append(number)

    async with running(gated, **limit(3)) as (server, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(call, echo, number)
            await until(lambda: gated.running == 3)
            await anyio.wait_all_tasks_blocked()
            assert client_end_of(server).open_streams == 3 + 1, "no stream is opened above the limit"
            gated.go_on.set()
    assert sorted(done) == sorted(gated.order) == list(range(40))
    assert gated.most == 3


async def test_calls_get_their_turns_in_the_order_in_which_they_were_made(running: Running, limit: Limit) -> None:
    gated, numbers = Gated(), list(range(20))
    async with running(gated, **limit(1)) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for number in numbers:
                group.start_soon(call_with, echo, number)
                await anyio.wait_all_tasks_blocked()
            await until(lambda: gated.order)
            assert gated.order == numbers[:1]
            gated.go_on.set()
    assert gated.order == numbers


async def test_who_calls_again_and_again_does_not_overtake_those_who_wait(running: Running, limit: Limit) -> None:
    gated = Gated()

    async def again_and_again() -> None:
        for _ in range(10):
            await echo.same(Item(100))

    async with running(gated, **limit(1)) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(again_and_again)
            for number in range(1, 6):
                await anyio.wait_all_tasks_blocked()
                group.start_soon(call_with, echo, number)
            await anyio.wait_all_tasks_blocked()
            gated.go_on.set()
    assert gated.order == [100, 1, 2, 3, 4, 5, *[100] * 9]


async def test_who_gives_up_waiting_costs_nothing_and_keeps_nobody_from_a_turn(running: Running, limit: Limit) -> None:
    gated, scopes = Gated(), defaultdict[int, anyio.CancelScope](anyio.CancelScope)
    async with running(gated, **limit(2)) as (server, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for number in range(22):
                group.start_soon(call_within, scopes[number], echo, number)
                await anyio.wait_all_tasks_blocked()
            await until(lambda: gated.running == 2)
            streams = client_end_of(server).open_streams
            for number in range(3, 22, 2):
                scopes[number].cancel()
            await anyio.wait_all_tasks_blocked()
            assert client_end_of(server).open_streams == streams, "who waited had no stream"
            gated.go_on.set()
        assert set(gated.order) == {0, 1, *range(2, 22, 2)}
        assert gated.most == 2
        await calls_are_over(client)
        # All turns are there again.
        gated.go_on = anyio.Event()
        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(call_with, echo, number)
            await until(lambda: gated.running == 2)
            gated.go_on.set()


async def test_those_who_wait_may_be_cancelled_in_any_order_and_the_rest_keep_theirs(running: Running, limit: Limit) -> None:
    gated, scopes = Gated(), defaultdict[int, anyio.CancelScope](anyio.CancelScope)
    async with running(gated, **limit(1)) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(call_within, scopes[number], echo, number)
                await anyio.wait_all_tasks_blocked()
            for number in (11, 1, 5, 6, 2):
                scopes[number].cancel()
            await until(lambda: gated.running == 1)
            gated.go_on.set()
    assert gated.order == [0, 3, 4, 7, 8, 9, 10]


@each_pattern
async def test_a_call_waits_for_its_turn_no_longer_than_its_deadline(running: Running, transport: Transport, limit: Limit, call: Call) -> None:
    gated, short = Gated(), 0.02
    async with running(gated, **limit(1)) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(call_with, echo, 100)
            await until(lambda: gated.running == 1)
            began = anyio.current_time()
            with pytest.raises(RpcError) as caught:
                await call(aster.with_options(echo, timeout=short))
            assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(TimeoutError), anyio.fail_after(short):
                await call(echo)
            if isinstance(transport, MemoryTransport):
                assert anyio.current_time() - began == pytest.approx(2 * short)
            gated.go_on.set()
        assert gated.order == [100], "who gave up began no handler"
        await call_with(echo, 5)


@each_pattern
async def test_a_call_whose_turn_comes_inside_its_deadline_succeeds(running: Running, limit: Limit, call: Call) -> None:
    gated = Gated()
    async with running(gated, **limit(1)) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(call_with, echo, 100)
            await until(lambda: gated.running == 1)
            group.start_soon(call, aster.with_options(echo, timeout=30.0))  # longer than a test may take
            await anyio.wait_all_tasks_blocked()
            gated.go_on.set()
    assert len(gated.order) == 2


async def test_the_limit_is_of_one_connection_and_other_clients_do_not_wait(running: Running, transport: Transport, limit: Limit) -> None:
    gated = Gated()
    async with (
        running(gated, **limit(1)) as (server, client),
        aster.connect(server.address, transport=transport) as other,
        anyio.create_task_group() as group,
    ):
        for each in (client, other):
            echo = await each.client(Echo)
            for number in (0, 5):
                group.start_soon(call_with, echo, number)
        await until(lambda: gated.running == 2)
        await anyio.wait_all_tasks_blocked()
        assert gated.running == 2
        gated.go_on.set()
    assert sorted(gated.order) == [0, 0, 5, 5]
