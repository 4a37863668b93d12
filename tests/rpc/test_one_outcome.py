"""Law 7 against peers that end a stream in ways of their own, the client's own clock, and calls that wait for a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

import aster
from aster._client_connection import ClientConnection
from aster._outgoing import OutgoingCall
from aster._protocol.events import CloseCode, Header, ResetCode
from aster._protocol.frames import FrameKind, encode_frame, encode_message
from aster.codec import wire_type
from aster.decorators import client_stream, rpc, server_stream, service
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.probes import CALLS, Call, Endless, Witness, backend_for, on_asyncio, server_record, until
from tests.rpc.raw import RawStream, header_of, manifest_of, raw_client, raw_server

pytestmark = pytest.mark.anyio

each_pattern = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


def _end(stream: Stream, _: Header) -> None:
    stream.finish()


def _end_after_a_message(stream: Stream, _: Header) -> None:
    stream.write(encode_message(b"x"))
    stream.finish()


def _tear_down(stream: Stream, _: Header) -> None:
    stream.reset(9)


@each_pattern
@pytest.mark.parametrize("answer", [_end, _end_after_a_message, _tear_down], ids=["nothing", "a message", "a reset"])
async def test_a_stream_that_ends_without_an_outcome_fails_its_call(transport: Transport, call: Call, answer: Callable[[Stream, Header], None]) -> None:
    async with raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        with pytest.raises(aster.RpcError) as caught:
            await call(echo)
        assert caught.value.code is aster.StatusCode.INTERNAL


@each_pattern
async def test_a_timeout_is_kept_by_the_clients_own_clock_when_the_server_says_nothing(transport: Transport, call: Call) -> None:
    streams = list[Stream]()

    def confirm(code: int) -> None:
        for stream in streams:
            stream.reset(code)

    def say_nothing(stream: Stream, _: Header) -> None:
        streams.append(stream)

    async with (
        raw_server((manifest_of(Echo),), transport, say_nothing, on_reset=confirm) as address,
        aster.connect(address, transport=transport) as client,
    ):
        echo = aster.with_options(await client.client(Echo), timeout=0.05)
        began = anyio.current_time()
        with pytest.raises(aster.RpcError) as caught:
            await call(echo)
        assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED
        if isinstance(transport, MemoryTransport):
            assert anyio.current_time() == pytest.approx(began + 0.05, abs=1e-6)


async def test_a_server_whose_requests_end_without_end_fails_the_call(running: Running, transport: Transport) -> None:
    endless = Endless()
    async with running(endless) as (server, client), raw_client(server.address, transport) as raw:
        sink = RawStream()
        stream = raw.connection.open_stream(sink)
        stream.write(header_of("total"))
        await until(lambda: endless.witness.began)
        stream.finish()
        await sink.ended.wait()
        assert sink.reset_code is None
        assert b"the requests ended without END" in sink.received
        assert endless.witness.cancelled == endless.witness.unwound == 1
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()


async def test_a_client_tears_down_a_call_whose_server_broke_a_rule(transport: Transport) -> None:
    resets = list[int | None]()

    def answer(stream: Stream, _: Header) -> None:
        sinks.append(stream)
        stream.write(encode_frame(FrameKind.END, b""))  # which servers do not send

    sinks = list[Stream]()
    async with raw_server((manifest_of(Echo),), transport, answer, on_reset=resets.append) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        with pytest.raises(aster.RpcError) as caught:
            await echo.total(_endless_requests())
        assert caught.value.code is aster.StatusCode.INTERNAL
        await until(lambda: resets)
        assert resets == [ResetCode.PROTOCOL]
        sinks[0].reset(0)


async def _endless_requests() -> AsyncIterator[Item]:
    yield Item(1)
    await anyio.sleep_forever()


# Calls that wait for a stream


async def _outcome(call: Coroutine[Any, Any, object], outcomes: list[object]) -> None:
    try:
        outcomes.append(await call)
    except aster.RpcError as exc:
        outcomes.append(exc.code)


async def test_the_loss_of_the_connection_fails_the_calls_that_it_carried_and_no_others(running: Running) -> None:
    endless, outcomes = Endless(), list[object]()
    async with running(endless, max_concurrent_calls=1, drain_grace=0) as (_, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(_outcome, echo.same(Item()), outcomes)
            await until(lambda: endless.witness.began)
            await anyio.wait_all_tasks_blocked()
            server_record(client).transport.close(CloseCode.NORMAL)
            await until(lambda: endless.witness.began == 2)
            assert outcomes == [aster.StatusCode.UNAVAILABLE]
            group.cancel_scope.cancel()
        assert endless.witness.began == 2


async def test_calls_that_wait_for_a_stream_of_a_draining_server_begin_nowhere(running: Running) -> None:
    endless, outcomes = Endless(), list[object]()
    async with running(endless, max_concurrent_calls=1, drain_grace=0) as (server, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(_outcome, echo.same(Item()), outcomes)
            await until(lambda: endless.witness.began)
            await anyio.wait_all_tasks_blocked()
            await server.drain(0)
            await until(lambda: outcomes)
            assert outcomes == [aster.StatusCode.UNAVAILABLE]
            # They wait for a server that takes calls, which there is none of.
            group.cancel_scope.cancel()
        assert endless.witness.began == 1


class Gated(Echo):
    """Its unary method holds the only stream until it is let go."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()

    @rpc
    async def same(self, item: Item) -> Item:
        with anyio.CancelScope(shield=True):
            await self.go_on.wait()
        return item


