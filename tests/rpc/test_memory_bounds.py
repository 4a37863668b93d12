"""What one connection can make the other end hold, whatever it sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived

import aster
from aster._protocol.events import Hello, Setting
from aster._protocol.frames import (
    CHUNK_SIZE,
    MESSAGE_CHARGE,
    FrameKind,
    encode_credit,
    encode_frame,
    encode_hello,
    encode_message,
)
from aster.decorators import client_stream, server_stream
from aster.transports.base import Transport
from aster.trust import Address, Identity
from tests.quic.raw import RawPeer, raw_configuration
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing, encode_item
from tests.rpc.probes import Endless, calls_are_over, until
from tests.rpc.raw import END, RawStream, header_of, raw_client

pytestmark = pytest.mark.anyio


class Unread(Echo):
    """Takes its requests once it is told to."""

    def __init__(self) -> None:
        self.open = anyio.Event()

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        await self.open.wait()
        return Item(len([item async for item in items]))


async def test_the_call_that_crosses_the_connections_cap_fails_alone_and_what_is_taken_makes_room(running: Running) -> None:
    size, calls, outcomes = 10_000, 7, list[aster.StatusCode | int]()
    unread = Unread()

    async def call(echo: Echo) -> None:
        try:
            outcomes.append((await echo.total([Item(data=bytes(size))])).number)
        except aster.RpcError as exc:
            outcomes.append(exc.code)

    async with running(unread, max_connection_buffer=5 * (size + 200)) as (_, client):
        echo = await client.client(Echo)
        for round_ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(calls):
                    group.start_soon(call, echo)
                await until(lambda: len(outcomes) == calls - 5)
                assert await echo.same(Item(1)) == Item(1)
                unread.open.set()
            assert sorted(outcomes, key=int) == [1] * 5 + [aster.StatusCode.RESOURCE_EXHAUSTED] * 2, round_
            outcomes.clear()
            unread.open = anyio.Event()


class Hasty(Echo):
    """Returns without a look at its requests; yields what it is told to and ends."""

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        return Item()

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        yield Item(data=bytes(item.number))


async def test_what_a_handler_has_not_read_counts_no_more_once_it_has_returned(running: Running, transport: Transport) -> None:
    size, calls = 700, 20
    async with running(Hasty(), max_connection_buffer=5 * (size + 200)) as (server, _), raw_client(server.address, transport) as raw:
        request = header_of("total") + encode_message(encode_item(Item(data=bytes(size))))  # in one datagram: it is there before the handler has begun
        for _ in range(calls):
            sink = RawStream()
            raw.connection.open_stream(sink).write(request)
            assert (await sink.trailer()).status is aster.StatusCode.OK


async def test_responses_that_were_not_read_yet_count_no_more_once_their_call_is_over(running: Running) -> None:
    """They are their reader's; another call has the room of them."""
    size = 20_000
    async with running(Hasty(), client={"max_connection_buffer": size + 1_000}) as (_, client):
        echo = await client.client(Echo)
        async with AsyncExitStack() as streams:
            unread = list[aster.ResponseStream[Item]]()
            for _ in range(3):
                unread.append(await streams.enter_async_context(echo.count(Item(size))))
                await calls_are_over(client)
            for stream in unread:
                assert [len(item.data) async for item in stream] == [size]


class Generous(Endless):
    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        with self.witness.watch():
            yield Item(data=bytes(item.number))
            await anyio.sleep_forever()


async def test_a_client_has_that_cap_too_and_calls_that_end_make_room(running: Running) -> None:
    generous, size = Generous(), 20_000

    async def read(stream: aster.ResponseStream[Item]) -> int:
        try:
            return len((await anext(stream)).data)
        except aster.RpcError as exc:
            return exc.code

    async with running(generous, client={"max_connection_buffer": size + 1_000}) as (_, client):
        echo = await client.client(Echo)
        for round_ in range(1, 6):
            async with echo.count(Item(size)) as first, echo.count(Item(size)) as second:
                # One of them fails, and so its handler is cancelled, before any of them is read.
                await until(lambda done=round_: generous.witness.unwound == 2 * done - 1)
                assert sorted([await read(first), await read(second)]) == [aster.StatusCode.RESOURCE_EXHAUSTED, size]
            await calls_are_over(client)


async def test_messages_that_never_end_count_as_well(running: Running, transport: Transport) -> None:
    endless = Endless()
    async with running(endless, max_connection_buffer=20 * CHUNK_SIZE, drain_grace=0) as (server, client), raw_client(server.address, transport) as raw:
        sinks = list[RawStream]()
        for _ in range(10):
            sinks.append(RawStream())
            head = header_of("total")
            raw.connection.open_stream(sinks[-1]).write(head + encode_frame(FrameKind.PART, bytes(CHUNK_SIZE)) * 3)
        await until(lambda: sum(sink.ended.is_set() for sink in sinks) == 4)  # six times three fit
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()


class Torrent(Endless):
    """Yields without end, and counts."""

    yielded = 0

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        with self.witness.watch():
            while True:
                self.yielded += 1
                yield Item(data=bytes(item.number))


def keep_shut(**_: object) -> None:
    """In place of what opens a window."""


async def test_a_peer_that_grants_credit_for_what_it_has_not_received_fails_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps QUIC's windows shut, which over memory there are none of."""
    torrent, size = Torrent(), 100_000
    async with aster.serve([torrent], drain_grace=0, cleanup_budget=0.1) as server, aster.connect(server.address) as client:
        address = Address.parse(server.address)
        peer = RawPeer(raw_configuration(is_client=True, identity=Identity.generate(), max_stream_data=size), (address.host, address.port))
        for name in ("_write_stream_limits", "_write_connection_limits"):
            monkeypatch.setattr(peer.engine, name, keep_shut)
        await peer.run(lambda: peer.seen(HandshakeCompleted))
        settings: dict[int, int] = {Setting.WINDOW: 262_144, Setting.MESSAGE_LIMIT: 1 << 22, Setting.METADATA_LIMIT: 8_192}
        peer.engine.send_stream_data(0, encode_hello(Hello((1,), settings)))
        await peer.run(lambda: peer.seen(StreamDataReceived))
        head = header_of("count")
        peer.engine.send_stream_data(4, head + encode_message(encode_item(Item(size))) + END)
        await peer.run(lambda: torrent.yielded >= 3)  # the window, and one message on
        while not torrent.witness.unwound:
            peer.engine.send_stream_data(4, encode_credit(len(encode_item(Item(data=bytes(size)))) + MESSAGE_CHARGE))
            with anyio.move_on_after(0.01):  # real: datagrams take real time; a grant that is not waited for is one more of the next round
                await peer.run(lambda: torrent.witness.unwound)
            assert torrent.yielded * size < 2 * 262_144 + size
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()
        peer.close()
