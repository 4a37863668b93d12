"""Bytes that are no call: on a call's stream they fail that call, on the control stream that connection, and nothing beside it notices."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster import RpcError, RpcPattern, StatusCode
from aster._protocol.events import SUCCESS, CloseCode, GoAway, Header, Hello, TrailerOrigin
from aster._protocol.frames import FrameKind, encode_credit, encode_frame, encode_go_away, encode_hello, encode_message, encode_trailer
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.protocol import wire_decoder
from tests.protocol.vectors import rows
from tests.rpc.conftest import Running
from tests.rpc.echo import PATTERNS, Echo, Item, encode_item
from tests.rpc.probes import Endless, until
from tests.rpc.raw import CLIENT_SETTINGS, END, Raw, RawClient, RawStream, header_of, manifest_of, raw, raw_client, raw_server

pytestmark = pytest.mark.anyio

ONE = encode_message(encode_item(Item(1)))

UNKNOWN = b"\x20\x00"
"""A frame of no kind that there is."""

_ON_THE_PAGE = [(why, half, wire_decoder.read_hex(digits)) for why, half, digits in rows("refused", "half", "hex")]
"""What the wire page says is refused, as the first bytes of a half."""

AS_FIRST_BYTES = {half: {why: data for why, where, data in _ON_THE_PAGE if where == half} for half in ("requests", "responses")}
# On the page nothing is outstanding yet; here a request is.
AS_FIRST_BYTES["responses"]["more credit than is outstanding"] = encode_credit(1 << 40)

LATER_ON = {
    "a second header": header_of("chat"),
    "an unknown kind": UNKNOWN,
    "a message of more than a chunk": bytes([FrameKind.MESSAGE]) + b"\x80\x00\x40\x01",
    "a part of a size of its own": encode_frame(FrameKind.PART, b"abc"),
    "more credit than is outstanding": encode_credit(1 << 40),
    "credit that is cut short": encode_frame(FrameKind.CREDIT, b"\x80\x00"),
    "an end with a payload": encode_frame(FrameKind.END, b"\x00"),
    "a hello": encode_hello(Hello((1,), {})),
    "a trailer of the server's": encode_trailer(SUCCESS),
    "lines of text": b"\r\n\r\n",
}
"""What no client sends behind a header and a request."""


@asynccontextmanager
async def untouched(client: aster.AsterClient) -> AsyncGenerator[Callable[[], Any]]:
    """A call that lives through the block on the client's connection; what is given lets it exchange a message."""
    echo = await client.client(Echo)
    async with aster.open_call(echo.chat) as call:

        async def exchange() -> None:
            await call.send(Item(5))
            assert await call.receive() == Item(5)

        await exchange()
        yield exchange
        await exchange()


class RawNeighbour:
    """A call of ``Echo.chat`` on a raw client's own connection, which goes on whatever else happens there."""

    def __init__(self, client: RawClient | Raw) -> None:
        self._sink = RawStream()
        self._stream = client.connection.open_stream(self._sink)
        self._stream.write(header_of("chat"))
        self._exchanged = 0

    async def exchange(self) -> None:
        """Send a request and wait for its echo."""
        self._exchanged += 1
        self._stream.write(ONE)
        await until(lambda: self._sink.frames().count((FrameKind.MESSAGE, encode_item(Item(1)))) == self._exchanged)

    async def end(self) -> None:
        """It ends as well as any."""
        self._stream.write(END)
        assert (await self._sink.trailer()).status is StatusCode.OK
        self._stream.finish()