@pytest.mark.parametrize("order", ["cancelled first", "granted first", "granted first, natively"])
async def test_a_stream_that_is_granted_in_the_step_that_cancels_its_caller_goes_to_the_next(
    running: Running, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    native = order.endswith("natively")
    if native and not on_asyncio():
        return  # on trio who was woken is cancelled at its next checkpoint
    gated, scope, outcomes = Gated(), anyio.CancelScope(), list[object]()

    async def cancelled() -> None:
        with scope:
            await echo.same(Item(2))

    async def cancelled_natively() -> None:
        task = asyncio.ensure_future(echo.same(Item(2)))
        tasks.append(task)
        with pytest.raises(asyncio.CancelledError):
            await task

    tasks = list[asyncio.Future[Item]]()
    call_over = ClientConnection.call_over

    def cancel() -> None:
        if native:
            tasks[0].cancel()
        else:
            scope.cancel()

    def over(self: ClientConnection, call: OutgoingCall) -> None:
        monkeypatch.undo()
        if order == "cancelled first":
            cancel()
        call_over(self, call)  # which grants the stream to who waits first
        if order != "cancelled first":
            cancel()

    async with running(gated, max_concurrent_calls=1) as (_, client):
        echo = await client.client(Echo)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(_outcome, echo.same(Item(1)), outcomes)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(cancelled_natively if native else cancelled)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(_outcome, echo.same(Item(3)), outcomes)
                await anyio.wait_all_tasks_blocked()
                monkeypatch.setattr(ClientConnection, "call_over", over)
                gated.go_on.set()
            assert outcomes == [Item(1), Item(3)]
            assert await echo.same(Item(4)) == Item(4)


async def test_leaving_the_clients_block_fails_calls_that_wait_for_a_stream_at_once(running: Running) -> None:
    gated, outcomes = Gated(), list[object]()

    async def let_go() -> None:
        try:
            with anyio.fail_after(1):  # far below the cleanup that the client waits for
                await until(lambda: len(outcomes) == 3)
        finally:
            gated.go_on.set()

    async with anyio.create_task_group() as group, running(gated, max_concurrent_calls=1) as (_, client):
        echo = await client.client(Echo)
        for _ in range(3):
            group.start_soon(_outcome, echo.same(Item()), outcomes)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(let_go)
    assert sorted(map(str, outcomes)) == sorted(map(str, [aster.StatusCode.CANCELLED, *[aster.StatusCode.UNAVAILABLE] * 2]))


# Classes with a bug of their own


@wire_type("tests.rpc/Fragile")
@dataclass
class Fragile:
    number: int = 1

    def __post_init__(self) -> None:
        if self.number == 0:
            raise ZeroDivisionError("a bug of the class")


def broken() -> Fragile:
    """One whose copy cannot be made anywhere."""
    fragile = Fragile()
    fragile.number = 0
    return fragile


@service("Fragiles")
class Fragiles:
    def __init__(self) -> None:
        self.witness = Witness()

    @rpc
    async def take(self, fragile: Fragile) -> Nothing:
        return Nothing()

    @client_stream
    async def take_all(self, fragiles: AsyncIterator[Fragile]) -> Nothing:
        async for _ in fragiles:
            pass
        return Nothing()

    @rpc
    async def give(self, nothing: Nothing) -> Fragile:
        return broken()

    @server_stream
    async def give_many(self, nothing: Nothing) -> AsyncIterator[Fragile]:
        with self.witness.watch():
            yield broken()
            await anyio.sleep_forever()


@pytest.mark.parametrize("debug", [False, True])
async def test_a_bug_in_a_post_init_is_told_where_it_happens(running: Running, caplog: pytest.LogCaptureFixture, debug: bool) -> None:
    fragiles = Fragiles()
    async with running(fragiles, debug=debug) as (_, client):
        stub = await client.client(Fragiles)
        for call in (lambda: stub.take(broken()), lambda: stub.take_all([broken()])):
            caplog.clear()
            with pytest.raises(aster.RpcError) as caught:
                await call()
            assert caught.value.code is aster.StatusCode.INTERNAL
            assert ("ZeroDivisionError: a bug of the class" in caught.value.message) is debug
            assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
        with pytest.raises(ZeroDivisionError):
            await stub.give(Nothing())
        async with stub.give_many(Nothing()) as stream:
            with pytest.raises(ZeroDivisionError):
                await anext(stream)
            await until(lambda: fragiles.witness.cancelled == fragiles.witness.unwound == 1)
