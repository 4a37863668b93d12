"""A client whose connection is lost, or whose server goes away, connects again by itself: the same stub goes on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup, TaskStatus

import aster
from aster._channel import FIRST_BACKOFF, LONGEST_BACKOFF
from aster._reactor import Reactor
from aster.errors import IdentityError
from aster.testing import assert_no_orphans, live_connections
from aster.transports.base import Connection, ConnectionHandler, ConnectionOptions, Transport
from aster.transports.memory import MemoryTransport
from aster.trust import Address, Identity
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import Endless, backend_for, cancelled_at_every_step, error_of, on_asyncio, until

if TYPE_CHECKING:
    from types import TracebackType

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> object:
    """Virtual time over memory: waits between attempts take none."""
    return backend_for(request.param, transport)


class Place:
    """Where one server after the other listens, each in a task of its own; with one identity, unless it is told otherwise."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.identity = Identity.generate()
        self.address = ""
        self.where = "127.0.0.1:0"
        self._group: TaskGroup
        self._leave: anyio.Event
        self._left: anyio.Event

    async def __aenter__(self) -> Place:
        self._group, self._leave = anyio.create_task_group(), anyio.Event()
        await self._group.__aenter__()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> bool | None:
        self._leave.set()
        return await self._group.__aexit__(exc_type, exc, traceback)

    async def up(self, *services: object, identity: Identity | None = None) -> None:
        """Begin to serve."""
        await self._group.start(self._serve, services, identity or self.identity)

    async def _serve(self, services: tuple[object, ...], identity: Identity, *, task_status: TaskStatus[None]) -> None:
        self._leave, self._left = anyio.Event(), anyio.Event()
        async with aster.serve(services, listen=self.where, transport=self.transport, identity=identity, drain_grace=0) as server:
            self.address, self.where = server.address, server.address.rpartition("@")[2]
            task_status.started()
            await self._leave.wait()
        self._left.set()

    async def down(self) -> None:
        """Stop serving."""
        self._leave.set()
        await self._left.wait()


@pytest.fixture
def place(transport: Transport) -> Place:
    """The place of one test."""
    return Place(transport)


