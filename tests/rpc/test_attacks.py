"""What hostile peers and careless users do, and what must come of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import RpcError, StatusCode
from aster._protocol.frames import encode_header, encode_header_start, encode_message
from aster.decorators import client_stream, server_stream, service
from aster.transports.base import Transport
from aster.types import Metadata, RpcPattern
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.probes import calls_are_over
from tests.rpc.raw import END, RawStream, raw_client, target_of

pytestmark = pytest.mark.anyio

_SAME = encode_header(encode_header_start(target_of("same")), None, Metadata())
_TOTAL = encode_header(encode_header_start(target_of("total", pattern=RpcPattern.CLIENT_STREAM)), None, Metadata())


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


# Handlers that shield themselves


@service("Stubborn")
class Stubborn:
    """Handlers that go on when they are cancelled."""

    def __init__(self) -> None:
        self.ends: list[BaseException | None] = []

    @client_stream
    async def read(self, items: AsyncIterator[Item]) -> Item:
        try:
            with anyio.CancelScope(shield=True):
                async for _ in items:
                    pass
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
        async with aster.open_call(stub.read) as call:
            await call.send(Item(1))
            await call.end()
            # Its outcome is not waited for, so both a whole and a cancelled reading are right.
        await calls_are_over(client)
    first = stubborn.ends[0] if stubborn.ends else None
    assert first is None or (isinstance(first, RpcError) and first.code is StatusCode.CANCELLED)
    assert not _above_info(caplog)


async def test_a_shielded_handler_that_sends_for_ever_ends_with_its_call(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Stubborn()) as (_, client):
        stub = await client.client(Stubborn)
        async with stub.write(Item()) as stream:
            assert await anext(stream) == Item(data=bytes(10_000))
        await calls_are_over(client)
    assert not _above_info(caplog)


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
            async with anyio.create_task_group() as group:
                async with aster.open_call(echo.chat):
                    # All the calls that the server takes: the stream has to wait for its turn.
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

        async with anyio.create_task_group() as group:
            async with aster.open_call(echo.chat):
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
