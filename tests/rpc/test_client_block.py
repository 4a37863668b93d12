"""Calls in a client's block that was cancelled from outside, that was left, or whose connection broke beneath those who wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.lowlevel
import pytest

import aster
from aster._client_connection import ClientConnection
from aster._outgoing import OutgoingCall
from aster._reactor import Reactor
from aster.decorators import rpc, service
from aster.errors import AsterError, RpcError, StatusCode
from aster.testing import assert_no_orphans, live_connections
from aster.transports.base import Accept, Connection, ConnectionHandler, ConnectionOptions, Listener, Stream, StreamSink, Transport
from aster.trust import Address, Identity
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import server_record, until

pytestmark = pytest.mark.anyio


async def _items() -> AsyncIterator[Item]:
    for number in range(3):
        await anyio.lowlevel.checkpoint()
        yield Item(number)


async def _loses_its_connection(echo: Echo, client: aster.AsterClient) -> None:
    before = live_connections()
    server_record(client).transport.close()
    # Both ends: a call that is made before the client has heard of it is lost along with it.
    await until(lambda: len([end for end in before if end not in live_connections()]) == 2)
    assert await echo.same(Item(7)) == Item(7)


async def _uploads(echo: Echo, client: aster.AsterClient) -> None:
    assert (await echo.total(_items())).number == 3


async def _talks(echo: Echo, client: aster.AsterClient) -> None:
    assert await numbers_of(echo.chat(_items())) == [0, 1, 2]


@pytest.mark.parametrize("work", [_uploads, _talks, _loses_its_connection])
async def test_a_body_that_shields_itself_goes_on_in_a_block_that_was_cancelled(
    running: Running, transport: Transport, work: Callable[[Echo, aster.AsterClient], Awaitable[None]]
) -> None:
    """A last upload in a ``finally`` is the usual case."""
    worked = False
    async with assert_no_orphans(), running(Echo()) as (server, _):
        with anyio.CancelScope() as scope:
            async with aster.connect(server.address, transport=transport) as client:
                echo = await client.client(Echo)
                try:
                    scope.cancel()
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await work(echo, client)
                        worked = True
    assert worked
    assert scope.cancelled_caught


@service("Turns")
class _Turns:
    """One call at a time, until it is let go."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()

    @rpc(idempotent=True)
    async def same(self, item: Item) -> Item:
        if item.number == 1:
            await self.go_on.wait()
        return item


async def test_a_breach_in_the_step_that_gives_a_waiting_call_its_turn_only_makes_it_wait_on(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over QUIC one packet can end a call and break a rule: from then on no stream can be opened, though nobody has heard of the loss yet."""
    hosted, over, breaches = _Turns(), ClientConnection.call_over, list[str]()

    def over_and_broken(connection: ClientConnection, call: OutgoingCall) -> None:
        over(connection, call)
        if not breaches:
            breaches.append("a rule")
            connection._broken("a rule")  # pyright: ignore[reportPrivateUsage]

    async with assert_no_orphans(), running(hosted, max_concurrent_calls=1) as (_, client):
        turns, answers = await client.client(_Turns), list[int]()
        monkeypatch.setattr(ClientConnection, "call_over", over_and_broken)

        async def call(number: int) -> None:
            answers.append((await turns.same(Item(number))).number)

        async with anyio.create_task_group() as group:
            group.start_soon(call, 1)
            await anyio.wait_all_tasks_blocked()
            for number in (2, 3):
                group.start_soon(call, number)
            await anyio.wait_all_tasks_blocked()
            hosted.go_on.set()
    assert breaches
    assert sorted(answers) == [1, 2, 3]


async def _fails_until_cancelled(call: Callable[[], Awaitable[object]], code: StatusCode) -> None:
    """Each attempt is a checkpoint, so that others run, and cancellation comes through."""
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        for attempt in range(1_000):
            with pytest.raises(RpcError) as caught:
                await call()
            assert caught.value.code is code
            if attempt == 100:
                assert others >= 100
                group.cancel_scope.cancel()
    assert group.cancel_scope.cancelled_caught


async def test_calls_that_fail_at_once_are_checkpoints(running: Running) -> None:
    async with running(Echo(), max_message_size=100) as (_, client):
        echo = await client.client(Echo)
        await _fails_until_cancelled(lambda: echo.same(Item(data=bytes(200))), StatusCode.RESOURCE_EXHAUSTED)
        metadata = aster.with_options(echo, metadata={"a": "x" * 9_000})
        await _fails_until_cancelled(lambda: metadata.same(Item()), StatusCode.RESOURCE_EXHAUSTED)
    await _fails_until_cancelled(lambda: echo.same(Item()), StatusCode.UNAVAILABLE)


_TURNS_TO_TELL = 20


@dataclass
class _TellsLate:
    """A connection's owner who hears of its end some turns after the transport has told of it."""

    owner: ConnectionHandler
    reactor: Reactor
    heard: list[AsterError]

    def stream_opened(self, stream: Stream) -> StreamSink:
        return self.owner.stream_opened(stream)

    def streams_available(self) -> None:
        self.owner.streams_available()

    def connection_lost(self, error: AsterError, turns: int = _TURNS_TO_TELL) -> None:
        if turns:
            self.reactor.call_soon(partial(self.connection_lost, error, turns - 1))
        else:
            self.heard.append(error)
            self.owner.connection_lost(error)


class _Late(Transport):
    """A transport whose clients hear late that their connection is gone."""

    def __init__(self, transport: Transport) -> None:
        self.heard = list[AsterError]()
        self._transport = transport

    async def listen(self, host: str, port: int, *, identity: Identity, accept: Accept, reactor: Reactor, options: ConnectionOptions) -> Listener:
        return await self._transport.listen(host, port, identity=identity, accept=accept, reactor=reactor, options=options)

    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        late = _TellsLate(handler, reactor, self.heard)
        return await self._transport.connect(address, identity=identity, handler=late, reactor=reactor, options=options)


@pytest.mark.parametrize("leaving", [None, KeyError("the body's")], ids=["ended", "raised"])
async def test_leaving_waits_until_the_transport_has_told_that_the_connection_is_gone(transport: Transport, leaving: KeyError | None) -> None:
    """What the transport does until then, it does on the block's behalf."""
    late = _Late(transport)
    async with assert_no_orphans(), aster.serve([Echo()], transport=transport) as server:
        with nullcontext() if leaving is None else pytest.raises(KeyError):
            async with aster.connect(server.address, transport=late) as client:
                assert await (await client.client(Echo)).same(Item(1)) == Item(1)
                if leaving is not None:
                    raise leaving
        assert len(late.heard) == 1