def above_info(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


# The requests of a call


async def _failed_by(client: RawClient, data: bytes) -> StatusCode:
    sink = RawStream()
    stream = client.connection.open_stream(sink)
    stream.write(data)
    trailer = await sink.trailer()
    stream.finish()
    assert trailer.origin in (TrailerOrigin.SERVER, TrailerOrigin.REFUSED)
    return trailer.status


@pytest.mark.parametrize("why", AS_FIRST_BYTES["requests"])
async def test_requests_that_begin_with_what_the_page_refuses_fail_their_call_alone(
    running: Running, transport: Transport, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = AS_FIRST_BYTES["requests"][why]
    async with running(Echo()) as (server, client), raw_client(server.address, transport) as peer, untouched(client):
        neighbour = RawNeighbour(peer)
        await neighbour.exchange()
        expected = StatusCode.RESOURCE_EXHAUSTED if why == "header above its limit" else StatusCode.INTERNAL
        # What follows is dropped, whatever it is.
        for behind in (b"", header_of("same") + ONE + END, bytes(100)):
            assert await _failed_by(peer, data + behind) is expected
            await neighbour.exchange()
        await neighbour.end()
    assert not above_info(caplog)


@pytest.mark.parametrize("why", LATER_ON)
@pytest.mark.parametrize("method", PATTERNS)
async def test_a_broken_frame_behind_a_request_cancels_its_handler_and_no_other(
    running: Running, transport: Transport, method: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    endless = Endless()
    async with running(endless) as (server, _), raw_client(server.address, transport) as peer:
        neighbour = RawNeighbour(peer)
        await neighbour.exchange()
        sink = RawStream()
        stream = peer.connection.open_stream(sink)
        stream.write(header_of(method) + ONE)
        streams = PATTERNS[method].streams_requests
        await until(lambda: endless.witness.began == 1 + streams)
        stream.write(LATER_ON[why])
        trailer = await sink.trailer()
        stream.finish()
        assert (trailer.status, trailer.origin) == (StatusCode.INTERNAL, TrailerOrigin.SERVER)
        assert endless.witness.cancelled == endless.witness.unwound == streams
        await neighbour.exchange()
        assert endless.witness.running == 1
    assert not above_info(caplog)


@st.composite
def corrupted(draw: st.DrawFn) -> bytes:
    """The bytes of a sound call's requests, some of them changed, removed, added or repeated."""
    method = draw(st.sampled_from(sorted(PATTERNS)))
    data = bytearray(header_of(method) + ONE * draw(st.integers(1, 3)) + END)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(1, 8)))
        match draw(st.sampled_from(["change", "remove", "add", "repeat"])):
            case "change":
                data[at:to] = draw(st.binary(min_size=to - at, max_size=to - at))
            case "remove":
                del data[at:to]
            case "add":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                data[at:at] = data[at:to]
    return bytes(data)


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
@settings(max_examples=6)  # each has two connections to make over QUIC
@given(calls=st.lists(corrupted(), min_size=1, max_size=25))
async def test_whatever_a_call_is_corrupted_to_it_has_one_outcome_and_its_neighbours_go_on(make_transport: Callable[[], Transport], calls: list[bytes]) -> None:
    transport = make_transport()
    async with (
        aster.serve([Echo()], transport=transport) as server,
        aster.connect(server.address, transport=transport) as client,
        raw_client(server.address, transport) as peer,
        untouched(client) as exchange,
    ):
        neighbour = RawNeighbour(peer)
        sinks = list[RawStream]()
        for data in calls:
            sinks.append(RawStream())
            stream = peer.connection.open_stream(sinks[-1])
            stream.write(data)
            # Those that wait for more get the end of it.
            stream.finish()
        for sink in sinks:
            await sink.trailer()
            assert [kind for kind, _ in sink.frames()].count(FrameKind.TRAILER) == 1
        await neighbour.exchange()
        await neighbour.end()
        await exchange()


# The responses of a call


class Corrupting:
    """Answers ``chat`` as it should be, and every other call with what it is told to."""

    def __init__(self) -> None:
        self.data = b""
        self.chat: Stream | None = None

    def answer(self, stream: Stream, told: Header) -> None:
        if told.target.pattern is RpcPattern.BIDI_STREAM:
            self.chat = stream
        else:
            stream.write(self.data)
            stream.finish()

    def say(self, data: bytes) -> None:
        """Write to the call that is answered as it should be."""
        assert self.chat is not None
        self.chat.write(data)

    def end(self) -> None:
        """End the call that is answered as it should be."""
        self.say(encode_trailer(SUCCESS))
        if self.chat is not None:
            self.chat.finish()


@pytest.mark.parametrize("why", [*AS_FIRST_BYTES["responses"], "more behind a first response"])
async def test_responses_that_begin_with_what_the_page_refuses_fail_their_call_alone(transport: Transport, why: str) -> None:
    corrupting = Corrupting()
    corrupting.data = {**AS_FIRST_BYTES["responses"], "more behind a first response": ONE + UNKNOWN}[why]
    async with raw_server((manifest_of(Echo),), transport, corrupting.answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as neighbour:
            await until(lambda: corrupting.chat)
            for behind in (b"", ONE + encode_trailer(SUCCESS), bytes(100)):
                told, corrupting.data = corrupting.data, corrupting.data + behind
                for call in (echo.same(Item()), echo.total([Item()])):
                    with pytest.raises(RpcError) as caught:
                        await call
                    assert caught.value.code is (StatusCode.RESOURCE_EXHAUSTED if why == "trailer with 65 details" else StatusCode.INTERNAL)
                corrupting.data = told
                corrupting.say(ONE)
                assert await neighbour.receive() == Item(1)
            corrupting.end()
            with pytest.raises(anyio.EndOfStream):
                await neighbour.receive()


async def test_a_streamed_response_that_is_corrupt_comes_behind_those_that_were_whole(transport: Transport) -> None:
    corrupting = Corrupting()
    corrupting.data = ONE * 3 + encode_frame(FrameKind.PART, b"short") + ONE
    async with raw_server((manifest_of(Echo),), transport, corrupting.answer) as address, aster.connect(address, transport=transport) as client:
        stream = (await client.client(Echo)).count(Item())
        assert [await anext(stream) for _ in range(3)] == [Item(1)] * 3
        with pytest.raises(RpcError, match="PART of 5 bytes") as caught:
            await anext(stream)
        assert caught.value.code is StatusCode.INTERNAL


# The control stream: corruption that is the connection's

AT_THE_SERVER: dict[str, Callable[[Stream], None]] = {
    "a second hello": lambda control: control.write(encode_hello(Hello((1,), CLIENT_SETTINGS))),
    "a go-away of the client's": lambda control: control.write(encode_go_away(GoAway(0, "no"))),
    "a frame of a call": lambda control: control.write(header_of("same")),
    "an unknown kind": lambda control: control.write(UNKNOWN),
    "a hello of more than a client may say": lambda control: control.write(bytes([FrameKind.HELLO]) + b"\x80\x01\x00\x01"),
    "lines of text": lambda control: control.write(b"\r\n\r\n"),
    "its end": lambda control: control.finish(),
    "its reset": lambda control: control.reset(1),
    "a request to stop it": lambda control: control.stop(1),
}


@pytest.mark.parametrize("why", AT_THE_SERVER)
async def test_a_corrupt_control_stream_costs_a_client_its_connection_and_no_other_client_anything(
    running: Running, transport: Transport, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    endless = Endless()
    async with running(endless) as (server, client), untouched(client) as exchange, raw(server, transport) as peer:
        await peer.said_hello()
        for method in ("total", "chat"):
            peer.call(header_of(method) + ONE)
        await until(lambda: endless.witness.began == 3)
        AT_THE_SERVER[why](peer.control)
        await peer.lost.wait()
        assert isinstance(transport, MemoryTransport) or f"(code {CloseCode.PROTOCOL})" in peer.why
        await until(lambda: endless.witness.cancelled == endless.witness.unwound == 2)
        await exchange()
        async with raw(server, transport) as another:
            await another.said_hello()
    assert not above_info(caplog)


async def test_a_corrupt_hello_begins_no_call(running: Running, transport: Transport) -> None:
    endless = Endless()
    whole = encode_hello(Hello((1,), CLIENT_SETTINGS))
    payload = whole[2:]
    hellos = {
        "cut short": encode_frame(FrameKind.HELLO, payload[:-2]),
        "with more behind its fields": encode_frame(FrameKind.HELLO, payload + b"\x00"),
        "without limits": encode_hello(Hello((1,), {})),
        "not the first": encode_frame(FrameKind.GO_AWAY, b"\x00\x00") + whole,
    }
    async with running(endless) as (server, client), untouched(client):
        for why, hello in hellos.items():
            async with raw(server, transport, hello) as peer:
                await peer.lost.wait()
                assert isinstance(transport, MemoryTransport) or f"(code {CloseCode.PROTOCOL})" in peer.why, why
                assert peer.heard.frames() == []


AT_THE_CLIENT: dict[str, Callable[[Stream], None]] = {
    "a second hello": lambda control: control.write(encode_hello(Hello((1,), CLIENT_SETTINGS))),
    "a frame of a call": lambda control: control.write(encode_trailer(SUCCESS)),
    "an unknown kind": lambda control: control.write(UNKNOWN),
    "a go-away that is cut short": lambda control: control.write(encode_frame(FrameKind.GO_AWAY, b"\x05")),
    "its end": lambda control: control.finish(),
    "its reset": lambda control: control.reset(1),
    "a request to stop it": lambda control: control.stop(1),
}


@pytest.mark.parametrize("why", AT_THE_CLIENT)
async def test_a_corrupt_control_stream_of_a_server_fails_each_call_once_with_unavailable(
    running: Running, transport: Transport, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    controls, begun, codes = list[Stream](), list[Stream](), list[StatusCode]()

    async def unavailable(call: Awaitable[object]) -> None:
        with pytest.raises(RpcError) as caught:
            await call
        codes.append(caught.value.code)

    async with (
        running(Echo()) as (_, client),
        untouched(client),
        raw_server((manifest_of(Echo),), transport, lambda stream, _: begun.append(stream), on_control=controls.append) as address,
        aster.connect(address, transport=transport) as unlucky,
    ):
        echo = await unlucky.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(unavailable, echo.same(Item()))
            group.start_soon(unavailable, anext(echo.count(Item())))
            group.start_soon(unavailable, echo.total([Item()]))
            await until(lambda: len(begun) == 3)
            AT_THE_CLIENT[why](controls[0])
        assert codes == [StatusCode.UNAVAILABLE] * 3
        async with anyio.create_task_group() as group:
            group.start_soon(echo.same, Item())
            await until(lambda: len(begun) == 4)  # on a connection of its own
            begun[3].write(encode_message(encode_item(Item())) + encode_trailer(SUCCESS))
            begun[3].finish()
        assert len(controls) == 2
    assert not above_info(caplog)
