"""Cancellation crosses the wire: the caller is free at once, the handler unwinds at once, and the client's block waits for that."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
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
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.probes import CALLS, Call, Endless, Witness, backend_for, calls_are_over, kept_cancellation, on_asyncio, server_record, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


@pytest.fixture(params=CALLS.values(), ids=list(CALLS))
def call(request: pytest.FixtureRequest) -> Call:
    """A call of each pattern."""
    return request.param


# Before, during and after the end of requests; after the first response


async def test_cancelling_a_call_cancels_its_handler_in_the_middle_of_an_await(running: Running, call: Call) -> None:
    endless = Endless()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(call, echo)
                await until(lambda: endless.witness.began)
                scope.cancel()
        assert scope.cancelled_caught
        await calls_are_over(client)
        assert endless.witness.began == endless.witness.cancelled == endless.witness.unwound == 1


async def test_a_call_made_in_a_cancelled_scope_leaves_no_handler(running: Running, call: Call) -> None:
    endless = Endless()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call(echo)
        assert scope.cancelled_caught
        await calls_are_over(client)
        assert endless.witness.running == 0
        assert endless.witness.began == endless.witness.cancelled


async def test_cancelling_while_requests_are_sent_cancels_the_handler_and_closes_the_requests(running: Running) -> None:
    endless, closed = Endless(), Witness()

    async def requests() -> AsyncIterator[Item]:
        with closed.watch():
            yield Item(1)
            await anyio.sleep_forever()

    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(echo.total, requests())
                await until(lambda: endless.witness.began and closed.began)
                scope.cancel()
        # Closed by the time that the call is over, not some time later.
        assert closed.unwound == closed.cancelled == 1
        await calls_are_over(client)
        assert endless.witness.cancelled == endless.witness.unwound == 1


async def test_cancelling_after_the_first_response_keeps_it_and_cancels_the_handler(running: Running) -> None:
    endless, received = Endless(responses=1), list[Item]()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        with anyio.CancelScope() as scope:
            async for item in echo.count(Item()):
                received.append(item)
                scope.cancel()
        assert scope.cancelled_caught
        assert received == [Item(0)]
        await calls_are_over(client)
        assert endless.witness.cancelled == endless.witness.unwound == 1


async def test_leaving_a_stream_block_cancels_the_handler(running: Running) -> None:
    endless = Endless(responses=1)
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        async with echo.count(Item()) as items:
            assert await anext(items) == Item(0)
        await calls_are_over(client)
        assert endless.witness.cancelled == endless.witness.unwound == 1


async def test_leaving_an_interactive_call_before_its_outcome_cancels_the_handler(running: Running) -> None:
    endless = Endless()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as open_call:
            await open_call.send(Item(7))
            assert await open_call.receive() == Item(7)
        await calls_are_over(client)
        assert endless.witness.cancelled == endless.witness.unwound == 1


async def test_a_break_inside_a_stream_block_only_pauses(running: Running) -> None:
    async with assert_no_orphans(), running(Echo()) as (_, client):
        echo = await client.client(Echo)
        async with echo.count(Item(5)) as items:
            async for item in items:
                if item.number == 2:
                    break
            assert [item.number async for item in items] == [3, 4]


async def test_cancelling_one_receive_inside_a_stream_block_keeps_the_call(running: Running) -> None:
    go = anyio.Event()

    class Late(Echo):
        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            await go.wait()
            yield item

    async with assert_no_orphans(), running(Late()) as (_, client):
        echo = await client.client(Echo)
        async with echo.count(Item(9)) as items:
            with anyio.move_on_after(0.01) as scope:
                await anext(items)
            assert scope.cancelled_caught
            go.set()
            assert [item async for item in items] == [Item(9)]


async def test_dropping_the_last_reference_to_a_stream_cancels_its_handler(running: Running) -> None:
    endless = Endless(responses=1)
    async with running(endless) as (_, client):
        echo = await client.client(Echo)
        items = echo.count(Item())
        assert await anext(items) == Item(0)
        del items
        gc.collect()  # collection is the subject
        await calls_are_over(client)
        assert endless.witness.cancelled == endless.witness.unwound == 1


# What the caller sees


async def test_the_callers_own_cancellation_is_native_and_is_not_swallowed(running: Running, call: Call) -> None:
    seen = list[BaseException]()
    async with running(Endless()) as (_, client):
        echo = await client.client(Echo)
        with anyio.move_on_after(0.02) as scope:
            try:
                await call(echo)
            except BaseException as exc:
                seen.append(exc)
                raise
            pytest.fail("the call returned in spite of its cancellation")
        assert scope.cancelled_caught
        assert [isinstance(exc, anyio.get_cancelled_exc_class()) for exc in seen] == [True]


async def test_fail_after_around_a_call_raises_timeout_error(running: Running, call: Call) -> None:
    async with running(Endless()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.02):
                await call(echo)


async def test_asyncios_own_cancellation_crosses_too(running: Running, call: Call) -> None:
    if not on_asyncio():
        return
    endless = Endless()
    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        task = asyncio.ensure_future(call(echo))
        await until(lambda: endless.witness.began == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await call(echo)
        await calls_are_over(client)
        # With 20 ms of real time, the second one may be over before its handler began.
        assert endless.witness.cancelled == endless.witness.unwound == endless.witness.began >= 1


async def _made_cancellation() -> BaseException:
    return asyncio.CancelledError()


@pytest.mark.parametrize("cancellation", [_made_cancellation, kept_cancellation], ids=["made", "kept"])
async def test_a_handler_that_raises_cancellation_by_hand_fails_its_call_with_internal(
    running: Running, call: Call, cancellation: Callable[[], Awaitable[BaseException]]
) -> None:
    if cancellation is _made_cancellation and not on_asyncio():
        return  # trio lets nobody make one

    class ByHand(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            raise await cancellation()

        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            yield item
            raise await cancellation()

        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            async for _ in items:
                raise await cancellation()
            return Item()

        @bidi_stream
        async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            async for item in items:
                yield item
                raise await cancellation()

    async with assert_no_orphans(), running(ByHand()) as (_, client):
        echo = await client.client(Echo)
        for timeout in (None, 10.0):
            with pytest.raises(aster.RpcError) as caught:
                await call(aster.with_options(echo, timeout=timeout))
            assert caught.value.code is aster.StatusCode.INTERNAL
        await echo.nothing(Nothing())


async def test_a_handler_that_cancels_its_own_task_fails_its_call_with_internal(running: Running) -> None:
    if not on_asyncio():
        return  # only asyncio lets a task do that

    class SelfCancelling(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            task = asyncio.current_task()
            assert task is not None
            if item.number:
                task.cancel()
            await anyio.lowlevel.checkpoint()
            return item

    async with assert_no_orphans(), running(SelfCancelling()) as (_, client):
        echo = await client.client(Echo)
        for timeout in (None, 10.0):
            with pytest.raises(aster.RpcError) as caught:
                await aster.with_options(echo, timeout=timeout).same(Item(1))
            assert caught.value.code is aster.StatusCode.INTERNAL
        assert await echo.same(Item(0)) == Item(0)


async def test_a_handler_that_cancels_a_scope_of_its_own_goes_on(running: Running) -> None:
    class OwnScope(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anyio.sleep_forever()
            with anyio.move_on_after(0.001):
                await anyio.sleep_forever()
            return Item(item.number + 1)

    async with running(OwnScope()) as (_, client):
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(2)


async def test_a_handler_whose_cleanup_fails_while_it_is_cancelled_harms_nobody(running: Running) -> None:
    witness = Witness()

    class Clumsy(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            if item.number == 0:
                return item

            async def fail_at_the_end() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    raise LookupError("the cleanup is broken")

            with witness.watch():
                async with anyio.create_task_group() as group:
                    group.start_soon(fail_at_the_end)
                    group.start_soon(anyio.sleep_forever)
                    await anyio.sleep_forever()
            return item

        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            with witness.watch():
                try:
                    yield item
                    await anyio.sleep_forever()
                finally:
                    raise LookupError("the cleanup is broken")

    async with assert_no_orphans(), running(Clumsy()) as (_, client):
        echo = await client.client(Echo)
        for begin in (lambda: echo.same(Item(1)), lambda: anext(echo.count(Item(1)))):
            before = witness.began
            async with anyio.create_task_group() as group:
                group.start_soon(begin)
                await until(lambda before=before: witness.began > before)
                group.cancel_scope.cancel()
            await calls_are_over(client)
        assert witness.began == witness.unwound == 2
        assert await echo.same(Item(0)) == Item(0)


async def test_a_handler_that_swallows_its_cancellation_and_returns_harms_nobody(running: Running) -> None:
    class Stubborn(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            if item.number:
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    return Item(99)  # trio and asyncio both allow this; it is no good style
            return item

    async with assert_no_orphans(), running(Stubborn()) as (_, client):
        echo = await client.client(Echo)
        with anyio.move_on_after(0.02) as scope:
            await echo.same(Item(1))
        assert scope.cancelled_caught
        await calls_are_over(client)
        assert await echo.same(Item(0)) == Item(0)


async def test_a_hundred_calls_cancelled_at_once_all_unwind_and_their_neighbour_does_not_notice(running: Running) -> None:
    endless = Endless(responses=1)

    class Mixed(Endless):
        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            return Item(len([item async for item in items]))

    endless = Mixed(responses=1)
    go = anyio.Event()

    async def neighbour() -> AsyncIterator[Item]:
        yield Item()
        await go.wait()
        yield Item()

    totals = list[Item]()

    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)

        async def total() -> None:
            totals.append(await echo.total(neighbour()))

        async with anyio.create_task_group() as outer:
            outer.start_soon(total)
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(echo.same, Item())
                    group.start_soon(CALLS["server stream"], echo)
                await until(lambda: endless.witness.began == 100)
                group.cancel_scope.cancel()
            await until(lambda: endless.witness.running == 0)
            go.set()
        assert totals == [Item(2)]
        assert endless.witness.cancelled == endless.witness.unwound == 100


# Confirmed unwind


class SlowCleanup(Echo):
    """Its handlers take their time to clean up, shielded."""

    def __init__(self, seconds: float) -> None:
        self.witness = Witness()
        self.seconds = seconds
        self.cleaning = 0

    @rpc
    async def same(self, item: Item) -> Item:
        with self.witness.watch():
            try:
                await anyio.sleep_forever()
            finally:
                self.cleaning += 1
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(self.seconds)
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        with self.witness.watch():
            try:
                yield item
                await anyio.sleep_forever()
            finally:
                self.cleaning += 1
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(self.seconds)


async def test_a_cancelled_caller_is_free_at_once_and_the_clients_block_waits_for_the_handlers_cleanup(running: Running, transport: Transport) -> None:
    seconds = 3.0 if isinstance(transport, MemoryTransport) else 0.1  # virtual over memory, real over QUIC
    slow = SlowCleanup(seconds)
    async with assert_no_orphans(), aster.serve([slow], transport=transport) as server:
        async with aster.connect(server.address, transport=transport) as client:
            echo = await client.client(Echo)
            async with anyio.create_task_group() as group:
                group.start_soon(echo.same, Item())
                await until(lambda: slow.witness.began == 1)
                group.cancel_scope.cancel()
            assert slow.witness.unwound == 0
            async with echo.count(Item()) as items:
                await anext(items)
            assert slow.witness.unwound == 0
            left_at = anyio.current_time()
        assert slow.witness.began == slow.witness.unwound == 2
        if isinstance(transport, MemoryTransport):
            assert anyio.current_time() - left_at == pytest.approx(seconds)


async def test_cancelling_a_client_block_waits_for_the_handlers_cleanup_too(transport: Transport) -> None:
    slow = SlowCleanup(3.0 if isinstance(transport, MemoryTransport) else 0.1)
    async with assert_no_orphans(), aster.serve([slow], transport=transport) as server:
        with anyio.CancelScope() as scope:
            async with aster.connect(server.address, transport=transport) as client, anyio.create_task_group() as group:
                echo = await client.client(Echo)
                group.start_soon(echo.same, Item())
                await until(lambda: slow.witness.began == 1)
                scope.cancel()
        assert scope.cancelled_caught
        assert slow.witness.unwound == 1


async def test_past_the_cleanup_budget_the_client_closes_the_connection_and_says_so(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowCleanup(20.0 if isinstance(transport, MemoryTransport) else 1.5)  # the budget here and a round trip's second are less
    async with assert_no_orphans(), aster.serve([slow], transport=transport, cleanup_budget=0.05, drain_grace=0) as server:
        with caplog.at_level(logging.INFO, "aster"):
            async with aster.connect(server.address, transport=transport) as client:
                echo, record = await client.client(Echo), server_record(client)
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(echo.same, Item())
                        await until(lambda: slow.witness.began == 1)
                        scope.cancel()
        assert slow.witness.unwound == 0
        await until(lambda: record.lost)
        assert record.lost is not None
        assert "cancelled calls did not unwind in time" in str(record.lost)
        assert [record.getMessage() for record in caplog.records if "Echo.same" in record.getMessage() and "did not confirm" in record.getMessage()]
    assert slow.witness.unwound == 1


# Half-close and requests


@pytest.mark.parametrize("kind", ["async generator", "generator"])
async def test_a_handler_that_returns_early_stops_the_sender_without_an_error(running: Running, kind: str) -> None:
    closed = Witness()

    class Impatient(Echo):
        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            return await anext(items)

        @bidi_stream
        async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            yield await anext(items)

    async def endless() -> AsyncIterator[Item]:
        with closed.watch():
            number = 0
            while True:
                yield Item(number, data=bytes(10_000))
                number += 1

    def plain() -> Any:
        with closed.watch():
            number = 0
            while True:
                yield Item(number, data=bytes(10_000))
                number += 1

    requests = endless if kind == "async generator" else plain
    async with assert_no_orphans(), running(Impatient()) as (_, client):
        echo = await client.client(Echo)
        assert (await echo.total(requests())).number == 0
        assert closed.unwound == 1
        assert [item.number async for item in echo.chat(requests())] == [0]
        assert closed.unwound == closed.began == 2
        async with aster.open_call(echo.chat) as open_call:
            await open_call.send(Item(5))
            assert await open_call.receive() == Item(5)
            with pytest.raises(anyio.EndOfStream):
                await open_call.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await open_call.send(Item(6))


async def test_an_exception_of_the_request_iterable_cancels_the_call_and_comes_out_of_it(running: Running) -> None:
    endless = Endless()

    async def broken(handlers: int) -> AsyncIterator[Item]:
        yield Item(1)
        await until(lambda: endless.witness.began == handlers)
        raise LookupError("no more requests")

    async with assert_no_orphans(), running(endless) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(LookupError, match="no more requests"):
            await echo.total(broken(1))
        with pytest.raises(LookupError, match="no more requests"):
            async for _ in echo.chat(broken(2)):
                pass
        await calls_are_over(client)
        assert endless.witness.began == endless.witness.cancelled == endless.witness.unwound == 2


async def test_an_async_generator_handler_is_closed_at_once_in_its_own_task_when_its_call_ends(running: Running) -> None:
    tasks = list[tuple[int, int]]()

    class Closing(Echo):
        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            began_in = anyio.get_current_task().id
            try:
                while True:
                    yield item
            finally:
                tasks.append((began_in, anyio.get_current_task().id))

    gc.disable()  # so that nothing is closed by the collector; assert_no_orphans would see that as well
    try:
        async with assert_no_orphans(), running(Closing()) as (_, client):
            echo = await client.client(Echo)
            async with echo.count(Item()) as items:
                await anext(items)
            await calls_are_over(client)
            assert len(tasks) == 1
            assert tasks[0][0] == tasks[0][1]

            async def read_slowly() -> None:
                async for _ in aster.with_options(echo, timeout=0.01).count(Item()):
                    await anyio.sleep(0.001)  # lets virtual time pass, and the handler run into its window

            with pytest.raises(aster.RpcError) as caught:
                await read_slowly()
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
            await calls_are_over(client)
            assert len(tasks) <= 2
            assert all(began_in == ended_in for began_in, ended_in in tasks)
    finally:
        gc.enable()
