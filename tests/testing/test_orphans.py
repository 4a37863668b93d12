"""assert_no_orphans finds what it says it finds, and virtual time passes as it should: a check that cannot fail proves nothing."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import warnings
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.testing import assert_no_orphans, live_connections, virtual_time_backend
from aster.transports.memory import MemoryTransport
from tests.backends import require_backend
from tests.guide import TaskService
from tests.rpc.probes import on_asyncio

pytestmark = pytest.mark.anyio

HOURS = timedelta(hours=5).total_seconds()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Everything here runs in virtual time."""
    require_backend(request.param)
    return virtual_time_backend(request.param)


async def _numbers() -> AsyncGenerator[int]:
    yield 1
    yield 2


async def test_a_block_that_leaves_nothing_passes() -> None:
    async with assert_no_orphans():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1)
        async with aclosing(_numbers()) as numbers:
            await anext(numbers)
        with socket.socket():
            pass
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


async def test_a_task_that_is_left_is_found() -> None:
    async with anyio.create_task_group() as group:
        with pytest.raises(AssertionError, match="task the forgotten one"):  # noqa: PT012 (the block is the subject)
            async with assert_no_orphans():
                group.start_soon(anyio.sleep_forever, name="the forgotten one")
                await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()


async def test_a_socket_that_is_left_open_is_found() -> None:
    forgotten = list[socket.socket]()
    with pytest.raises(AssertionError, match="socket with descriptor"):
        async with assert_no_orphans():
            forgotten.append(socket.socket())
    forgotten[0].close()


async def test_a_thread_that_is_left_is_found() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="the forgotten one")
    with pytest.raises(AssertionError, match="thread the forgotten one"):
        async with assert_no_orphans():
            thread.start()
    stop.set()
    thread.join()


async def test_an_async_generator_that_is_left_unfinished_is_found() -> None:
    numbers = _numbers()
    with pytest.raises(AssertionError, match=r"async generator _numbers$"):
        async with assert_no_orphans():
            await anext(numbers)
    await numbers.aclose()


async def test_an_async_generator_that_is_left_to_the_collector_is_found() -> None:
    async def drop() -> None:
        numbers = _numbers()
        await anext(numbers)

    with pytest.raises(AssertionError, match="_numbers, left to the garbage collector"):  # noqa: PT012 (the block is the subject)
        async with assert_no_orphans():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # trio says the same
                await drop()
                gc.collect()  # collection is the subject
                await anyio.sleep(1)


async def test_a_timer_that_is_left_is_found() -> None:
    if not on_asyncio():
        return  # trio has no timers but those of scopes
    timers = list[asyncio.TimerHandle]()
    with pytest.raises(AssertionError, match="timer"):
        async with assert_no_orphans():
            timers.append(asyncio.get_running_loop().call_later(60, int))
    timers[0].cancel()


async def test_a_timer_is_found_that_took_the_address_of_one_that_has_gone() -> None:
    if not on_asyncio():
        return
    loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
    for _ in range(100):
        loop.call_later(0, list)
        with pytest.raises(AssertionError, match="timer"):  # noqa: PT012 (the first timer ends in the block)
            async with assert_no_orphans():
                await asyncio.sleep(0.001)
                timers.append(loop.call_later(1_000, list))
        timers.pop().cancel()


async def test_a_connection_that_is_left_is_found() -> None:
    transport = MemoryTransport()
    async with aster.serve([TaskService()], transport=transport) as server:
        client = aster.connect(server.address, transport=transport)
        with pytest.raises(AssertionError, match="streams of"):
            async with assert_no_orphans():
                await client.__aenter__()
        assert len(live_connections()) == 2
        await client.__aexit__(None, None, None)
        assert live_connections() == []


async def test_what_the_block_raises_passes_unchanged() -> None:
    with socket.socket() as left, pytest.raises(LookupError):  # noqa: PT012 (the block is the subject)
        async with assert_no_orphans():
            left.bind(("127.0.0.1", 0))
            raise LookupError


async def test_hours_of_virtual_time_pass_at_once_and_in_order() -> None:
    order, began = list[int](), anyio.current_time()

    async def sleep(hours: int) -> None:
        await anyio.sleep(hours * HOURS)
        order.append(hours)
        assert anyio.current_time() - began == pytest.approx(hours * HOURS)

    async with anyio.create_task_group() as group:
        for hours in (3, 1, 2):
            group.start_soon(sleep, hours)
        with anyio.move_on_after(4 * HOURS) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
    assert order == [1, 2, 3]


async def test_virtual_time_stands_still_while_something_can_run() -> None:
    began = anyio.current_time()
    with anyio.move_on_after(0.001) as scope:
        for _ in range(2_000):
            await anyio.lowlevel.checkpoint()
    assert not scope.cancelled_caught
    assert anyio.current_time() == began


def test_there_are_two_backends() -> None:
    with pytest.raises(ValueError, match="curio"):
        virtual_time_backend("curio")
