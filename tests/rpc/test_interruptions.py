"""Ctrl-C, and cancellation that knows no shields: asyncio's own, of every task there is, also of those that have not begun."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import aster
from aster.decorators import rpc, server_stream
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import CALLS, Endless, Lingering, LingeringRequests, backend_for, calls_are_over, on_asyncio, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory, where an unconfirmed end would cost a cleanup budget."""
    return backend_for(request.param, transport)


@contextmanager
def _collected_afterwards() -> Generator[None]:
    """Collect garbage behind the block and not in it: Python cannot even warn of a coroutine that never began if its collector happens to run where there is no
    ``__import__``, as inside the constructor of a namedtuple."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


# The program's own tasks that had not begun: AnyIO starts them, and their coroutines are the program's.
@pytest.mark.filterwarnings("ignore:coroutine '_(same|count|total|chat)' was never awaited:RuntimeWarning")
async def test_cancelling_every_task_there_is_at_any_step_leaves_nothing(transport: Transport) -> None:
    """``for task in asyncio.all_tasks(): task.cancel()``: what programs do in haste, and ``asyncio.run`` after a second Ctrl-C."""
    if not on_asyncio():
        return

    async def program() -> None:
        async with (
            aster.serve([Echo()], transport=transport, drain_grace=0.01, cleanup_budget=0.01) as server,
            aster.connect(server.address, transport=transport) as client,
        ):
            echo = await client.client(Echo)
            async with anyio.create_task_group() as group:
                for call in CALLS.values():
                    for _ in range(3):
                        group.start_soon(call, echo)

    others, steps, cancelled = asyncio.all_tasks(), 0, 0  # the test's own among them
    while True:
        async with assert_no_orphans():
            with _collected_afterwards():
                task = asyncio.ensure_future(program())
                for _ in range(steps):
                    await asyncio.sleep(0)
                    if task.done():
                        break
                finished = task.done()
                for each in asyncio.all_tasks() - others:
                    each.cancel()
                await asyncio.wait([task])
        if finished:
            break
        cancelled += 1
        steps += 1 if isinstance(transport, MemoryTransport) else 1 + steps // 10
    assert cancelled > 10
    await task


@pytest.mark.parametrize("pattern", ["total", "chat"])
async def test_a_second_native_cancellation_does_not_keep_the_requests_from_being_closed_first(running: Running, pattern: str) -> None:
    if not on_asyncio():
        return
    closed = list[str]()
    requests, endless = LingeringRequests(closed), Endless()
    async with running(endless, drain_grace=0) as (_, client):
        echo = await client.client(Echo)

        async def call() -> None:
            if pattern == "total":
                await echo.total(requests.items())
            else:
                async for _ in echo.chat(requests.items()):
                    pass

        task = asyncio.ensure_future(call())
        await until(lambda: endless.witness.began)
        task.cancel()
        await requests.closing.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        requests.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed == ["requests closed"]


async def test_what_an_iterable_raises_while_it_is_closed_is_logged_when_a_second_native_cancellation_comes(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    if not on_asyncio():
        return
    caplog.set_level("INFO", "aster")
    requests, endless = LingeringRequests([]), Endless()

    async def failing() -> AsyncIterator[Item]:
        try:
            async for item in requests.items():
                yield item
        finally:
            with anyio.CancelScope(shield=True):
                await requests.go_on.wait()
            raise ZeroDivisionError

    async with running(endless, drain_grace=0) as (_, client):
        echo = await client.client(Echo)
        task = asyncio.ensure_future(echo.total(failing()))
        await until(lambda: endless.witness.began)
        task.cancel()
        await requests.closing.wait()
        task.cancel()
        await asyncio.sleep(0)
        requests.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    raised = [record for record in caplog.records if record.exc_info and isinstance(record.exc_info[1], ZeroDivisionError)]
    assert [record.getMessage() for record in raised] == ["the requests of Echo.total raised while their call was ended early"]


_CTRL_C = """
import signal, sys
import anyio
import aster
from tests.rpc.echo import Echo, Item

async def main():
    async with aster.serve([Echo()], drain_grace=0.0) as server, aster.connect(server.address) as client:
        echo = await client.client(Echo)
        await echo.same(Item(1))
        # In the frames of the reactor, where the signal of a user arrives as often as not.
        client._channel.current.reactor.call_soon(lambda: signal.raise_signal(signal.SIGINT))
        await anyio.sleep_forever()

try:
    anyio.run(main, backend=sys.argv[1])
