"""What a caller holds of a stream of responses: pausing, closing, dropping."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

import aster
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, OpenEnded, Requests

pytestmark = pytest.mark.anyio


async def test_a_response_stream_is_its_own_iterator(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for stream in (echo.count(Item(2)), echo.chat([Item(0), Item(1)])):
            assert isinstance(stream, aster.ResponseStream)
            assert aiter(stream) is stream
            assert [item.number async for item in stream] == [0, 1]
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_a_break_inside_the_block_pauses_and_the_blocks_end_cancels(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        async with stub.stream(Item(4)) as stream:
            async for item in stream:
                if item.number == 1:
                    break
            assert (await anext(stream)).number == 2
            async for item in stream:
                assert item.number == 3
                break
            await hosted.begun.wait()
            assert not hosted.ended.is_set()
        await hosted.ended.wait()


async def test_a_stream_that_another_task_closes_ends_there_at_whatever_step_its_reader_is(running: Running) -> None:
    closed = 0

    async def read(stream: aster.ResponseStream[Item]) -> None:
        nonlocal closed
        try:
            assert [item.number async for item in stream] == list(range(500))
        except anyio.ClosedResourceError:
            closed += 1

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for steps in range(30):
            async with echo.count(Item(500)) as stream, anyio.create_task_group() as group:
                group.start_soon(read, stream)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                await stream.aclose()
    assert closed > 0


async def test_a_cancelled_wait_inside_the_block_leaves_the_stream_alive(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        go_on = anyio.Event()

        async def requests() -> AsyncIterator[Item]:
            await go_on.wait()
            yield Item(1)

        async with echo.chat(requests()) as stream:
            with anyio.move_on_after(0.01):  # the wait ends only by this
                await anext(stream)
            go_on.set()
            assert [item.number async for item in stream] == [1]


async def test_a_break_outside_a_block_keeps_the_call_as_long_as_the_stream_is_referenced(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stream = stub.stream(Item(3))
        async for _ in stream:
            break
        assert (await anext(stream)).number == 1
        await hosted.begun.wait()
        assert not hosted.ended.is_set()
        del stream
        await hosted.ended.wait()
        assert hosted.endings == 1


async def test_a_break_from_an_unreferenced_stream_cancels_the_call(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        async for _ in stub.stream(Item(1)):
            await hosted.begun.wait()
            break
        await hosted.ended.wait()


async def test_the_last_reference_may_be_dropped_in_another_thread(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        holder = [stub.stream(Item(1))]
        await anext(holder[0])
        await hosted.begun.wait()
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        await hosted.ended.wait()


async def test_dropping_a_bidirectional_stream_stops_its_requests(running: Running) -> None:
    requests = Requests(1, at_end=lambda: None)
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        stream = echo.chat(requests)
        assert (await anext(stream)).number == 1
        del stream
    assert requests.closings == 1


async def test_a_stream_that_was_never_iterated_makes_no_call(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stub.stream(Item(1))
        await stub.stream(Item(1)).aclose()
    assert not hosted.begun.is_set()


async def test_the_end_of_the_client_block_cancels_what_is_still_referenced(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stream = stub.stream(Item(1))
        await anext(stream)
        await hosted.begun.wait()
    assert hosted.endings == 1
    with pytest.raises(aster.RpcError) as caught:
        await anext(stream)
    assert caught.value.code is aster.StatusCode.CANCELLED


async def test_aclose_is_idempotent_and_ends_the_iteration(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stream = stub.stream(Item(2))
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await anext(stream)


async def test_a_second_task_that_iterates_is_refused_and_the_first_goes_on(running: Running) -> None:
    go_on = anyio.Event()

    async def requests() -> AsyncIterator[Item]:
        await go_on.wait()
        yield Item(1)

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        stream = echo.chat(requests())
        got: list[int] = []

        async def read() -> None:
            got.extend([item.number async for item in stream])

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await anext(stream)
            go_on.set()
        assert got == [1]
