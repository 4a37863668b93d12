"""Deadlines: the least of the call's timeout, the ambient scope and the server's cap; they cross the wire, and only ever shrink."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import CALLS, Call, Endless, backend_for, calls_are_over, until

pytestmark = pytest.mark.anyio

SHORT = 0.02
"""Seconds of a timeout that is meant to expire; real ones over QUIC."""

LONG = 30.0
"""Seconds of a timeout that is not: longer than a test may take."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


@pytest.fixture(params=CALLS.values(), ids=list(CALLS))
def call(request: pytest.FixtureRequest) -> Call:
    """A call of each pattern."""
    return request.param


@service("Impatient")
class Impatient:
    """Its methods have timeouts of their own."""

    def __init__(self) -> None:
        self.deadlines = list[float]()

    @rpc(timeout=SHORT)
    async def same(self, item: Item) -> Item:
        self.deadlines.append(aster.current_call().deadline)
        await anyio.sleep(item.number)
        return item

    @server_stream(timeout=SHORT)
    async def count(self, item: Item) -> AsyncIterator[Item]:
        await anyio.sleep(item.number)
        yield item

    @client_stream(timeout=SHORT)
    async def total(self, items: AsyncIterator[Item]) -> Item:
        total = 0
        async for item in items:
            await anyio.sleep(item.number)
            total += 1
        return Item(total)

    @bidi_stream(timeout=SHORT)
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            await anyio.sleep(item.number)
            yield item


def is_exact(transport: Transport) -> bool:
    """Whether time is virtual, so that what is early or late by anything is wrong."""
    return isinstance(transport, MemoryTransport)


# Timeouts of calls


async def test_a_timeout_fails_the_call_with_deadline_exceeded_on_time_and_unwinds_the_handler(running: Running, transport: Transport, call: Call) -> None:
    endless = Endless(responses=1)
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        began = anyio.current_time()
        with pytest.raises(aster.RpcError) as caught:
            await call(aster.with_options(echo, timeout=SHORT))
        assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
        took = anyio.current_time() - began
        assert took == pytest.approx(SHORT) if is_exact(transport) else took >= SHORT
        await calls_are_over(client)
        assert endless.witness.running == 0


async def test_a_methods_own_timeout_holds_when_the_caller_gives_none(running: Running) -> None:
    async def unary(stub: Impatient) -> None:
        await stub.same(Item(60))

    async def server_streaming(stub: Impatient) -> None:
        async for _ in stub.count(Item(60)):
            pass

    async def client_streaming(stub: Impatient) -> None:
        await stub.total([Item(60)])

    async def both(stub: Impatient) -> None:
        async for _ in stub.chat([Item(60)]):
            pass

    async with assert_no_orphans(), running(Impatient()) as (_, client):
        stub = await client.client(Impatient)
        for begin in (unary, server_streaming, client_streaming, both):
            with pytest.raises(aster.RpcError) as caught:
                await begin(stub)
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED


async def test_a_calls_timeout_replaces_the_methods(running: Running) -> None:
    impatient = Impatient()
    async with running(impatient) as (_, client):
        stub = await client.client(Impatient)
        now = anyio.current_time()
        assert await aster.with_options(stub, timeout=LONG).same(Item()) == Item()
        assert await aster.with_options(stub, timeout=None).same(Item()) == Item()
        assert impatient.deadlines[0] - now > SHORT * 2
        assert impatient.deadlines[1] == math.inf


async def test_a_timeout_that_is_not_reached_changes_nothing(running: Running, call: Call) -> None:
    async with assert_no_orphans(), running(Echo()) as (_, client):
        await call(aster.with_options(await client.client(Echo), timeout=LONG))


async def test_a_deadline_of_a_millisecond_is_honoured(running: Running, transport: Transport, call: Call) -> None:
    endless = Endless()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = aster.with_options(await client.client(Echo), timeout=0.001)
        for _ in range(10):
            began = anyio.current_time()
            with pytest.raises(aster.RpcError) as caught:
                await call(echo)
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
            if is_exact(transport):
                assert anyio.current_time() - began == pytest.approx(0.001)
        await calls_are_over(client)
        assert endless.witness.running == 0


async def test_a_deadline_interrupts_a_handler_between_yields(running: Running) -> None:
    ended_by = list[str]()

    class Yielding(Echo):
        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            try:
                while True:
                    yield item
            except GeneratorExit:
                ended_by.append("at a yield")
                raise
            except anyio.get_cancelled_exc_class():
                ended_by.append("at an await")
                raise

    # Nobody takes the responses, so that the handler waits at a yield for the caller's window.
    async with assert_no_orphans(), running(Yielding(), client={"window": 1}) as (_, client):
        echo = aster.with_options(await client.client(Echo), timeout=SHORT)
        async with echo.count(Item()) as items:
            await until(lambda: ended_by)
            with pytest.raises(aster.RpcError) as caught:
                async for _ in items:
                    pass
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
    assert ended_by == ["at a yield"]


