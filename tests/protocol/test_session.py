"""The rules of a session, each at its edge: numbers of calls, what crosses an end, sizes, and what each end may not do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster._protocol.events import SUCCESS, Trailer, TrailerOrigin
from aster._protocol.frames import (
    CHUNK_SIZE,
    TRAILER_LIMIT,
    FrameKind,
    decode_call,
    decode_call_end,
    decode_cancel,
    decode_session,
    decode_session_end,
    encode_call,
    encode_call_end,
    encode_cancel,
    encode_frame,
    encode_session,
    encode_session_end,
)
from aster._protocol.session import (
    CallBytes,
    CallCancelled,
    CallEnded,
    ClientSession,
    RequestEvent,
    ResponseEvent,
    ServerSession,
    SessionEnded,
    SessionOpened,
    SessionReady,
)
from aster._protocol.values import encode_varint
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from tests.protocol import strategies, wire_decoder

_READY = encode_frame(FrameKind.READY, b"")
_FAILURE = Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, "update")
_EXTENSION = b"\x41\x02??"


def _server(*received: bytes) -> ServerSession:
    """A server that is ready, and has received that."""
    server = ServerSession(512)
    assert list(server.receive_data(encode_session("demo.Room", 3))) == [SessionOpened("demo.Room", 3)]
    server.send_ready()
    for data in received:
        list(server.receive_data(data))
    return server


def _client(*, calls: int = 0) -> ClientSession:
    """A client that may begin calls, and has begun so many, all but the last of which are over."""
    client = ClientSession(512)
    client.send_open("demo.Room", 3)
    assert list(client.receive_data(_READY)) == [SessionReady()]
    for number in range(calls):
        if number:
            assert list(client.receive_data(encode_call_end(number - 1))) == [CallEnded()]
        client.begin_call()
    return client


# Numbers of calls


def test_calls_count_from_0_and_the_next_begins_once_the_servers_half_has_ended() -> None:
    server = _server()
    for number in range(70):
        assert list(server.receive_data(encode_call(number, b"a"))) == [CallBytes(b"a", begins=True)]
        assert list(server.receive_data(encode_call(number, b"b"))) == [CallBytes(b"b", begins=False)]
        assert server.send_call(b"c") == encode_call(number, b"c")
        assert server.send_call_end() == encode_call_end(number)
        assert not server.running


@pytest.mark.parametrize("frame", [encode_call(1, b"a"), encode_call(2, b"a"), encode_cancel(1, 1)])
def test_a_call_ahead_of_its_turn_is_refused(frame: bytes) -> None:
    server = _server(encode_call(0, b"a"))
    with pytest.raises(RemoteProtocolError, match="while call 0 was the last one to begin"):
        list(server.receive_data(frame))
    assert server.running


@pytest.mark.parametrize("frame", [encode_call(1, b"a"), encode_cancel(0, 1)])
def test_a_first_call_of_another_number_and_a_cancel_ahead_of_it_are_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="while call -1 was the last one to begin"):
        list(_server().receive_data(frame))


def test_a_call_before_the_session_is_ready_is_refused() -> None:
    server = ServerSession(512)
    list(server.receive_data(encode_session("demo.Room", 3)))
    with pytest.raises(RemoteProtocolError, match="before the session was ready"):
        list(server.receive_data(encode_call(0, b"a")))


def test_what_crossed_the_end_of_its_call_is_dropped() -> None:
    server = _server(encode_call(0, b"a"))
    server.send_call_end()
    assert list(server.receive_data(encode_call(0, b"b") + encode_cancel(0, 1))) == []
    assert list(server.receive_data(encode_call(1, b"c"))) == [CallBytes(b"c", begins=True)]
    assert list(server.receive_data(encode_call(0, b"d") + encode_cancel(0, 1) + encode_call(1, b"e"))) == [CallBytes(b"e", begins=False)]


def test_what_follows_a_cancel_is_dropped_until_the_next_call() -> None:
    server = _server(encode_call(0, b"a"))
    assert list(server.receive_data(encode_cancel(0, 2) + encode_call(0, b"b") + encode_cancel(0, 1))) == [CallCancelled(2)]
    assert server.running
    server.send_call_end()
    assert list(server.receive_data(encode_call(1, b"c") + encode_cancel(1, 4))) == [CallBytes(b"c", begins=True), CallCancelled(4)]


@pytest.mark.parametrize("kind", ["CALL", "CALL_END"])
@pytest.mark.parametrize(("calls", "number"), [(0, 0), (1, 1), (2, 0)], ids=["none has begun", "the next one", "one that is over"])
def test_a_server_that_speaks_of_another_call_than_the_one_under_way_is_refused(kind: str, calls: int, number: int) -> None:
    frame = encode_call(number, b"a") if kind == "CALL" else encode_call_end(number)
    client = _client(calls=calls)
    with pytest.raises(RemoteProtocolError, match=f"the peer sent {kind} for call {number} of a session, which is not under way"):
        list(client.receive_data(frame))


def test_a_server_that_ends_a_call_twice_is_refused() -> None:
    client = _client(calls=1)
    with pytest.raises(RemoteProtocolError, match="which is not under way"):
        list(client.receive_data(encode_call_end(0) * 2))


def test_a_session_that_opens_twice_or_is_ready_twice_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="the peer sent SESSION in state OPEN of a session"):
        list(_server().receive_data(encode_session("demo.Room", 3)))
    with pytest.raises(RemoteProtocolError, match="the peer sent READY in state OPEN of a session"):
        list(_client().receive_data(_READY))


# The end


@pytest.mark.parametrize("cut", [1, 1_000])
def test_nothing_counts_after_the_peers_end_however_it_is_cut(cut: int) -> None:
    after = encode_call(0, b"a") + encode_session_end(Trailer()) + b"\x20\x00"
    server, client = _server(), _client(calls=1)
    pieces = strategies.split(encode_session_end(Trailer()) + after, [cut])
    assert [event for piece in pieces for event in server.receive_data(piece)] == [SessionEnded(SUCCESS)]
    pieces = strategies.split(encode_session_end(_FAILURE) + after, [cut])
    assert [event for piece in pieces for event in client.receive_data(piece)] == [SessionEnded(_FAILURE)]
    assert client.ended
    assert not client.running


def test_what_crossed_the_servers_own_end_is_dropped_whatever_it_is() -> None:
    server = _server(encode_call(0, b"a"))
    server.send_end(_FAILURE)
    assert (server.ended, server.running) == (True, False)
    assert list(server.receive_data(encode_call(0, b"b") + encode_call(7, b"c") + b"\x20\x00")) == []


def test_a_server_may_finish_a_call_after_its_client_has_left() -> None:
    server = _server(encode_call(0, b"a"), encode_session_end(Trailer()))
    assert server.running
    assert server.send_call(b"b") + server.send_call_end() == encode_call(0, b"b") + encode_call_end(0)
    client = _client(calls=1)
    client.send_end()
    events = list(client.receive_data(encode_call(0, b"b") + encode_call_end(0) + encode_session_end(Trailer())))
    assert events == [CallBytes(b"b", begins=False), CallEnded(), SessionEnded(SUCCESS)]


def test_a_server_reads_no_more_than_a_chunk_of_why_its_client_leaves() -> None:
    server = ServerSession(1 << 20)
    assert list(server.receive_data(encode_session("demo.Room", 3) + bytes((FrameKind.SESSION_END,)) + encode_varint(CHUNK_SIZE))) != []
    server = _server()
    with pytest.raises(RemoteProtocolError, match=f"above the limit of {CHUNK_SIZE} bytes"):
        list(server.receive_data(bytes((FrameKind.SESSION_END,)) + encode_varint(CHUNK_SIZE + 1)))
    client = _client()
    assert list(client.receive_data(bytes((FrameKind.SESSION_END,)) + encode_varint(TRAILER_LIMIT + 512))) == []
    with pytest.raises(RemoteProtocolError, match=f"above the limit of {TRAILER_LIMIT + 512} bytes") as caught:
        list(_client().receive_data(bytes((FrameKind.SESSION_END,)) + encode_varint(TRAILER_LIMIT + 513)))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_a_reason_above_the_limit_of_a_trailer_is_not_sent_and_leaves_the_session_as_it_was() -> None:
    server = _server()
    with pytest.raises(LocalProtocolError, match="the limit is 65536 bytes"):
        server.send_end(Trailer(StatusCode.INTERNAL, message="x" * (TRAILER_LIMIT + 1)))
    assert not server.ended
    server.send_end(_FAILURE)


# What an end may not do itself


def test_a_client_begins_no_call_out_of_turn() -> None:
    fresh, busy, left, ended = ClientSession(512), _client(calls=1), _client(), _client()
    fresh.send_open("demo.Room", 3)
    left.send_end()
    list(ended.receive_data(encode_session_end(_FAILURE)))
    for client in (ClientSession(512), fresh, busy, left, ended):
        with pytest.raises(LocalProtocolError, match="begins once the session is ready, and the call before has ended"):
            client.begin_call()


def test_a_server_is_not_ready_for_what_nobody_has_asked_for() -> None:
    with pytest.raises(LocalProtocolError, match="has not been opened"):
        ServerSession(512).send_ready()


def test_an_end_sends_nothing_for_a_call_that_is_not_under_way() -> None:
    over, cancelled, ended = _client(calls=1), _client(calls=1), _client(calls=1)
    list(over.receive_data(encode_call_end(0)))
    cancelled.send_cancel(1)
    list(ended.receive_data(encode_session_end(_FAILURE)))
    for client in (_client(), over, cancelled, ended):
        for send in (lambda client=client: client.send_call(b"a"), lambda client=client: client.send_cancel(1)):
            with pytest.raises(LocalProtocolError, match="without a call under way"):
                send()
    finished = _server(encode_call(0, b"a"))
    finished.send_call_end()
    for server in (_server(), finished):
        for send in (lambda server=server: server.send_call(b"a"), server.send_call_end):
            with pytest.raises(LocalProtocolError, match="without a call under way"):
                send()


def test_a_call_may_be_cancelled_after_the_one_before_was() -> None:
    client = _client(calls=1)
    client.send_cancel(1)
    list(client.receive_data(encode_call_end(0)))
    client.begin_call()
    assert client.send_call(b"a") + client.send_cancel(2) == encode_call(1, b"a") + encode_cancel(1, 2)


# Frames


@given(st.text(max_size=40), strategies.integers, strategies.integers, strategies.trailers, st.binary(min_size=1, max_size=60))
def test_what_the_frames_of_a_session_say_comes_back_also_by_the_independent_decoder(service: str, number: int, code: int, why: Trailer, data: bytes) -> None:
    frames = [encode_session(service, number), encode_call(number, data), encode_call_end(number), encode_cancel(number, code), encode_session_end(why)]
    opened, call, call_end, cancel, end = (wire_decoder.decode(frame)[0].fields for frame in frames)
    assert opened == {"service": service, "version": number}
    assert call == {"call": number, "data": wire_decoder.write_hex(data)}
    assert call_end == {"call": number}
    assert cancel == {"call": number, "code": code}
    assert (end["status"], end["origin"], end["message"], len(end["details"])) == (why.status, why.origin, why.message, len(why.details))
    payloads = [_payload(frame) for frame in frames]
    assert decode_session(payloads[0]) == (service, number)
    assert decode_call(payloads[1]) == (number, data)
    assert decode_call_end(payloads[2]) == number
    assert decode_cancel(payloads[3]) == (number, code)
    assert decode_session_end(payloads[4], 8_192) == why


def _payload(frame: bytes) -> bytes:
    return frame[1 + (1 << (frame[1] >> 6)) :]


@given(st.sampled_from((0, 63, 64, 2**30 - 1, 2**62 - 1)), st.sampled_from((1, 16_367, 16_368, 16_376, 16_377, 16_383, 16_384, 16_385, 40_000)))
def test_bytes_of_a_call_are_cut_so_that_each_frame_is_within_its_limit(number: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frames = wire_decoder.decode(encode_call(number, data))
    assert {frame.kind for frame in frames} == {"CALL"}
    assert {frame.fields["call"] for frame in frames} == {number}
    assert b"".join(wire_decoder.read_hex(frame.fields["data"]) for frame in frames) == data
    assert len(frames) <= -(-size // (CHUNK_SIZE - 8))


@pytest.mark.parametrize("payload", [b"", b"\x40", b"\x00", b"\x40\x00"])
def test_a_call_frame_that_carries_nothing_is_refused(payload: bytes) -> None:
    for end in (_server(), _client(calls=1)):
        with pytest.raises(RemoteProtocolError, match="malformed CALL frame"):
            _drain(end, encode_frame(FrameKind.CALL, payload))


def _drain(end: ServerSession | ClientSession, data: bytes) -> list[RequestEvent | ResponseEvent]:
    return list(end.receive_data(data))


def test_a_number_beyond_the_wires_integers_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="does not fit"):
        encode_call(2**62, b"a")


def test_extensions_may_stand_between_any_frames_of_either_half() -> None:
    requests = [encode_session("demo.Room", 3), encode_call(0, b"a"), encode_call(0, b"b"), encode_cancel(0, 1), encode_session_end(Trailer())]
    plain, mixed = ServerSession(512), ServerSession(512)
    for frame in requests:
        assert list(mixed.receive_data(_EXTENSION + frame + _EXTENSION)) == list(plain.receive_data(frame))
        for server in (plain, mixed):
            if frame == requests[0]:
                server.send_ready()
    responses = [_READY, encode_call(0, b"a"), encode_call_end(0), encode_session_end(_FAILURE)]
    ends = ClientSession(512), ClientSession(512)
    for client in ends:
        client.send_open("demo.Room", 3)
    for frame in responses:
        assert list(ends[0].receive_data(_EXTENSION + frame + _EXTENSION)) == list(ends[1].receive_data(frame))
        if frame == _READY:
            for client in ends:
                client.begin_call()
