"""How large a message may be, on the wire and decoded: what is at the limit passes, what is above fails its call alone, whichever side sends it."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import pytest

import aster
from aster import RpcError, StatusCode
from aster._protocol.events import SUCCESS, Header, TrailerOrigin
from aster._protocol.frames import CHUNK_SIZE, encode_message, encode_trailer
from aster.codec import make_codec, wire_type
from aster.codec.engine import MAX_GRAPH_BYTES
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.transports.base import Stream, Transport
from aster.types import SerializationMode
from tests.rpc.conftest import Running
from tests.rpc.echo import PATTERNS, Echo, Item, encode_item
from tests.rpc.raw import END, manifest_of, raw_client, raw_server, target_of

pytestmark = pytest.mark.anyio

_SMALL = Item(1)

each_limit = pytest.mark.parametrize("limit", [1_000, CHUNK_SIZE, 40_000], ids=["within a chunk", "exactly a chunk", "several chunks"])
each_place = pytest.mark.parametrize("before", [0, 2], ids=["first", "later"])


def item_of(size: int) -> Item:
    """An item of exactly so many bytes on the wire."""
    # What its fields add to the data differs by the bytes of the data's own length.
    return next(item for spare in range(40, 60) if len(encode_item(item := Item(data=bytes(size - spare)))) == size)


def size_of(item: Item) -> int:
    return len(encode_item(item))


class Sized(Echo):
    """Answers with items of the sizes that the first request's text lists, the last of them alone where one is due, and notes the sizes of the requests."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def _responses(self, item: Item) -> list[Item]:
        return [item_of(int(size)) for size in item.text.split()]

    @rpc
    async def same(self, item: Item) -> Item:
        self.seen.append(size_of(item))
        return (self._responses(item) or [_SMALL])[-1]

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        self.seen.append(size_of(item))
        for response in self._responses(item):
            yield response

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        responses = [_SMALL]
        async for item in items:
            self.seen.append(size_of(item))
            responses += self._responses(item)
        return responses[-1]

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            self.seen.append(size_of(item))
            for response in self._responses(item):
                yield response


async def sizes_of(items: AsyncIterator[Item], into: list[int]) -> None:
    async for item in items:
        into.append(size_of(item))  # noqa: PERF401 (a comprehension would lose them in a failure)


async def size_of_one(call: Awaitable[Item], into: list[int]) -> None:
    into.append(size_of(await call))


def calls_with(echo: Echo, before: int, request: Item, sizes: list[int]) -> Iterator[tuple[str, Awaitable[None]]]:
    """A call of each pattern that takes so many requests before this one; ``sizes`` has those of the responses."""
    requests = [*[_SMALL] * before, request]
    if not before:
        yield "same", size_of_one(echo.same(request), sizes)
        yield "count", sizes_of(echo.count(request), sizes)
    yield "total", size_of_one(echo.total(requests), sizes)
    yield "chat", sizes_of(echo.chat(requests), sizes)


async def exhausted(call: Awaitable[object]) -> str:
    """The message of a call that fails because something is too large."""
    with pytest.raises(RpcError) as caught:
        await call
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    return caught.value.message


# Requests


@each_limit
@each_place
async def test_a_request_at_the_servers_limit_passes_and_one_byte_more_is_never_sent(running: Running, limit: int, before: int) -> None:
    sized, small = Sized(), size_of(_SMALL)
    async with running(sized, max_message_size=limit) as (_, client):
        echo = await client.client(Echo)
        for _name, call in calls_with(echo, before, item_of(limit), []):
            await call
            assert sized.seen == [*[small] * before, limit]
            sized.seen.clear()
        for name, call in calls_with(echo, before, item_of(limit + 1), []):
            assert f"a request of Echo.{name} takes {limit + 1} bytes; the server's limit is {limit} bytes" in await exhausted(call)
            assert set(sized.seen) <= {small}
        assert await echo.same(_SMALL) == _SMALL