async def test_what_arrived_before_the_deadline_is_read_before_the_error(running: Running) -> None:
    received = list[Item]()
    async with running(Endless(responses=3)) as (_, client):
        items = aster.with_options(await client.client(Echo), timeout=0.5).count(Item())

        async def read() -> None:
            async for item in items:
                received.append(item)

        with pytest.raises(aster.RpcError) as caught:
            await read()
        assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
        assert received == [Item(0), Item(1), Item(2)]


async def test_the_deadline_of_an_interactive_call_ends_its_receive_and_its_send(running: Running) -> None:
    async with assert_no_orphans(), running(Endless()) as (_, client):
        echo = aster.with_options(await client.client(Echo), timeout=SHORT)
        async with aster.open_call(echo.chat) as open_call:
            with pytest.raises(aster.RpcError) as caught:
                await open_call.receive()
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(anyio.BrokenResourceError):
                await open_call.send(Item())


async def test_a_handlers_own_deadline_exceeded_reaches_the_caller_as_an_rpc_error(running: Running) -> None:
    class Own(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            raise aster.RpcError(aster.StatusCode.DEADLINE_EXCEEDED, "the database was too slow")

    async with running(Own()) as (_, client):
        echo = await client.client(Echo)
        for timeout in (None, LONG):
            with pytest.raises(aster.RpcError, match="the database was too slow"), anyio.fail_after(LONG):
                await aster.with_options(echo, timeout=timeout).same(Item())


# Ambient scopes


async def test_an_ambient_deadline_stays_native_also_when_the_server_notices_first(running: Running, transport: Transport, call: Call) -> None:
    endless = Endless()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        for timeout in (None, LONG):
            began = anyio.current_time()
            with pytest.raises(TimeoutError), anyio.fail_after(SHORT):
                await call(aster.with_options(echo, timeout=timeout))
            if is_exact(transport):
                assert anyio.current_time() - began == pytest.approx(SHORT)
        await calls_are_over(client)


async def test_an_expired_ambient_deadline_speaks_for_itself_when_the_server_was_first(running: Running) -> None:
    """The server's outcome is here before the caller looks, because the caller's task was busy elsewhere when the time came."""
    endless = Endless(responses=1)
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)

        async def read() -> None:
            async with echo.count(Item()) as items:
                await anext(items)
                with anyio.CancelScope(shield=True):
                    await until(lambda: endless.witness.unwound)
                    await calls_are_over(client)
                await anext(items)

        with pytest.raises(TimeoutError), anyio.fail_after(SHORT):
            await read()


async def test_an_ambient_deadline_that_passed_before_the_call_began_stays_native(running: Running, call: Call) -> None:
    async with assert_no_orphans(), running(Endless()) as (_, client):
        echo = await client.client(Echo)
        for timeout in (None, LONG):
            with pytest.raises(TimeoutError), anyio.fail_after(0.002):  # noqa: PT012 (both belong to it)
                time.sleep(0.004)  # noqa: ASYNC251 (blocks the loop on purpose: the clock passes the deadline before the scope hears of it)
                await call(aster.with_options(echo, timeout=timeout))


async def test_a_calls_timeout_that_is_shorter_than_the_ambient_one_gives_deadline_exceeded(running: Running, call: Call) -> None:
    async with running(Endless()) as (_, client):
        echo = aster.with_options(await client.client(Echo), timeout=SHORT)
        with anyio.fail_after(LONG), pytest.raises(aster.RpcError) as caught:
            await call(echo)
        assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED


# What handlers see


class Observant(Echo):
    """Its handler tells how much time it thinks it has: by the call's context and by its scope."""

    def __init__(self) -> None:
        self.seen = list[tuple[float, float]]()

    @rpc
    async def same(self, item: Item) -> Item:
        now = anyio.current_time()
        self.seen.append((aster.current_call().deadline - now, anyio.current_effective_deadline() - now))
        return item


async def test_a_handler_sees_the_remaining_time_in_its_call_and_in_its_scope(running: Running, transport: Transport) -> None:
    observant = Observant()
    async with running(observant) as (_, client):
        echo = await client.client(Echo)
        await echo.same(Item())
        await aster.with_options(echo, timeout=LONG).same(Item())
        with anyio.fail_after(LONG / 2):
            await aster.with_options(echo, timeout=LONG).same(Item())
            await echo.same(Item())
    assert all(by_call == by_scope for by_call, by_scope in observant.seen)
    assert observant.seen[0][0] == math.inf
    for (seen, _), limit in zip(observant.seen[1:], (LONG, LONG / 2, LONG / 2), strict=True):
        assert seen == pytest.approx(limit) if is_exact(transport) else 0 < seen <= limit + 0.001


@pytest.mark.parametrize(("cap", "timeout", "expected"), [(5.0, None, 5.0), (5.0, 9.0, 5.0), (5.0, 2.0, 2.0)])
async def test_the_servers_cap_bounds_the_deadline(running: Running, transport: Transport, cap: float, timeout: float | None, expected: float) -> None:
    observant = Observant()
    async with running(observant, max_deadline=cap) as (_, client):
        await aster.with_options(await client.client(Echo), timeout=timeout).same(Item())
    seen = observant.seen[0][1]
    assert seen == pytest.approx(expected) if is_exact(transport) else 0 < seen <= expected + 0.001


async def test_the_servers_cap_ends_a_call_with_deadline_exceeded(running: Running, call: Call) -> None:
    endless = Endless()
    async with assert_no_orphans(), running(endless, max_deadline=SHORT) as (_, client):
        echo = await client.client(Echo)
        for timeout in (None, LONG):
            with pytest.raises(aster.RpcError) as caught, anyio.fail_after(LONG):
                await call(aster.with_options(echo, timeout=timeout))
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
        await calls_are_over(client)
        assert endless.witness.cancelled == endless.witness.unwound == 2


class Hop(Observant):
    """Calls the next server before it answers."""

    def __init__(self, onward: Echo | None, delay: float) -> None:
        super().__init__()
        self._onward = onward
        self._delay = delay

    @rpc
    async def same(self, item: Item) -> Item:
        await super().same(item)
        await anyio.sleep(self._delay)
        return item if self._onward is None else await self._onward.same(item)


@pytest.mark.parametrize("ambient", [False, True], ids=["timeout of the call", "ambient scope"])
async def test_a_deadline_shrinks_and_never_grows_over_three_hops(transport: Transport, ambient: bool) -> None:
    delay = 1.0 if is_exact(transport) else 0.01
    last = Hop(None, delay)
    async with assert_no_orphans(), aster.serve([last], transport=transport) as third, aster.connect(third.address, transport=transport) as to_third:
        middle = Hop(await to_third.client(Echo), delay)
        async with aster.serve([middle], transport=transport) as second, aster.connect(second.address, transport=transport) as to_second:
            # A timeout of its own on the way may be longer: the deadline that came along is what bounds it.
            first = Hop(aster.with_options(await to_second.client(Echo), timeout=2 * LONG), delay)
            async with aster.serve([first], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
                echo = await client.client(Echo)
                with anyio.fail_after(LONG if ambient else math.inf):
                    await (echo if ambient else aster.with_options(echo, timeout=LONG)).same(Item())
    remaining = [hop.seen[0][1] for hop in (first, middle, last)]
    if is_exact(transport):
        assert remaining == pytest.approx([LONG, LONG - 1, LONG - 2])
    else:
        assert LONG + 0.001 >= remaining[0] > remaining[1] > remaining[2] > 0


async def test_a_deadline_that_expires_at_the_third_hop_unwinds_every_hop(transport: Transport) -> None:
    endless = Endless()
    async with assert_no_orphans(), aster.serve([endless], transport=transport) as third, aster.connect(third.address, transport=transport) as to_third:
        middle = Hop(await to_third.client(Echo), 0)
        async with aster.serve([middle], transport=transport) as second, aster.connect(second.address, transport=transport) as client:
            with pytest.raises(aster.RpcError) as caught:
                await aster.with_options(await client.client(Echo), timeout=0.1).same(Item())
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: endless.witness.running == 0)
    assert endless.witness.began == endless.witness.cancelled


# Many at once, and queues


async def test_a_thousand_calls_that_time_out_at_once_all_fail_on_time_and_leave_nothing_behind(running: Running, transport: Transport) -> None:
    endless, took = Endless(), list[float]()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = aster.with_options(await client.client(Echo), timeout=1.0)

        async def expire() -> None:
            began = anyio.current_time()
            with pytest.raises(aster.RpcError) as caught:
                await echo.same(Item())
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
            took.append(anyio.current_time() - began)

        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(expire)
        await calls_are_over(client)
        assert endless.witness.running == 0
    assert len(took) == 1000
    # Real ones may be late on a busy machine, and are then all late together; never early.
    assert took == pytest.approx([1.0] * 1000) if is_exact(transport) else min(took) >= 1.0


async def test_a_call_that_queues_for_a_stream_queues_inside_its_deadline(running: Running, transport: Transport) -> None:
    endless = Endless()
    async with assert_no_orphans(), running(endless, max_concurrent_calls=1) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(echo.same, Item())
            await until(lambda: endless.witness.began == 1)
            began = anyio.current_time()
            with pytest.raises(aster.RpcError) as caught:
                await aster.with_options(echo, timeout=SHORT).same(Item())
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(TimeoutError), anyio.fail_after(SHORT):
                await echo.same(Item())
            if is_exact(transport):
                assert anyio.current_time() - began == pytest.approx(2 * SHORT)
            group.cancel_scope.cancel()
        await calls_are_over(client)
        assert endless.witness.began == 1


async def test_time_spent_in_the_queue_is_taken_from_what_the_handler_gets(running: Running, transport: Transport) -> None:
    class Busy(Observant):
        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            await anyio.sleep(0.05)
            return Item()

    observant = Busy()
    async with running(observant, max_concurrent_calls=1) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(CALLS["client stream"], echo)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            group.start_soon(aster.with_options(echo, timeout=LONG).same, Item())
    remaining = observant.seen[0][1]
    assert remaining <= LONG - 0.04
    assert remaining == pytest.approx(LONG - 0.05) or not is_exact(transport)
