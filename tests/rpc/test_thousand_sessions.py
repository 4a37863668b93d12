"""A thousand sessions, each ended in a way of its own: every instance is closed once, and after each hundred nothing of any is left."""

from __future__ import annotations

import logging
import random
import sys
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.abc import TaskStatus

import aster
from aster import StatusCode
from aster.testing import assert_no_orphans, live_connections
from aster.transports.base import Transport
from tests.rpc.echo import Item
from tests.rpc.probes import cancelled_after, error_of, server_record, until
from tests.rpc.rooms import Lobby, Room
from tests.soak.census import count_everything, resident_memory
from tests.soak.run import Mark, settled
from tests.soak.verdict import growths

pytestmark = pytest.mark.anyio

_HUNDREDS = 10
_AT_ONCE = 50


async def _used(client: aster.AsterClient, chance: random.Random) -> None:
    async with client.session(Room) as room:
        for number in range(chance.randrange(4)):
            assert (await room.add(Item(1))).number == number + 1


async def _raised(client: aster.AsterClient, chance: random.Random) -> None:
    with pytest.raises(LookupError):
        await _raise_in_session(client)


async def _raise_in_session(client: aster.AsterClient) -> None:
    async with client.session(Room) as room:
        await room.add(Item(1))
        raise LookupError


async def _cancelled(client: aster.AsterClient, chance: random.Random) -> None:
    async def hang() -> None:
        async with client.session(Room) as room:
            await room.add_all([Item(1), Item(2)])
            await room.hang(Item(chance.randrange(2)))

    await cancelled_after(chance.randrange(80), hang)


async def _timed_out(client: aster.AsterClient, chance: random.Random) -> None:
    async with client.session(Room) as room:
        assert (await error_of(aster.with_options(room, timeout=0.01).hang(Item()))).code is StatusCode.DEADLINE_EXCEEDED
        assert await room.add(Item(3)) == Item(3)


async def _crashed(client: aster.AsterClient, chance: random.Random) -> None:
    async with client.session(Room) as room:
        await room.in_background(Item(1))
        await room.add(Item(number := chance.randrange(1 << 40)))
        _instance(number).fail.set()
        assert (await error_of(room.hang(Item()))).code is StatusCode.ABORTED


async def _dropped_with_a_stream(client: aster.AsterClient, chance: random.Random) -> None:
    async with client.session(Room) as room:
        await room.add(Item(200))
        async for _ in room.count(Item()):
            break


async def _lost(chance: random.Random, address: str, transport: Transport) -> None:
    async with aster.connect(address, transport=transport) as other, other.session(Room) as room:
        await room.add(Item(chance.randrange(3)))
        server_record(other).transport.close()
        assert (await error_of(room.hang(Item()))).code is StatusCode.UNAVAILABLE


async def _drained(chance: random.Random, transport: Transport) -> None:
    leave = anyio.Event()

    async def run(*, task_status: TaskStatus[str]) -> None:
        async with aster.serve([_LOBBY.service], transport=transport, drain_grace=60) as server:
            task_status.started(server.address)
            await leave.wait()

    async with anyio.create_task_group() as group:
        address: str = await group.start(run)
        async with aster.connect(address, transport=transport) as other, other.session(Room) as room:
            await room.add(Item(number := chance.randrange(1 << 40)))
            instance = _instance(number)
            leave.set()
            await until(lambda: instance.closed)


def _instance(number: int) -> Room:
    """The one that was sent this number alone, on the other side."""
    return next(room for room in _LOBBY.rooms if room.total_so_far == number)


_WAYS: list[tuple[Callable[[aster.AsterClient, random.Random], Awaitable[None]], int]] = [
    (_used, 20),
    (_raised, 10),
    (_cancelled, 30),
    (_timed_out, 5),
    (_crashed, 10),
    (_dropped_with_a_stream, 10),
]

_LOBBY = Lobby()


async def test_a_thousand_sessions_that_end_in_all_ways_are_closed_once_each(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    # What is logged is kept until the end of a test, with the frames of what was raised.
    caplog.set_level(logging.CRITICAL, logger="aster")
    chance, made, endings = random.Random(11), Counter[str](), Counter[int]()
    marks: list[Mark] = []

    async def close(room: Room) -> None:
        if len(_LOBBY.rooms) % 7 == 0:
            raise ZeroDivisionError

    _LOBBY.close = close
    async with aster.serve([_LOBBY.service], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        lasting = live_connections()
        for hundred in range(1, _HUNDREDS + 1):
            await _hundred(client, server.address, transport, chance, made)
            await settled(lasting)
            assert not server_record(client).sessions
            endings.update(_LOBBY.closed)
            instances = [weakref.ref(room) for room in _LOBBY.rooms]
            _LOBBY.rooms.clear()
            _LOBBY.log.clear()
            census = count_everything()
            del census["threads"]  # those that other tests have left to a pool end when they like
            assert not any(instance() for instance in instances)
            marks.append(Mark(hundred * 100, "sessions", 0.0, census, sys.getallocatedblocks(), resident_memory()))
    assert min(made.values()) >= _HUNDREDS
    # One that was cancelled early enough has had no instance.
    assert made.total() * 0.95 < endings.total() <= made.total()
    assert set(endings) == {1}
    # The first hundreds, and the first looks, make what is made once.
    assert growths(marks[2:]) == []
    assert_no_orphans()


async def _hundred(client: aster.AsterClient, address: str, transport: Transport, chance: random.Random, made: Counter[str]) -> None:
    """A hundred sessions, many at once; and one that loses its connection, and one whose server is left."""
    remaining = iter(chance.choices([way for way, _ in _WAYS], [weight for _, weight in _WAYS], k=100))

    async def work() -> None:
        for way in remaining:
            await way(client, chance)
            made[way.__name__] += 1

    async with anyio.create_task_group() as group:
        for _ in range(_AT_ONCE):
            group.start_soon(work)
        await _lost(chance, address, transport)
        await _drained(chance, transport)
    made.update(["_lost", "_drained"])
