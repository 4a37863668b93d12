"""Every row of a session's two tables is walked through the public calls, and every row that is missing is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from aster._protocol.events import Trailer, TrailerOrigin
from aster._protocol.frames import FrameKind, encode_call, encode_call_end, encode_cancel, encode_frame, encode_session, encode_session_end
from aster._protocol.session import ClientSession, ServerSession
from aster._protocol.states import SESSION_REQUESTS, SESSION_RESPONSES, SessionStep, State
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode

_ROWS = {(name, state, step) for name, table in (("requests", SESSION_REQUESTS), ("responses", SESSION_RESPONSES)) for state in table for step in table[state]}

_FRAMES: Mapping[SessionStep, bytes] = {
    SessionStep.SESSION: encode_session("demo.Room", 1),
    SessionStep.READY: encode_frame(FrameKind.READY, b""),
    SessionStep.CALL: encode_call(0, b"x"),
    SessionStep.CALL_END: encode_call_end(0),
    SessionStep.CANCEL: encode_cancel(0, 1),
    SessionStep.SESSION_END: encode_session_end(Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, "over")),
}


def _take(end: ClientSession | ServerSession, *steps: SessionStep) -> int:
    """Have the peer take steps; how many events that makes."""
    return sum(1 for step in steps for _ in end.receive_data(_FRAMES[step]))


def _server(state: State) -> ServerSession:
    """A server whose client's half is in a state; where it is open a call is under way, or there would be nothing to cancel."""
    server = ServerSession(512)
    if state is not State.IDLE:
        _take(server, SessionStep.SESSION)
        server.send_ready()
        _take(server, SessionStep.CALL)
    if state is State.ENDED:
        _take(server, SessionStep.SESSION_END)
    return server


def _client(state: State) -> ClientSession:
    """A client whose server's half is in a state; where it is open a call is under way."""
    client = ClientSession(512)
    client.send_open("demo.Room", 1)
    if state is not State.IDLE:
        _take(client, SessionStep.READY)
        client.begin_call()
        client.send_call(b"x")
    if state is State.ENDED:
        _take(client, SessionStep.SESSION_END)
    return client


def test_every_row_is_taken_by_a_frame_from_the_peer_and_every_other_is_refused_and_changes_nothing() -> None:
    taken: set[tuple[str, State, SessionStep]] = set()
    for state in SESSION_REQUESTS:
        for step in SessionStep:
            for name, end in (("requests", _server(state)), ("responses", _client(state))):
                half, table = (end.requests, SESSION_REQUESTS) if isinstance(end, ServerSession) else (end.responses, SESSION_RESPONSES)
                assert half.state is state
                if step in table[state]:
                    assert _take(end, step) == 1
                    assert half.state is table[state][step]
                    taken.add((name, state, step))
                    continue
                if state is State.ENDED:
                    # What the peer said last was its last: whatever else comes is dropped.
                    assert _take(end, step) == 0
                else:
                    # By the table, or by the reader if it is a frame of the other direction.
                    with pytest.raises(RemoteProtocolError, match=rf" {step.name} (in state {state.name} of a session|frame on a stream)"):
                        _take(end, step)
                assert half.state is state
    assert taken == _ROWS
    assert len(_ROWS) == 4 + 5


def test_a_session_that_was_refused_may_end_before_it_was_ready() -> None:
    client = ClientSession(512)
    client.send_open("demo.Room", 1)
    assert _take(client, SessionStep.SESSION_END) == 1
    assert client.ended


def _sender(name: str, state: State) -> ClientSession | ServerSession:
    """An end whose own half is in a state; where it is open a call is under way."""
    if name == "responses":
        server = ServerSession(512) if state is State.IDLE else _server(State.OPEN)
        if state is State.IDLE:
            _take(server, SessionStep.SESSION)
        if state is State.ENDED:
            server.send_end(Trailer())
        return server
    if state is State.IDLE:
        return ClientSession(512)
    client = _client(State.OPEN)
    if state is State.ENDED:
        client.send_end()
    return client


def _sending(end: ClientSession | ServerSession) -> Mapping[SessionStep, Callable[[], bytes]]:
    if isinstance(end, ServerSession):
        return {
            SessionStep.READY: end.send_ready,
            SessionStep.CALL: lambda: end.send_call(b"x"),
            SessionStep.CALL_END: end.send_call_end,
            SessionStep.SESSION_END: lambda: end.send_end(Trailer()),
        }
    return {
        SessionStep.SESSION: lambda: end.send_open("demo.Room", 1),
        SessionStep.CALL: lambda: end.send_call(b"x"),
        SessionStep.CANCEL: lambda: end.send_cancel(1),
        SessionStep.SESSION_END: end.send_end,
    }


def test_a_sender_takes_the_rows_that_are_in_the_tables_and_refuses_all_others() -> None:
    taken: set[tuple[str, State, SessionStep]] = set()
    for name, table in (("requests", SESSION_REQUESTS), ("responses", SESSION_RESPONSES)):
        for state in table:
            for step in _sending(_sender(name, state)):
                end = _sender(name, state)
                half = end.responses if isinstance(end, ServerSession) else end.requests
                assert half.state is state
                if step in table[state]:
                    assert _sending(end)[step]()[0] == FrameKind[step.name]
                    assert half.state is table[state][step]
                    taken.add((name, state, step))
                else:
                    with pytest.raises(LocalProtocolError, match=f"{step.name} cannot be sent in state {state.name} of a session"):
                        _sending(end)[step]()
                    assert half.state is state
    assert taken == _ROWS
