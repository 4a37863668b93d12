"""The four patterns: what is sent arrives, in order, once, and both ends see the end."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Brief, Echo, Item, Nothing, Requests, numbers_of

pytestmark = pytest.mark.anyio


async def items_of(*numbers: int) -> AsyncIterator[Item]:
    for number in numbers:
        await anyio.lowlevel.checkpoint()
        yield Item(number)


# What travels


async def test_an_empty_message_travels_both_ways(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert await echo.nothing(Nothing()) == Nothing()
        assert await echo.same(Item()) == Item()


async def test_a_large_unary_call_arrives_byte_for_byte(running: Running) -> None:
    request, response = bytes(itertools.islice(itertools.cycle(range(251)), 271_828)), bytes(itertools.islice(itertools.cycle(range(241)), 314_159))

    @service
    class Large:
        @rpc
        async def swap(self, item: Item) -> Item:
            assert item.data == request
            return Item(data=response)

    async with running(Large()) as (_, client):
        large = await client.client(Large)
        assert (await large.swap(Item(data=request))).data == response


async def test_a_client_streams_sum_is_right(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert (await echo.total(Item(number) for number in range(1_000))).number == 499_500
        assert (await echo.total(items_of(27_182, 8, 1_828, 45_904))).number == 74_922


async def test_a_client_stream_with_zero_requests_works(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert await echo.total([]) == Item()
        assert await echo.total(items_of()) == Item()


async def test_a_server_stream_keeps_exact_order_and_sizes(running: Running) -> None:
    sizes = [31_415, 9, 2_653, 58_979, 0, 1, 16_383, 16_384, 16_385, 300_000]

    @service
    class Sizes:
        @server_stream
        async def all(self, item: Item) -> AsyncIterator[Item]:
            for number, size in enumerate(sizes):
                yield Item(number, data=bytes([number]) * size)

    async with running(Sizes()) as (_, client):
        stub = await client.client(Sizes)
        got = [(item.number, item.data) async for item in stub.all(Item())]
        assert got == [(number, bytes([number]) * size) for number, size in enumerate(sizes)]


async def test_zero_responses_are_a_normal_end(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert [item async for item in echo.count(Item(0))] == []


async def test_each_reply_of_a_ping_pong_arrives_before_the_next_request_is_sent(running: Running) -> None:
    log: list[str] = []
    answered = anyio.Event()

    async def pings() -> AsyncIterator[Item]:
        nonlocal answered
        for number in range(50):
            log.append(f"ping {number}")
            yield Item(number)
            await answered.wait()
            answered = anyio.Event()

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        async for pong in echo.chat(pings()):
            log.append(f"pong {pong.number}")
            answered.set()
    assert log == [f"{side} {number}" for number in range(50) for side in ("ping", "pong")]


async def test_an_empty_bidirectional_call_ends_well(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert [item async for item in echo.chat([])] == []
        assert [item async for item in echo.chat(items_of())] == []


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
@settings(max_examples=25)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 100), st.sampled_from([16_300, 16_384, 40_000, 270_000])), max_size=12), window=st.sampled_from([1, 1_000, 262_144])
)
async def test_messages_of_any_sizes_arrive_in_order_and_once(make_transport: Callable[[], Transport], sizes: list[int], window: int) -> None:
    transport = make_transport()
    sent = [Item(number, data=bytes([number]) * size) for number, size in enumerate(sizes)]
    async with aster.serve([Echo()], transport=transport, window=window) as server, aster.connect(server.address, transport=transport, window=window) as client:
        echo = await client.client(Echo)
        assert [item async for item in echo.chat(sent)] == sent


# The early end


async def test_a_server_that_finishes_before_the_client_half_closes_ends_the_call_at_once(running: Running) -> None:
    closed: list[str] = []

    async def endless(name: str) -> AsyncIterator[Item]:
        try:
            for number in itertools.count():
                yield Item(number)
                if number == 1:
                    await anyio.sleep_forever()
        finally:
            closed.append(name)

    async with running(Brief()) as (_, client):
        brief = await client.client(Brief)
        assert await brief.first(endless("first")) == Item(0)
        assert closed == ["first"]
        assert [item.number async for item in brief.two(endless("two"))] == [0, 1]
        assert closed == ["first", "two"]


async def test_nothing_is_lost_of_what_a_handler_that_returned_early_has_said(running: Running) -> None:
    """Much of it is still to be sent when the client hears that it may stop sending, and answers."""
    sent = [Item(number, data=bytes(16_000)) for number in range(15)]

    @service
    class Hasty:
        @bidi_stream
        async def say(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            for item in sent:
                yield item

    async with running(Hasty()) as (_, client):
        hasty = await client.client(Hasty)
        assert [item async for item in hasty.say(Requests(at_end=lambda: None))] == sent


async def test_a_server_that_fails_before_the_requests_end_ends_the_call_at_once(running: Running) -> None:
    @service
    class Picky:
        @client_stream
        async def collect(self, items: AsyncIterator[Item]) -> Item:
            async for item in items:
                raise aster.RpcError(aster.StatusCode.OUT_OF_RANGE, f"not {item.number}")
            return Item()

        @bidi_stream
        async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            yield await anext(items)
            raise aster.RpcError(aster.StatusCode.OUT_OF_RANGE, "not one more")

    async with running(Picky()) as (_, client):
        picky = await client.client(Picky)
        requests, got = Requests(13, at_end=lambda: None), list[int]()
        with pytest.raises(aster.RpcError, match="OUT_OF_RANGE: not 13"):
            await picky.collect(requests)
        assert requests.closings == 1
        requests = Requests(13, at_end=lambda: None)
        with pytest.raises(aster.RpcError, match="OUT_OF_RANGE: not one more"):
            await numbers_of(picky.talk(requests), got)
        assert requests.closings == 1
        assert got == [13]


async def test_a_sender_that_never_pauses_stops_when_the_server_has_finished(running: Running) -> None:
    async with running(Brief()) as (_, client):
        brief = await client.client(Brief)
        assert await brief.first(itertools.repeat(Item(7))) == Item(7)
        assert [item.number async for item in brief.two(map(Item, itertools.count()))] == [0, 1]


async def test_a_server_may_answer_before_the_first_request(running: Running) -> None:
    @service
    class Greeter:
        @bidi_stream
        async def greet(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            yield Item(text="welcome")

        @client_stream
        async def ignore(self, items: AsyncIterator[Item]) -> Item:
            return Item(text="no, thank you")

    async def silent() -> AsyncIterator[Item]:
        await anyio.sleep_forever()
        yield Item()

    async with running(Greeter()) as (_, client):
        greeter = await client.client(Greeter)
        assert [item.text async for item in greeter.greet(silent())] == ["welcome"]
        assert (await greeter.ignore(silent())).text == "no, thank you"


@pytest.mark.parametrize("pattern", ["same", "count", "total", "chat", "open_call"])
async def test_an_ambient_deadline_that_passed_before_the_call_began_stays_native(running: Running, pattern: str) -> None:
    """The loop had no turn to tell the scope, as on a machine that is busy."""
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "same": lambda: echo.same(Item()),
            "count": lambda: numbers_of(echo.count(Item(2))),
            "total": lambda: echo.total([]),
            "chat": lambda: numbers_of(echo.chat([])),
            "open_call": aster.open_call(echo.chat).__aenter__,
        }
        with anyio.CancelScope(deadline=anyio.current_time() + 0.001) as scope:
            while anyio.current_time() <= scope.deadline:
                pass
            await calls[pattern]()
        assert scope.cancelled_caught
