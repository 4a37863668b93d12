"""``docs/wire.md`` says what Aster does: its vectors and tables are read from the page."""

from __future__ import annotations

import pytest

from aster._protocol.call import ClientCall, ServerCall
from aster._protocol.events import ResetCode, Setting, Trailer, TrailerOrigin
from aster._protocol.frames import (
    CLIENT_CONTROL_KINDS,
    MESSAGE_CHARGE,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    SERVER_CONTROL_KINDS,
    SESSION_REQUEST_KINDS,
    SESSION_RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    frame_limits,
)
from aster._protocol.session import CallBytes, CallCancelled, CallEnded, ClientSession, ServerSession, SessionEnded, SessionOpened, SessionReady
from aster._protocol.states import (
    REQUESTS_MANY,
    REQUESTS_ONE,
    RESPONSES_MANY,
    RESPONSES_ONE,
    SESSION_REQUESTS,
    SESSION_RESPONSES,
    SessionStep,
    SessionTable,
    State,
    Step,
    Table,
)
from aster._protocol.values import encode_varint
from aster.errors import RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.protocol import wire_decoder
from tests.protocol.pair import limits_of
from tests.protocol.vectors import encoded_by_aster, rows

_VECTORS = {name: (wire_decoder.read_hex(digits), meaning) for name, digits, meaning in rows("name", "hex", "meaning")}
_REFUSED = [(why, half, wire_decoder.read_hex(digits)) for why, half, digits in rows("refused", "half", "hex")]
_LIMITS = limits_of()

# Frames that are sound, and wrong only where they stand: a decoder that knows no states accepts them.
_SOUND = {
    "a control frame in a call",
    "a frame of the other direction",
    "message before header",
    "end before header",
    "part of a size of its own",
    "trailer with an unknown status",
    "trailer with an unknown origin",
    "metadata with a reserved key",
    "success without a response",
    "more credit than is outstanding",
    "a session's frame in a call",
    "an extension ahead of SESSION",
    "call before the session is opened",
    "a call's frame outside CALL",
    "session opened twice",
    "call before READY",
    "cancel before a call",
    "a client's session end of 16,385 bytes",
    "end of a call before READY",
    "ready twice",
    "bytes of a call that has not begun",
    "end of a call that has not begun",
    "session end with an unknown status",
}


@pytest.mark.parametrize("name", _VECTORS)
def test_a_vector_means_to_an_independent_decoder_what_the_page_says(name: str) -> None:
    data, meaning = _VECTORS[name]
    assert wire_decoder.describe(wire_decoder.decode(data)) == meaning


@pytest.mark.parametrize("name", _VECTORS)
def test_aster_cuts_a_vector_into_the_frames_that_the_page_names(name: str) -> None:
    data, _ = _VECTORS[name]
    kinds = [FrameKind(kind).name for kind, _ in FrameReader(frame_limits(8_192)).feed(data)]
    assert kinds == [frame.kind for frame in wire_decoder.decode(data)]


def test_vectors_that_only_others_send_are_read_by_aster_as_the_page_says() -> None:
    server, client = ServerCall(_LIMITS), ClientCall(RpcPattern.CLIENT_STREAM, _LIMITS)
    server.receive_data(_VECTORS["header"][0] + _VECTORS["message"][0])
    server.receive_data(_VECTORS["extension, skipped, then end"][0])
    assert server.requests_ended
    client.send_header(b"", None, Metadata())
    client.send_message(bytes(_LIMITS.peer_window - MESSAGE_CHARGE + 4))
    client.receive_data(_VECTORS["integers in long forms"][0])
    assert client.requests.ready


@pytest.mark.parametrize("name", encoded_by_aster())
def test_aster_encodes_what_the_page_shows(name: str) -> None:
    assert encoded_by_aster()[name].hex() == _VECTORS[name][0].hex()


def test_every_vector_is_made_by_aster_but_for_those_that_only_others_send() -> None:
    assert set(_VECTORS) - set(encoded_by_aster()) == {"extension, skipped, then end", "integers in long forms"}


def test_there_is_a_vector_for_every_kind_of_frame() -> None:
    shown = {frame.kind for data, _ in _VECTORS.values() for frame in wire_decoder.decode(data)}
    assert shown == {kind.name for kind in FrameKind}


def test_a_whole_unary_call_is_read_off_the_page_by_both_ends() -> None:
    client, server = ClientCall(RpcPattern.UNARY, _LIMITS), ServerCall(_LIMITS)
    server.receive_data(_VECTORS["unary call, requests"][0])
    assert (server.header is not None, list(server.requests.inbox), server.requests_ended) == (True, [b"ask"], True)
    client.receive_data(_VECTORS["unary call, responses"][0])
    client.receive_end()
    assert (list(client.responses.inbox), client.trailer is not None) == ([b"answer"], True)


