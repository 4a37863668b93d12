"""Whatever bytes arrive, an end accepts them or raises RemoteProtocolError, and holds no more than its limits say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster._protocol.call import CallLimits, ClientCall, ReceiveHalf, ServerCall
from aster._protocol.events import Trailer
from aster._protocol.frames import (
    CHUNK_SIZE,
    HEADER_ROOM,
    MESSAGE_CHARGE,
    TRAILER_LIMIT,
    FrameKind,
    encode_credit,
    encode_frame,
    encode_header,
    encode_message,
    encode_metadata,
    encode_trailer,
)
from aster._protocol.values import encode_varint
from aster.errors import RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern
from tests.protocol import strategies
from tests.protocol.held import held
from tests.protocol.pair import limits_of, start_of

_WINDOW, _MESSAGE, _METADATA = 4_096, 40_000, 512
_LIMITS = limits_of(window=_WINDOW, peer_window=_WINDOW, message=_MESSAGE, metadata=_METADATA)

# What may be held at once: a window of messages and one more that has come whole, one under way, one frame that is not whole, and the header
# or trailer and metadata as objects. Objects cost more than their bytes: the charge covers that for messages, and metadata is small.
_MOST_HELD = _WINDOW + 2 * (_MESSAGE + MESSAGE_CHARGE) + TRAILER_LIMIT + HEADER_ROOM + 4 * (4 * _METADATA) + 8_192

_Call = ClientCall | ServerCall


def _ends() -> dict[str, _Call]:
    """Both ends in all patterns, at the moment where peers' bytes begin to arrive; servers also with their header behind them."""
    ends: dict[str, _Call] = {"server": ServerCall(_LIMITS)}
    for pattern in RpcPattern:
        client, server = ClientCall(pattern, _LIMITS), ServerCall(_LIMITS)
        server.receive_data(client.send_header(start_of(pattern), None, Metadata()))
        if pattern.streams_requests:
            client.send_message(b"outstanding")
        ends[f"client {pattern.name}"], ends[f"server {pattern.name}"] = client, server
    return ends


_NAMES = list(_ends())


def _feed(call: _Call, pieces: Iterable[bytes]) -> StatusCode | None:
    """Feed until refused; the status of the refusal. Anything but RemoteProtocolError comes out."""
    for piece in pieces:
        try:
            call.receive_data(piece)
        except RemoteProtocolError as exc:
            return exc.code
    return None


def _held(call: _Call) -> int:
    """Bytes of all objects that belong to one call."""
    return held(call, (_LIMITS.requests, _LIMITS.responses), (CallLimits,))


def _claim(kind: int, length: int) -> bytes:
    """The beginning of a frame."""
    return bytes((kind,)) + encode_varint(length)


def _any_frame(kind: int, payload: bytes) -> bytes:
    return _claim(kind, len(payload)) + payload


def _header(pattern: RpcPattern, timeout: float | None, metadata: Metadata) -> bytes:
    return encode_header(start_of(pattern), timeout, metadata)


def _message(size: int) -> bytes:
    return encode_message(bytes(size))


