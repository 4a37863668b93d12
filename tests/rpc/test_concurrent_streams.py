"""``max_concurrent_streams``: a service runs so many calls at a time, over all connections; the others wait, in their order, and peers take turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aster
import aster._gate
from aster import StatusCode
from aster._gate import MAX_WAITING, Gate, Place
from aster.decorators import rpc, server_stream, service
from aster.transports.base import Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import cancelled_at_every_step, error_of, server_record, until

_two = pytest.mark.anyio


@service("Narrow", max_concurrent_streams=2)
class Narrow:
    """Two calls at a time, each until it is let go."""

    def __init__(self) -> None:
        self.running: list[int] = []
        self.order: list[int] = []
        self.most = 0
        self.go_on: dict[int, anyio.Event] = {}

    async def _run(self, number: int) -> None:
        self.order.append(number)
        self.running.append(number)
        self.most = max(self.most, len(self.running))
        try:
            await self.go_on.setdefault(number, anyio.Event()).wait()
        finally:
            self.running.remove(number)

    @rpc
    async def one(self, item: Item) -> Item:
        await self._run(item.number)
        return item

    @server_stream
    async def many(self, item: Item) -> AsyncIterator[Item]:
        yield item
        await self._run(item.number)

    def let_go(self, *numbers: int) -> None:
        """Let calls end, now or as soon as they run."""
        for number in numbers:
            self.go_on.setdefault(number, anyio.Event()).set()


@service("Single", scoped="stream", max_concurrent_streams=1)
class Single:
    """One session at a time."""

    made = 0

    def __init__(self, peer: str) -> None:
        type(self).made += 1

    @rpc
    async def one(self, item: Item) -> Item:
        return item


async def _few_turns() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


@_two
async def test_calls_above_the_limit_wait_and_run_in_their_order(running: Running) -> None:
    narrow = Narrow()
    async with running(narrow, Echo()) as (_, client), anyio.create_task_group() as group:
        stub = await client.client(Narrow)
        for number in range(6):
            group.start_soon(stub.one, Item(number))
            await _few_turns()
        await until(lambda: len(narrow.running) == 2)
        # Other services have their own places.
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)
        for number in range(4):
            narrow.let_go(number)
            await until(lambda: len(narrow.order) == number + 3)  # noqa: B023 (waited for at once)
        narrow.let_go(4, 5)
    assert sorted(narrow.order[:2]) == [0, 1]
    assert narrow.order[2:] == [2, 3, 4, 5]
    assert narrow.most == 2


@_two
async def test_the_limit_holds_over_all_connections_and_streams_count(running: Running, transport: Transport) -> None:
    narrow = Narrow()
    async with running(narrow) as (server, one), aster.connect(server.address, transport=transport) as other, anyio.create_task_group() as group:

        async def stream(client: aster.AsterClient, number: int) -> None:
            async for _ in (await client.client(Narrow)).many(Item(number)):
                pass

        group.start_soon(stream, one, 1)
        group.start_soon(stream, other, 2)
        await until(lambda: len(narrow.running) == 2)
        group.start_soon((await other.client(Narrow)).one, Item(3))
        await anyio.sleep(0.01)
        assert sorted(narrow.order) == [1, 2]
        narrow.let_go(1)
        await until(lambda: 3 in narrow.running)
        narrow.let_go(2, 3)


@_two
async def test_a_greedy_peer_does_not_keep_another_one_waiting(running: Running, transport: Transport) -> None:
    narrow = Narrow()
    async with running(narrow) as (server, greedy), aster.connect(server.address, transport=transport) as modest, anyio.create_task_group() as group:
        stub = await greedy.client(Narrow)
        for number in range(40):
            group.start_soon(stub.one, Item(number))
        await until(lambda: len(narrow.running) == 2)
        await _few_turns()
        group.start_soon((await modest.client(Narrow)).one, Item(100))
        await anyio.sleep(0.02)
        narrow.let_go(*range(40), 100)
        await until(lambda: len(narrow.order) == 41)
    assert narrow.order.index(100) <= 4


@_two
async def test_a_call_that_waits_keeps_to_its_deadline_and_may_be_cancelled(running: Running) -> None:
    narrow = Narrow()
    async with running(narrow) as (_, client), anyio.create_task_group() as group:
        stub = await client.client(Narrow)
        group.start_soon(stub.one, Item(1))
        group.start_soon(stub.one, Item(2))
        await until(lambda: len(narrow.running) == 2)
        assert (await error_of(aster.with_options(stub, timeout=0.05).one(Item(3)))).code is StatusCode.DEADLINE_EXCEEDED
        with anyio.move_on_after(0.02):
            await stub.one(Item(4))
        # The news of that is under way, and would find its handler running.
        await until(lambda: len(server_record(client).calls) == 2)
        narrow.let_go(1, 2, 5)
        assert await stub.one(Item(5)) == Item(5)
    assert sorted(narrow.order) == [1, 2, 5]


@_two
async def test_a_place_is_given_on_when_its_call_is_cancelled_at_any_step(running: Running, transport: Transport) -> None:
    narrow = Narrow()
    narrow.let_go(1)
    async with running(narrow) as (_, client):
        stub = await client.client(Narrow)

        async def check() -> None:
            await until(lambda: not narrow.running)
            with anyio.fail_after(5):
                async with anyio.create_task_group() as group:
                    for _ in range(4):
                        group.start_soon(stub.one, Item(1))

        async def program() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(stub.one, Item(1))

        assert await cancelled_at_every_step(program, check, transport) > 3
    assert narrow.most <= 2


@_two
async def test_an_open_session_takes_one_place(running: Running) -> None:
    made = Single.made
    async with running(Single) as (_, client), anyio.create_task_group() as group:
        entered = anyio.Event()

        async def second() -> None:
            async with client.session(Single) as single:
                entered.set()
                await single.one(Item(1))

        async with client.session(Single) as single:
            group.start_soon(second)
            await _few_turns()
            with anyio.move_on_after(0.03):
                async with client.session(Single):
                    raise AssertionError
            assert not entered.is_set()
            # Its calls need no more.
            assert await single.one(Item(2)) == Item(2)
        await entered.wait()
    assert Single.made == made + 2, "a session that gave up waiting has made no instance"


async def _note(call: Awaitable[object], number: int, refused: dict[int, str]) -> None:
    """Make a call or session, and note the message if too many wait."""
    try:
        await call
    except aster.RpcError as exc:
        if exc.code is not StatusCode.RESOURCE_EXHAUSTED:
            raise
        refused[number] = exc.message


@_two
async def test_calls_above_the_number_that_may_wait_are_refused_to_the_peer_that_has_the_most(
    running: Running, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aster._gate, "MAX_WAITING", 5)
    narrow, refused = Narrow(), dict[int, str]()
    async with running(narrow) as (server, greedy), aster.connect(server.address, transport=transport) as modest, anyio.create_task_group() as group:
        stub, record = await greedy.client(Narrow), server_record(greedy)
        for number in range(7):  # two run, and five wait
            group.start_soon(_note, stub.one(Item(number)), number, refused)
            await until(lambda: len(record.calls) == number + 1)  # noqa: B023 (waited for at once)
        assert refused == {}
        group.start_soon(_note, stub.one(Item(7)), 7, refused)
        await until(lambda: refused)
        text = "service 'Narrow' serves 2 calls at a time, and 5 wait already; make fewer at a time, or try again later"
        assert refused == {7: text}
        # Another peer's call has its turn all the same, and costs the greedy one its last.
        group.start_soon(_note, (await modest.client(Narrow)).one(Item(100)), 100, refused)
        await until(lambda: len(refused) == 2)
        assert refused[6] == text
        narrow.let_go(*range(7), 100)
    assert sorted(narrow.order) == [0, 1, 2, 3, 4, 5, 100]
    assert narrow.order.index(100) <= 3
    assert len(refused) == 2


@_two
async def test_sessions_above_the_number_that_may_wait_are_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aster._gate, "MAX_WAITING", 5)
    made, refused, served = Single.made, dict[int, str](), list[int]()
    async with running(Single) as (_, client), anyio.create_task_group() as group:

        async def session(number: int) -> None:
            async with client.session(Single) as single:
                served.append((await single.one(Item(number))).number)

        async with client.session(Single):
            for number in range(6):
                group.start_soon(_note, session(number), number, refused)
            await until(lambda: refused)
            assert served == []
    assert list(refused.values()) == ["service 'Single' serves 1 sessions at a time, and 5 wait already; make fewer at a time, or try again later"]
    assert sorted([*served, *refused]) == [0, 1, 2, 3, 4, 5]
    assert Single.made == made + 6, "what was refused has made no instance"


@_two
async def test_what_waits_when_the_server_drains_is_refused(running: Running) -> None:
    narrow, outcomes = Narrow(), list[StatusCode]()
    # What no handler saw is repeated once: the client looks for the next server, and finds none.
    connecting = {"connect_timeout": 0.5}
    async with running(narrow, Single, client=connecting) as (server, client), client.session(Single), anyio.create_task_group() as group:
        stub = await client.client(Narrow)

        async def call(number: int) -> None:
            outcomes.append((await error_of(stub.one(Item(number)))).code)

        async def open_another() -> None:
            async with client.session(Single):
                raise AssertionError

        async def refused() -> None:
            outcomes.append((await error_of(open_another())).code)

        for number in range(3):
            group.start_soon(call, number)
        group.start_soon(refused)
        await until(lambda: len(narrow.running) == 2)
        await anyio.sleep(0.01)
        await server.drain(grace=0.01)
        await until(lambda: len(outcomes) == 4)
    assert set(outcomes) == {StatusCode.UNAVAILABLE}
    assert len(narrow.order) == 2


# The gate by itself


class _Waiter:
    """A waiter at which nobody waits."""

    def wake(self) -> None:
        """Nobody to wake."""


class _Reactor:
    def waiter(self) -> _Waiter:
        return _Waiter()


def _join(gate: Gate, peer: str) -> Place:
    reactor: Any = _Reactor()
    return gate.join(peer, reactor)


@given(limit=st.integers(1, 3), program=st.lists(st.tuples(st.sampled_from(["join", "leave", "give up"]), st.integers(0, 3)), max_size=60))
def test_no_place_stays_free_while_anybody_waits_and_each_peer_has_its_order_and_its_turn(limit: int, program: list[tuple[str, int]]) -> None:
    gate = Gate(limit, "service 'S'")
    inside: list[Place] = []
    waiting: list[Place] = []
    passed_over: dict[str, int] = {}

    def settle() -> None:
        for place in [each for each in waiting if each.inside]:
            assert not any(each.peer == place.peer for each in waiting[: waiting.index(place)]), "first come, first served"
            waiting.remove(place)
            inside.append(place)
            for peer in {each.peer for each in waiting} - {place.peer}:
                passed_over[peer] = passed_over.get(peer, 0) + 1
            passed_over[place.peer] = 0

    for what, which in program:
        if what == "join":
            place = _join(gate, f"peer {which}")
            (inside if place.inside else waiting).append(place)
        elif what == "leave" and inside:
            gate.leave(inside.pop(which % len(inside)))
        elif what == "give up" and waiting:
            gate.leave(waiting.pop(which % len(waiting)))
        settle()
        assert len(inside) <= limit
        assert len(inside) == limit or not waiting, "a place is free, and somebody waits"
        # With four peers nobody is passed over more than three times.
        assert all(times <= 3 for peer, times in passed_over.items() if any(each.peer == peer for each in waiting)), "a peer is kept from its turn"


def test_when_too_many_wait_the_peer_that_has_the_most_is_refused() -> None:
    gate = Gate(1, "service 'S'")
    assert _join(gate, "first").inside
    modest = [_join(gate, "modest") for _ in range(3)]
    greedy = [_join(gate, "greedy") for _ in range(MAX_WAITING - 3)]
    assert not any(place.refused for place in (*modest, *greedy))
    late = _join(gate, "late")
    assert [place.refused for place in (*modest, late)] == [False] * 4
    assert [place for place in greedy if place.refused] == [greedy[-1]]
    # The next one of the greedy peer is itself the one that is too much.
    assert _join(gate, "greedy").refused


def test_of_peers_that_wait_for_as_much_the_one_whose_turn_is_the_furthest_away_is_refused() -> None:
    gate = Gate(1, "service 'S'")
    assert _join(gate, "first").inside
    places = [_join(gate, f"peer {number}") for number in range(MAX_WAITING)]
    late = _join(gate, "late")
    assert late.refused
    assert not any(place.refused for place in places)