@each_limit
@each_place
async def test_a_server_refuses_a_request_above_its_limit_whoever_sends_it(running: Running, transport: Transport, limit: int, before: int) -> None:
    sized, small = Sized(), encode_message(encode_item(_SMALL))
    async with running(sized, max_message_size=limit) as (server, client), raw_client(server.address, transport) as raw:
        for name, pattern in PATTERNS.items():
            if before and not pattern.streams_requests:
                continue
            target = target_of(name, pattern=pattern)
            at = await raw.outcome_of(target, small * before + encode_message(encode_item(item_of(limit))) + END)
            above = await raw.outcome_of(target, small * before + encode_message(encode_item(item_of(limit + 1))) + END)
            assert at.status is StatusCode.OK
            assert (above.status, above.origin) == (StatusCode.RESOURCE_EXHAUSTED, TrailerOrigin.SERVER)
            assert f"larger than the limit of {limit} bytes" in above.message
            assert limit in sized.seen
            assert limit + 1 not in sized.seen
            sized.seen.clear()
        assert await (await client.client(Echo)).same(_SMALL) == _SMALL


async def test_a_request_above_the_servers_limit_leaves_an_open_call_as_it_was(running: Running) -> None:
    sized = Sized()
    async with running(sized, max_message_size=1_000) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as call:
            await exhausted(call.send(item_of(1_001)))
            await call.send(Item(text="60"))
            assert size_of(await call.receive()) == 60
            await exhausted(call.send(item_of(1_001)))
            await call.send(item_of(1_000))
            await call.end()
            assert [item async for item in call] == []
    assert sized.seen == [size_of(Item(text="60")), 1_000]


# Responses


async def passes_up_to(limit: int, last: int, call: Awaitable[None], sizes: list[int], streamed: list[int], problem: str) -> None:
    """A call whose last response has the size ``last`` gets it, or at one above the limit those before it and the problem. ``sizes`` is what it has got."""
    if last > limit:
        assert problem in await exhausted(call)
        assert sizes == streamed
    else:
        await call
        assert sizes == [*streamed, limit]
    sizes.clear()


@each_limit
@each_place
async def test_a_response_at_the_clients_limit_passes_and_one_byte_more_fails_its_call(
    running: Running, caplog: pytest.LogCaptureFixture, limit: int, before: int
) -> None:
    async with running(Sized(), client={"max_message_size": limit}) as (_, client):
        echo = await client.client(Echo)
        for last in (limit, limit + 1):
            sizes = list[int]()
            for name, call in calls_with(echo, 0, Item(text=f"{'60 ' * before}{last}"), sizes):
                streamed = [60] * before if PATTERNS[name].streams_responses else []
                problem = f"a response of Echo.{name} takes {last} bytes; the client's limit is {limit} bytes"
                await passes_up_to(limit, last, call, sizes, streamed, problem)
        assert await echo.same(_SMALL) == _SMALL
    assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")], "the client chose its limit: no bug of the handler"


@each_limit
@each_place
async def test_a_client_refuses_a_response_above_its_limit_whoever_sends_it(transport: Transport, limit: int, before: int) -> None:
    last = limit

    def answer(stream: Stream, header: Header) -> None:
        sizes = [*[60] * before, last] if header.target.pattern.streams_responses else [last]
        stream.write(b"".join(encode_message(encode_item(item_of(size))) for size in sizes) + encode_trailer(SUCCESS))
        stream.finish()

    async with raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport, max_message_size=limit) as client:
        echo = await client.client(Echo)
        for last in (limit, limit + 1):
            sizes = list[int]()
            for name, call in calls_with(echo, 0, _SMALL, sizes):
                streamed = [60] * before if PATTERNS[name].streams_responses else []
                await passes_up_to(limit, last, call, sizes, streamed, f"larger than the limit of {limit} bytes")


# Messages that are small on the wire and large in memory, or slow to decode


@wire_type("tests.rpc/Swelling")
@dataclass
class Swelling:
    entries: list[dict[str, int]]
    prices: list[Decimal]


