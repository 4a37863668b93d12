"""What a caller gives as a stream of requests: when it is read and closed, and what becomes of its failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

import aster
from aster.testing import live_connections
from aster.transports.base import Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Brief, Echo, Item, OpenEnded, Requests, numbers_of
from tests.rpc.probes import Call, Endless, LingeringRequests, on_asyncio, until

pytestmark = pytest.mark.anyio


class PlainRequests(Iterator[Item]):
    """A plain iterator with a ``close``, as generators have it."""

    def __init__(self, *numbers: int, error: Exception | None = None) -> None:
        self._numbers = iter(numbers)
        self._error = error
        self.closings = 0

    def __next__(self) -> Item:
        for number in self._numbers:
            return Item(number)
        raise self._error or StopIteration

    def close(self) -> None:
        self.closings += 1


@pytest.mark.parametrize("make", [Requests, PlainRequests])
async def test_an_iterable_of_requests_is_closed_once_before_the_call_returns(running: Running, make: type[Requests | PlainRequests]) -> None:
    async with running(Echo(), Brief()) as (_, client):
        echo, brief = await client.client(Echo), await client.client(Brief)
        requests = make(1, 2, 3)
        assert (await echo.total(requests)).number == 6
        assert requests.closings == 1
        requests = make(1, 2, 3)
        assert [item.number async for item in echo.chat(requests)] == [1, 2, 3]
        assert requests.closings == 1
        requests = make(1, 2, 3)
        assert (await brief.first(requests)).number == 1
        assert requests.closings == 1


@pytest.mark.parametrize("make", [Requests, PlainRequests])
async def test_the_exception_of_an_iterable_cancels_the_call_and_comes_out_of_it(running: Running, make: type[Requests | PlainRequests]) -> None:
    error = LookupError("no more")
    for method in ("collect", "talk"):
        hosted = OpenEnded()
        async with running(hosted) as (_, client):
            stub = await client.client(OpenEnded)
            requests = make(1, error=error)
            call = stub.collect(requests) if method == "collect" else numbers_of(stub.talk(requests))
            with pytest.raises(LookupError) as caught:
                await call
            assert caught.value is error
            assert requests.closings == 1


async def test_the_exception_of_an_iterable_reaches_the_handler_as_cancellation(running: Running) -> None:
    hosted = OpenEnded()

    async def requests() -> AsyncIterator[Item]:
        yield Item(1)
        await hosted.begun.wait()
        raise LookupError("no more")

    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        with pytest.raises(LookupError):
            await stub.collect(requests())
        await hosted.ended.wait()
        assert hosted.endings == 1


async def test_an_rpc_error_of_an_iterable_comes_out_as_itself(running: Running) -> None:
    error = aster.RpcError(aster.StatusCode.ABORTED, "another call failed")
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(aster.RpcError) as caught:
            await echo.total(Requests(1, error=error))
        assert caught.value is error


class _FailsToClose:
    """Requests that never come, of an iterator that cannot be closed."""

    def __aiter__(self) -> _FailsToClose:
        return self

    async def __anext__(self) -> Item:
        await anyio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        raise ZeroDivisionError("while it was closed")


async def _totals(echo: Echo) -> None:
    await echo.total(_FailsToClose())


async def _chats(echo: Echo) -> None:
    async for _ in echo.chat(_FailsToClose()):
        raise AssertionError


@pytest.mark.parametrize("call", [_totals, _chats])
@pytest.mark.parametrize("begun", [True, False], ids=["running", "waiting for a connection"])
async def test_cancellation_goes_before_what_an_iterable_raises_while_it_is_closed(
    transport: Transport, call: Call, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's comes once, and would be lost."""
    caplog.set_level(logging.INFO, "aster")
    endless = Endless()
    async with aster.serve([endless], transport=transport, drain_grace=0) as server, aster.connect(server.address, transport=transport) as client:
        echo = await client.client(Echo)
        if not begun:
            await server.drain(0)
            await until(lambda: not live_connections())
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(call, echo)
                if begun:
                    await until(lambda: endless.witness.began)
                else:
                    await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        told = [record for record in caplog.records if record.exc_info and isinstance(record.exc_info[1], ZeroDivisionError)]
        assert len(told) == 1


async def test_a_generator_that_fails_while_it_is_closed_fails_the_call_with_that(running: Running) -> None:
    async def requests() -> AsyncIterator[Item]:
        try:
            yield Item(1)
            await anyio.sleep_forever()
        finally:
            raise LookupError("closing failed")

    async with running(Brief()) as (_, client):
        brief = await client.client(Brief)
        with pytest.raises(LookupError, match="closing failed"):
            await brief.first(requests())


async def test_an_iterable_whose_tasks_fail_while_they_are_cancelled_fails_one_call(running: Running) -> None:
    """On trio the failure then comes in one group with the cancellation."""

    async def fail_in_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("cleanup failed")

    class Tasked(Requests):
        async def __anext__(self) -> Item:
            try:
                return await super().__anext__()
            except StopAsyncIteration:
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    group.start_soon(fail_in_the_end)
                    await anyio.sleep_forever()
                raise

    async with running(Brief(), Echo()) as (_, client):
        brief, echo = await client.client(Brief), await client.client(Echo)
        requests = Tasked(1)
        with pytest.raises(BaseExceptionGroup) as caught:
            await brief.first(requests)
        assert caught.group_contains(LookupError, match="cleanup failed")
        assert isinstance(caught.value, Exception)
        assert requests.closings == 1
        assert await echo.same(Item(1)) == Item(1)


