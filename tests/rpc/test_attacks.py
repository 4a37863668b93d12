"""What hostile peers and careless users do, and what must come of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aioquic.quic.events import StreamDataReceived, StreamReset

import aster
from aster import RpcError, StatusCode
from aster._channel import LONGEST_CLEANUP, ROUND_TRIP_ALLOWANCE
from aster._protocol.events import Hello, Setting
from aster._protocol.frames import FrameKind, encode_hello, encode_message
from aster._protocol.values import encode_varint
from aster.decorators import client_stream, rpc, server_stream, service
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.trust import Address, Identity
from tests.quic.raw import RawPeer, raw_configuration
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.probes import backend_for, calls_are_over
from tests.rpc.raw import END, RawStream, header_of, manifest_of, raw_client, raw_connection, raw_server

pytestmark = pytest.mark.anyio

_SAME = header_of("same")
_TOTAL = header_of("total")


def _above_info(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


# Hostile clients


async def test_a_request_with_a_broken_rule_right_behind_it_is_no_bug_of_the_handler(
    running: Running, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Echo()) as (server, client), raw_client(server.address, transport) as raw:
        sink = RawStream()
        stream = raw.connection.open_stream(sink)
        stream.write(_SAME + encode_message(b"") + END)
        stream.write(END)
        await sink.ended.wait()
        assert b"the peer sent END in state ENDED" in sink.received
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)
    assert not _above_info(caplog)


async def test_a_header_after_stop_sending_begins_no_handler(running: Running, transport: Transport) -> None:
    begun = 0

    class Counting(Echo):
        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            nonlocal begun
            begun += 1
            return Item()

    async with running(Counting()) as (server, client), raw_client(server.address, transport) as raw:
        sink = RawStream()
        stream = raw.connection.open_stream(sink)
        stream.write(_TOTAL[:1])
        stream.stop(1)
        await sink.ended.wait()
        stream.write(_TOTAL[1:] + END)
        await raw.connection.wait_acknowledged()
        await (await client.client(Echo)).nothing(Nothing())
    assert begun == 0


def _has_ended(peer: RawPeer, stream_id: int) -> bool:
    """Whether the peer has heard the end of the server's half of a stream, in order or not."""
    data = [event for event in peer.events if isinstance(event, StreamDataReceived) and event.stream_id == stream_id]
    return any(event.end_stream for event in data) or any(isinstance(event, StreamReset) and event.stream_id == stream_id for event in peer.events)


async def test_stop_sending_that_comes_together_with_what_ends_the_call_harms_no_other_call() -> None:
    settings: dict[int, int] = {Setting.WINDOW: 1, Setting.MESSAGE_LIMIT: 1, Setting.METADATA_LIMIT: 1}
    async with aster.serve([Echo()]) as server:
        address = Address.parse(server.address)
        peer = RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), (address.host, address.port))
        try:
            peer.engine.send_stream_data(0, encode_hello(Hello((1,), settings)))
            await peer.run(lambda: peer.seen(StreamDataReceived))
            # The trailer that answers the broken rule is still queued when the request to stop arrives in a datagram of its own. On a busy machine that may
            # be later: then the stream ends in order, and the next one is tried.
            stream_id = 0
            while not (peer.closed or peer.seen(StreamReset)):
                stream_id += 4
                peer.engine.send_stream_data(stream_id, END)
                peer.flush()
                peer.engine.stop_stream(stream_id, 1)
                peer.flush()
                await peer.run(lambda: _has_ended(peer, stream_id) or peer.closed)  # noqa: B023 (waited for at once)
            assert peer.closed is None
            peer.engine.send_stream_data(stream_id + 4, END)
            await peer.run(lambda: _has_ended(peer, stream_id + 4) or peer.closed)
            assert peer.closed is None
            peer.engine.close()
            peer.flush()
        finally:
            peer.close()


async def test_a_client_with_a_large_hello_is_closed_and_its_neighbour_does_not_notice(running: Running, transport: Transport) -> None:
    async with running(Echo()) as (server, client), raw_connection(server.address, transport) as (connection, owner):
        # One byte above what a client may say; only the length is looked at.
        connection.open_stream(RawStream()).write(bytes((FrameKind.HELLO,)) + encode_varint(65_537))
        await owner.lost.wait()
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)


# Hostile servers


@pytest.mark.parametrize("transport", [MemoryTransport()], ids=["memory"])
def test_a_server_that_asks_for_endless_cleanup_and_never_confirms_a_cancel_is_left(anyio_backend: tuple[str, dict[str, Any]], transport: Transport) -> None:
    took = 0.0

    async def main() -> None:
        nonlocal took
        async with raw_server((manifest_of(Echo),), transport, lambda stream, header: None, {Setting.CLEANUP_MILLISECONDS: (1 << 62) - 1}) as address:
            async with aster.connect(address, transport=transport) as client:
                echo = await client.client(Echo)
                with anyio.move_on_after(1):
                    await echo.same(Item(1))
                took = -anyio.current_time()
            took += anyio.current_time()

    name, options = backend_for(anyio_backend[0], transport)
    anyio.run(main, backend=name, backend_options=options)
    assert took == pytest.approx(LONGEST_CLEANUP + ROUND_TRIP_ALLOWANCE)


