"""Handlers that tell what becomes of them, callers of each pattern, and cancellation at every step of a program."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel
import pytest

import aster
import aster._channel
from aster._server_connection import ServerConnection
from aster.decorators import bidi_stream, client_stream, rpc, server_stream
from aster.testing import virtual_time_backend
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.backends import require_backend
from tests.rpc.echo import Echo, Item

__all__ = [
    "CALLS",
    "Call",
    "Endless",
    "Lingering",
    "LingeringRequests",
    "Witness",
    "backend_for",
    "calls_are_over",
    "cancelled_after",
    "cancelled_at_every_step",
    "error_of",
    "kept_cancellation",
    "on_asyncio",
    "server_record",
    "server_records",
    "unchecked",
    "until",
]

S = TypeVar("S")

Call = Callable[[Echo], Coroutine[Any, Any, None]]


def _no_differences(_client: object, _server: object) -> list[str]:
    return []


async def unchecked(client: aster.AsterClient, service: type[S]) -> S:
    """A stub of a service that the server may have in another form: as of a client that does not compare contracts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aster._channel, "contract_differences", _no_differences)
        return await client.client(service)


async def _same(echo: Echo) -> None:
    await echo.same(Item(1))


async def _count(echo: Echo) -> None:
    async for _ in echo.count(Item(3)):
        pass


async def _total(echo: Echo) -> None:
    await echo.total([Item(1), Item(2)])


async def _chat(echo: Echo) -> None:
    async for _ in echo.chat([Item(1), Item(2)]):
        pass


CALLS: dict[str, Call] = {"unary": _same, "server stream": _count, "client stream": _total, "bidi stream": _chat}
"""A complete call of each pattern."""


async def error_of(call: Awaitable[object]) -> aster.RpcError:
    """What a call fails with."""
    with pytest.raises(aster.RpcError) as caught:
        await call
    return caught.value


