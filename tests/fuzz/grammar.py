"""Frames of the wire and sequences of them, drawn from a ``random.Random``; with what peers should never say among them."""

from __future__ import annotations

import random
from collections.abc import Callable

from aster._protocol.events import Describe, Description, GoAway, Hello, MethodEntry, ServiceEntry, Target, Trailer, TrailerOrigin
from aster._protocol.frames import (
    CHUNK_SIZE,
    FrameKind,
    encode_call,
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
    encode_message,
    encode_metadata,
    encode_session,
    encode_session_end,
    encode_trailer,
)
from aster._protocol.values import encode_varint
from aster.errors import StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.fuzz.mutation import EDGES

__all__ = [
    "bytes_of",
    "client_hello",
    "contract",
    "describe",
    "frames",
    "go_away",
    "header",
    "number",
    "ready",
    "requests",
    "responses",
    "server_hello",
    "session_open",
    "session_requests",
    "session_responses",
    "text",
    "whole_requests",
    "whole_responses",
]

_SIZES = (0, 0, 1, 2, 5, 40, 63, 64, 300, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE)
_SETTINGS = (1, 2, 3, 4, 5, 6, 7, 1000)
_TEXTS = ("", "a", "Echo", "same", "é", "\N{GRINNING FACE}", "\x00", "x" * 128)


def number(chance: random.Random) -> int:
    """Below 2**62, at an edge more often than not."""
    return chance.choice(EDGES) if chance.random() < 0.7 else chance.getrandbits(62)


def text(chance: random.Random) -> str:
    return chance.choice(_TEXTS)


def bytes_of(chance: random.Random) -> bytes:
    size = chance.choice(_SIZES)
    return bytes(size) if size > 300 else chance.randbytes(size)


def _metadata(chance: random.Random) -> Metadata:
    values = ("", "value", "é", b"", b"\x00\xff", "v" * 200)
    return Metadata([(chance.choice(("a", "key", "a-b.c_d", "k" * 128)), chance.choice(values)) for _ in range(chance.choice((0, 0, 1, 2, 9)))])


def header(chance: random.Random, target: Target | None = None) -> bytes:
    """A HEADER, of a random target unless it is given."""
    if target is None:
        target = Target(text(chance), number(chance), text(chance), chance.choice(list(RpcPattern)), chance.choice(list(SerializationMode)))
    timeout = chance.choice((None, None, 0.0, 1e-6, 1.0, 1e9))
    return encode_header(encode_header_start(target), timeout, _metadata(chance))


def _message(chance: random.Random) -> bytes:
    return encode_message(bytes_of(chance))


def _part(chance: random.Random) -> bytes:
    return encode_frame(FrameKind.PART, bytes(chance.choice((CHUNK_SIZE, CHUNK_SIZE, CHUNK_SIZE - 1, 0))))


def _end(chance: random.Random) -> bytes:
    return encode_frame(FrameKind.END, b"")


def _credit(chance: random.Random) -> bytes:
    return encode_credit(chance.choice((0, 1, 64, 75, number(chance))))


def _metadata_frame(chance: random.Random) -> bytes:
    return encode_metadata(_metadata(chance))


def _outcome(chance: random.Random) -> Trailer:
    if chance.random() < 0.3:
        return Trailer()
    details = tuple((text(chance), chance.randbytes(9)) for _ in range(chance.choice((0, 0, 1, 3))))
    return Trailer(chance.choice(list(StatusCode)), chance.choice(list(TrailerOrigin)), text(chance), details, _metadata(chance))


def _trailer(chance: random.Random) -> bytes:
    return encode_trailer(_outcome(chance))


def session_open(chance: random.Random) -> bytes:
    """A SESSION."""
    return encode_session(text(chance), number(chance))


def ready() -> bytes:
    """A READY."""
    return encode_frame(FrameKind.READY, b"")


def _ready(chance: random.Random) -> bytes:
    return ready()


def _call_number(chance: random.Random) -> int:
    return chance.choice((0, 0, 0, 0, 1, 1, 2)) if chance.random() < 0.9 else number(chance)


def _call(chance: random.Random) -> bytes:
    return encode_call(_call_number(chance), bytes_of(chance) or b"a")


def _call_end(chance: random.Random) -> bytes:
    return encode_call_end(_call_number(chance))


def _cancel(chance: random.Random) -> bytes:
    return encode_cancel(_call_number(chance), number(chance))


def _session_end(chance: random.Random) -> bytes:
    return encode_session_end(_outcome(chance))


def _extension(chance: random.Random) -> bytes:
    return bytes((chance.randrange(0x40, 0x100),)) + _block(bytes_of(chance))


def _any_kind(chance: random.Random) -> bytes:
    return bytes((chance.randrange(0x100),)) + _block(chance.randbytes(chance.choice((0, 1, 8, 40))))


