"""Sessions of peers that keep to the frames and not to the rules: what the bytes alone do not show."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar
from weakref import WeakSet

import pytest

import aster
from aster._protocol.events import Hello, ResetCode, Setting, Trailer, TrailerOrigin
from aster._protocol.frames import (
    SESSION_RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    decode_session_end,
    encode_call,
    encode_call_end,
    encode_cancel,
    encode_frame,
    encode_header,
    encode_header_start,
    encode_hello,
    encode_message,
    encode_session,
    encode_session_end,
    encode_trailer,
    frame_limits,
)
from aster.decorators import rpc, service
from aster.errors import StatusCode
from aster.transports.base import Stream, StreamSink, Transport
from aster.types import Metadata
from tests.rpc.conftest import Running
from tests.rpc.echo import Item, encode_item
from tests.rpc.probes import server_records, until
from tests.rpc.raw import CLIENT_SETTINGS, END, RawOwner, RawStream, manifest_of, raw, raw_listener, target_of

pytestmark = pytest.mark.anyio

_LIMITS = frame_limits(1 << 20, SESSION_RESPONSE_KINDS)
_SESSION = encode_session("Counter", 1)
_HEADER = encode_header(encode_header_start(target_of("more", service="Counter")), None, Metadata())
_CALL = _HEADER + encode_message(encode_item(Item(1))) + END


@service("Counter", scoped="stream")
class Counter:
    """An instance for each session, which counts its calls."""

    alive: ClassVar[WeakSet[Counter]] = WeakSet()

    def __init__(self, peer: str) -> None:
        self.number = 0
        self.alive.add(self)

    @rpc
    async def more(self, item: Item) -> Item:
        self.number += 1
        return Item(self.number)


def _frames(sink: RawStream) -> list[tuple[int, bytes]]:
    return list(FrameReader(_LIMITS).feed(bytes(sink.received)))


def _kinds(sink: RawStream) -> list[str]:
    return [FrameKind(kind).name for kind, _ in _frames(sink)]


async def _outcome(sink: RawStream) -> Trailer:
    await sink.ended.wait()
    kind, payload = _frames(sink)[-1]
    assert kind == FrameKind.SESSION_END
    return decode_session_end(payload, 1 << 20)


async def test_a_client_that_begins_a_call_before_it_has_the_end_of_the_one_before_ends_its_session(running: Running, transport: Transport) -> None:
    async with running(Counter) as (server, _), raw(server, transport) as peer:
        await peer.said_hello()
        stream, sink = peer.call(_SESSION)
        await until(lambda: _kinds(sink) == ["READY"])
        stream.write(b"".join(encode_call(number, _HEADER[:5]) + encode_cancel(number, 1) for number in range(1_000)))
        outcome = await _outcome(sink)
        assert (outcome.status, outcome.origin) == (StatusCode.INTERNAL, TrailerOrigin.SERVER)
        assert _kinds(sink) == ["READY", "CALL_END", "SESSION_END"]


async def test_a_call_whose_client_cancels_it_before_its_header_is_whole_ends_alone(running: Running, transport: Transport) -> None:
    async with running(Counter) as (server, _), raw(server, transport) as peer:
        await peer.said_hello()
        stream, sink = peer.call(_SESSION)
        await until(lambda: _kinds(sink) == ["READY"])
        stream.write(encode_call(0, _HEADER[:5]) + encode_cancel(0, 1) + encode_call(0, _HEADER[5:]))
        await until(lambda: _kinds(sink) == ["READY", "CALL_END"])
        stream.write(encode_call(1, _CALL))
        await until(lambda: _kinds(sink) == ["READY", "CALL_END", "CALL", "CALL", "CALL_END"])


async def test_an_instance_is_let_go_of_when_its_session_is_over_though_the_client_never_ends_its_half(running: Running, transport: Transport) -> None:
    async with running(Counter) as (server, _), raw(server, transport) as peer:
        Counter.alive.clear()  # of other tests
        await peer.said_hello()
        stream, sink = peer.call(_SESSION)
        await until(lambda: _kinds(sink) == ["READY"])
        stream.write(encode_call(0, _CALL))
        await until(lambda: _kinds(sink)[-1:] == ["CALL_END"])
        assert len(Counter.alive) == 1
        stream.write(encode_session_end(Trailer()))
        assert (await _outcome(sink)).status is StatusCode.OK
        await until(lambda: not Counter.alive)


async def test_a_session_that_is_half_asked_for_when_its_server_drains_is_refused_and_may_begin_elsewhere(running: Running, transport: Transport) -> None:
    async with running(Counter) as (server, _), raw(server, transport) as peer:
        await peer.said_hello()
        _, sink = peer.call(_SESSION[:5])
        await until(lambda: any(record.sessions for record in server_records()))
        for record in server_records():
            record.announce_drain("update")
        outcome = await _outcome(sink)
        assert (outcome.status, outcome.origin, outcome.message) == (StatusCode.UNAVAILABLE, TrailerOrigin.REFUSED, "update")


@asynccontextmanager
async def _room(transport: Transport, answers: Sequence[bytes], on_reset: Callable[[int], None] = lambda code: None) -> AsyncGenerator[Counter]:
    """A session with a server that sends one answer after the other, each when something has come, and then ends its half."""
    entry = manifest_of(Counter)._replace(session=True)
    settings = {**CLIENT_SETTINGS, Setting.CALL_LIMIT: 1_000, Setting.SESSION_LIMIT: 1}

    def stream_opened(stream: Stream) -> StreamSink:
        replies = [encode_hello(Hello((1,), settings, (entry,)))] if stream.id == 0 else list(answers)

        def reply() -> None:
            if replies:
                stream.write(replies.pop(0))
                if not replies and stream.id:
                    stream.finish()

        def torn_down(code: int) -> None:
            on_reset(code)
            stream.reset(code)

        return RawStream(reply, on_reset=torn_down)

    async with (
        raw_listener(transport, lambda connection: RawOwner(stream_opened)) as address,
        aster.connect(address, transport=transport) as client,
        client.session(Counter) as room,
    ):
        yield room


_READY = encode_frame(FrameKind.READY, b"")
_RESPONSE = encode_message(encode_item(Item(7))) + encode_trailer(Trailer())


async def test_a_call_that_its_server_ends_without_an_outcome_fails_alone(transport: Transport) -> None:
    answers = [_READY, encode_call_end(0), encode_call(1, _RESPONSE) + encode_call_end(1), encode_session_end(Trailer())]
    async with _room(transport, answers) as room:
        with pytest.raises(aster.RpcError, match="ended without an outcome") as caught:
            await room.more(Item(1))
        assert caught.value.code is StatusCode.INTERNAL
        assert (await room.more(Item(1))).number == 7


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (_READY, "READY in state OPEN of a session"),
        (encode_call(1, b"a"), "for call 1 of a session, which is not under way"),
        (encode_call_end(1), "for call 1 of a session, which is not under way"),
        (encode_cancel(0, 1), "on a stream that has no place for it"),
        (encode_message(b"a"), "on a stream that has no place for it"),
    ],
    ids=["ready twice", "bytes of another call", "the end of another call", "a frame of the other direction", "a frame of a call"],
)
async def test_a_server_that_breaks_a_rule_of_a_session_fails_it_and_its_call(transport: Transport, frame: bytes, why: str) -> None:
    codes: list[int] = []
    async with _room(transport, [_READY, frame], codes.append) as room:
        for _ in range(2):
            with pytest.raises(aster.RpcError, match=f"its server broke a rule: .*{why}") as caught:
                await room.more(Item(1))
            assert caught.value.code is StatusCode.INTERNAL
        await until(lambda: codes == [ResetCode.PROTOCOL])