def backend_for(name: str, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    require_backend(name)
    return virtual_time_backend(name) if isinstance(transport, MemoryTransport) else (name, {})


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so, in the smallest of waits: over QUIC it depends on packets, which come in real time."""
    while not condition():  # noqa: ASYNC110 (conditions of all kinds, most of them without an event)
        await anyio.sleep(0.001)


_records = WeakValueDictionary[str, ServerConnection]()
"""By the client's endpoint id. Weakly, since over memory a server's connection refers to its client."""


def server_records() -> list[ServerConnection]:
    """Connections that are not lost, as the servers of this process keep them."""
    return [thing for thing in gc.get_objects() if type(thing) is ServerConnection and thing.lost is None]


def server_record(client: aster.AsterClient) -> ServerConnection:
    """The one of a client."""
    record = _records.get(client.endpoint_id)
    if record is None or record.lost is not None:
        (record,) = (each for each in server_records() if each.peer.endpoint_id == client.endpoint_id)
        _records[client.endpoint_id] = record
    return record


async def calls_are_over(client: aster.AsterClient) -> None:
    """Wait until every call of a client has ended at both ends: no stream is left but the one for control, and the server keeps no call.

    Looking at the server's end is enough: a stream ends there when the client's half has ended too, which waits for the server's.
    """
    record = server_record(client)
    await until(lambda: record.transport.open_streams == 1 and not record.calls)


class Witness:
    """Counts what happens to handlers that run under ``watch``."""

    def __init__(self) -> None:
        self.began = 0
        self.cancelled = 0
        self.unwound = 0

    @property
    def running(self) -> int:
        """Handlers that have begun and not unwound."""
        return self.began - self.unwound

    @contextmanager
    def watch(self) -> Generator[None]:
        """Around the whole body of a handler."""
        self.began += 1
        try:
            yield
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        finally:
            self.unwound += 1


class Endless(Echo):
    """Every handler waits until it is cancelled; streaming ones give one response first, if they are told to."""

    def __init__(self, responses: int = 0) -> None:
        self.witness = Witness()
        self._responses = responses

    @rpc
    async def same(self, item: Item) -> Item:
        with self.witness.watch():
            await anyio.sleep_forever()
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        with self.witness.watch():
            for number in range(self._responses):
                yield Item(number)
            await anyio.sleep_forever()

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        with self.witness.watch():
            async for _ in items:
                pass
            await anyio.sleep_forever()
        return Item()

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        with self.witness.watch():
            async for item in items:
                yield item
            await anyio.sleep_forever()


class Lingering(Echo):
    """Its unary handler waits until it is cancelled, and then, shielded, until it is let go."""

    def __init__(self) -> None:
        self.witness = Witness()
        self.unwinding, self.go_on = anyio.Event(), anyio.Event()

    @rpc
    async def same(self, item: Item) -> Item:
        with self.witness.watch():
            try:
                await anyio.sleep_forever()
            finally:
                self.unwinding.set()
                with anyio.CancelScope(shield=True):
                    await self.go_on.wait()
        return item


class LingeringRequests:
    """Request iterables of one item that wait until they are closed, and then, shielded, until they are let go; ``log`` is told of their end."""

    def __init__(self, log: list[str]) -> None:
        self.closing, self.go_on = anyio.Event(), anyio.Event()
        self._log = log

    async def items(self) -> AsyncIterator[Item]:
        """Give the item, and wait."""
        try:
            yield Item(1)
            await anyio.sleep_forever()
        finally:
            self.closing.set()
            with anyio.CancelScope(shield=True):
                await self.go_on.wait()
            self._log.append("requests closed")


async def cancelled_at_every_step(
    program: Callable[[], Awaitable[object]],
    after: Callable[[], Awaitable[object]],
    transport: Transport,
    around: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    *,
    native: bool = False,
    since: Callable[[], bool] = lambda: True,
) -> int:
    """Run a program again and again, cancelled after 0, 1, 2 ... turns of the scheduler, until it ends before its cancellation.

    Over memory no step is left out. Over QUIC, where a program takes thousands of turns while packets travel, the steps grow by a tenth.

    Args:
        program: what is cancelled.
        after: run after each time, not cancelled.
        transport: what the program uses.
        around: entered before each time, and left before ``after``.
        native: cancel by asyncio's own ``Task.cancel()``, once, instead of by a scope.
        since: turns count from when this holds, for a part of the program that a sweep of it all might step over.

    Returns:
        How many times it was cancelled.
    """
    steps, times = 0, 0
    while True:
        async with around():
            finished = not await (_cancelled_natively_after if native else cancelled_after)(steps, program, since)
        await after()
        if finished:
            return times
        times += 1
        steps += 1 if isinstance(transport, MemoryTransport) else 1 + steps // 10


async def cancelled_after(steps: int, program: Callable[[], Awaitable[object]], since: Callable[[], bool] = lambda: True) -> bool:
    """Run a program, cancelled after so many turns of the scheduler unless it has ended before; whether it was. Turns count from when ``since`` holds."""
    finished = False
    async with anyio.create_task_group() as group:

        async def cancel() -> None:
            while not (finished or since()):
                await anyio.lowlevel.checkpoint()
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
                if finished:
                    return
            group.cancel_scope.cancel()

        group.start_soon(cancel)
        await program()
        # A program that swallows its cancellation would come here and look as though it had finished.
        finished = not group.cancel_scope.cancel_called
        assert finished or anyio.current_effective_deadline() == -float("inf")
    return not finished


async def _cancelled_natively_after(steps: int, program: Callable[[], Awaitable[object]], since: Callable[[], bool]) -> bool:
    task = asyncio.ensure_future(program())
    while not (task.done() or since()):
        await anyio.lowlevel.checkpoint()
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
        if task.done():
            await task
            return False
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return True


async def kept_cancellation() -> BaseException:
    """What a cancelled scope raised, caught and kept: outside of that scope it cancels nothing. The one way to have such an exception on trio."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class() as exc:
            # By its traceback it would keep what called here.
            return exc.with_traceback(None)
    raise AssertionError("a cancelled scope cancels at the next checkpoint")


def on_asyncio() -> bool:
    """Whether the running backend is asyncio, on whatever loop."""
    return not type(anyio.lowlevel.current_token().native_token).__module__.startswith("trio")