class Counting(MemoryTransport):
    """Knows when its clients tried to connect."""

    def __init__(self) -> None:
        super().__init__()
        self.times = list[float]()

    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        self.times.append(anyio.current_time())
        return await super().connect(address, identity=identity, handler=handler, reactor=reactor, options=options)

    @property
    def waits(self) -> list[float]:
        """Seconds between the attempts."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def server_ends(client: aster.AsterClient) -> list[Connection]:
    return [each for each in live_connections() if each.peer.endpoint_id == client.endpoint_id]


async def test_a_stub_goes_on_after_its_server_was_restarted(place: Place) -> None:
    async with assert_no_orphans(), place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport) as client:
            echo = await client.client(Echo)
            assert await echo.same(Item(1)) == Item(1)
            await place.down()
            await place.up(Echo())
            assert await echo.same(Item(2)) == Item(2)
            assert await numbers_of(echo.count(Item(3))) == [0, 1, 2]
            assert await echo.total([Item(1), Item(2)]) == Item(3)
            assert await numbers_of(echo.chat([Item(1), Item(2)])) == [1, 2]


async def test_a_connection_that_was_lost_is_replaced(running: Running) -> None:
    async with assert_no_orphans(), running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for number in range(3):
            assert await echo.same(Item(number)) == Item(number)
            (end,) = server_ends(client)
            end.close()
            await until(lambda end=end: end not in server_ends(client))
        assert await echo.same(Item()) == Item()


async def test_calls_wait_for_a_server_that_comes_back(place: Place) -> None:
    answers = list[Item]()

    async def call(number: int) -> None:
        answers.append(await echo.same(Item(number)))

    async with place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport) as client:
            echo = await client.client(Echo)
            await place.down()
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(call, number)
                await anyio.wait_all_tasks_blocked()
                assert not answers
                await place.up(Echo())
            assert len(answers) == 5


async def test_a_client_goes_on_when_asyncio_cancels_the_task_that_connects_again(place: Place) -> None:
    """A program may cancel all tasks it finds but its own; the block is none of theirs."""
    if not on_asyncio():
        return
    answers = list[Item]()
    async with assert_no_orphans(), place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport) as client:
            echo = await client.client(Echo)
            await place.down()
            await until(lambda: _tasks("aster reconnect"))
            for turns in (2, 3, 10):  # each has begun: one that has not is out of reach
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                for task in _tasks("aster reconnect"):
                    task.cancel()
            await place.up(Echo())
            answers.append(await echo.same(Item(2)))
    # A cancelled body would end without a word.
    assert answers == [Item(2)]


def _tasks(name: str) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


@pytest.mark.parametrize("transport", [MemoryTransport()], ids=["memory"])
@pytest.mark.parametrize("after", [0.0, 1.0, 100.0])
async def test_leaving_waits_for_no_attempt_to_connect_again(place: Place, after: float) -> None:
    async with assert_no_orphans(), place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport):
            await place.down()
            await anyio.sleep(after)
            left_at = anyio.current_time()
        assert anyio.current_time() - left_at < 0.001


async def test_another_key_at_the_same_place_ends_the_attempts_for_good(place: Place) -> None:
    async with place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport) as client:
            echo = await client.client(Echo)
            await place.down()
            await place.up(Echo(), identity=Identity.generate())
            error = await error_of(echo.same(Item()))
            assert error.code is aster.StatusCode.UNAVAILABLE
            assert "another server answers now" in error.message
            assert isinstance(error.__cause__, IdentityError)
            await place.down()
            # The server with the right key comes too late.
            await place.up(Echo())
            assert "another server answers now" in (await error_of(echo.same(Item()))).message
            assert "another server answers now" in (await error_of(client.client(Echo))).message


async def test_a_server_without_the_service_fails_the_stub_until_one_has_it(place: Place) -> None:
    @aster.service("Other")
    class Other:
        @aster.rpc
        async def same(self, item: Item) -> Item:
            return item

    async with place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport) as client:
            echo = await client.client(Echo)
            await place.down()
            await place.up(Other())
            for _ in range(2):
                error = await error_of(echo.same(Item()))
                assert error.code is aster.StatusCode.FAILED_PRECONDITION
                assert "the server has no service 'Echo'; it has 'Other' (version 1)" in error.message
            other = await client.client(Other)
            assert await other.same(Item(4)) == Item(4)
            await place.down()
            await place.up(Echo())
            assert await echo.same(Item(5)) == Item(5)


async def test_a_server_that_goes_away_finishes_what_runs_and_gets_nothing_new(running: Running) -> None:
    endless = Endless(responses=1)
    async with assert_no_orphans(), running(endless, drain_grace=0) as (server, client):
        echo = await client.client(Echo)
        async with echo.count(Item()) as responses:
            await until(lambda: endless.witness.began)
            async with anyio.create_task_group() as group:
                group.start_soon(server.drain, 60)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(echo.same, Item())
                await anyio.wait_all_tasks_blocked()
                assert (endless.witness.began, endless.witness.running) == (1, 1)
                group.cancel_scope.cancel()
            assert endless.witness.running == 1
            assert await anext(responses) == Item(0)
        await until(lambda: endless.witness.cancelled)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 50])
async def test_leaving_the_clients_block_ends_the_attempts(place: Place, turns: int) -> None:
    async with assert_no_orphans(), place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport):
            await place.down()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("turns", range(12))
async def test_leaving_the_clients_block_while_a_connection_is_made_again_leaves_nothing(place: Place, turns: int) -> None:
    async with assert_no_orphans(), place:
        await place.up(Echo())
        async with aster.connect(place.address, transport=place.transport) as client:
            server_ends(client)[0].close()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()


async def test_cancelling_a_program_that_loses_its_connection_at_any_step_leaves_nothing(place: Place) -> None:
    async def program() -> None:
        async with place:
            await place.up(Echo())
            async with aster.connect(place.address, transport=place.transport) as client:
                echo = await client.client(Echo)
                await echo.same(Item())
                server_ends(client)[0].close()
                with suppress(aster.RpcError):  # it may begin before the news of the loss is here
                    await echo.same(Item())
                await echo.same(Item())

    async def nothing_is_left() -> None:
        nonlocal place
        assert not live_connections()
        place = Place(place.transport)

    assert await cancelled_at_every_step(program, nothing_is_left, place.transport, assert_no_orphans) > 10


class TestInVirtualTime:
    """What takes seconds."""

    @pytest.fixture
    def transport(self) -> Counting:
        """In memory."""
        return Counting()

    async def test_a_call_waits_as_long_as_the_connect_timeout(self, place: Place) -> None:
        async with place:
            await place.up(Echo())
            async with aster.connect(place.address, transport=place.transport, connect_timeout=7.0) as client:
                echo = await client.client(Echo)
                await place.down()
                await anyio.sleep(100)
                for call in (lambda: echo.same(Item()), lambda: anext(echo.count(Item())), lambda: echo.total([]), lambda: anext(echo.chat([]))):
                    began = anyio.current_time()
                    error = await error_of(call())
                    assert anyio.current_time() - began == pytest.approx(7.0)
                    assert error.code is aster.StatusCode.UNAVAILABLE
                    assert f"there was no connection to {place.where} for 7 s: nothing answers at {place.where}" in error.message

    async def test_a_call_waits_no_longer_than_its_deadline(self, place: Place) -> None:
        async with place:
            await place.up(Echo())
            async with aster.connect(place.address, transport=place.transport) as client:
                echo = await client.client(Echo)
                await place.down()
                began = anyio.current_time()
                error = await error_of(aster.with_options(echo, timeout=2.0).same(Item()))
                assert (error.code, anyio.current_time() - began) == (aster.StatusCode.DEADLINE_EXCEEDED, pytest.approx(2.0))
                with pytest.raises(TimeoutError), anyio.fail_after(3.0):
                    await echo.same(Item())
                assert anyio.current_time() - began == pytest.approx(5.0)

    async def test_the_attempts_come_at_once_and_then_at_ever_longer_random_intervals(self, transport: Counting, place: Place) -> None:
        async with place:
            await place.up(Echo())
            async with aster.connect(place.address, transport=transport):
                await anyio.sleep(60)
                await place.down()
                lost_at = anyio.current_time()
                await anyio.sleep(60)
        del transport.times[0]
        assert transport.times[0] == lost_at
        expected = FIRST_BACKOFF
        for wait in transport.waits:
            assert expected / 2 <= wait <= expected
            expected = min(expected * 2, LONGEST_BACKOFF)
        assert len(transport.waits) >= 60 / LONGEST_BACKOFF
        assert len(set(transport.waits)) == len(transport.waits)

    async def test_a_server_that_drops_each_client_at_once_is_asked_ever_more_rarely(self, transport: Counting) -> None:
        async with aster.serve([Echo()], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
            began = anyio.current_time()
            while anyio.current_time() < began + 120:
                attempts = len(transport.times)
                server_ends(client)[0].close()
                await until(lambda attempts=attempts: len(transport.times) > attempts)
                await anyio.wait_all_tasks_blocked()
            assert 120 / LONGEST_BACKOFF <= len(transport.times) <= 120 / (LONGEST_BACKOFF / 2) + 10
            # One that lives is lost again: the next attempt comes at once.
            await anyio.sleep(2 * LONGEST_BACKOFF)
            before = len(transport.times)
            server_ends(client)[0].close()
            lost_at = anyio.current_time()
            await anyio.sleep(0.01)
            assert transport.times[before:] == [lost_at]