except BaseException as exc:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    print(type(exc).__name__)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_inside_the_reactor_ends_the_program_and_its_blocks(backend: str) -> None:
    backend_for(backend, MemoryTransport())  # skips where trio is missing
    # No timeout of its own: a hang ends as every hang in a test does.
    done = subprocess.run([sys.executable, "-c", _CTRL_C, backend], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("KeyboardInterrupt\n", "")


def test_ctrl_c_has_its_ordinary_meaning_in_these_tests() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_a_block_whose_scope_was_cancelled_last_thing_in_it_ends_cancelled(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server:
        with anyio.CancelScope() as scope:
            async with aster.connect(server.address, transport=transport):
                scope.cancel()
        assert scope.cancelled_caught
        with anyio.CancelScope() as expired:
            async with aster.connect(server.address, transport=transport):
                expired.deadline = anyio.current_time() - 1
        assert expired.cancelled_caught


async def test_cancellation_that_comes_while_a_client_block_waits_for_its_handlers_comes_out_afterwards(running: Running, transport: Transport) -> None:
    slow, scope = Lingering(), anyio.CancelScope()
    async with running(slow) as (server, _), anyio.create_task_group() as group:

        async def block() -> None:
            with scope:
                async with aster.connect(server.address, transport=transport) as client, anyio.create_task_group() as calls:
                    calls.start_soon((await client.client(Echo)).same, Item())
                    await until(lambda: slow.witness.began)
                    calls.cancel_scope.cancel()

        group.start_soon(block)
        await slow.unwinding.wait()
        await anyio.wait_all_tasks_blocked()  # the block waits for the handler by now
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        slow.go_on.set()
    assert scope.cancelled_caught


class Ending(Echo):
    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        yield item
        raise aster.RpcError(aster.StatusCode.NOT_FOUND, "no more")


async def test_the_failure_of_a_call_gives_way_to_the_cancellation_of_its_scope(running: Running) -> None:
    """Law 3, also where the server's outcome was here first."""
    async with running(Ending()) as (_, client):
        echo = await client.client(Echo)
        with anyio.CancelScope() as scope:
            stream = echo.count(Item(1))
            assert await anext(stream) == Item(1)
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await calls_are_over(client)
            await anext(stream)
        assert scope.cancelled_caught


class Failing(Endless):
    @rpc
    async def same(self, item: Item) -> Item:
        raise aster.RpcError(aster.StatusCode.NOT_FOUND, "not here")


async def test_a_failed_call_keeps_nothing_of_its_caller_alive(running: Running) -> None:
    """Law 3: a stream that is dropped with its caller's frame cancels its handler at once, not when garbage is collected."""
    failing = Failing(responses=1)
    async with running(failing) as (_, client):
        echo = await client.client(Echo)

        async def caller() -> None:
            stream = echo.count(Item(1))
            await anext(stream)
            await echo.same(Item(1))

        gc.disable()
        try:
            with pytest.raises(aster.RpcError):
                await caller()
            await until(lambda: failing.witness.began and not failing.witness.running)
        finally:
            gc.enable()


@pytest.mark.parametrize("ends", ["client", "server"])
async def test_cancelling_every_task_while_a_block_takes_leave_of_handlers_that_shield_themselves_leaves_nothing(transport: Transport, ends: str) -> None:
    """The farewell is among those tasks: what it had left to do, waiting and hanging up, is done all the same."""
    if not on_asyncio():
        return
    others, places, lingering = asyncio.all_tasks(), anyio.create_memory_object_stream[str](1), Lingering()
    left = False

    async def serve() -> None:
        async with aster.serve([lingering], transport=transport, drain_grace=0) as server:
            places[0].send_nowait(server.address)
            if ends == "server":
                await until(lambda: lingering.witness.began)
            else:
                await anyio.sleep_forever()

    async def connect() -> None:
        nonlocal left
        async with aster.connect(await places[1].receive(), transport=transport) as client:
            echo = await client.client(Echo)
            async with anyio.create_task_group() as group:
                group.start_soon(CALLS["unary"], echo)
                await until(lambda: lingering.witness.began)
                if ends == "client":
                    group.cancel_scope.cancel()
        left = True

    async with assert_no_orphans():
        with _collected_afterwards():
            tasks = [asyncio.ensure_future(serve()), asyncio.ensure_future(connect())]
            await lingering.unwinding.wait()
            assert lingering.witness.running == 1
            for each in asyncio.all_tasks() - others:
                if ends == "server" or each is not tasks[0]:
                    each.cancel()
            if ends == "client":
                await asyncio.wait([tasks[1]])
                tasks[0].cancel()
            await asyncio.wait(tasks)
        for stream in places:
            stream.close()
    assert not left
    assert lingering.witness.unwound == 1
