"""What a call costs besides its messages: how many tasks and cancel scopes it makes, and what it leaves behind. Counted, not timed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import aster
from aster.transports.quic import QuicTransport
from tests.guide import Command, LogEntry, TaskRequest, TaskService, WatchRequest
from tests.rpc.conftest import Running

pytestmark = pytest.mark.anyio


class _Counts:
    tasks = 0
    scopes = 0


@contextmanager
def _asyncio_tasks(counts: _Counts) -> Generator[None]:
    loop = asyncio.get_running_loop()

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        counts.tasks += 1
        return asyncio.Task(coro, loop=loop, **options)

    before = loop.get_task_factory()
    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)


@contextmanager
def _trio_tasks(counts: _Counts) -> Generator[None]:
    import trio

    class Spawned(trio.abc.Instrument):
        def task_spawned(self, task: trio.lowlevel.Task) -> None:
            counts.tasks += 1

    instrument = Spawned()
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


@contextmanager
def _counting(backend: str, monkeypatch: pytest.MonkeyPatch) -> Generator[_Counts]:
    """Count every task that is started, and every cancel scope that is made through AnyIO, the one of each of its tasks included."""
    counts = _Counts()
    original: Callable[..., anyio.CancelScope] = anyio.CancelScope.__new__

    def make(cls: type[anyio.CancelScope], *args: Any, **options: Any) -> anyio.CancelScope:
        counts.scopes += 1
        return original(cls, *args, **options)

    tasks = _asyncio_tasks if backend == "asyncio" else _trio_tasks
    with monkeypatch.context() as patch, tasks(counts):
        patch.setattr(anyio.CancelScope, "__new__", make)
        yield counts


Call = Callable[[TaskService], Awaitable[object]]


async def _unary(tasks: TaskService) -> object:
    return await tasks.get_task(TaskRequest("1"))


async def _server_stream(tasks: TaskService) -> object:
    return [update async for update in tasks.watch_tasks(WatchRequest())]


async def _client_stream(tasks: TaskService) -> object:
    return await tasks.ingest_logs(LogEntry("x") for _ in range(100))


async def _bidi_stream(tasks: TaskService) -> object:
    return [result async for result in tasks.execute(Command("x") for _ in range(100))]


@pytest.mark.parametrize("call", [_unary, _server_stream])
async def test_a_call_with_one_request_starts_one_task_for_the_handler_and_no_scope_but_that_tasks_own(
    running: Running, call: Call, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(TaskService()) as (_, client):
        tasks = aster.with_options(await client.client(TaskService), timeout=None)
        await call(tasks)
        with _counting(anyio_backend_name, monkeypatch) as counts:
            await call(tasks)
        assert (counts.tasks, counts.scopes) == (1, 1)


async def test_a_deadline_costs_one_scope_more_on_the_server_and_none_on_the_client(
    running: Running, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(TaskService()) as (_, client):
        tasks = aster.with_options(await client.client(TaskService), timeout=60)
        await _unary(tasks)
        with _counting(anyio_backend_name, monkeypatch) as counts:
            await _unary(tasks)
        assert (counts.tasks, counts.scopes) == (1, 2)


async def test_the_number_of_messages_costs_neither_tasks_nor_scopes(running: Running, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def of(count: int, tasks: TaskService) -> tuple[int, int]:
        with _counting(anyio_backend_name, monkeypatch) as counts:
            result = await tasks.ingest_logs(LogEntry("x") for _ in range(count))
        assert result.count == count
        return counts.tasks, counts.scopes

    async with running(TaskService()) as (_, client):
        tasks = await client.client(TaskService)
        few, many = await of(1, tasks), await of(200, tasks)
        assert few == many
        assert few[0] == 2, "one task for the handler, one for the request iterable"


@pytest.mark.parametrize("call", [_unary, _server_stream, _client_stream, _bidi_stream])
async def test_calls_over_quic_leave_nothing_that_only_the_garbage_collector_finds(call: Call) -> None:
    transport = QuicTransport()
    async with (
        aster.serve([TaskService()], transport=transport) as server,
        aster.connect(server.address, transport=transport) as client,
    ):
        tasks = await client.client(TaskService)
        await call(tasks)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(10):
                await call(tasks)
            gc.collect()
            left = [type(found).__qualname__ for found in gc.garbage if type(found).__module__.startswith("aster.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == []
