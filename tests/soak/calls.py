"""Calls that go well: each kind is one call of one pattern, whose outcome is checked."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aster
from aster.types import RpcPattern
from tests.rpc.echo import Brief, Echo, Item, Nothing, Requests, numbers_of
from tests.soak import sessions
from tests.soak.services import LARGE, Troubled

__all__ = ["CALLS", "Kind", "Stubs"]


_MANY = 150
"""Messages of a stream that is not taken whole: more than are passed on between two checkpoints, so that the end of the call finds its sender at work."""


@dataclass(frozen=True, slots=True)
class Stubs:
    """One client's stubs of what the soak serves."""

    client: aster.AsterClient
    echo: Echo
    brief: Brief
    troubled: Troubled

    @classmethod
    async def of(cls, client: aster.AsterClient) -> Stubs:
        return cls(client, await client.client(Echo), await client.client(Brief), await client.client(Troubled))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of call.

    Attributes:
        name: for reports.
        pattern: of the method that is called.
        make: makes one call, and raises AssertionError when it has another outcome than it should.
        weight: how often it is drawn, against the others.
    """

    name: str
    pattern: RpcPattern
    make: Callable[[Stubs, random.Random], Awaitable[None]]
    weight: int


async def _tiny(stubs: Stubs, chance: random.Random) -> None:
    item = Item(chance.randrange(1 << 40), "text")
    assert await stubs.echo.same(item) == item


async def _empty(stubs: Stubs, _: random.Random) -> None:
    assert await stubs.echo.nothing(Nothing()) == Nothing()


async def _large(stubs: Stubs, chance: random.Random) -> None:
    item = Item(data=chance.randbytes(LARGE))
    assert await stubs.echo.same(item) == item


async def _with_metadata(stubs: Stubs, chance: random.Random) -> None:
    echo = aster.with_options(stubs.echo, metadata=[("trace", str(chance.random())), ("trace", chance.randbytes(20))], timeout=600)
    assert await echo.same(Item(1)) == Item(1)


async def _by_hand(stubs: Stubs, _: random.Random) -> None:
    async with aster.open_call(stubs.echo.same) as call:
        await call.send(Item(3))
        assert await call.receive() == Item(3)
        await call.end()


async def _count(stubs: Stubs, chance: random.Random) -> None:
    number = chance.randrange(6)
    assert await numbers_of(stubs.echo.count(Item(number))) == list(range(number))


async def _break_off(stubs: Stubs, _: random.Random) -> None:
    async with stubs.echo.count(Item(_MANY)) as items:
        async for item in items:
            assert item.number < 2
            if item.number == 1:
                break


async def _drop(stubs: Stubs, _: random.Random) -> None:
    async for item in stubs.echo.count(Item(_MANY)):
        assert item.number < 2
        if item.number == 1:
            break


async def _total(stubs: Stubs, chance: random.Random) -> None:
    number = chance.randrange(6)
    assert (await stubs.echo.total(Item(1) for _ in range(number))).number == number


async def _async_total(stubs: Stubs, _: random.Random) -> None:
    requests = Requests(1, 2)
    assert (await stubs.echo.total(requests)).number == 3
    assert requests.closings == 1


async def _first(stubs: Stubs, _: random.Random) -> None:
    """The handler returns while requests still come."""
    assert (await stubs.brief.first(Item(number) for number in range(_MANY))).number == 0


async def _total_by_hand(stubs: Stubs, _: random.Random) -> None:
    async with aster.open_call(stubs.echo.total) as call:
        await call.send(Item(1))
        await call.send(Item(2, data=bytes(LARGE)))
        await call.end()
        assert (await call.receive()).number == 3


async def _chat(stubs: Stubs, _: random.Random) -> None:
    assert await numbers_of(stubs.echo.chat([Item(1), Item(2)])) == [1, 2]


async def _ping_pong(stubs: Stubs, _: random.Random) -> None:
    async with aster.open_call(stubs.echo.chat) as call:
        for number in range(3):
            await call.send(Item(number))
            assert (await call.receive()).number == number
        await call.end()
        async for _item in call:
            raise AssertionError("one response too many")


async def _two(stubs: Stubs, _: random.Random) -> None:
    assert await numbers_of(stubs.brief.two(Item(number) for number in range(_MANY))) == [0, 1]


async def _leave(stubs: Stubs, _: random.Random) -> None:
    async with aster.open_call(stubs.echo.chat) as call:
        await call.send(Item(1))
        assert (await call.receive()).number == 1


def _session(play: Callable[[aster.AsterClient, random.Random], Awaitable[None]]) -> Callable[[Stubs, random.Random], Awaitable[None]]:
    async def make(stubs: Stubs, chance: random.Random) -> None:
        await play(stubs.client, chance)

    return make


CALLS = (
    Kind("unary", RpcPattern.UNARY, _tiny, 36),
    Kind("unary, empty", RpcPattern.UNARY, _empty, 6),
    Kind("unary, large", RpcPattern.UNARY, _large, 1),
    Kind("unary, with metadata and a deadline", RpcPattern.UNARY, _with_metadata, 12),
    Kind("unary, by hand", RpcPattern.UNARY, _by_hand, 5),
    Kind("responses", RpcPattern.SERVER_STREAM, _count, 12),
    Kind("responses, broken off", RpcPattern.SERVER_STREAM, _break_off, 1),
    Kind("responses, dropped", RpcPattern.SERVER_STREAM, _drop, 1),
    Kind("requests", RpcPattern.CLIENT_STREAM, _total, 6),
    Kind("requests, by an async iterator", RpcPattern.CLIENT_STREAM, _async_total, 4),
    Kind("requests, more than are taken", RpcPattern.CLIENT_STREAM, _first, 1),
    Kind("requests, by hand and large", RpcPattern.CLIENT_STREAM, _total_by_hand, 1),
    Kind("both ways", RpcPattern.BIDI_STREAM, _chat, 6),
    Kind("both ways, ping-pong", RpcPattern.BIDI_STREAM, _ping_pong, 4),
    Kind("both ways, more than are taken", RpcPattern.BIDI_STREAM, _two, 1),
    Kind("both ways, left in the middle", RpcPattern.BIDI_STREAM, _leave, 3),
    Kind("a session", RpcPattern.UNARY, _session(sessions.used), 2),
    Kind("a session with a task in the background", RpcPattern.UNARY, _session(sessions.with_background), 1),
)
