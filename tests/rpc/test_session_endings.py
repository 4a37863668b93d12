"""However a session ends, its hook runs once, after everything else, and what is called later says why."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import StatusCode
from aster.decorators import rpc, service
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import cancelled_at_every_step, error_of, server_record, until
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio


async def test_a_block_that_was_left_has_seen_the_hook_run(running: Running) -> None:
    async def close(room: Room) -> None:
        await anyio.sleep(0.01)
        room.lobby.log.append("hook returned")

    lobby = Lobby(close=close)
    async with running(lobby.service) as (_, client):
        async with client.session(Room) as room:
            await room.in_background(Item(1))
        assert lobby.log == ["background ended", "closed", "hook returned"]
        # The client's half ends a moment later.
        await until(lambda: server_record(client).transport.open_streams == 1)
    assert_no_orphans()


async def test_what_the_body_raises_comes_out_as_itself(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client):
        with pytest.raises(LookupError):
            async with client.session(Room):
                raise LookupError
        assert lobby.closed == [1]


async def test_a_block_whose_scope_was_cancelled_waits_shielded_until_the_instance_is_closed(running: Running) -> None:
    async def close(room: Room) -> None:
        await anyio.sleep(0.01)
        room.lobby.log.append("hook returned")

    lobby = Lobby(close=close)
    async with running(lobby.service) as (_, client):
        with anyio.CancelScope() as scope:
            async with client.session(Room) as room:
                scope.cancel()
                await room.add(Item(1))
        assert scope.cancelled_caught
        assert lobby.log == ["closed", "hook returned"]


async def test_leaving_the_block_cancels_the_calls_of_other_tasks(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), anyio.create_task_group() as group:
        codes: list[StatusCode] = []

        async def hang(room: Room) -> None:
            codes.append((await error_of(room.hang(Item(1)))).code)

        async with client.session(Room) as room:
            group.start_soon(hang, room)
            await until(lambda: lobby.log == ["hangs"])
            group.start_soon(hang, room)
            await anyio.sleep(0.001)
        assert lobby.log == ["hangs", "unwound", "closed"]
        assert sorted(codes) == [StatusCode.CANCELLED, StatusCode.UNAVAILABLE]
        over = await error_of(room.add(Item(1)))
        assert over.message == "the session of Room is over, its block was left: open another one to make more calls"


async def test_a_background_task_that_fails_ends_the_session(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room:
        async with anyio.create_task_group() as group:

            async def hang() -> None:
                error = await error_of(room.hang(Item()))
                assert (error.code, error.message) == (
                    StatusCode.ABORTED,
                    "a background task of the session failed, or its task group was cancelled; the server's log says which",
                )

            await room.in_background(Item(1))
            group.start_soon(hang)
            await until(lambda: "hangs" in lobby.log)
            lobby.rooms[0].fail.set()
        later = await error_of(room.add(Item(1)))
        assert later.code is StatusCode.ABORTED
        assert later.message.startswith("the session of Room is over: a background task of the session failed")
        assert sorted(lobby.log[1:3]) == ["background ended", "unwound"]
        assert lobby.log[3:] == ["closed"]
    errors = [record for record in caplog.records if record.levelno > logging.INFO]
    assert [record.getMessage() for record in errors] == ["a background task of the session of Room raised ZeroDivisionError, which ends it"]
    assert lobby.closed == [1]


async def test_an_instance_may_end_its_session_by_cancelling_its_task_group(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Closing(Room):
        @rpc
        async def add(self, item: Item) -> Item:
            aster.current_session().task_group.cancel_scope.cancel()
            await anyio.lowlevel.checkpoint()
            return item

    lobby = Lobby()
    async with running(functools.partial(Closing, lobby=lobby)) as (_, client), client.session(Room) as room:
        assert (await error_of(room.add(Item(1)))).code is StatusCode.ABORTED
        assert (await error_of(room.hang(Item(1)))).code is StatusCode.ABORTED
        assert lobby.closed == [1]
    told = [record.getMessage() for record in caplog.records if "ended itself" in record.getMessage()]
    assert told == ["the session of Room has ended itself: its task group was cancelled"]


async def test_a_hook_that_raises_is_logged_and_changes_nothing_else(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def close(room: Room) -> None:
        raise ZeroDivisionError

    lobby = Lobby(close=close)
    async with running(lobby.service) as (_, client):
        async with client.session(Room):
            pass
        async with client.session(Room):
            pass
    assert lobby.closed == [1, 1]
    errors = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert errors == ["on_session_close of the session of Room raised ZeroDivisionError"] * 2


async def test_a_hook_may_take_the_cleanup_budget_and_no_longer(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    lobby = Lobby(close=lambda room: anyio.sleep_forever())
    async with running(lobby.service, cleanup_budget=0.05) as (_, client):
        async with client.session(Room):
            pass
        assert lobby.closed == [1]
    errors = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert errors == ["on_session_close of the session of Room was cancelled: it did not end within 0.05 s of cleanup"]


async def test_a_hook_that_shields_itself_is_given_up_by_the_client_and_waited_for_by_the_server(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = anyio.Event()

    async def close(room: Room) -> None:
        with anyio.CancelScope(shield=True):
            await go_on.wait()
        room.lobby.log.append("hook returned")

    def told(name: str) -> list[str]:
        return [record.getMessage() for record in caplog.records if name in record.getMessage()]

    lobby = Lobby(close=close)
    caplog.set_level(logging.INFO)
    async with anyio.create_task_group() as group:
        async with aster.serve([lobby.service], transport=transport, drain_grace=0.01, cleanup_budget=0.05) as server:
            async with aster.connect(server.address, transport=transport) as client:
                # Leaving it takes a second in real time over QUIC: the allowance for the way, which is no option.
                async with client.session(Room):
                    pass
                assert lobby.log == ["closed"]
                assert told("did not confirm") == ["the server did not confirm within 1.1 s that the session of Room is closed, so it is abandoned"]

            async def let_go() -> None:
                await until(lambda: told("shield"))
                assert lobby.log == ["closed"], "the server's block waits"
                go_on.set()

            group.start_soon(let_go)
        assert lobby.log == ["closed", "hook returned"]
    assert "Room" in told("shield")[0]
    assert_no_orphans()


async def test_a_session_without_a_hook_ends_as_well(running: Running) -> None:
    @service("Plain", scoped="stream")
    class Plain:
        def __init__(self, *, peer: str) -> None:
            self.peer = peer

        @rpc
        async def who(self, item: Item) -> Item:
            return Item(text=self.peer)

    async with running(Plain) as (_, client), client.session(Plain) as plain:
        assert (await plain.who(Item())).text == client.endpoint_id


async def test_a_drain_ends_idle_sessions_at_once_and_busy_ones_after_their_call(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (server, client), client.session(Room) as idle, client.session(Room) as busy:
        async with anyio.create_task_group() as group, aster.open_call(busy.each) as call:
            await call.send(Item(1))
            await call.receive()
            group.start_soon(server.drain)
            await until(lambda: lobby.closed == [1, 0])
            over = await error_of(idle.add(Item(1)))
            assert (over.code, over.message) == (StatusCode.UNAVAILABLE, "the session of Room is over: the server is draining")
            await call.send(Item(1))
            assert await call.receive() == Item(2)
            await call.end()
            with pytest.raises(anyio.EndOfStream):
                await call.receive()
        assert lobby.closed == [1, 1]
        assert (await error_of(busy.add(Item(1)))).code is StatusCode.UNAVAILABLE


async def test_the_servers_block_waits_for_the_hooks(transport: Transport) -> None:
    async def close(room: Room) -> None:
        await anyio.sleep(0.01)
        room.lobby.log.append("hook returned")

    lobby = Lobby(close=close)

    async def use(address: str) -> None:
        async with aster.connect(address, transport=transport) as client, client.session(Room) as room:
            assert (await error_of(room.hang(Item()))).code is StatusCode.UNAVAILABLE

    async with anyio.create_task_group() as group:
        async with aster.serve([lobby.service], transport=transport, drain_grace=0.01) as server:
            group.start_soon(use, server.address)
            await until(lambda: lobby.log == ["hangs"])
        assert lobby.log == ["hangs", "unwound", "closed", "hook returned"]
    assert_no_orphans()


async def test_the_loss_of_the_connection_closes_the_instance_and_fails_the_calls(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room:
        async with anyio.create_task_group() as group:

            async def hang() -> None:
                error = await error_of(room.hang(Item()))
                assert error.code is StatusCode.UNAVAILABLE

            group.start_soon(hang)
            await until(lambda: lobby.log == ["hangs"])
            server_record(client).transport.close()
        error = await error_of(room.add(Item(1)))
        assert error.code is StatusCode.UNAVAILABLE
        assert error.message.startswith("the session of Room was lost with its connection, and its state is gone; open another one: ")
        await until(lambda: lobby.closed == [1])
        # The client connects again by itself; the session does not.
        async with client.session(Room) as another:
            assert await another.add(Item(1)) == Item(1)
    assert lobby.closed == [1, 1]


async def _program(client: aster.AsterClient) -> None:
    async with client.session(Room) as room:
        await room.add(Item(1))
        await room.add_all(_slowly())
        async with room.each([Item(1)]) as each:
            async for _ in each:
                pass


async def _slowly() -> AsyncIterator[Item]:
    for _ in range(2):
        await anyio.lowlevel.checkpoint()
        yield Item(1)


async def test_a_session_that_is_cancelled_at_any_step_leaves_nothing_behind(running: Running, transport: Transport, native: bool) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client):

        async def check() -> None:
            record = server_record(client)
            await until(lambda: not record.sessions and record.transport.open_streams == 1)
            assert set(lobby.closed) <= {1}
            lobby.rooms.clear()

        times = await cancelled_at_every_step(lambda: _program(client), check, transport, native=native)
    assert times > (20 if isinstance(transport, MemoryTransport) else 10)


async def test_three_hundred_idle_sessions_starve_no_call(running: Running) -> None:
    lobby = Lobby()
    options = {"max_sessions": 300, "max_concurrent_calls": 5}
    async with running(lobby.service, Echo(), **options) as (_, client), AsyncExitStack() as stack:
        rooms = [await stack.enter_async_context(client.session(Room)) for _ in range(300)]
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(echo.same, Item(number))
        assert await rooms[17].add(Item(1)) == Item(1)
    assert lobby.closed == [1] * 300
