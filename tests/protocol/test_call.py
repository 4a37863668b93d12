"""The rules of one call, each at its edge: size, number, credit, and the ends of the stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster._protocol.call import ClientCall, ServerCall
from aster._protocol.events import Trailer, TrailerOrigin
from aster._protocol.frames import (
    CHUNK_SIZE,
    MESSAGE_CHARGE,
    FrameKind,
    decode_credit,
    encode_credit,
    encode_frame,
    encode_header,
    encode_message,
    encode_metadata,
    encode_trailer,
)
from aster._protocol.values import metadata_size
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern
from tests.protocol import strategies
from tests.protocol.pair import Pair, limits_of, start_of

_END = encode_frame(FrameKind.END, b"")
_FAILURE = Trailer(StatusCode.ABORTED, TrailerOrigin.HANDLER, "no")
_STREAMS_REQUESTS = [pattern for pattern in RpcPattern if pattern.streams_requests]
_STREAMS_RESPONSES = [pattern for pattern in RpcPattern if pattern.streams_responses]
_SINGLE_REQUEST = [pattern for pattern in RpcPattern if not pattern.streams_requests]
_SINGLE_RESPONSE = [pattern for pattern in RpcPattern if not pattern.streams_responses]


def _header(pattern: RpcPattern, metadata: Metadata | None = None) -> bytes:
    return encode_header(start_of(pattern), None, metadata or Metadata())


# Messages: size and number


@given(strategies.patterns, st.sampled_from((1, 100, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE)), st.booleans())
def test_a_message_at_the_limit_passes_and_one_byte_more_is_refused(pattern: RpcPattern, limit: int, to_server: bool) -> None:
    for size in (limit, limit + 1):
        if to_server:
            end: ClientCall | ServerCall = ServerCall(limits_of(message=limit))
            end.receive_data(_header(pattern))
            half = end.requests
        else:
            end = ClientCall(pattern, limits_of(message=limit))
            half = end.responses
        if size == limit:
            end.receive_data(encode_message(bytes(size)))
            assert [len(message) for message in half.inbox] == [limit]
        else:
            with pytest.raises(RemoteProtocolError, match=f"larger than the limit of {limit} bytes") as caught:
                end.receive_data(encode_message(bytes(size)))
            assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
            assert not half.inbox


def test_a_later_message_of_a_stream_is_held_to_the_same_limit() -> None:
    server = ServerCall(limits_of(message=100))
    server.receive_data(_header(RpcPattern.CLIENT_STREAM) + encode_message(bytes(100)) * 3)
    with pytest.raises(RemoteProtocolError):
        server.receive_data(encode_message(bytes(101)))
    assert len(server.requests.inbox) == 3


def test_an_oversized_message_is_refused_at_the_chunk_that_crosses_the_limit() -> None:
    server = ServerCall(limits_of(message=2 * CHUNK_SIZE - 1))
    part = encode_frame(FrameKind.PART, bytes(CHUNK_SIZE))
    server.receive_data(_header(RpcPattern.UNARY) + part)
    with pytest.raises(RemoteProtocolError, match="larger than the limit"):
        server.receive_data(part)


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1])
def test_a_part_of_another_size_than_a_chunk_is_refused(size: int) -> None:
    server = ServerCall(limits_of())
    with pytest.raises(RemoteProtocolError, match=f"a PART of {size} bytes"):
        server.receive_data(_header(RpcPattern.UNARY) + encode_frame(FrameKind.PART, bytes(size)))


def test_an_empty_message_may_close_parts() -> None:
    server = ServerCall(limits_of())
    server.receive_data(_header(RpcPattern.UNARY) + encode_frame(FrameKind.PART, bytes(CHUNK_SIZE)) + encode_message(b"") + _END)
    assert list(server.requests.inbox) == [bytes(CHUNK_SIZE)]


@pytest.mark.parametrize("pattern", _SINGLE_REQUEST)
def test_no_request_is_refused_where_one_is_due(pattern: RpcPattern) -> None:
    with pytest.raises(RemoteProtocolError, match="the request is missing"):
        ServerCall(limits_of()).receive_data(_header(pattern) + _END)


@pytest.mark.parametrize("again", [encode_message(b"b"), encode_message(bytes(20_000))])
@pytest.mark.parametrize("pattern", _SINGLE_REQUEST)
def test_a_second_request_is_refused_where_one_is_due(pattern: RpcPattern, again: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="a second message"):
        ServerCall(limits_of()).receive_data(_header(pattern) + encode_message(b"a") + again)


@pytest.mark.parametrize("before", [b"", encode_metadata(Metadata())])
@pytest.mark.parametrize("pattern", _SINGLE_RESPONSE)
def test_success_without_a_response_is_refused_where_one_is_due(pattern: RpcPattern, before: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="the response is missing"):
        ClientCall(pattern, limits_of()).receive_data(before + encode_trailer(Trailer()))


@pytest.mark.parametrize("pattern", _SINGLE_RESPONSE)
def test_a_second_response_is_refused_where_one_is_due(pattern: RpcPattern) -> None:
    client = ClientCall(pattern, limits_of())
    with pytest.raises(RemoteProtocolError, match="a second message"):
        client.receive_data(encode_message(b"a") * 2)
    assert list(client.responses.inbox) == [b"a"]


@pytest.mark.parametrize("pattern", _SINGLE_RESPONSE)
def test_a_failure_needs_no_response(pattern: RpcPattern) -> None:
    client = ClientCall(pattern, limits_of())
    client.receive_data(encode_trailer(_FAILURE))
    assert client.trailer == _FAILURE


def test_a_side_cannot_send_what_the_other_would_refuse() -> None:
    pair = Pair(RpcPattern.UNARY)
    with pytest.raises(LocalProtocolError, match="MESSAGE cannot be sent in state IDLE"):
        pair.send_request(b"")
    pair.send_header()
    with pytest.raises(LocalProtocolError, match="END cannot be sent in state EMPTY"):
        pair.send_end()
    pair.send_request(b"")
    pair.deliver_all()
    with pytest.raises(LocalProtocolError, match="OK cannot be sent in state IDLE"):
        pair.send_trailer()
    with pytest.raises(LocalProtocolError, match="HEADER cannot be sent"):
        pair.send_header()


def test_a_second_header_is_refused_and_the_first_one_stays() -> None:
    server = ServerCall(limits_of())
    server.receive_data(_header(RpcPattern.UNARY))
    with pytest.raises(RemoteProtocolError, match="the peer sent HEADER in state EMPTY"):
        server.receive_data(_header(RpcPattern.BIDI_STREAM))
    assert server.header is not None
    assert server.header.target.pattern is RpcPattern.UNARY
    with pytest.raises(LocalProtocolError):
        server.send_trailer(Trailer())  # A bidirectional call could end well without a response.


# Metadata


def test_metadata_above_the_limit_is_refused_as_it_is_counted() -> None:
    metadata = Metadata({"key": "v" * 100})
    limit = metadata_size(metadata)
    for room in (limit, limit - 1):
        limits = limits_of(metadata=room)
        server, client, other = ServerCall(limits), ClientCall(RpcPattern.UNARY, limits), ClientCall(RpcPattern.UNARY, limits)
        arrivals = [
            (server, _header(RpcPattern.UNARY, metadata)),
            (client, encode_metadata(metadata)),
            (other, encode_trailer(Trailer(StatusCode.ABORTED, metadata=metadata))),
        ]
        for call, data in arrivals:
            if room == limit:
                call.receive_data(data)
            else:
                with pytest.raises(RemoteProtocolError, match=r"above the limit|more than the limit") as caught:
                    call.receive_data(data)
                assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


# Credit


@pytest.mark.parametrize("pattern", _STREAMS_REQUESTS)
def test_a_message_begun_below_the_window_passes_whole_and_the_next_is_refused(pattern: RpcPattern) -> None:
    server = ServerCall(limits_of(window=2 * MESSAGE_CHARGE + 1))
    server.receive_data(_header(pattern) + encode_message(b"") * 2 + encode_message(bytes(100_000)))
    assert [len(message) for message in server.requests.inbox] == [0, 0, 100_000]
    with pytest.raises(RemoteProtocolError, match=f"beyond its credit of {2 * MESSAGE_CHARGE + 1} bytes"):
        server.receive_data(encode_message(b""))


@pytest.mark.parametrize(("window", "passes"), [(2 * MESSAGE_CHARGE + 1, True), (2 * MESSAGE_CHARGE, False)])
def test_a_message_needs_credit_below_the_window_not_at_it(window: int, passes: bool) -> None:
    client = ClientCall(RpcPattern.CLIENT_STREAM, limits_of(peer_window=window))
    server = ServerCall(limits_of(window=window))
    server.receive_data(client.send_header(start_of(RpcPattern.CLIENT_STREAM), None, Metadata()) + client.send_message(b"") + client.send_message(b""))
    assert client.requests.ready == passes
    if passes:
        server.receive_data(client.send_message(b""))
    else:
        with pytest.raises(LocalProtocolError):
            client.send_message(b"")
        with pytest.raises(RemoteProtocolError, match="beyond its credit"):
            server.receive_data(encode_message(b""))


@given(st.integers(2 * MESSAGE_CHARGE, 100_000), st.sampled_from((-1, 0, 1)))
def test_credit_is_granted_at_half_a_window_and_not_a_byte_before(window: int, more: int) -> None:
    taken = max(MESSAGE_CHARGE, (window + 1) // 2 + more)
    server = ServerCall(limits_of(window=window))
    server.receive_data(_header(RpcPattern.CLIENT_STREAM) + encode_message(bytes(taken - MESSAGE_CHARGE)))
    server.requests.take()
    assert server.requests.grant() == (encode_credit(taken) if taken * 2 >= window else b"")


def test_credit_is_granted_by_half_windows_and_only_while_more_may_come() -> None:
    server = ServerCall(limits_of(window=4 * MESSAGE_CHARGE))
    server.receive_data(_header(RpcPattern.CLIENT_STREAM) + encode_message(b"") * 4)
    grants = list[bytes]()
    for _ in range(3):
        server.requests.take()
        grants.append(server.requests.grant())
    assert grants == [b"", encode_credit(2 * MESSAGE_CHARGE), b""]
    server.receive_data(encode_frame(FrameKind.PART, bytes(CHUNK_SIZE)))
    server.requests.take()
    assert decode_credit(server.requests.grant()[2:]) == 2 * MESSAGE_CHARGE
    server.receive_data(encode_message(b"") + _END)
    while server.requests.inbox:
        server.requests.take()
    assert server.requests.grant() == b""


def test_a_single_message_needs_no_credit_frame_whatever_its_size() -> None:
    pair = Pair(RpcPattern.UNARY, request_window=1, response_window=1)
    pair.send_header()
    pair.send_request(bytes(100_000))
    pair.deliver_all()
    pair.take_request()
    pair.send_response(bytes(100_000))
    pair.deliver_all()
    pair.take_response()
    assert pair.requests.refills == pair.responses.refills == 0


def test_a_message_without_credit_is_not_sent() -> None:
    client = ClientCall(RpcPattern.CLIENT_STREAM, limits_of(peer_window=1))
    client.send_header(start_of(RpcPattern.CLIENT_STREAM), None, Metadata())
    client.send_message(b"a")
    assert not client.requests.ready
    with pytest.raises(LocalProtocolError, match="before the peer has granted more credit"):
        client.send_message(b"b")
    client.send_end()


@pytest.mark.parametrize("over", [0, 1])
def test_a_grant_of_all_that_is_outstanding_passes_and_one_byte_more_is_refused(over: int) -> None:
    pair = Pair(RpcPattern.BIDI_STREAM)
    pair.send_header()
    pair.send_request(b"abc")
    pair.deliver_all()
    pair.send_response(b"abcd")
    to_client, to_server = encode_credit(3 + MESSAGE_CHARGE + over), encode_credit(4 + MESSAGE_CHARGE + over)
    if not over:
        pair.client.receive_data(to_client)
        pair.server.receive_data(to_server)
        return
    with pytest.raises(RemoteProtocolError, match="granted 68 bytes of credit, but only 67"):
        pair.client.receive_data(to_client)
    with pytest.raises(RemoteProtocolError, match="granted 69 bytes of credit, but only 68"):
        pair.server.receive_data(to_server)


@pytest.mark.parametrize("parts", [0, 1])
def test_what_is_discarded_is_not_held_and_what_follows_is_dropped_within_the_rules(parts: int) -> None:
    pair = Pair(RpcPattern.SERVER_STREAM, response_window=2 * MESSAGE_CHARGE)
    pair.send_header()
    pair.deliver_all()
    pair.send_response(b"")
    pair.send_response(bytes(50_000))
    pair.deliver_responses(MESSAGE_CHARGE + parts * (CHUNK_SIZE + 5))
    pair.client.responses.discard()
    assert not pair.client.responses.inbox
    pair.deliver_all()
    pair.send_trailer()
    pair.deliver_all()
    assert not pair.client.responses.inbox
    assert pair.client.trailer == Trailer()


# The ends of the stream


@pytest.mark.parametrize("data", [b"", encode_message(b"a"), b"\x16"])
def test_responses_that_end_without_an_outcome_are_an_error(data: bytes) -> None:
    client = ClientCall(RpcPattern.SERVER_STREAM, limits_of())
    client.receive_data(data)
    with pytest.raises(RemoteProtocolError, match="without an outcome"):
        client.receive_end()


@pytest.mark.parametrize("data", [b"", _header(RpcPattern.CLIENT_STREAM), _header(RpcPattern.CLIENT_STREAM) + encode_message(b"a") + b"\x13"])
def test_requests_that_end_without_end_are_an_error(data: bytes) -> None:
    server = ServerCall(limits_of())
    server.receive_data(data)
    with pytest.raises(RemoteProtocolError, match="ended without END"):
        server.receive_end()


@pytest.mark.parametrize("pattern", RpcPattern)
def test_what_follows_an_outcome_is_dropped_however_it_is_cut(pattern: RpcPattern) -> None:
    for pieces in ([encode_trailer(_FAILURE) + b"\x20\x00"], [encode_trailer(_FAILURE), b"\x20\x00", encode_trailer(Trailer())]):
        client = ClientCall(pattern, limits_of())
        for piece in pieces:
            client.receive_data(piece)
        client.receive_end()
        assert client.trailer == _FAILURE


def test_messages_ahead_of_a_broken_frame_are_kept_and_nothing_after_it() -> None:
    data = encode_message(b"a") + encode_message(b"b") + b"\x20\x00" + encode_message(b"c") + encode_trailer(Trailer())
    for pieces in ([data], strategies.split(data, [1])):
        client, errors = ClientCall(RpcPattern.SERVER_STREAM, limits_of()), 0
        for piece in pieces:
            try:
                client.receive_data(piece)
            except RemoteProtocolError:
                errors += 1
        assert (list(client.responses.inbox), client.trailer, errors) == ([b"a", b"b"], None, 1)


@pytest.mark.parametrize("pattern", _STREAMS_RESPONSES)
def test_credit_from_the_client_is_taken_after_its_end(pattern: RpcPattern) -> None:
    server = ServerCall(limits_of(peer_window=1))
    server.receive_data(_header(pattern) + encode_message(b"") + _END)
    server.send_message(b"")
    assert not server.responses.ready
    server.receive_data(encode_credit(MESSAGE_CHARGE))
    assert server.responses.ready
    server.receive_end()