def _claim(chance: random.Random) -> bytes:
    """The beginning of a frame whose rest may never come."""
    return bytes((chance.choice((*FrameKind, 0x40, 0x00)),)) + encode_varint(number(chance))


def _block(data: bytes) -> bytes:
    return encode_varint(len(data)) + data


def _hello(chance: random.Random, services: tuple[ServiceEntry, ...]) -> bytes:
    settings = {key: chance.choice((1, 64, 262_144, number(chance))) for key in _SETTINGS if chance.random() < 0.97}
    versions = tuple(chance.choice((1, 1, 1, 1, 2, number(chance))) for _ in range(chance.choice((1, 1, 1, 1, 0, 3))))
    extensions = {text(chance): chance.randbytes(5) for _ in range(chance.choice((0, 0, 2)))}
    return encode_hello(Hello(versions, settings, services, extensions))


def client_hello(chance: random.Random) -> bytes:
    return _hello(chance, ())


def server_hello(chance: random.Random) -> bytes:
    modes = frozenset(chance.sample(list(SerializationMode), 2))
    methods = tuple(MethodEntry(text(chance), chance.choice(list(RpcPattern)), modes) for _ in range(chance.choice((0, 1, 5))))
    services = tuple(ServiceEntry(text(chance), number(chance), False, chance.randbytes(4), methods) for _ in range(chance.choice((0, 1, 3))))
    return _hello(chance, services)


def go_away(chance: random.Random) -> bytes:
    return encode_go_away(GoAway(min(number(chance), 2**62 - 2), text(chance)))


def describe(chance: random.Random) -> bytes:
    """A question, more often than not for the service that there is."""
    return encode_describe(Describe("Echo", 1) if chance.random() < 0.6 else Describe(text(chance), number(chance)))


def contract(chance: random.Random) -> bytes:
    """An answer."""
    return encode_contract(Description(text(chance), chance.choice((1, number(chance))), bytes_of(chance)))


_Maker = Callable[[random.Random], bytes]

_MISPLACED: tuple[_Maker, ...] = (_any_kind, _extension, _claim)
_REQUESTS: tuple[_Maker, ...] = (_message, _message, _message, _part, _end, _credit)
_RESPONSES: tuple[_Maker, ...] = (_metadata_frame, _message, _message, _message, _part, _credit, _trailer)
_SESSION_REQUESTS: tuple[_Maker, ...] = (_call, _call, _call, _call, _cancel, _cancel, _session_end)
_SESSION_RESPONSES: tuple[_Maker, ...] = (_call, _call, _call, _call, _call_end, _call_end, _session_end)
_FRAMES: tuple[_Maker, ...] = (
    header,
    *_REQUESTS,
    *_RESPONSES,
    session_open,
    _ready,
    _call,
    _call_end,
    _cancel,
    _session_end,
    client_hello,
    server_hello,
    go_away,
    describe,
    contract,
    *_MISPLACED,
)


def _sequence(chance: random.Random, makers: tuple[_Maker, ...], wrong: tuple[_Maker, ...]) -> bytes:
    return b"".join(chance.choice(makers if chance.random() < 0.93 else wrong)(chance) for _ in range(chance.choice((1, 1, 2, 3, 5, 8))))


def frames(chance: random.Random) -> bytes:
    """Frames of any kind, one after the other."""
    return _sequence(chance, _FRAMES, _MISPLACED)


def requests(chance: random.Random) -> bytes:
    """Frames that have a place after a header, mostly."""
    return _sequence(chance, _REQUESTS, _FRAMES)


def responses(chance: random.Random) -> bytes:
    """Frames that a server may send, mostly."""
    return _sequence(chance, _RESPONSES, _FRAMES)


def session_requests(chance: random.Random) -> bytes:
    """Frames that have a place after SESSION, mostly."""
    return _sequence(chance, _SESSION_REQUESTS, _FRAMES)


def session_responses(chance: random.Random) -> bytes:
    """Frames that a server may send in a session, mostly after READY."""
    return (ready() if chance.random() < 0.3 else b"") + _sequence(chance, _SESSION_RESPONSES, _FRAMES)


def whole_requests(chance: random.Random, pattern: RpcPattern, payload: Callable[[], bytes] | None = None) -> bytes:
    """All that follows a header in a call that keeps to the rules; of any bytes, or of payloads that are given."""
    count = chance.choice((0, 1, 3)) if pattern.streams_requests else 1
    return b"".join(_message(chance) if payload is None else encode_message(payload()) for _ in range(count)) + _end(chance)


def whole_responses(chance: random.Random, pattern: RpcPattern) -> bytes:
    """All that a server sends in a call that keeps to the rules."""
    early = _metadata_frame(chance) if chance.random() < 0.3 else b""
    return early + b"".join(_message(chance) for _ in range(chance.choice((0, 1, 3)) if pattern.streams_responses else 1)) + encode_trailer(Trailer())
