"""Frames: the reader and the decoders of payloads, fed in any cuts."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from aster._protocol.events import Header
from aster._protocol.events import Target as CallTarget
from aster._protocol.frames import (
    CLIENT_CONTROL_KINDS,
    CLIENT_HELLO_LIMIT,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    SESSION_REQUEST_KINDS,
    SESSION_RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    decode_call,
    decode_call_end,
    decode_cancel,
    decode_contract,
    decode_credit,
    decode_describe,
    decode_go_away,
    decode_header,
    decode_hello,
    decode_metadata,
    decode_session,
    decode_session_end,
    decode_trailer,
    encode_call_end,
    encode_cancel,
    encode_contract,
    encode_credit,
    encode_describe,
    encode_frame,
    encode_go_away,
    encode_header,
    encode_header_start,
    encode_hello,
    encode_metadata,
    encode_session,
    encode_session_end,
    encode_trailer,
    frame_limits,
)
from aster._protocol.values import encode_varint
from aster.errors import RemoteProtocolError, StatusCode
from aster.types import RpcPattern, SerializationMode
from tests.fuzz import grammar
from tests.fuzz.script import Script
from tests.fuzz.target import Run, Target

__all__ = ["FRAMES"]

_METADATA = 8_192
_LAST_BITS = 4e-16
_LONG = 1e9  # seconds up to which a float tells microseconds apart

_READERS: tuple[Mapping[int, int], ...] = (
    frame_limits(_METADATA),
    frame_limits(_METADATA, REQUEST_KINDS),
    frame_limits(_METADATA, RESPONSE_KINDS),
    {**frame_limits(0, CLIENT_CONTROL_KINDS), FrameKind.HELLO: CLIENT_HELLO_LIMIT},
    frame_limits(_METADATA, SESSION_REQUEST_KINDS),
    frame_limits(_METADATA, SESSION_RESPONSE_KINDS),
)


def _again_header(value: Any) -> bytes:
    target = CallTarget(value.target.service, value.target.version, value.target.method, RpcPattern(value.target.pattern), SerializationMode(value.target.mode))
    return encode_header(encode_header_start(target), value.timeout, value.metadata)


def _again_call(value: Any) -> bytes:
    # A peer may fill a frame to the last byte; Aster itself leaves room for the longest number.
    number, data = value
    return encode_frame(FrameKind.CALL, encode_varint(number) + data)


# How each kind's payload is read, and written again.
_DECODERS: Mapping[int, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    FrameKind.HELLO: (decode_hello, encode_hello),
    FrameKind.GO_AWAY: (decode_go_away, encode_go_away),
    FrameKind.DESCRIBE: (decode_describe, encode_describe),
    FrameKind.CONTRACT: (decode_contract, encode_contract),
    FrameKind.HEADER: (lambda payload: decode_header(payload, _METADATA), _again_header),
    FrameKind.CREDIT: (decode_credit, encode_credit),
    FrameKind.METADATA: (lambda payload: decode_metadata(payload, _METADATA), encode_metadata),
    FrameKind.TRAILER: (lambda payload: decode_trailer(payload, _METADATA), encode_trailer),
    FrameKind.SESSION: (decode_session, lambda value: encode_session(*value)),
    FrameKind.CALL: (decode_call, _again_call),
    FrameKind.CALL_END: (decode_call_end, encode_call_end),
    FrameKind.CANCEL: (decode_cancel, lambda value: encode_cancel(*value)),
    FrameKind.SESSION_END: (lambda payload: decode_session_end(payload, _METADATA), encode_session_end),
}


def _nothing(chance: random.Random) -> bytes:
    return b""


_SEQUENCES = (
    grammar.frames,
    grammar.requests,
    grammar.responses,
    grammar.go_away,
    grammar.session_requests,
    grammar.session_responses,
    grammar.frames,
)
"""Of what each reader is fed, with the first one again at the end."""


def _make(chance: random.Random) -> bytes:
    kind = chance.randrange(7)
    data = {1: grammar.header, 3: grammar.client_hello, 4: grammar.session_open}.get(kind, _nothing)(chance)
    data += _SEQUENCES[kind](chance)
    return bytes((kind % len(_READERS), chance.randrange(256))) + data


class _Read(NamedTuple):
    """What came of bytes: frames, and how a refusal put it, if there was one. Not the error itself: it would hold its frame, and that would hold it."""

    frames: list[tuple[int, bytes]]
    refused: StatusCode | None = None
    reason: str = ""


def _read(limits: Mapping[int, int], data: bytes, most: int) -> _Read:
    """The frames of ``data`` that comes in pieces of at most so many bytes, and what ended it."""
    reader, sizes = FrameReader(limits), random.Random(most)
    frames: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        # Tiny pieces of a large input prove nothing more and take long.
        size = sizes.randint(1, most) + (position >> 6)
        try:
            for frame in reader.feed(data[position : position + size]):
                frames.append(frame)  # noqa: PERF402  # what came before a refusal counts
        except RemoteProtocolError as exc:
            return _Read(frames, exc.code, str(exc))
        position += size
    return _Read(frames)


def _run(data: bytes) -> str:
    script = Script(data)
    limits, most = _READERS[script.byte() % len(_READERS)], script.byte() + 1
    wire = script.rest()
    read = _read(limits, wire, most)
    assert read == _read(limits, wire, 1 << 30), "how bytes were cut made a difference"
    malformed = [kind for kind, payload in read.frames if kind in _DECODERS and not _decodes(kind, payload)]
    if malformed:
        return "malformed payload"
    if read.refused is not None:
        return "too large" if read.refused is StatusCode.RESOURCE_EXHAUSTED else "refused"
    return "frames" if read.frames else "incomplete"


def _decodes(kind: int, payload: bytes) -> bool:
    """Whether a payload makes sense; then what is written again must make the same sense."""
    decode, encode = _DECODERS[kind]
    try:
        value = decode(payload)
    except RemoteProtocolError:
        return False
    again = decode(_payload(encode(value)))
    if isinstance(value, Header):
        _check_time(value.timeout, again.timeout)
        again = again._replace(timeout=value.timeout)
    assert again == value
    return True


def _check_time(before: float | None, after: float | None) -> None:
    """The time that is left may lose a microsecond, and more where a float or the wire is at its end; it grows by no more than a float's last bit."""
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert after <= before * (1 + _LAST_BITS)
        assert after >= before - 2e-6 or before > _LONG


def _payload(frame: bytes) -> bytes:
    size = 1 << (frame[1] >> 6)
    payload = frame[1 + size :]
    assert encode_frame(FrameKind(frame[0]), payload) == frame
    return payload


@contextmanager
def _open() -> Generator[Run]:
    yield _run


_WORDS = frozenset({"frames", "incomplete", "refused", "too large", "malformed payload"})
FRAMES = Target("frames", "frames, in any cuts", "frames", _make, _open, _WORDS, share=250, cost=0.25)