_HASH_OF_ZERO = 2**61 - 1
"""Every multiple of it has the hash of zero."""

_MODEST = Swelling([{}], [Decimal(1)])
BOMBS = {
    "swells": lambda: Swelling([{}] * 300_000, []),
    "has one hash": lambda: Swelling([], [Decimal(_HASH_OF_ZERO * number) for number in range(1_000)]),
}


@service("Bombs")
class Bombs:
    """Sends back what it is sent; something else in its place, if it has been told to."""

    def __init__(self, instead: Swelling | None = None) -> None:
        self.begun = 0
        self._instead = instead

    def _answer(self, swelling: Swelling) -> Swelling:
        self.begun += 1
        return self._instead or swelling

    @rpc
    async def one(self, swelling: Swelling) -> Swelling:
        return self._answer(swelling)

    @server_stream
    async def many(self, swelling: Swelling) -> AsyncIterator[Swelling]:
        yield swelling
        yield self._answer(swelling)

    @client_stream
    async def taken(self, swellings: AsyncIterator[Swelling]) -> Swelling:
        return [self._answer(swelling) async for swelling in swellings][-1]

    @bidi_stream
    async def mirrored(self, swellings: AsyncIterator[Swelling]) -> AsyncIterator[Swelling]:
        async for swelling in swellings:
            yield swelling
            yield self._answer(swelling)


async def code_of(call: Awaitable[object]) -> StatusCode:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value.code


async def _all(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


def calls_of(bombs: Bombs, last: Swelling) -> Iterator[Awaitable[object]]:
    """A call of each pattern whose last request is this one, be it the first or not."""
    yield bombs.one(last)
    yield _all(bombs.many(last))
    yield bombs.taken([last])
    yield _all(bombs.mirrored([_MODEST, last]))


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
async def test_a_small_request_that_decodes_to_too_much_is_an_invalid_argument_and_its_neighbour_goes_on(
    running: Running, bomb: Callable[[], Swelling]
) -> None:
    hosted = Bombs()
    async with running(hosted, Echo()) as (_, client):
        bombs, echo = await client.client(Bombs), await client.client(Echo)
        async with aster.open_call(echo.chat) as neighbour:
            for call in calls_of(bombs, bomb()):
                assert await code_of(call) is StatusCode.INVALID_ARGUMENT
                await neighbour.send(_SMALL)
                assert await neighbour.receive() == _SMALL
        assert hosted.begun == 1, "handlers saw nothing but what came ahead of the last one"
        assert await bombs.one(_MODEST) == _MODEST


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
async def test_a_small_response_that_decodes_to_too_much_fails_its_call_and_its_neighbour_goes_on(running: Running, bomb: Callable[[], Swelling]) -> None:
    async with running(Bombs(bomb()), Echo()) as (_, client):
        bombs, echo = await client.client(Bombs), await client.client(Echo)
        async with aster.open_call(echo.chat) as neighbour:
            for call in calls_of(bombs, _MODEST):
                assert await code_of(call) is StatusCode.INTERNAL
                await neighbour.send(_SMALL)
                assert await neighbour.receive() == _SMALL


async def test_what_swells_takes_no_more_memory_than_a_message_may_decode_to(running: Running, transport: Transport) -> None:
    encode = make_codec(SerializationMode.XLANG, service_info(Bombs).wire_tags).encoder(Swelling)
    modest, bomb = (encode_message(encode(swelling)) + END for swelling in (_MODEST, Swelling([{}] * 1_000_000, [])))
    async with running(Bombs()) as (server, _), raw_client(server.address, transport) as raw:
        target = target_of("one", service="Bombs")
        assert (await raw.outcome_of(target, modest)).status is StatusCode.OK  # what is made once is made here
        tracemalloc.start()
        try:
            assert (await raw.outcome_of(target, bomb)).status is StatusCode.INVALID_ARGUMENT
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # The payload, a megabyte, is there several times on its way. All decoded it would take 69 MiB.
        assert peak < 3 * MAX_GRAPH_BYTES