@pytest.mark.parametrize(("why", "half", "data"), _REFUSED)
def test_what_the_page_calls_refused_is_refused(why: str, half: str, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        _read_as(half, data)
    if why not in _SOUND:
        with pytest.raises(wire_decoder.WireError):
            wire_decoder.decode(data)


def _read_as(half: str, data: bytes) -> None:
    """Have an end read bytes as the first of a half."""
    if half == "requests":
        ServerCall(_LIMITS).receive_data(data)
    elif half == "responses":
        ClientCall(RpcPattern.UNARY, _LIMITS).receive_data(data)
    elif half == "session requests":
        list(ServerSession(8_192).receive_data(data))
    else:
        assert half == "session responses"
        client = ClientSession(8_192)
        client.send_open("demo.Room", 300)
        list(client.receive_data(data))


def test_a_whole_session_is_read_off_the_page_by_both_ends() -> None:
    server, client = ServerSession(8_192), ClientSession(8_192)
    requests, responses = _VECTORS["session of two calls, requests"][0], _VECTORS["session of two calls, responses"][0]
    at_server, first, second = list[object](), ServerCall(_LIMITS), ServerCall(_LIMITS)
    for event in server.receive_data(requests):
        at_server.append(event._replace(data=b"") if isinstance(event, CallBytes) else event)
        if isinstance(event, SessionOpened):
            server.send_ready()
        elif isinstance(event, CallBytes):
            (second if first.requests_ended else first).receive_data(event.data)
            if first.requests_ended and second.header is None:
                server.send_call_end()
    begun, more = CallBytes(b"", begins=True), CallBytes(b"", begins=False)
    assert at_server == [SessionOpened("demo.Room", 300), begun, begun, more, CallCancelled(ResetCode.CANCELLED), SessionEnded(Trailer())]
    assert (list(first.requests.inbox), list(second.requests.inbox)) == ([b"hi"], [b"a"])

    call, at_client = ClientCall(RpcPattern.UNARY, _LIMITS), list[type]()
    client.send_open("demo.Room", 300)
    for event in client.receive_data(responses):
        at_client.append(type(event))
        if isinstance(event, CallBytes):
            call.receive_data(event.data)
        elif not isinstance(event, SessionEnded) and at_client.count(CallEnded) < 2:
            client.begin_call()
    assert at_client == [SessionReady, CallBytes, CallBytes, CallEnded, CallEnded, SessionEnded]
    assert (list(call.responses.inbox), call.trailer) == ([b"hello"], Trailer())


def test_integers_are_written_as_the_page_shows() -> None:
    table = rows("integer", "bytes")
    shortest = dict(reversed([(int(value), digits) for value, digits in table]))
    assert len(table) > len(shortest) > 0
    for value, digits in table:
        assert wire_decoder.decode_integer(bytes.fromhex(digits)) == int(value)
    for value in (0, 63, 64, 16_383, 16_384, 2**30 - 1, 2**30, 2**62 - 1):
        assert encode_varint(value).hex() == shortest[value]


def test_the_kinds_of_frames_their_places_and_limits_are_those_of_the_page() -> None:
    limits = frame_limits(8_192)
    shown = {FrameKind[name]: (int(kind, 16), stream, sender, limit) for kind, name, stream, sender, limit in rows(*_KIND_COLUMNS)}
    assert set(shown) == set(FrameKind)
    for kind, (number, stream, sender, limit) in shown.items():
        assert number == kind
        by_client, by_server = {"control": (CLIENT_CONTROL_KINDS, SERVER_CONTROL_KINDS), "call": _CALLS, "session": _SESSIONS}[stream]
        assert (sender in ("client", "both"), sender in ("server", "both")) == (kind in by_client, kind in by_server)
        fixed, _, rest = limit.replace(",", "").partition(" + ")
        size = 8_192 if fixed == "metadata limit" else int(fixed) + (8_192 if rest else 0)
        assert limits[kind] == size


_CALLS = (REQUEST_KINDS, RESPONSE_KINDS)
_SESSIONS = (SESSION_REQUEST_KINDS, SESSION_RESPONSE_KINDS)
_KIND_COLUMNS = ("kind", "name", "stream", "sent by", "largest payload in bytes")


@pytest.mark.parametrize(
    ("title", "table"),
    [("Requests, one", REQUESTS_ONE), ("Requests, many", REQUESTS_MANY), ("Responses, one", RESPONSES_ONE), ("Responses, many", RESPONSES_MANY)],
)
def test_the_states_of_a_half_are_those_of_the_page(title: str, table: Table) -> None:
    steps = ("HEADER", "PART", "MESSAGE", "END", "CREDIT") if title.startswith("Requests") else ("METADATA", "PART", "MESSAGE", "CREDIT", "OK", "ERROR")
    shown = {
        State[state]: {Step[step]: State[following] for step, following in zip(steps, cells, strict=True) if following != "-"}
        for state, *cells in rows(title, *steps)
    }
    assert shown == table


@pytest.mark.parametrize(("title", "table"), [("Session, requests", SESSION_REQUESTS), ("Session, responses", SESSION_RESPONSES)])
def test_the_states_of_a_half_of_a_session_are_those_of_the_page(title: str, table: SessionTable) -> None:
    steps = ("SESSION", "CALL", "CANCEL", "SESSION_END") if title == "Session, requests" else ("READY", "CALL", "CALL_END", "SESSION_END")
    shown = {
        State[state]: {SessionStep[step]: State[following] for step, following in zip(steps, cells, strict=True) if following != "-"}
        for state, *cells in rows(title, *steps)
    }
    assert shown == table


def test_the_numbers_of_the_page_are_those_of_the_enums() -> None:
    statuses = {int(row[i]): row[i + 1] for row in rows(*("status", "name") * 3) for i in (0, 2, 4) if row[i]}
    assert statuses == {code.value: code.name for code in StatusCode}
    assert {int(row[0]): row[1] for row in rows("origin", "name", "who decided")} == {origin.value: origin.name for origin in TrailerOrigin}
    assert {int(row[0]): row[1] for row in rows("code", "name", "used with", "meaning")} == {code.value: code.name for code in ResetCode}
    assert {int(row[0]): row[1] for row in rows("mode", "name")} == {mode.value: mode.name for mode in SerializationMode}
    settings = {int(row[0]): row[1] for row in rows("key", "name", "meaning")}
    assert settings == {setting.value: setting.name for setting in Setting}
    patterns = {int(row[0]): (row[2] == "many", row[3] == "many") for row in rows("pattern", "name", "requests", "responses")}
    assert patterns == {pattern.value: (pattern.streams_requests, pattern.streams_responses) for pattern in RpcPattern}
