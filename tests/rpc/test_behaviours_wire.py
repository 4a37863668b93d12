"""What each side makes of a call that is not as its method is: a mode that is not allowed, a wrong number of messages, no end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import Metadata, SerializationMode, StatusCode
from aster._protocol.events import SUCCESS, Header, Trailer, TrailerOrigin
from aster._protocol.frames import CHUNK_SIZE, FrameKind, encode_frame, encode_message, encode_metadata, encode_trailer
from aster.codec import make_codec
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.transports.base import Stream, Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import PATTERNS, Echo, Item, Nothing, encode_item, numbers_of
from tests.rpc.probes import Endless, error_of, unchecked, until
from tests.rpc.raw import END, RawClient, RawStream, header_of, manifest_of, raw_client, raw_server, target_of

pytestmark = pytest.mark.anyio


ONE = encode_message(encode_item(Item(1)))
"""A request, or a response."""

PART = encode_frame(FrameKind.PART, bytes(CHUNK_SIZE))

with_one_request = pytest.mark.parametrize("method", [name for name, pattern in PATTERNS.items() if not pattern.streams_requests])
with_one_response = pytest.mark.parametrize("method", [name for name, pattern in PATTERNS.items() if not pattern.streams_responses])
each_method = pytest.mark.parametrize("method", PATTERNS)


def call_of(echo: Echo, method: str, got: list[int]) -> Awaitable[object]:
    """A call of a method of ``Echo``; ``got`` has the numbers of its streamed responses."""
    match method:
        case "same":
            return echo.same(Item(1))
        case "count":
            return numbers_of(echo.count(Item(1)), got)
        case "total":
            return echo.total([Item(1)])
        case _:
            return numbers_of(echo.chat([Item(1)]), got)


# Modes


@service("Echo", serialization=SerializationMode.NATIVE)
class NativeEcho(Echo):
    """What a client takes for ``Echo`` that prefers another mode."""

    @rpc
    async def same(self, item: Item) -> Item:
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        yield item

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        return Item()

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        yield Item()


@each_method
async def test_a_client_is_told_which_modes_a_method_allows_instead_and_no_handler_begins(running: Running, method: str) -> None:
    endless = Endless()
    async with running(endless) as (_, client):
        error = await error_of(call_of(await unchecked(client, NativeEcho), method, []))
        assert error.code is StatusCode.UNIMPLEMENTED
        assert f"does not allow the serialization mode NATIVE for {method!r}; it allows XLANG" in error.message
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()
    assert endless.witness.began == 0


@each_method
@pytest.mark.parametrize("mode", [SerializationMode.NATIVE, SerializationMode.ROW])
async def test_a_server_refuses_a_mode_that_a_method_does_not_allow_by_its_name(
    running: Running, transport: Transport, method: str, mode: SerializationMode
) -> None:
    endless = Endless()
    async with running(endless) as (server, _), raw_client(server.address, transport) as raw:
        trailer = await raw.outcome_of(target_of(method, pattern=PATTERNS[method], mode=mode), ONE + END)
        assert (trailer.status, trailer.origin) == (StatusCode.UNIMPLEMENTED, TrailerOrigin.REFUSED)
        assert f"does not allow the serialization mode {mode.name} for {method!r}; it allows XLANG" in trailer.message
    assert endless.witness.began == 0


@service("Choosy", serialization=[SerializationMode.XLANG, SerializationMode.NATIVE])
class Choosy:
    @rpc
    async def any_of_both(self, item: Item) -> Item:
        return item

    @rpc(serialization=SerializationMode.NATIVE)
    async def native_alone(self, item: Item) -> Item:
        return item


async def test_each_method_is_held_to_its_own_modes_and_not_to_its_services(running: Running, transport: Transport) -> None:
    both = (SerializationMode.XLANG, SerializationMode.NATIVE)
    payloads = {mode: encode_message(make_codec(mode, service_info(Choosy).wire_tags).encoder(Item)(Item(7))) + END for mode in both}
    async with running(Choosy()) as (server, client), raw_client(server.address, transport) as raw:
        for mode in both:
            allowed = await raw.outcome_of(target_of("any_of_both", service="Choosy", mode=mode), payloads[mode])
            assert allowed.status is StatusCode.OK
        refused = await raw.outcome_of(target_of("native_alone", service="Choosy"), payloads[SerializationMode.XLANG])
        assert refused.status is StatusCode.UNIMPLEMENTED
        assert "does not allow the serialization mode XLANG for 'native_alone'; it allows NATIVE" in refused.message
        choosy = await client.client(Choosy)
        assert await choosy.native_alone(Item(7)) == await choosy.any_of_both(Item(7)) == Item(7)


# One message where one is due

_WRONG_REQUESTS = {
    "none": (END, "the request is missing"),
    "two": (ONE + ONE + END, "a second message arrived"),
    "two without an end": (ONE + ONE, "a second message arrived"),
    "one, and a part of another": (ONE + PART, "a second message arrived"),
    "a part of one": (PART + END, "the peer sent END in state EMPTY_PART"),
    "a second behind the end": (ONE + END + ONE, "the peer sent MESSAGE in state ENDED"),
}


@with_one_request
@pytest.mark.parametrize(("frames", "says"), _WRONG_REQUESTS.values(), ids=list(_WRONG_REQUESTS))
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
async def test_a_server_refuses_any_number_of_requests_but_one_where_one_is_due(
    running: Running, transport: Transport, method: str, frames: bytes, says: str, at_once: bool
) -> None:
    endless = Endless()
    async with running(endless) as (server, client), raw_client(server.address, transport) as raw:
        sink = RawStream()
        stream = raw.connection.open_stream(sink)
        data = header_of(method) + frames
        for piece in [data] if at_once else [data[at : at + 1] for at in range(min(len(data), 200))] + [data[200:]]:
            stream.write(piece)
            if not at_once:
                await anyio.lowlevel.checkpoint()
        trailer = await sink.trailer()
        stream.finish()
        assert (trailer.status, trailer.origin) == (StatusCode.INTERNAL, TrailerOrigin.SERVER)
        assert says in trailer.message
        assert [kind for kind, _ in sink.frames()] == [FrameKind.TRAILER]
        # A handler may have begun only where the request had been whole and ended before the rule was broken.
        assert endless.witness.began == endless.witness.cancelled == endless.witness.unwound <= says.endswith("state ENDED")
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()


_WRONG_RESPONSES = {
    "none": (encode_trailer(SUCCESS), "the response is missing"),
    "none but metadata": (encode_metadata(Metadata({"k": "v"})) + encode_trailer(SUCCESS), "the response is missing"),
    "two": (ONE + ONE + encode_trailer(SUCCESS), "a second message arrived"),
    "two without an outcome": (ONE + ONE, "a second message arrived"),
    "one, and a part of another": (ONE + PART, "a second message arrived"),
    "a part of one": (PART + encode_trailer(SUCCESS), "the peer sent OK in state EMPTY_PART"),
}


@with_one_response
@pytest.mark.parametrize(("frames", "says"), _WRONG_RESPONSES.values(), ids=list(_WRONG_RESPONSES))
async def test_a_client_refuses_any_number_of_responses_but_one_where_one_is_due(transport: Transport, method: str, frames: bytes, says: str) -> None:
    def answer(stream: Stream, _: Header) -> None:
        stream.write(frames)
        stream.finish()

    async with raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        for call in (call_of(echo, method, []), _received(echo, method)):
            error = await error_of(call)
            assert error.code is StatusCode.INTERNAL
            assert f"Echo.{method}: " in error.message
            assert says in error.message


async def _received(echo: Echo, method: str) -> None:
    """The same call, made interactively."""
    call: aster.InteractiveCall[Item, Item]
    async with aster.open_call(getattr(echo, method)) as call:
        await call.send(Item(1))
        await call.end()
        async for _ in call:
            pass


# No end


class Finishing(Echo):
    """Counts the handlers that saw their requests end."""

    def __init__(self) -> None:
        self.saw_the_end = 0

    @rpc
    async def same(self, item: Item) -> Item:
        self.saw_the_end += 1
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        self.saw_the_end += 1
        yield item

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        numbers = await numbers_of(items)
        self.saw_the_end += 1
        return Item(sum(numbers))

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item
        self.saw_the_end += 1


async def _outcome_of_all(raw: RawClient, data: bytes) -> Trailer:
    """The outcome of a call whose requests are these bytes and FIN."""
    sink = RawStream()
    stream = raw.connection.open_stream(sink)
    stream.write(data)
    stream.finish()
    return await sink.trailer()


@each_method
async def test_requests_that_are_cut_short_anywhere_are_an_error_and_no_handler_sees_their_end(running: Running, transport: Transport, method: str) -> None:
    finishing = Finishing()
    whole = header_of(method) + ONE * (2 if PATTERNS[method].streams_requests else 1) + END
    async with running(finishing) as (server, client), raw_client(server.address, transport) as raw:
        for cut in range(len(whole)):
            trailer = await _outcome_of_all(raw, whole[:cut])
            assert (trailer.status, trailer.origin) == (StatusCode.INTERNAL, TrailerOrigin.SERVER), cut
            assert "the requests ended without END" in trailer.message
        assert finishing.saw_the_end == 0
        assert (await _outcome_of_all(raw, whole)).status is StatusCode.OK
        assert finishing.saw_the_end == 1
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()


@each_method
@pytest.mark.parametrize("outcome", [Trailer(metadata=Metadata({"k": "v"})), Trailer(StatusCode.ABORTED)], ids=["success", "failure"])
async def test_responses_that_are_cut_short_anywhere_are_an_error_behind_those_that_were_whole(transport: Transport, method: str, outcome: Trailer) -> None:
    streamed = PATTERNS[method].streams_responses
    ahead = encode_metadata(Metadata({"k": "v"}))
    whole = ahead + ONE * (2 if streamed else 1) + encode_trailer(outcome)
    cut = 0

    def answer(stream: Stream, _: Header) -> None:
        stream.write(whole[:cut])
        stream.finish()

    async with raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        for cut in range(len(whole)):
            got = list[int]()
            error = await error_of(call_of(echo, method, got))
            assert error.code is StatusCode.INTERNAL, cut
            assert "the stream ended without an outcome" in error.message
            assert got == [1] * (min(2, max(0, cut - len(ahead)) // len(ONE)) if streamed else 0)


@pytest.mark.parametrize("method", ["total", "chat"])
async def test_responses_that_end_while_requests_are_sent_stop_the_sender_and_are_an_error(transport: Transport, method: str) -> None:
    closed = 0

    async def endless() -> AsyncIterator[Item]:
        nonlocal closed
        try:
            while True:
                yield Item(1)
                await anyio.lowlevel.checkpoint()
        finally:
            closed += 1

    async with (
        raw_server((manifest_of(Echo),), transport, lambda stream, _: stream.finish()) as address,
        aster.connect(address, transport=transport) as client,
    ):
        echo = await client.client(Echo)
        call: Awaitable[object] = echo.total(endless()) if method == "total" else numbers_of(echo.chat(endless()))
        error = await error_of(call)
        assert error.code is StatusCode.INTERNAL
        assert "the stream ended without an outcome" in error.message
        assert closed == 1


@each_method
async def test_a_handler_that_waits_when_its_requests_break_off_is_cancelled(running: Running, transport: Transport, method: str) -> None:
    endless = Endless()
    async with running(endless) as (server, client), raw_client(server.address, transport) as raw:
        sink = RawStream()
        stream = raw.connection.open_stream(sink)
        stream.write(header_of(method) + ONE)
        if PATTERNS[method].streams_requests:
            await until(lambda: endless.witness.began)
        stream.finish()
        await sink.ended.wait()
        assert b"the requests ended without END" in sink.received
        assert endless.witness.began == endless.witness.cancelled == PATTERNS[method].streams_requests
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()
