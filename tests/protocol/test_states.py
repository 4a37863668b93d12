"""Every row of the transition tables is walked through the public calls, and every row that is missing is refused."""

from __future__ import annotations

from collections import deque

import pytest

from aster._protocol.call import ClientCall, SendHalf, ServerCall
from aster._protocol.events import Trailer, TrailerOrigin
from aster._protocol.frames import CHUNK_SIZE, FrameKind, encode_credit, encode_frame, encode_header, encode_metadata, encode_trailer
from aster._protocol.states import REQUESTS_MANY, REQUESTS_ONE, RESPONSES_MANY, RESPONSES_ONE, RESPONSES_UNKNOWN, TABLES, State, Step, Table
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern
from tests.protocol.pair import limits_of, start_of

_FAILURE = Trailer(StatusCode.ABORTED, TrailerOrigin.HANDLER, "no")
_REQUESTS = {id(REQUESTS_ONE): RpcPattern.UNARY, id(REQUESTS_MANY): RpcPattern.BIDI_STREAM}
_RESPONSES = {id(RESPONSES_ONE): RpcPattern.UNARY, id(RESPONSES_MANY): RpcPattern.BIDI_STREAM}
_NAMED = {"requests, one": REQUESTS_ONE, "requests, many": REQUESTS_MANY, "responses, one": RESPONSES_ONE, "responses, many": RESPONSES_MANY}


def _frame(step: Step, pattern: RpcPattern) -> bytes:
    """What a peer sends to take a step."""
    return {
        Step.HEADER: encode_header(start_of(pattern), None, Metadata()),
        Step.METADATA: encode_metadata(Metadata()),
        Step.PART: encode_frame(FrameKind.PART, bytes(CHUNK_SIZE)),
        Step.MESSAGE: encode_frame(FrameKind.MESSAGE, b"m"),
        Step.END: encode_frame(FrameKind.END, b""),
        Step.CREDIT: encode_credit(0),
        Step.OK: encode_trailer(Trailer()),
        Step.ERROR: encode_trailer(_FAILURE),
    }[step]


def _paths(table: Table) -> dict[State, list[Step]]:
    """The shortest way to each state."""
    paths: dict[State, list[Step]] = {State.IDLE: []}
    queue = deque([State.IDLE])
    while queue:
        state = queue.popleft()
        for step, following in table[state].items():
            if following not in paths:
                paths[following] = [*paths[state], step]
                queue.append(following)
    return paths


def _receiver(table: Table, path: list[Step]) -> tuple[ClientCall | ServerCall, RpcPattern]:
    """A call whose receiving half follows ``table`` and has taken the steps of ``path``."""
    if id(table) in _REQUESTS:
        pattern = _REQUESTS[id(table)]
        call = ServerCall(limits_of())
    else:
        pattern = _RESPONSES[id(table)]
        call = ClientCall(pattern, limits_of())
    for step in path:
        call.receive_data(_frame(step, pattern))
    return call, pattern


def _state(call: ClientCall | ServerCall) -> State:
    return call.responses.state if isinstance(call, ClientCall) else call.requests.state


def test_every_row_of_the_tables_is_taken_by_a_frame_from_the_peer() -> None:
    taken: set[tuple[str, State, Step]] = set()
    for name, table in _NAMED.items():
        for state, path in _paths(table).items():
            for step, following in table[state].items():
                call, pattern = _receiver(table, path)
                assert _state(call) is state
                call.receive_data(_frame(step, pattern))
                assert _state(call) is following
                taken.add((name, state, step))
    rows = {(name, state, step) for name, table in _NAMED.items() for state in table for step in table[state]}
    assert taken == rows
    assert len(rows) == 10 + 9 + 16 + 15


def test_every_row_that_is_missing_is_refused_and_changes_nothing() -> None:
    refused: set[tuple[str, State, Step]] = set()
    for name, table in _NAMED.items():
        for state, path in _paths(table).items():
            for step in set(Step) - set(table[state]):
                call, pattern = _receiver(table, path)
                if isinstance(call, ClientCall) and state is State.ENDED:
                    # The outcome is there: whatever else comes is dropped.
                    call.receive_data(_frame(step, pattern))
                else:
                    with pytest.raises(RemoteProtocolError):
                        call.receive_data(_frame(step, pattern))
                assert _state(call) is state
                refused.add((name, state, step))
    states = sum(len(table) for table in _NAMED.values())
    assert len(refused) == states * len(Step) - (10 + 9 + 16 + 15)


def test_every_state_can_be_reached() -> None:
    for table in _NAMED.values():
        assert set(_paths(table)) == set(table)
    assert set().union(*_NAMED.values()) == set(State)


def test_a_sender_takes_the_rows_that_are_in_the_tables_and_refuses_all_others() -> None:
    taken: set[tuple[str, State, Step]] = set()
    for name, table in {**_NAMED, "before a header": RESPONSES_UNKNOWN}.items():
        for state, path in _paths(table).items():
            for step in Step:
                half = SendHalf(table, 262_144)
                for before in path:
                    half.step(before)
                assert half.state is state
                if step in table[state]:
                    half.step(step)
                    assert half.state is table[state][step]
                    taken.add((name, state, step))
                else:
                    with pytest.raises(LocalProtocolError, match=f"{step.name} cannot be sent in state {state.name}"):
                        half.step(step)
                    assert half.state is state
    assert len(taken) == 10 + 9 + 16 + 15 + 1


@pytest.mark.parametrize("pattern", RpcPattern)
def test_a_pattern_says_which_tables_hold(pattern: RpcPattern) -> None:
    requests, responses = TABLES[pattern]
    assert requests is (REQUESTS_MANY if pattern.streams_requests else REQUESTS_ONE)
    assert responses is (RESPONSES_MANY if pattern.streams_responses else RESPONSES_ONE)


@pytest.mark.parametrize("pattern", RpcPattern)
def test_a_server_that_saw_no_header_can_send_nothing_but_a_failure(pattern: RpcPattern) -> None:
    server = ServerCall(limits_of())
    for send in (lambda: server.send_message(b""), lambda: server.send_metadata(Metadata()), lambda: server.send_trailer(Trailer())):
        with pytest.raises(LocalProtocolError, match="in state IDLE"):
            send()
    server.send_trailer(_FAILURE)
    server.receive_data(encode_header(start_of(pattern), None, Metadata()))
    with pytest.raises(LocalProtocolError, match="in state ENDED"):
        server.send_trailer(_FAILURE)