@pytest.mark.parametrize("method", ["collect", "talk"])
async def test_a_cancelled_call_has_closed_its_requests_when_it_returns(running: Running, method: str) -> None:
    async with running(OpenEnded()) as (_, client):
        stub = await client.client(OpenEnded)
        scope = anyio.CancelScope()
        requests = Requests(1, at_end=scope.cancel)
        with scope:
            await (stub.collect(requests) if method == "collect" else numbers_of(stub.talk(requests)))
        assert scope.cancelled_caught
        assert requests.closings == 1


async def test_what_is_no_stream_of_requests_is_refused_with_the_remedy(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(TypeError, match=r"Echo\.total takes an iterable or async iterable of Item, not Item.*\[Item\("):
            await echo.total(Item())  # pyright: ignore[reportArgumentType] (callers without a type checker)
        with pytest.raises(TypeError, match=r"Echo\.chat takes an iterable or async iterable of Item, not Item.*\[Item\("):
            echo.chat(Item())  # pyright: ignore[reportArgumentType] (callers without a type checker)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_task_that_an_iterable_waited_for_never_hangs_the_call(running: Running) -> None:
    """On trio nobody can raise a cancellation by hand."""

    async def requests() -> AsyncIterator[Item]:
        yield Item(1)
        raise asyncio.CancelledError("a task that this awaited")

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(asyncio.CancelledError, match="a task that this awaited"):
            await echo.total(requests())
        with pytest.raises(asyncio.CancelledError, match="a task that this awaited"):
            async for _item in echo.chat(requests()):
                pass
        assert await echo.same(Item(1)) == Item(1)


async def test_an_iterable_that_closes_its_own_stream_does_not_wait_for_itself(running: Running) -> None:
    """Nor does a task that it has started."""
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)

        async def by_itself() -> AsyncIterator[Item]:
            yield Item(1)
            await stream.aclose()

        async def by_a_task() -> AsyncIterator[Item]:
            yield Item(1)
            async with anyio.create_task_group() as group:
                group.start_soon(stream.aclose)

        for requests in (by_itself, by_a_task):
            stream = echo.chat(requests())
            with pytest.raises(anyio.ClosedResourceError):
                async for _ in stream:
                    pass
        assert await echo.same(Item(2)) == Item(2)


async def test_everyone_who_closes_a_stream_waits_until_its_requests_are_closed(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        log = list[str]()
        requests = LingeringRequests(log)

        async def close() -> None:
            await stream.aclose()
            log.append("aclose returned")

        async with anyio.create_task_group() as group:
            async with echo.chat(requests.items()) as stream:
                await anext(stream)
                group.start_soon(close)
                group.start_soon(close)
                await requests.closing.wait()
                await anyio.wait_all_tasks_blocked()
                assert log == []
                requests.go_on.set()
            log.append("block left")
        assert log[0] == "requests closed"
        assert sorted(log[1:]) == ["aclose returned", "aclose returned", "block left"]


async def test_an_exception_of_an_iterable_comes_out_of_the_block_when_nothing_was_read_after_it(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        go_on, raised = anyio.Event(), anyio.Event()
        error = LookupError("no more")

        async def requests() -> AsyncIterator[Item]:
            yield Item(1)
            await go_on.wait()
            raised.set()
            raise error

        async def leave_early() -> None:
            async with echo.chat(requests()) as stream:
                await anext(stream)
                go_on.set()
                await raised.wait()
                await anyio.wait_all_tasks_blocked()

        with pytest.raises(LookupError) as caught:
            await leave_early()
        assert caught.value is error


async def test_what_an_iterable_raises_while_its_cancelled_call_closes_it_is_logged(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aster")
    async with running(OpenEnded()) as (_, client):
        stub = await client.client(OpenEnded)
        for method in ("collect", "talk"):
            begun = anyio.Event()

            async def requests(begun: anyio.Event = begun) -> AsyncIterator[Item]:
                try:
                    yield Item(1)
                    begun.set()
                    await anyio.sleep_forever()
                finally:
                    raise LookupError("no rollback")

            caplog.clear()
            async with anyio.create_task_group() as group:
                if method == "collect":
                    group.start_soon(stub.collect, requests())
                else:
                    group.start_soon(numbers_of, stub.talk(requests()))
                await begun.wait()
                group.cancel_scope.cancel()
            (record,) = [record for record in caplog.records if record.exc_info]
            assert "raised while their call was ended early" in record.message
            assert record.levelname == "INFO"


async def test_a_group_of_cancellation_by_hand_fails_one_call_and_not_the_client(running: Running) -> None:
    """On asyncio, where anybody can make one."""
    if not on_asyncio():
        return

    async def requests() -> AsyncIterator[Item]:
        yield Item(1)
        raise BaseExceptionGroup("by hand", [asyncio.CancelledError()])

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(BaseExceptionGroup, match="by hand"):
            await echo.total(requests())
        assert await echo.same(Item(2)) == Item(2)