# Handlers that shield themselves


@service("Stubborn")
class Stubborn:
    """Handlers that go on when they are cancelled."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ends: list[BaseException | None] = []

    @client_stream
    async def read(self, items: AsyncIterator[Item]) -> Item:
        try:
            with anyio.CancelScope(shield=True):
                async for _ in items:
                    self.begun.set()
        except BaseException as exc:
            self.ends.append(exc)
            raise
        self.ends.append(None)
        return Item()

    @server_stream
    async def write(self, item: Item) -> AsyncIterator[Item]:
        with anyio.CancelScope(shield=True):
            while True:
                yield Item(data=bytes(10_000))


async def test_a_shielded_handler_that_reads_requests_hears_that_its_call_is_over(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn()
    async with running(stubborn) as (_, client):
        stub = await client.client(Stubborn)
        async with aster.open_call(stub.read) as call:
            await call.send(Item(1))
            await stubborn.begun.wait()
        await calls_are_over(client)
        (end,) = stubborn.ends
        assert isinstance(end, RpcError)
        assert end.code is StatusCode.CANCELLED
        async with aster.open_call(stub.read) as call:
            await call.send(Item(1))
            await call.end()
            # Its outcome is not waited for, so both a whole and a cancelled reading are right, or none at all.
        await calls_are_over(client)
    assert not _above_info(caplog)


async def test_a_cancelled_handler_that_reads_on_hears_that_its_call_is_over_also_when_the_end_of_requests_had_arrived(running: Running) -> None:
    begun, rests = anyio.Event(), list[object]()

    class ReadsOn(Echo):
        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            try:
                async for _ in items:
                    begun.set()
                    await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    try:
                        rests.append([item async for item in items])
                    except RpcError as exc:
                        rests.append(exc.code)
            return Item()

    async with running(ReadsOn()) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            # All three and their end leave in one piece; two of them are dropped unread.
            group.start_soon(echo.total, [Item(1), Item(2), Item(3)])
            await begun.wait()
            group.cancel_scope.cancel()
        await calls_are_over(client)
    assert rests == [StatusCode.CANCELLED]


async def test_a_shielded_handler_that_sends_for_ever_ends_with_its_call(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Stubborn()) as (_, client):
        stub = await client.client(Stubborn)
        async with stub.write(Item()) as stream:
            assert await anext(stream) == Item(data=bytes(10_000))
        await calls_are_over(client)
    assert not _above_info(caplog)


# Careless handlers


async def test_a_handler_that_drains_its_own_server_drains_it(transport: Transport) -> None:
    class Draining(Echo):
        server: aster.AsterServer

        @rpc
        async def same(self, item: Item) -> Item:
            await self.server.drain(grace=0.01)
            return item

    service = Draining()
    async with aster.serve([service], transport=transport) as service.server, aster.connect(service.server.address, transport=transport) as client:
        with pytest.raises(RpcError) as caught:
            await (await client.client(Echo)).same(Item(1))
        assert caught.value.code is StatusCode.UNAVAILABLE
        await service.server.serve()


# Careless callers


async def test_two_tasks_that_begin_one_stream_make_one_call_and_closing_it_in_the_queue_makes_none(running: Running) -> None:
    errors: list[Exception] = []

    async def read(stream: aster.ResponseStream[Item]) -> None:
        try:
            assert [item.number async for item in stream] == [0, 1]
        except (anyio.BusyResourceError, anyio.ClosedResourceError) as exc:
            errors.append(exc)

    async with running(Echo(), max_concurrent_calls=1) as (_, client):
        echo = await client.client(Echo)
        for close, expected in ((False, [anyio.BusyResourceError]), (True, [anyio.BusyResourceError, anyio.ClosedResourceError])):
            errors.clear()
            # That is all the calls that the server takes: the stream has to wait for its turn.
            async with anyio.create_task_group() as group, aster.open_call(echo.chat):
                stream = echo.count(Item(2))
                group.start_soon(read, stream)
                group.start_soon(read, stream)
                while not errors:
                    await anyio.lowlevel.checkpoint()
                if close:
                    await stream.aclose()
            assert [type(error) for error in errors] == expected
        await calls_are_over(client)


async def test_an_open_call_that_two_tasks_enter_is_one_call(running: Running) -> None:
    async with running(Echo(), max_concurrent_calls=1) as (_, client):
        echo = await client.client(Echo)
        call = aster.open_call(echo.chat)

        async def use() -> None:
            async with call:
                await call.send(Item(1))
                assert await call.receive() == Item(1)

        async with anyio.create_task_group() as group, aster.open_call(echo.chat):
            group.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="entered before"):
                await use()
        await calls_are_over(client)


async def test_a_generator_exit_of_a_request_iterable_comes_out_of_its_call(running: Running) -> None:
    class Odd:
        def __aiter__(self) -> Odd:
            return self

        async def __anext__(self) -> Item:
            raise GeneratorExit

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(GeneratorExit):
            await echo.total(Odd())
        assert await echo.same(Item(1)) == Item(1)