_frames: st.SearchStrategy[bytes] = st.one_of(
    st.builds(_message, strategies.sizes),
    st.just(encode_frame(FrameKind.PART, bytes(CHUNK_SIZE))),
    st.just(encode_frame(FrameKind.END, b"")),
    st.builds(encode_credit, strategies.integers),
    st.sampled_from((encode_credit(0), encode_credit(75))),
    st.builds(encode_metadata, strategies.metadata),
    st.builds(encode_trailer, strategies.trailers),
    st.just(encode_trailer(Trailer())),
    st.builds(_header, strategies.patterns, strategies.timeouts, strategies.metadata),
    st.builds(_any_frame, st.integers(0, 255), st.binary(max_size=40)),
    st.builds(_claim, st.integers(0, 255), strategies.integers),
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A grammatical sequence of frames in which some bytes were flipped, left out or put in."""
    data = bytearray(b"".join(draw(st.lists(_frames, min_size=1, max_size=6))))
    for _ in range(draw(st.integers(0, 3))):
        # Near the beginning more often than not: that is where lengths and kinds are.
        position = draw(st.one_of(st.integers(0, 40), st.integers(0, max(0, len(data) - 1)))) % max(1, len(data))
        kind = draw(st.integers(0, 2))
        if kind == 0:
            data[position : position + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == 1:
            del data[position : position + draw(st.integers(1, 9))]
        else:
            data[position:position] = draw(st.binary(max_size=9))
    return bytes(data)


def test_garbage_is_accepted_or_refused_as_the_peers_fault() -> None:
    seen: Counter[str] = Counter()

    @given(st.sampled_from(_NAMES), st.one_of(st.binary(max_size=60), _mutated()), strategies.cuts)
    def run(name: str, data: bytes, cuts: list[int]) -> None:
        whole, pieces = _ends()[name], _ends()[name]
        refusal = _feed(whole, [data])
        assert refusal == _feed(pieces, strategies.split(data, cuts))
        assert _snapshot(whole) == _snapshot(pieces)
        assert _held(whole) <= _MOST_HELD
        seen["accepted" if refusal is None else refusal.name] += 1
        if refusal is not None:
            # Nothing can follow.
            before = _snapshot(whole)
            assert _feed(whole, [data, encode_message(b"more")]) is None
            assert _snapshot(whole) == before

    run()
    assert seen["accepted"]
    assert seen["INTERNAL"]


def _snapshot(call: _Call) -> object:
    half = call.responses if isinstance(call, ClientCall) else call.requests
    facts = (call.metadata, call.trailer) if isinstance(call, ClientCall) else (call.header,)
    return (*facts, half.state, list(half.inbox), call.requests.state, call.responses.state)


# What comes first, and what comes again and again after it.
_FLOODS = {
    "empty messages": (b"", encode_message(b"")),
    "messages": (b"", encode_message(bytes(1_000))),
    "large messages": (b"", encode_message(bytes(_MESSAGE))),
    "parts": (b"", encode_frame(FrameKind.PART, bytes(CHUNK_SIZE))),
    "tiny parts": (b"", encode_frame(FrameKind.PART, b"")),
    "extensions": (b"", _any_frame(0x40, bytes(CHUNK_SIZE))),
    "an extension byte by byte": (_claim(0x40, CHUNK_SIZE), b"@"),
    "a long trailer": (_claim(FrameKind.TRAILER, TRAILER_LIMIT + _METADATA), bytes(1_000)),
    "a long header": (_claim(FrameKind.HEADER, HEADER_ROOM + _METADATA), b"@"),
    "a hello": (_claim(FrameKind.HELLO, 1_048_576), bytes(1_000)),
    "lengths that never end": (b"", b"\x40"),
    "credit": (b"", encode_credit(0)),
    "metadata": (b"", encode_metadata(Metadata([("k", "")] * 15))),
    "metadata of tiny entries": (b"", _any_frame(FrameKind.METADATA, b"\x40\xa0" + b"\x01k\x00" * 160)),
}
_MOST_FRAMES = 20_000


@pytest.mark.parametrize("name", ["client BIDI_STREAM", "server BIDI_STREAM", "client UNARY", "server UNARY"])
@pytest.mark.parametrize("flood", _FLOODS)
def test_a_flood_that_nobody_takes_is_refused_or_costs_nothing(name: str, flood: str) -> None:
    call, (first, again) = _ends()[name], _FLOODS[flood]
    refusal = _feed(call, [first])
    for count in range(_MOST_FRAMES):
        if refusal is not None:
            break
        refusal = _feed(call, [again])
        # Looked at often while little has come, and now and then later: looking is slow.
        if count < 100 or count % 1_000 == 0:
            assert _held(call) <= _MOST_HELD
    assert _held(call) <= _MOST_HELD


def test_a_long_frame_that_comes_byte_by_byte_arrives_whole() -> None:
    client = ClientCall(RpcPattern.UNARY, limits_of(metadata=8_192))
    data = encode_trailer(Trailer(StatusCode.ABORTED, message="x" * 40_000))
    for index in range(len(data)):
        client.receive_data(data[index : index + 1])
    assert client.trailer is not None
    assert len(client.trailer.message) == 40_000


def test_what_is_discarded_is_freed() -> None:
    client = ClientCall(RpcPattern.SERVER_STREAM, limits_of())
    client.receive_data(encode_message(bytes(100_000)) + encode_message(bytes(100_000))[:50_000])
    assert _held(client) > 100_000
    client.responses.discard()
    assert _held(client) < CHUNK_SIZE + 8_192
    client.receive_data(encode_message(bytes(100_000))[50_000:] + encode_message(bytes(100_000)))
    assert _held(client) < CHUNK_SIZE + 8_192


_CHUNKS = {"part": encode_frame(FrameKind.PART, bytes(CHUNK_SIZE)), "message": encode_message(bytes(CHUNK_SIZE)), "empty message": encode_message(b"")}
_LAST = {"": b"", "end": encode_frame(FrameKind.END, b""), "trailer": encode_trailer(Trailer())}
_chunks = st.lists(st.sampled_from(list(_CHUNKS)), min_size=1, max_size=5)


def test_what_comes_after_a_discard_is_judged_as_ever_and_never_kept() -> None:
    seen: Counter[str] = Counter()

    @given(st.booleans(), _chunks, _chunks, st.sampled_from(list(_LAST)))
    def run(to_server: bool, before: list[str], after: list[str], last: str) -> None:
        call, twin = (_streaming_end(to_server=to_server) for _ in range(2))
        for name in before:
            assert _feed(call, [_CHUNKS[name]]) == _feed(twin, [_CHUNKS[name]])
        half, like = _receiving(call), _receiving(twin)
        half.discard()
        for frame in [*(_CHUNKS[name] for name in after), _LAST[last]]:
            refusal = _feed(call, [frame])
            assert (refusal, half.state) == (_feed(twin, [frame]), like.state)
            # Not a single chunk is kept, nor one of a message that is under way.
            assert _held(call) < CHUNK_SIZE
            assert not half.inbox
            seen[refusal.name if refusal is not None else half.state.name] += 1

    run()
    for what in ("OPEN_PART", "RESOURCE_EXHAUSTED"):
        assert seen[what], what


def _streaming_end(*, to_server: bool) -> _Call:
    """The end that receives a stream of messages, with room for a few of them."""
    pattern, limits = RpcPattern.CLIENT_STREAM if to_server else RpcPattern.SERVER_STREAM, limits_of(window=3 * CHUNK_SIZE, message=2 * CHUNK_SIZE - 1)
    client, server = ClientCall(pattern, limits), ServerCall(limits)
    server.receive_data(client.send_header(start_of(pattern), None, Metadata()))
    return server if to_server else client


def _receiving(call: _Call) -> ReceiveHalf:
    return call.responses if isinstance(call, ClientCall) else call.requests
