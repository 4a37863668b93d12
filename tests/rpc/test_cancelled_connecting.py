"""Cancellation at every await of ``connect`` and ``serve``: entering, the whole block, and leaving, by scopes and by asyncio's own ``Task.cancel()``."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream
from aster.errors import ConnectError
from aster.testing import assert_no_orphans
from aster.transports.base import Connection, Transport
from aster.transports.memory import MemoryTransport
from aster.trust import Address, Identity
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import CALLS, Witness, backend_for, cancelled_at_every_step, error_of
from tests.rpc.raw import RawOwner, RawStream, raw_listener

if TYPE_CHECKING:
    from types import TracebackType

pytestmark = pytest.mark.anyio

CONNECT_TIMEOUT = 0.05
"""Seconds for what gets no answer: real ones over QUIC."""

TURNS_OF_SILENCE = 30

PEERS = 2
"""Clients of a server that is cancelled."""

SHIELDED_STEPS = 5
"""Of what unwinds: enough for a cancellation to land in the middle of it."""

GRACE = 0.01
"""Seconds of drain, for the same reason."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


# What a client may find.

Door = Callable[[Transport], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def _there(transport: Transport) -> AsyncGenerator[str]:
    async with aster.serve([Echo()], transport=transport, drain_grace=0) as server:
        yield server.address


@asynccontextmanager
async def _absent(transport: Transport) -> AsyncGenerator[str]:
    async with aster.serve([Echo()], transport=transport) as server:
        address = server.address
    yield address


@asynccontextmanager
async def _silent(transport: Transport) -> AsyncGenerator[str]:
    """Says no hello, and hangs up after some turns: virtual time stands still while a program is swept, so that no timeout of its own would come."""

    async def hang_up(connection: Connection) -> None:
        for _ in range(TURNS_OF_SILENCE):
            await anyio.lowlevel.checkpoint()
        connection.close()

    def accept(connection: Connection) -> RawOwner:
        group.start_soon(hang_up, connection)
        return RawOwner(lambda stream: RawStream())

    async with anyio.create_task_group() as group, raw_listener(transport, accept) as address:
        yield address


@asynccontextmanager
async def _full(transport: Transport) -> AsyncGenerator[str]:
    async with aster.serve([Echo()], transport=transport, max_connections=1) as server, aster.connect(server.address, transport=transport):
        yield server.address


@asynccontextmanager
async def _draining(transport: Transport) -> AsyncGenerator[str]:
    async with aster.serve([Echo()], transport=transport) as server:
        await server.drain(0)
        yield server.address


@asynccontextmanager
async def _of_another_key(transport: Transport) -> AsyncGenerator[str]:
    async with _there(transport) as address:
        yield f"aster://{Identity.generate().endpoint_id}@{address.rpartition('@')[2]}"


@asynccontextmanager
async def _deaf(transport: Transport) -> AsyncGenerator[str]:
    """A socket that nobody reads."""
    if isinstance(transport, MemoryTransport):
        pytest.skip("has no sockets")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread:
        unread.bind(("127.0.0.1", 0))
        yield str(Address(Identity.generate().endpoint_id, *unread.getsockname()))


DOORS: dict[str, tuple[Door, type[ConnectError] | None]] = {
    "there": (_there, None),
    "absent": (_absent, aster.UnreachableError),
    "deaf": (_deaf, aster.UnreachableError),
    "silent": (_silent, aster.RefusedError),
    "full": (_full, aster.RefusedError),
    "draining": (_draining, aster.RefusedError),
    "of another key": (_of_another_key, aster.IdentityError),
}
"""What is there to connect to, and what ``connect`` fails with if nobody cancels it."""


@pytest.mark.parametrize("door", DOORS)
async def test_cancelling_connect_at_every_step_leaves_nothing_whatever_is_there(transport: Transport, native: bool, door: str) -> None:
    opened, expected = DOORS[door]
    address, outcomes = "", Counter[object]()

    @asynccontextmanager
    async def around() -> AsyncGenerator[None]:
        nonlocal address
        async with assert_no_orphans(), opened(transport) as address:
            yield

    async def connect() -> None:
        try:
            async with aster.connect(address, transport=transport, connect_timeout=CONNECT_TIMEOUT if door == "deaf" else 10.0):
                outcomes["entered"] += 1
        except ConnectError as exc:
            outcomes[type(exc)] += 1
        except anyio.get_cancelled_exc_class():
            outcomes["cancelled"] += 1
            raise

    times = await cancelled_at_every_step(connect, anyio.lowlevel.checkpoint, transport, around, native=native)
    # A failure does not take the place of a cancellation, also if that came while what had failed was cleaned up.
    # asyncio's own ends a task that has not begun without running a line of it.
    assert outcomes.pop("cancelled") == times - native > 0
    entered = outcomes.pop("entered", 0)
    assert (outcomes, bool(entered)) == (({}, True) if expected is None else ({expected: 1}, False))


async def test_clients_cancelled_at_every_step_give_their_places_back(transport: Transport, native: bool) -> None:
    """With one place, the next client is let in as soon as the server has heard: none is held until a timeout."""
    async with assert_no_orphans(), aster.serve([Echo()], transport=transport, max_connections=1, idle_timeout=600) as server:

        async def whole() -> None:
            async with aster.connect(server.address, transport=transport) as client:
                assert await (await client.client(Echo)).same(Item(1)) == Item(1)

        async def next_client() -> None:
            while True:
                try:
                    return await whole()
                except aster.RefusedError:
                    await anyio.sleep(0.001)

        assert await cancelled_at_every_step(whole, next_client, transport, native=native) > 10


# Leaving.


class Unwinding(Echo):
    """Every handler waits until it is cancelled, and then shields itself for some steps. As a context manager it counts itself in and out."""

    def __init__(self) -> None:
        self.witness = Witness()
        self.entered = 0
        self.left = 0

    async def __aenter__(self) -> Unwinding:
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        self.entered += 1
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        assert not self.witness.running
        self.left += 1
        await anyio.lowlevel.checkpoint()

    async def _wait(self) -> None:
        with self.witness.watch():
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    for _ in range(SHIELDED_STEPS):
                        await anyio.lowlevel.checkpoint()

    @rpc
    async def same(self, item: Item) -> Item:
        await self._wait()
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        yield item
        await self._wait()

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        await self._wait()
        return Item()

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item
        await self._wait()


class Requests:
    """Request iterables that wait, and shield themselves for some steps when they are closed."""

    def __init__(self) -> None:
        self.open = 0

    async def items(self) -> AsyncIterator[Item]:
        """One item."""
        self.open += 1
        try:
            yield Item(1)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(SHIELDED_STEPS):
                    await anyio.lowlevel.checkpoint()
            self.open -= 1


@pytest.mark.parametrize("since", ["entering", "leaving"])
async def test_cancelling_a_clients_block_with_calls_pending_at_every_step_waits_for_their_handlers(transport: Transport, native: bool, since: str) -> None:
    service, requests, landed = Unwinding(), Requests(), Counter[str]()
    address = where = ""

    @asynccontextmanager
    async def around() -> AsyncGenerator[None]:
        nonlocal address, where
        where = ""
        async with assert_no_orphans(), aster.serve([service], transport=transport, drain_grace=0) as server:
            address = server.address
            yield
            # What the block has left behind would be cancelled by the server's end.
            assert service.witness.running == requests.open == 0
            began = service.witness.began
            await anyio.wait_all_tasks_blocked()
            assert service.witness.began == began

    async def block() -> None:
        nonlocal where
        where = "entering"
        async with anyio.create_task_group() as group:
            try:
                async with aster.connect(address, transport=transport) as client:
                    where = "calling"
                    echo, before = await client.client(Echo), service.witness.began
                    for call in CALLS.values():
                        group.start_soon(_until_it_fails, partial(call, echo))
                    group.start_soon(_until_it_fails, lambda: echo.total(requests.items()))
                    async with echo.count(Item()) as kept, echo.chat(requests.items()) as chat:
                        assert await anext(kept) == Item()
                        assert await anext(chat) == Item(1)
                        await _turns_until(lambda: service.witness.began == before + 6)
                    where = "leaving"
            except anyio.get_cancelled_exc_class():
                landed[where] += 1
                raise
            finally:
                assert service.witness.running == 0

    await cancelled_at_every_step(block, anyio.lowlevel.checkpoint, transport, around, native=native, since=lambda: where in (since, "leaving"))
    assert landed[since] > 0
    assert service.witness.began == service.witness.cancelled == service.witness.unwound > 10


async def _turns_until(condition: Callable[[], bool]) -> None:
    """Unlike ``until`` it needs no time, which stands still while a program is swept over memory."""
    while not condition():
        await anyio.lowlevel.checkpoint()


async def _until_it_fails(call: Callable[[], Awaitable[object]]) -> None:
    with suppress(aster.RpcError):
        await call()


@pytest.mark.parametrize("since", ["entering", "leaving"])
async def test_cancelling_a_servers_block_with_peers_connected_at_every_step_waits_for_its_handlers(transport: Transport, native: bool, since: str) -> None:
    landed, outcomes = Counter[str](), Counter[aster.StatusCode]()
    service, where = Unwinding(), ""
    grace = 0 if isinstance(transport, MemoryTransport) else GRACE
    address: MemoryObjectReceiveStream[str]
    announce: MemoryObjectSendStream[str]

    async def peer() -> None:
        """Its calls end with the server."""
        with suppress(anyio.EndOfStream, ConnectError):
            async with aster.connect(await address.receive(), transport=transport) as client:
                echo = await client.client(Echo)
                async with anyio.create_task_group() as group:
                    for call in CALLS.values():
                        group.start_soon(outcome_of, partial(call, echo))

    async def outcome_of(call: Callable[[], Awaitable[object]]) -> None:
        outcomes[(await error_of(call())).code] += 1

    @asynccontextmanager
    async def around() -> AsyncGenerator[None]:
        nonlocal service, announce, address, where
        service, where = Unwinding(), ""
        announce, address = anyio.create_memory_object_stream[str](PEERS)
        with address:
            async with assert_no_orphans(), anyio.create_task_group() as group:
                with announce:
                    for _ in range(PEERS):
                        group.start_soon(peer)
                    yield
                assert service.entered == service.left
                if since == "entering":
                    # A call that was refused, or a peer that is still connecting, would wait for another server.
                    group.cancel_scope.cancel()

    async def block() -> None:
        nonlocal where
        where = "entering"
        try:
            async with aster.serve([service], transport=transport, drain_grace=grace) as server:
                where = "serving"
                for _ in range(PEERS):
                    announce.send_nowait(server.address)
                await _turns_until(lambda: service.witness.began == PEERS * len(CALLS))
                where = "leaving"
        except anyio.get_cancelled_exc_class():
            landed[where] += 1
            raise
        finally:
            assert service.witness.running == 0

    times = await cancelled_at_every_step(block, anyio.lowlevel.checkpoint, transport, around, native=native, since=lambda: where in (since, "leaving"))
    assert times == landed.total() >= landed[since] > 0
    assert set(outcomes) == {aster.StatusCode.UNAVAILABLE}
    if since == "leaving":
        assert outcomes.total() == (times + 1) * PEERS * len(CALLS)


async def test_a_server_that_cannot_listen_gives_way_to_cancellation(transport: Transport, native: bool) -> None:
    outcomes, service = Counter[str](), Unwinding()

    async with assert_no_orphans(), aster.serve([Echo()], transport=transport) as first:
        taken = first.address.rpartition("@")[2]

        async def serve() -> None:
            try:
                async with aster.serve([service], listen=taken, transport=transport):
                    outcomes["entered"] += 1
            except OSError:
                outcomes["failed"] += 1
            except anyio.get_cancelled_exc_class():
                outcomes["cancelled"] += 1
                raise
            finally:
                assert service.entered == service.left

        times = await cancelled_at_every_step(serve, anyio.lowlevel.checkpoint, transport, native=native)
    assert outcomes == {"cancelled": times - native, "failed": 1}
