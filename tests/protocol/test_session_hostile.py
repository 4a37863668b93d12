"""Whatever bytes arrive in a session, an end turns them into events or raises RemoteProtocolError, and holds no more than one frame that is not whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster._protocol.events import Trailer
from aster._protocol.frames import (
    CHUNK_SIZE,
    TRAILER_LIMIT,
    FrameKind,
    encode_call,
    encode_call_end,
    encode_cancel,
    encode_frame,
    encode_session,
    encode_session_end,
)
from aster._protocol.session import ClientSession, RequestEvent, ResponseEvent, ServerSession
from aster._protocol.states import SESSION_REQUESTS, SESSION_RESPONSES
from aster._protocol.values import encode_varint
from aster.errors import RemoteProtocolError, StatusCode
from tests.fuzz import grammar
from tests.fuzz.mutation import mutated
from tests.protocol import strategies
from tests.protocol.held import held

_METADATA = 512
# A frame that is not whole, twice while it grows, and what every session has.
_MOST_HELD_BY_SERVER = 2 * CHUNK_SIZE + 4_096
_MOST_HELD_BY_CLIENT = 2 * (TRAILER_LIMIT + _METADATA) + 4_096

_End = ClientSession | ServerSession
_Event = RequestEvent | ResponseEvent
_READY = encode_frame(FrameKind.READY, b"")


def _fed(end: _End, *frames: bytes) -> None:
    for frame in frames:
        for _ in end.receive_data(frame):
            pass


def _server() -> ServerSession:
    server = ServerSession(_METADATA)
    _fed(server, encode_session("demo.Room", 1))
    return server


def _ready_server(*frames: bytes) -> ServerSession:
    server = _server()
    server.send_ready()
    _fed(server, *frames)
    return server


def _server_after_a_call() -> ServerSession:
    server = _ready_server(encode_call(0, b"a"))
    server.send_call_end()
    return server


def _client() -> ClientSession:
    client = ClientSession(_METADATA)
    client.send_open("demo.Room", 1)
    return client


def _ready_client(*frames: bytes, calling: bool = True) -> ClientSession:
    client = _client()
    _fed(client, _READY, *frames)
    if calling:
        client.begin_call()
        client.send_call(b"a")
    return client


def _leaving_client() -> ClientSession:
    client = _ready_client()
    client.send_cancel(1)
    client.send_end()
    return client


_ENDS: Mapping[str, Callable[[], _End]] = {
    "server": lambda: ServerSession(_METADATA),
    "server that is not ready": _server,
    "server that is ready": _ready_server,
    "server in a call": lambda: _ready_server(encode_call(0, b"a")),
    "server in a call that was cancelled": lambda: _ready_server(encode_call(0, b"a"), encode_cancel(0, 1)),
    "server after a call": _server_after_a_call,
    "client that waits": _client,
    "client that is ready": lambda: _ready_client(calling=False),
    "client in a call": _ready_client,
    "client that leaves": _leaving_client,
}
_NAMES = list(_ENDS)


def _feed(end: _End, pieces: Iterable[bytes]) -> tuple[list[_Event], StatusCode | None]:
    """What comes of bytes until they are refused, and the status of the refusal. Anything but RemoteProtocolError comes out."""
    events: list[_Event] = []
    for piece in pieces:
        try:
            for event in end.receive_data(piece):
                events.append(event)  # noqa: PERF402 (what came before a refusal counts)
        except RemoteProtocolError as exc:
            return events, exc.code
    return events, None


def _held(end: _End) -> int:
    return held(end, (SESSION_REQUESTS, SESSION_RESPONSES))


def _most_held(end: _End) -> int:
    return _MOST_HELD_BY_SERVER if isinstance(end, ServerSession) else _MOST_HELD_BY_CLIENT


def _facts(end: _End) -> tuple[object, ...]:
    return end.requests.state, end.responses.state, end.running, end.ended


def _claim(kind: int, length: int) -> bytes:
    return bytes((kind,)) + encode_varint(length)


def _extension(size: int) -> bytes:
    return _claim(0x40, size) + bytes(size)


def _input(chance: random.Random) -> tuple[str, bytes]:
    """An end, and frames for it, often with some bytes that were flipped, left out or put in; now and then none of it makes sense."""
    name = chance.choice(_NAMES)
    if chance.random() < 0.1:
        return name, chance.randbytes(chance.choice((1, 3, 20)))
    to_server = name.startswith("server")
    data = grammar.session_requests(chance) if to_server else grammar.session_responses(chance)
    # What an end waits for first, or nearly all would be refused.
    if name == "server" and chance.random() < 0.7:
        data = grammar.session_open(chance) + data
    return name, mutated(data, [], chance) if chance.random() < 0.4 else data


_INPUTS = 20
"""In an example: making them takes less than what Hypothesis does for each."""


def test_garbage_makes_events_or_is_refused_as_the_peers_fault_however_it_is_cut() -> None:
    seen: Counter[str] = Counter()

    @given(st.integers(0, 2**32), strategies.cuts)
    def run(seed: int, cuts: list[int]) -> None:
        chance = random.Random(seed)
        for _ in range(_INPUTS):
            _check(*_input(chance), cuts, seen)

    run()
    for what in ("accepted", "INTERNAL", "CallBytes", "CallCancelled", "CallEnded", "SessionEnded", "SessionOpened", "SessionReady"):
        assert seen[what], what


def _check(name: str, data: bytes, cuts: list[int], seen: Counter[str]) -> None:
    whole, pieces = _ENDS[name](), _ENDS[name]()
    events, refusal = _feed(whole, [data])
    assert (events, refusal) == _feed(pieces, strategies.split(data, cuts))
    assert _facts(whole) == _facts(pieces)
    assert max(_held(whole), _held(pieces)) <= _most_held(whole)
    seen["accepted" if refusal is None else refusal.name] += 1
    for event in events:
        seen[type(event).__name__] += 1
    if refusal is not None:
        # Nothing can follow.
        before = _facts(whole)
        assert _feed(whole, [data, encode_session_end(Trailer())]) == ([], None)
        assert _facts(whole) == before


# What comes first, and what comes again and again after it.
_FLOODS = {
    "calls that never end": (b"", encode_call(0, bytes(CHUNK_SIZE - 1))),
    "calls of one byte": (b"", encode_call(0, b"a")),
    "calls of another number": (b"", encode_call(1, b"a")),
    "a call byte by byte": (_claim(FrameKind.CALL, CHUNK_SIZE), b"@"),
    "cancels": (b"", encode_cancel(0, 1)),
    "ends of calls": (b"", encode_call_end(0)),
    "extensions": (b"", _extension(CHUNK_SIZE)),
    "empty extensions": (b"", _extension(0)),
    "an extension byte by byte": (_claim(0x40, CHUNK_SIZE), b"@"),
    "a long end": (_claim(FrameKind.SESSION_END, CHUNK_SIZE), bytes(1_000)),
    "a longer end": (_claim(FrameKind.SESSION_END, TRAILER_LIMIT + _METADATA), bytes(1_000)),
    "an end that is over": (encode_session_end(Trailer()), encode_call(0, bytes(CHUNK_SIZE - 1))),
    "lengths that never end": (b"", b"\x40"),
}
_MOST_FRAMES = 5_000


@pytest.mark.parametrize("name", ["server that is ready", "server in a call", "server after a call", "client in a call", "client that leaves"])
@pytest.mark.parametrize("flood", _FLOODS)
def test_a_flood_is_refused_or_costs_nothing(name: str, flood: str) -> None:
    end, (first, again) = _ENDS[name](), _FLOODS[flood]
    _, refusal = _feed(end, [first])
    for count in range(_MOST_FRAMES):
        if refusal is not None:
            break
        _, refusal = _feed(end, [again])
        if count < 50 or count % 1_000 == 0:
            assert _held(end) <= _most_held(end)
    assert _held(end) <= _most_held(end)
