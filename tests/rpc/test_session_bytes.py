"""Sessions of peers that keep to the frames and not to the rules: what the bytes alone do not show."""

from __future__ import annotations

import pytest

from aster._protocol.events import Trailer, TrailerOrigin
from aster._protocol.frames import (
    SESSION_RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    decode_session_end,
    encode_call,
    encode_cancel,
    encode_header,
    encode_header_start,
    encode_message,
    encode_session,
    frame_limits,
)
from aster.decorators import rpc, service
from aster.errors import StatusCode
from aster.transports.base import Transport
from aster.types import Metadata
from tests.rpc.conftest import Running
from tests.rpc.echo import Item, encode_item
from tests.rpc.probes import until
from tests.rpc.raw import END, RawStream, raw, target_of

pytestmark = pytest.mark.anyio

_LIMITS = frame_limits(1 << 20, SESSION_RESPONSE_KINDS)

_SESSION = encode_session("Counter", 1)
_HEADER = encode_header(encode_header_start(target_of("more", service="Counter")), None, Metadata())
_CALL = _HEADER + encode_message(encode_item(Item(1))) + END


@service("Counter", scoped="stream")
class Counter:
    """An instance for each session, which counts its calls."""

    def __init__(self, peer: str) -> None:
        self.number = 0

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
