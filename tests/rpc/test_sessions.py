"""Sessions: an instance for each, whose calls come one at a time, in their order."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import StatusCode
from aster.decorators import rpc, service
from aster.transports.memory import MemoryTransport
from tests.guide import ChatRoomService, SendMessageRequest, SetNicknameRequest
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import error_of, kept_cancellation, server_record, until
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio


async def test_the_guides_chat_room_works(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(ChatRoomService) as (_, client):
        async with client.session(ChatRoomService) as room:
            before = await room.send_message(SendMessageRequest("who am I?"))
            assert before.echo == f"[anon-{client.endpoint_id[:8]}] who am I?"
            assert (await room.set_nickname(SetNicknameRequest("ada"))).greeting == "Welcome, ada!"
            assert (await room.send_message(SendMessageRequest("hello"))).echo == "[ada] hello"
        assert capsys.readouterr().out == "Session closed for ada: 2 messages\n"


async def test_an_instance_serves_all_patterns_and_keeps_its_state(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room:
        assert await room.add(Item(2)) == Item(2)
        assert await room.add_all([Item(1), Item(1)]) == Item(4)
        assert [item.number async for item in room.each([Item(1), Item(2)])] == [5, 7]
        assert await numbers_of(room.count(Item())) == list(range(7))
        async with aster.open_call(room.each) as call:
            await call.send(Item(1))
            assert await call.receive() == Item(8)
        assert [made.peer for made in lobby.rooms] == [client.endpoint_id]


async def test_each_session_has_an_instance_of_its_own_beside_shared_services(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service, Echo()) as (_, client), client.session(Room) as one, client.session(Room) as other:
        await one.add(Item(5))
        assert await other.add(Item(1)) == Item(1)
        assert await (await client.client(Echo)).same(Item(3)) == Item(3)
        assert len(lobby.rooms) == 2
    assert lobby.closed == [1, 1]


async def test_calls_run_one_at_a_time_first_come_first_served(running: Running) -> None:
    lobby, order = Lobby(), list[int]()
    async with running(lobby.service) as (_, client), client.session(Room) as room, anyio.create_task_group() as group:

        async def add(number: int) -> None:
            order.append((await room.add_all(slowly(number))).number)

        async def slowly(number: int) -> AsyncIterator[Item]:
            for _ in range(3):
                await anyio.sleep(0.001)
                yield Item(number)

        for number in (1, 10, 100):
            group.start_soon(add, number)
            await _few_turns()
    assert order == [3, 33, 333]


async def _few_turns() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def test_cancelling_a_call_keeps_the_session_and_the_next_call_waits_for_its_handler(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room:
        await room.add(Item(1))
        async with anyio.create_task_group() as group:
            group.start_soon(room.hang, Item(1))
            await until(lambda: lobby.log == ["hangs"])
            group.cancel_scope.cancel()
        assert lobby.log == ["hangs"], "the caller did not wait"
        assert await room.add(Item(1)) == Item(2)
        assert lobby.log == ["hangs", "unwound"]


async def test_a_timeout_counts_while_a_call_waits_for_its_turn_and_keeps_the_session(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room, anyio.create_task_group() as group:
        group.start_soon(room.hang, Item())
        await until(lambda: lobby.log == ["hangs"])
        waiting = await error_of(aster.with_options(room, timeout=0.01).add(Item(1)))
        assert (waiting.code, waiting.message) == (StatusCode.DEADLINE_EXCEEDED, "the call of Room.add did not begin within its timeout")
        group.cancel_scope.cancel()
    assert lobby.rooms[0].total_so_far == 0


async def test_a_running_call_that_exceeds_its_timeout_keeps_the_session(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room:
        error = await error_of(aster.with_options(room, timeout=0.05).hang(Item()))
        assert error.code is StatusCode.DEADLINE_EXCEEDED
        assert await room.add(Item(1)) == Item(1)
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await room.hang(Item())
        assert await room.add(Item(1)) == Item(2)


async def test_cancelling_a_call_that_waits_for_its_turn_sends_nothing(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room:
        async with anyio.create_task_group() as group:
            group.start_soon(room.hang, Item())
            await until(lambda: lobby.log == ["hangs"])
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(room.add, Item(1))
                await _few_turns()
                waiting.cancel_scope.cancel()
            group.cancel_scope.cancel()
        assert await room.add(Item(2)) == Item(2)


async def test_a_call_from_within_another_one_is_an_error_instead_of_waiting_for_itself(running: Running) -> None:
    lobby = Lobby()

    async def asking(room: Room) -> AsyncIterator[Item]:
        yield await room.add(Item(1))

    async with running(lobby.service) as (_, client), client.session(Room) as room:
        await room.add(Item(3))
        async with room.count(Item()) as numbers:
            assert await anext(numbers) == Item(0)
            with pytest.raises(RuntimeError, match=r"the session of Room makes one call at a time, and this task is in the middle of one of Room\.count"):
                await room.add(Item(1))
        async with aster.open_call(room.each):
            with pytest.raises(RuntimeError, match="one call at a time"):
                await room.add_all([Item(1)])
        with pytest.raises(RuntimeError, match="one call at a time"):
            await room.add_all(asking(room))
        # From another task it waits, and has its turn.
        async with anyio.create_task_group() as group, aster.open_call(room.each) as call:
            group.start_soon(room.add, Item(1))
            await _few_turns()
            await call.end()
            with pytest.raises(anyio.EndOfStream):
                await call.receive()
        assert await room.add(Item(0)) == Item(4)


async def test_a_stream_that_was_dropped_is_held_no_more(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service) as (_, client), client.session(Room) as room:
        await room.add(Item(500))
        async for _ in room.count(Item()):
            break
        assert await room.add(Item(1)) == Item(501)
        await _fail_in_a_loop(room)
        assert await room.add(Item(1)) == Item(502)


async def _fail_in_a_loop(room: Room) -> None:
    with contextlib.suppress(LookupError):
        async for _ in room.count(Item()):
            raise LookupError


@pytest.mark.parametrize("wrong", ["client", "session"])
async def test_the_wrong_way_to_a_service_names_the_right_one(running: Running, wrong: str) -> None:
    async with running(Lobby().service, Echo()) as (_, client):
        if wrong == "client":
            with pytest.raises(TypeError, match=r"Room is scoped='stream', so it is called in sessions: write 'async with client\.session\(Room\) as \.\.\.'"):
                await client.client(Room)
        else:
            with pytest.raises(TypeError, match=r"Echo is shared by all callers and has no sessions: write 'await client\.client\(Echo\)'"):
                client.session(Echo)


@pytest.mark.parametrize("thing", [Item, Item(1), "Room", None])
async def test_what_is_no_service_has_no_sessions(running: Running, thing: Any) -> None:
    async with running(Lobby().service) as (_, client):
        with pytest.raises(TypeError):
            client.session(thing)


def test_a_session_needs_a_client_that_is_connected() -> None:
    client = aster.connect("aster://" + "a" * 64 + "@127.0.0.1:1")
    with pytest.raises(RuntimeError, match="the client is not connected"):
        client.session(Room)


async def test_a_session_is_entered_once(running: Running) -> None:
    async with running(Lobby().service) as (_, client):
        block = client.session(Room)
        async with block:
            with pytest.raises(RuntimeError, match="this session was entered before"):
                async with block:
                    raise AssertionError


async def test_a_session_that_nobody_entered_says_how(running: Running) -> None:
    async with running(Lobby().service) as (_, client):
        block: Any = client.session(Room)
        how = r"write 'async with client\.session\(Room\) as session:', and call 'session' in it"
        with pytest.raises(AttributeError, match=f"add is called on what the block of a session gives: {how}"):
            await block.add(Item(1))
        with pytest.raises(TypeError, match=f"a session is a block, and is not awaited: {how}"):
            await block
        with pytest.raises(AttributeError, match="'SessionBlock' object has no attribute 'subtract'"):
            block.subtract(Item(1))
        assert repr(block) == "<session of Room>"


@service("Room", version=2, scoped="stream")
class NewRoom(Room):
    """Another version."""


@service("Echo", scoped="stream")
class EchoInSessions(Echo):
    """What the server has as a shared service."""

    def __init__(self, peer: str) -> None:
        self.peer = peer


async def test_a_service_that_the_server_does_not_have_so_is_refused_when_the_session_is_entered(running: Running) -> None:
    async with running(Lobby().service, Echo()) as (_, client):
        for missing, code, words in (
            (NewRoom, StatusCode.UNIMPLEMENTED, "has no version 2 of service 'Room'"),
            (EchoInSessions, StatusCode.FAILED_PRECONDITION, "the service has the scope 'stream' at the client and 'shared' at the server"),
        ):
            with pytest.raises(aster.RpcError) as caught:
                async with client.session(missing):
                    raise AssertionError
            assert caught.value.code is code
            assert words in caught.value.message


async def test_an_instance_may_refuse_its_session(running: Running) -> None:
    def make(room: Room) -> None:
        raise aster.RpcError(StatusCode.PERMISSION_DENIED, "the room is full")

    lobby = Lobby(make=make)
    async with running(lobby.service) as (_, client):
        with pytest.raises(aster.RpcError) as caught:
            async with client.session(Room):
                raise AssertionError
    assert (caught.value.code, caught.value.message) == (StatusCode.PERMISSION_DENIED, "the room is full")
    assert lobby.closed == [0], "what was not made is not closed"


async def test_the_details_of_a_refusal_do_not_travel_and_the_log_says_so(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    def make(room: Room) -> None:
        raise aster.RpcError(StatusCode.NOT_FOUND, "gone", details=[Item(7)])

    async with running(Lobby(make=make).service) as (_, client):
        with pytest.raises(aster.RpcError) as caught:
            async with client.session(Room):
                raise AssertionError
    assert (caught.value.code, caught.value.message, caught.value.details) == (StatusCode.NOT_FOUND, "gone", ())
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)
    assert record.message == "the session of Room was refused with details, which are left out: they travel with the errors of calls alone"


async def test_debug_shows_why_an_instance_cannot_be_made(running: Running) -> None:
    def make(room: Room) -> None:
        raise ZeroDivisionError("no" * 5_000)

    async with running(Lobby(make=make).service, debug=True) as (_, client):
        with pytest.raises(aster.RpcError) as caught:
            async with client.session(Room):
                raise AssertionError
    assert caught.value.code is StatusCode.INTERNAL
    text = "no" * 2_048
    assert caught.value.message == f"ZeroDivisionError: {text} ... (10000 characters)"


@pytest.mark.parametrize("kind", ["exception", "exit", "cancellation"])
async def test_an_instance_that_cannot_be_made_is_a_bug_of_the_server(running: Running, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    raised = {"exception": ZeroDivisionError("secret"), "exit": SystemExit(3), "cancellation": await kept_cancellation()}[kind]

    def make(room: Room) -> None:
        raise raised

    async with running(Lobby(make=make).service, Echo()) as (_, client):
        with pytest.raises(aster.RpcError) as caught:
            async with client.session(Room):
                raise AssertionError
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)
    assert (caught.value.code, caught.value.message) == (StatusCode.INTERNAL, "the session's instance cannot be made; the server's log has the reason")
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [logging.ERROR]


@pytest.mark.parametrize(("name", "value"), [("message", None), ("code", 99), ("code", StatusCode.OK)])
async def test_an_error_of_an_instance_that_was_tampered_with_is_a_bug_like_any_other(running: Running, name: str, value: object) -> None:
    error = aster.RpcError(StatusCode.NOT_FOUND, "x")
    setattr(error, name, value)

    def make(room: Room) -> None:
        raise error

    async with running(Lobby(make=make).service, Echo()) as (_, client):
        with pytest.raises(aster.RpcError) as caught:
            async with client.session(Room):
                raise AssertionError
        assert caught.value.code is StatusCode.INTERNAL
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)


async def test_an_instance_that_is_unavailable_is_asked_once_and_costs_no_connection(running: Running) -> None:
    def make(room: Room) -> None:
        raise aster.RpcError(StatusCode.UNAVAILABLE, "not now")

    lobby = Lobby(make=make)
    async with running(lobby.service) as (_, client):
        record = server_record(client)
        with pytest.raises(aster.RpcError, match="not now"):
            async with client.session(Room):
                raise AssertionError
        assert len(lobby.rooms) == 1
        assert record.lost is None


async def test_without_a_connection_a_session_is_waited_for_as_long_as_a_call_is() -> None:
    transport, stop, addresses = MemoryTransport(), anyio.Event(), list[str]()

    async def host() -> None:
        async with aster.serve([Lobby().service], transport=transport) as server:
            addresses.append(server.address)
            await stop.wait()

    async def enter(client: aster.AsterClient) -> None:
        async with client.session(Room):
            raise AssertionError

    async with anyio.create_task_group() as group:
        group.start_soon(host)
        await until(lambda: addresses)
        async with aster.connect(addresses[0], transport=transport, connect_timeout=0.3) as client:
            record = server_record(client)
            stop.set()
            await until(lambda: record.lost is not None)
            began = anyio.current_time()
            assert (await error_of(enter(client))).code is StatusCode.UNAVAILABLE
            assert anyio.current_time() - began < 0.55, "it has waited twice"


async def test_current_session_is_known_wherever_the_instance_runs(running: Running) -> None:
    seen: list[tuple[str, int, str]] = []

    def look(room: Room) -> None:
        session = aster.current_session()
        seen.append((session.service, session.version, session.peer.endpoint_id))

    async def look_again(room: Room) -> None:
        look(room)

    lobby = Lobby(make=look, close=look_again)
    async with running(lobby.service) as (_, client):
        async with client.session(Room) as room:
            await room.in_background(Item(1))
        assert seen == [("Room", 1, client.endpoint_id)] * 2
    with pytest.raises(RuntimeError, match="there is no current session"):
        aster.current_session()


async def test_sessions_above_the_servers_limit_wait_and_are_refused_in_the_end(running: Running) -> None:
    lobby = Lobby()
    async with running(lobby.service, Echo(), max_sessions=2, client={"connect_timeout": 0.3}) as (_, client), client.session(Room):
        async with client.session(Room):
            with pytest.raises(aster.RpcError) as caught:
                async with client.session(Room):
                    raise AssertionError
            assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
            assert "2 are open on this connection, of 2 that the server takes" in caught.value.message
            # Calls have a limit of their own.
            assert await (await client.client(Echo)).same(Item(1)) == Item(1)
        assert lobby.closed == [0, 1]
        async with client.session(Room):
            pass
    assert lobby.closed == [1, 1, 1]


async def test_a_session_that_waits_for_its_place_has_it_when_another_one_ends(running: Running) -> None:
    lobby = Lobby()

    async def use() -> None:
        async with client.session(Room) as room:
            await room.add(Item(1))

    async with running(lobby.service, max_sessions=1) as (_, client), anyio.create_task_group() as group:
        async with client.session(Room):
            group.start_soon(use)
            await _few_turns()
            assert len(lobby.rooms) == 1
        await until(lambda: lobby.closed == [1, 1])


async def test_a_subclass_is_served_under_the_service_of_its_base(running: Running) -> None:
    class Louder(Room):
        @rpc
        async def add(self, item: Item) -> Item:
            return Item(100 + item.number)

    async with running(functools.partial(Louder, lobby=Lobby())) as (_, client), client.session(Room) as room:
        assert await room.add(Item(1)) == Item(101)


@service("Guarded", scoped="stream", requires=aster.role("member"))
class Guarded:
    """A session for members, with something for staff alone."""

    made = 0

    def __init__(self, peer: str) -> None:
        type(self).made += 1
        assert aster.current_session().capabilities >= {"member"}

    @rpc
    async def enter(self, item: Item) -> Item:
        return Item(text=",".join(sorted(aster.current_call().capabilities)))

    @rpc(requires=aster.role("staff"))
    async def close(self, item: Item) -> Item:
        return item


def _members(peer: aster.Peer) -> str:
    return "member"


async def test_what_a_session_requires_is_looked_at_before_its_instance_is_made(running: Running) -> None:
    made = Guarded.made
    async with running(Guarded, authorize={}) as (_, client):
        with pytest.raises(aster.RpcError) as caught:
            async with client.session(Guarded):
                raise AssertionError
    assert caught.value.code is StatusCode.PERMISSION_DENIED
    assert "Guarded requires the role 'member'" in caught.value.message
    assert Guarded.made == made
    async with running(Guarded, authorize=_members) as (_, client), client.session(Guarded) as guarded:
        assert (await guarded.enter(Item())).text == "member"
        assert (await error_of(guarded.close(Item()))).code is StatusCode.PERMISSION_DENIED
        assert (await guarded.enter(Item())).text == "member"


async def test_options_of_a_stub_work_in_a_session(running: Running) -> None:
    @service("Told", scoped="stream")
    class Told:
        def __init__(self, peer: str) -> None:
            self.peer = peer

        @rpc
        async def tell(self, item: Item) -> Item:
            return Item(len(aster.current_call().metadata), str(aster.current_call().metadata.get("who")))

    async with running(Told) as (_, client), client.session(Told) as told:
        assert (await aster.with_options(told, metadata={"who": "ada"}).tell(Item())).text == "ada"
