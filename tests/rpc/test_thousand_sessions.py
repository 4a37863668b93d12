"""A thousand sessions, each ended in a way of its own: every instance is closed once, and nothing of any is left."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest

import aster
from aster import StatusCode
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from tests.rpc.echo import Item
from tests.rpc.probes import cancelled_after, error_of, server_record, until
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio

_SESSIONS = 1_000
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
        # Its number is how the instance is found that is to fail.
        await room.add(Item(number := chance.randrange(1 << 40)))
        next(each for each in _LOBBY.rooms if each.total_so_far == number).fail.set()
        assert (await error_of(room.hang(Item()))).code is StatusCode.ABORTED


async def _dropped_with_a_stream(client: aster.AsterClient, chance: random.Random) -> None:
    async with client.session(Room) as room:
        await room.add(Item(200))
        async for _ in room.count(Item()):
            break


async def _lost(client: aster.AsterClient, chance: random.Random, address: str, transport: Transport) -> None:
    async with aster.connect(address, transport=transport) as other, other.session(Room) as room:
        await room.add(Item(1))
        server_record(other).transport.close()
        assert (await error_of(room.hang(Item()))).code is StatusCode.UNAVAILABLE


_WAYS: list[tuple[Callable[[aster.AsterClient, random.Random], Awaitable[None]], int]] = [
    (_used, 20),
    (_raised, 10),
    (_cancelled, 30),
    (_timed_out, 5),
    (_crashed, 10),
    (_dropped_with_a_stream, 10),
]

_LOBBY = Lobby()


async def test_a_thousand_sessions_that_end_in_all_ways_are_closed_once_each(transport: Transport) -> None:
    chance, made = random.Random(11), Counter[str]()
    _LOBBY.rooms.clear()

    async def close(room: Room) -> None:
        if len(_LOBBY.rooms) % 7 == 0:
            raise ZeroDivisionError

    _LOBBY.close = close
    async with aster.serve([_LOBBY.service], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        ways = chance.choices([way for way, _ in _WAYS], [weight for _, weight in _WAYS], k=_SESSIONS)
        remaining = iter(enumerate(ways))

        async def work() -> None:
            for number, way in remaining:
                made[way.__name__] += 1
                if number % 100 == 0:
                    await _lost(client, chance, server.address, transport)
                await way(client, chance)

        async with anyio.create_task_group() as group:
            for _ in range(_AT_ONCE):
                group.start_soon(work)
        record = server_record(client)
        await until(lambda: not record.sessions and record.transport.open_streams == 1)
    assert min(made.values()) > 20
    # One that was cancelled early enough has had no instance.
    assert _SESSIONS * 0.6 < len(_LOBBY.rooms) <= _SESSIONS + _SESSIONS // 100
    assert set(_LOBBY.closed) == {1}
    _LOBBY.rooms.clear()
    assert_no_orphans()
