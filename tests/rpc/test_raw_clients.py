"""What a server does about clients that are not Aster's: what it refuses, closes and echoes, and what it tells them when it drains."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import anyio
import pytest

import aster
from aster import StatusCode
from aster._endpoint import EndpointOptions
from aster._protocol.events import CloseCode, GoAway, ResetCode, TrailerOrigin
from aster._protocol.frames import FrameKind, decode_go_away, encode_message
from aster._server_connection import ServerConnection
from aster.decorators import client_stream, rpc
from aster.testing import Link, SimulatedNetwork
from aster.transports.base import ConnectionOptions, Stream, Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.echo import PATTERNS, Echo, Item, encode_item
from tests.rpc.probes import Endless, Witness, backend_for, server_records, until
from tests.rpc.raw import END, HELLO, RawStream, header_of, raw

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


ITEM = encode_message(b"")
"""A request that cannot be decoded, which gives its call an outcome as well as any other."""


# Hello


async def test_a_call_before_the_hello_closes_the_connection_and_begins_no_handler(transport: Transport) -> None:
    endless = Endless()
    async with aster.serve([endless], transport=transport) as server, raw(server, transport, hello=b"") as peer:
        peer.call(header_of("total"))
        await peer.lost.wait()
        assert "the client opened a call before its HELLO" in peer.why
        assert isinstance(transport, MemoryTransport) or f"(code {CloseCode.PROTOCOL})" in peer.why
    assert endless.witness.began == 0


async def test_a_second_hello_closes_the_connection(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        peer.control.write(HELLO)
        await peer.lost.wait()
        assert "the peer sent a second HELLO" in peer.why
        assert isinstance(transport, MemoryTransport) or f"(code {CloseCode.PROTOCOL})" in peer.why
        assert [kind for kind, _ in peer.heard.frames()] == [FrameKind.HELLO]


@pytest.mark.parametrize("transport", [MemoryTransport()], ids=["memory"])
async def test_a_client_that_says_no_hello_is_closed_once_its_time_is_over(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server, raw(server, transport, hello=b"") as silent, raw(server, transport) as polite:
        began = anyio.current_time()
        await silent.lost.wait()
        assert anyio.current_time() - began == pytest.approx(ConnectionOptions().handshake_timeout)
        assert "no HELLO in time" in silent.why
        assert not polite.lost.is_set()


async def test_a_client_that_says_no_hello_is_closed_with_the_code_for_that(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    for_transport = EndpointOptions.for_transport

    def impatient(self: EndpointOptions) -> ConnectionOptions:
        return replace(for_transport(self), handshake_timeout=0.3)

    monkeypatch.setattr(EndpointOptions, "for_transport", impatient)
    async with aster.serve([Echo()], transport=transport) as server, raw(server, transport, hello=b"") as peer:
        await peer.lost.wait()
        assert "no HELLO in time" in peer.why
        assert isinstance(transport, MemoryTransport) or f"(code {CloseCode.HELLO_TIMEOUT})" in peer.why


# Drain


async def test_a_drain_tells_clients_the_last_call_that_is_served(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        stream, sink = peer.call(header_of("same") + ITEM + END)
        await sink.trailer()
        stream.finish()
        await server.drain(0)
        await until(lambda: len(peer.heard.frames()) == 2)
        kind, payload = peer.heard.frames()[1]
        assert kind == FrameKind.GO_AWAY
        assert decode_go_away(payload) == GoAway(stream.id, "the server is draining")
        _, late = peer.call(header_of("same") + ITEM + END)
        trailer = await late.trailer()
        assert (trailer.status, trailer.origin) == (StatusCode.UNAVAILABLE, TrailerOrigin.REFUSED)


async def test_a_client_whose_hello_comes_during_the_drain_is_told_at_once(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server, raw(server, transport, hello=b"") as peer:
        await server.drain(0)
        peer.control.write(HELLO)
        await until(lambda: len(peer.heard.frames()) == 2)
        (first, _), (second, payload) = peer.heard.frames()
        assert (first, second) == (FrameKind.HELLO, FrameKind.GO_AWAY)
        assert decode_go_away(payload) == GoAway(-1, "the server is draining")


async def test_calls_that_a_drain_stops_are_refused_when_no_handler_saw_them(transport: Transport) -> None:
    endless = Endless()
    async with aster.serve([endless], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        _, without_header = peer.call(header_of("same")[:3])
        _, without_request = peer.call(header_of("same"))
        _, running = peer.call(header_of("total"))
        await until(lambda: endless.witness.began)
        await server.drain(0)
        trailers = [await sink.trailer() for sink in (without_header, without_request, running)]
        assert [trailer.status for trailer in trailers] == [StatusCode.UNAVAILABLE] * 3
        assert [trailer.origin for trailer in trailers] == [TrailerOrigin.REFUSED, TrailerOrigin.REFUSED, TrailerOrigin.SERVER]
    assert endless.witness.began == 1


@pytest.fixture
def late_tasks(monkeypatch: pytest.MonkeyPatch) -> float:
    """The tasks of calls take their first step so many seconds after they were made, as in a process that is busy."""
    delay, spawn = 5.0, ServerConnection.spawn

    def spawn_late(self: ServerConnection, function: Callable[[], Coroutine[Any, Any, None]], *rest: Any) -> Any:
        async def later() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(delay)
            await function()

        return spawn(self, later, *rest)

    monkeypatch.setattr(ServerConnection, "spawn", spawn_late)
    return delay


@pytest.mark.parametrize("transport", [MemoryTransport()], ids=["memory"])
async def test_a_call_that_is_over_before_its_task_takes_a_step_begins_no_handler(transport: Transport, late_tasks: float) -> None:
    endless = Endless()
    async with aster.serve([endless], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        _, refused = peer.call(header_of("total"))
        cancelled_stream, cancelled = peer.call(header_of("chat"))
        await anyio.sleep(late_tasks / 2)
        cancelled_stream.reset(ResetCode.CANCELLED)
        await server.drain(0)
        assert (await refused.trailer()).origin is TrailerOrigin.REFUSED
        await cancelled.ended.wait()
        assert cancelled.reset_code == ResetCode.CANCELLED
    assert endless.witness.began == 0


# Deadlines


@pytest.mark.parametrize("method", PATTERNS)
async def test_a_call_whose_time_is_over_when_it_arrives_begins_no_handler(transport: Transport, method: str) -> None:
    endless = Endless()
    async with aster.serve([endless], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        _, sink = peer.call(header_of(method, 0.0) + ITEM + END)
        trailer = await sink.trailer()
        assert (trailer.status, trailer.origin) == (StatusCode.DEADLINE_EXCEEDED, TrailerOrigin.DEADLINE)
    assert endless.witness.began == 0


@pytest.mark.parametrize("transport", [MemoryTransport()], ids=["memory"])
async def test_a_deadline_counts_from_the_headers_arrival_however_late_its_task_begins(transport: Transport, late_tasks: float) -> None:
    endless = Endless()
    async with aster.serve([endless], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        began = anyio.current_time()
        _, short = peer.call(header_of("total", late_tasks - 1))
        _, long = peer.call(header_of("total", late_tasks + 1))
        for sink in (short, long):
            trailer = await sink.trailer()
            assert (trailer.status, trailer.origin) == (StatusCode.DEADLINE_EXCEEDED, TrailerOrigin.DEADLINE)
        assert anyio.current_time() - began == pytest.approx(late_tasks + 1)
    assert endless.witness.began == 1


# Calls


async def test_a_client_that_opens_more_calls_than_it_may_has_those_refused(transport: Transport) -> None:
    endless = Endless()
    async with aster.serve([endless], transport=transport, max_concurrent_calls=2) as server, raw(server, transport) as peer:
        await peer.said_hello()
        for _ in range(2):
            peer.call(header_of("total"))
        await until(lambda: endless.witness.began == 2)
        _, third = peer.call(header_of("total"))
        trailer = await third.trailer()
        assert (trailer.status, trailer.origin) == (StatusCode.RESOURCE_EXHAUSTED, TrailerOrigin.REFUSED)
        assert endless.witness.running == 2
    assert endless.witness.began == 2


@pytest.mark.parametrize("code", [ResetCode.CANCELLED, ResetCode.DEADLINE, 77])
async def test_a_reset_is_echoed_with_its_code_once_the_handler_has_unwound(transport: Transport, code: int) -> None:
    witness, go_on = Witness(), anyio.Event()

    class Slow(Echo):
        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            with witness.watch():
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await go_on.wait()
            return Item()

    async with aster.serve([Slow()], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        stream, sink = peer.call(header_of("total"))
        await until(lambda: witness.began)
        stream.reset(code)
        await peer.connection.wait_acknowledged()
        await anyio.wait_all_tasks_blocked()
        assert not sink.ended.is_set()
        go_on.set()
        await sink.ended.wait()
        assert sink.reset_code == code
        assert witness.unwound == 1
        assert sink.received == b""


async def test_the_reset_of_a_call_without_a_header_is_echoed_with_its_code_too(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        stream, sink = peer.call(header_of("same")[:3])
        await peer.connection.wait_acknowledged()
        stream.reset(77)
        await sink.ended.wait()
        assert sink.reset_code == 77
        assert sink.received == b""


async def test_a_handler_that_returns_before_its_requests_end_has_their_sender_stopped(transport: Transport) -> None:
    class Early(Echo):
        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            return Item(7)

    async with aster.serve([Early()], transport=transport) as server, raw(server, transport) as peer:
        await peer.said_hello()
        _, unended = peer.call(header_of("total"))
        assert (await unended.trailer()).status is StatusCode.OK
        await until(lambda: unended.stop_code is not None)
        assert unended.stop_code == ResetCode.NOT_NEEDED
        # Where all requests have come there is nobody to stop.
        _, ended = peer.call(header_of("total") + END)
        assert (await ended.trailer()).status is StatusCode.OK
        await peer.connection.wait_acknowledged()
        _, later = peer.call(header_of("total") + END)
        await later.trailer()
        assert ended.stop_code is None


@pytest.mark.parametrize("timeout", [0.25, 0.5, 1.0])
async def test_whose_limit_has_ended_a_call_is_told_and_of_equal_ones_it_is_the_calls_own(transport: Transport, timeout: float) -> None:
    async with aster.serve([Endless()], transport=transport, max_deadline=0.5) as server, raw(server, transport) as peer:
        await peer.said_hello()
        _, sink = peer.call(header_of("total", timeout))
        trailer = await sink.trailer()
        assert (trailer.status, trailer.origin) == (StatusCode.DEADLINE_EXCEEDED, TrailerOrigin.CAP if timeout > 0.5 else TrailerOrigin.DEADLINE)


@pytest.mark.parametrize("transport", [MemoryTransport()], ids=["virtual time"])
async def test_a_cancel_that_crosses_an_outcome_which_is_still_on_its_way_is_confirmed_by_a_reset(transport: Transport) -> None:
    """Nobody waits for that outcome any more; it would be sent again and again to a network that loses it."""
    network = SimulatedNetwork(Link(latency=0.05))
    async with aster.serve([Echo()], transport=network) as server, raw(server, network) as peer:
        await peer.said_hello()
        await anyio.sleep(1.0)
        (kept,) = server_records()
        network.back = Link(loss=1.0)
        stream, sink = peer.call(header_of("same") + ITEM + END)
        await until(lambda: kept.calls and not kept.running)
        stream.reset(ResetCode.CANCELLED)
        await anyio.sleep(0.06)
        network.back = None
        await sink.ended.wait()
        assert (bytes(sink.received), sink.reset_code) == (b"", ResetCode.CANCELLED)


# Lost connections


async def test_a_server_keeps_nothing_of_a_connection_that_was_lost_beneath_its_calls(transport: Transport) -> None:
    """Calls of which it has the beginning of a header, a handler that waits for requests, and one whose outcome the client has not confirmed."""
    async with aster.serve([Echo()], transport=transport) as server:
        async with raw(server, transport) as peer:
            await peer.said_hello()
            (kept,) = server_records()
            peer.call(header_of("same")[:1])
            peer.call(header_of("total"))
            _, answered = peer.call(header_of("same") + ITEM + END)
            await answered.ended.wait()
            await until(lambda kept=kept: kept.running == 1 and len(kept.calls) == 3)
            record = weakref.ref(kept)
        # In memory the two ends of a connection know each other.
        del kept, peer, answered
        for _ in range(50):
            gc.collect()
            if record() is None:
                break
            await anyio.sleep(0.01)  # real over QUIC, where packets bring the news
        assert record() is None


class Held(Echo):
    """Its handlers wait until they are let go, each by the number of its request."""

    def __init__(self) -> None:
        self.began = list[int]()
        self.open = [anyio.Event() for _ in range(3)]

    @rpc
    async def same(self, item: Item) -> Item:
        self.began.append(item.number)
        await self.open[item.number].wait()
        return item


async def test_the_grace_holds_for_calls_that_come_late_on_one_connection_while_another_is_waited_for(transport: Transport) -> None:
    """Their streams are below the last one that a go-away names: over a network their first datagrams may have been lost. One on each of two connections, since
    the server may wait for either first."""
    held, servers, leave = Held(), list[aster.AsterServer](), anyio.Event()

    def request(number: int) -> bytes:
        return header_of("same") + encode_message(encode_item(Item(number))) + END

    async def serve() -> None:
        async with aster.serve([held], transport=transport) as server:
            servers.append(server)
            await leave.wait()

    async def comes_late(stream: Stream, number: int) -> None:
        stream.write(request(number))
        await until(lambda: number in held.began)
        held.open[number - 1].set()
        await anyio.sleep(0.02)  # real over QUIC: a server that did not wait for this call would have cancelled it by now

    async with anyio.create_task_group() as group:
        group.start_soon(serve)
        await until(lambda: servers)
        async with raw(servers[0], transport) as one, raw(servers[0], transport) as other:
            late = list[tuple[Stream, RawStream]]()
            for peer in (one, other):
                await peer.said_hello()
                late.append(peer.call(b""))
                _, answered = peer.call(header_of("same") + ITEM + END)
                await answered.ended.wait()
            _, first = other.call(request(0))
            await until(lambda: held.began)
            leave.set()
            await until(lambda: len(one.heard.frames()) == len(other.heard.frames()) == 2)  # the hello and the go-away
            for number, (stream, _) in enumerate(late, 1):
                await comes_late(stream, number)
            held.open[2].set()
            for sink in (first, *(sink for _, sink in late)):
                assert (await sink.trailer()).status is StatusCode.OK
