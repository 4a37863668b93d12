"""Frames: what is encoded comes back, however it is cut, and limits hold to the byte."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aster._protocol.events import SUCCESS, GoAway, Hello, MethodEntry, ServiceEntry, Target, Trailer, TrailerOrigin
from aster._protocol.frames import (
    CHUNK_SIZE,
    CONTROL_KINDS,
    HEADER_ROOM,
    MAX_DETAILS,
    TRAILER_LIMIT,
    FrameKind,
    FrameReader,
    decode_call,
    decode_call_end,
    decode_cancel,
    decode_credit,
    decode_go_away,
    decode_header,
    decode_hello,
    decode_metadata,
    decode_session,
    decode_session_end,
    decode_trailer,
    encode_credit,
    encode_frame,
    encode_go_away,
    encode_header,
    encode_header_start,
    encode_hello,
    encode_message,
    encode_metadata,
    encode_trailer,
    frame_limits,
)
from aster._protocol.values import METADATA_ENTRY_CHARGE, encode_varint, metadata_size
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.protocol import strategies, wire_decoder
from tests.protocol.held import held

_LIMIT = 8_192
_START = encode_header_start(Target("s", 1, "m", RpcPattern.UNARY, SerializationMode.XLANG))


def _payload(frame: bytes, kind: FrameKind) -> bytes:
    [(found, payload)] = FrameReader(frame_limits(_LIMIT)).feed(frame)
    assert found == kind
    return payload


# What is encoded comes back


@given(strategies.targets, strategies.timeouts, strategies.metadata)
def test_a_header_comes_back_as_it_was(target: Target, timeout: float | None, metadata: Metadata) -> None:
    header = decode_header(_payload(encode_header(encode_header_start(target), timeout, metadata), FrameKind.HEADER), _LIMIT)
    assert (header.target, header.metadata) == (target, metadata)
    if timeout is None:
        assert header.timeout is None
    else:
        assert header.timeout is not None
        assert math.isclose(header.timeout, timeout, rel_tol=1e-12, abs_tol=1e-6)


@given(st.floats(0.0, 1e9))
@example(0.57)
@example(1.0000006)
def test_a_timeout_never_grows_on_its_way(timeout: float) -> None:
    header = decode_header(_payload(encode_header(_START, timeout, Metadata()), FrameKind.HEADER), _LIMIT)
    assert header.timeout is not None
    assert header.timeout <= math.nextafter(timeout, math.inf)


@pytest.mark.parametrize(("timeout", "arrives"), [(-1.0, 0.0), (math.inf, 2.0**61 / 1e6), (1e300, 2.0**61 / 1e6)])
def test_a_timeout_out_of_range_is_cut_to_it(timeout: float, arrives: float) -> None:
    assert decode_header(_payload(encode_header(_START, timeout, Metadata()), FrameKind.HEADER), _LIMIT).timeout == arrives


@given(strategies.trailers)
@example(Trailer())
@example(Trailer(origin=TrailerOrigin.SERVER))
@example(Trailer(metadata=Metadata({"a": ""})))
def test_a_trailer_comes_back_as_it_was(trailer: Trailer) -> None:
    assert decode_trailer(_payload(encode_trailer(trailer), FrameKind.TRAILER), _LIMIT) == trailer


def test_a_lone_surrogate_in_a_failure_arrives_as_its_escape() -> None:
    trailer = decode_trailer(_payload(encode_trailer(Trailer(StatusCode.INTERNAL, message="no file \udcff")), FrameKind.TRAILER), _LIMIT)
    assert trailer.message == "no file \\udcff"


@given(strategies.metadata)
def test_metadata_comes_back_as_it_was(metadata: Metadata) -> None:
    assert decode_metadata(_payload(encode_metadata(metadata), FrameKind.METADATA), _LIMIT) == metadata


@given(strategies.hellos)
def test_a_hello_comes_back_as_it_was(hello: Hello) -> None:
    assert decode_hello(_payload(encode_hello(hello), FrameKind.HELLO)) == hello


@given(strategies.go_aways)
def test_a_go_away_comes_back_as_it_was(go_away: GoAway) -> None:
    assert decode_go_away(_payload(encode_go_away(go_away), FrameKind.GO_AWAY)) == go_away


@given(strategies.integers)
def test_credit_comes_back_as_it_was(amount: int) -> None:
    assert decode_credit(_payload(encode_credit(amount), FrameKind.CREDIT)) == amount


@given(st.integers(0, 3), st.integers(0, 63))
def test_an_integer_is_read_in_any_of_its_forms(power: int, value: int) -> None:
    size = 1 << power
    form = (value | power << (8 * size - 2)).to_bytes(size, "big")
    assert decode_credit(form) == wire_decoder.decode_integer(form) == value
    length = (0 | power << (8 * size - 2)).to_bytes(size, "big")
    assert list(FrameReader(frame_limits(0)).feed(bytes((FrameKind.END,)) + length)) == [(FrameKind.END, b"")]


def test_an_integer_of_2_to_the_62_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="does not fit"):
        encode_varint(2**62)


@given(strategies.targets, strategies.trailers, strategies.hellos, strategies.metadata, strategies.integers)
def test_the_independent_decoder_agrees_on_every_frame(target: Target, trailer: Trailer, hello: Hello, metadata: Metadata, number: int) -> None:
    header, end, hello_frame, credit = wire_decoder.decode(
        encode_header(encode_header_start(target), None, metadata) + encode_trailer(trailer) + encode_hello(hello) + encode_credit(number)
    )
    assert (header.fields["service"], header.fields["version"], header.fields["method"]) == target[:3]
    assert header.fields["metadata"] == [[key, {"hex": value.hex()} if isinstance(value, bytes) else value] for key, value in metadata]
    assert (end.fields["status"], end.fields["origin"], end.fields["message"]) == trailer[:3]
    assert end.fields["details"] == [[tag, data.hex()] for tag, data in trailer.details]
    assert hello_frame.fields["settings"] == {str(key): value for key, value in sorted(hello.settings.items())}
    assert [service["name"] for service in hello_frame.fields["services"]] == [service.name for service in hello.services]
    assert credit.fields == {"amount": number}


# However it is cut


@given(st.lists(strategies.sizes, max_size=6), strategies.cuts)
def test_frames_are_the_same_however_their_bytes_are_cut(message_sizes: list[int], cuts: list[int]) -> None:
    data = b"".join(encode_message(bytes(size)) + b"\x7f\x02??" for size in message_sizes)
    whole, pieces = FrameReader(frame_limits(0)), FrameReader(frame_limits(0))
    frames = [frame for piece in strategies.split(data, cuts) for frame in pieces.feed(piece)]
    assert frames == list(whole.feed(data))
    assert len(frames) == sum(max(1, -(-size // CHUNK_SIZE)) for size in message_sizes)


def test_frames_ahead_of_a_broken_one_are_handed_out_and_nothing_after_it() -> None:
    reader, frames = FrameReader(frame_limits(0)), list[tuple[int, bytes]]()
    with pytest.raises(RemoteProtocolError, match="0x20"):
        frames.extend(reader.feed(b"\x11\x01a\x20\x00\x11\x01b"))
    assert list(reader.feed(b"\x11\x01c")) == []


def test_a_reader_whose_frames_are_left_early_takes_no_more() -> None:
    reader = FrameReader(frame_limits(0))
    for _ in reader.feed(b"\x11\x01a\x11\x01b"):
        break
    assert list(reader.feed(b"\x11\x01c")) == []


@pytest.mark.parametrize("leaves", [False, True], ids=["broken", "left early"])
def test_a_reader_that_is_done_keeps_nothing_of_what_came_with_the_last_frame(leaves: bool) -> None:
    reader = FrameReader(frame_limits(0))
    assert list(reader.feed(b"\x11")) == []
    with contextlib.suppress(RemoteProtocolError):
        for _ in reader.feed(b"\x01a" + (b"\x13\x00" if leaves else b"\x20\x00") + bytes(2_000_000)):
            if leaves:
                break
    assert held(reader) < 10_000


# Limits hold to the byte


@pytest.mark.parametrize("kind", FrameKind)
def test_a_payload_at_the_limit_of_its_kind_passes_and_one_byte_more_is_refused_by_its_length_alone(kind: FrameKind) -> None:
    limits = frame_limits(_LIMIT)
    assert list(FrameReader(limits).feed(encode_frame(kind, bytes(limits[kind])))) == [(kind, bytes(limits[kind]))]
    with pytest.raises(RemoteProtocolError, match=f"{kind.name} frame of {limits[kind] + 1} bytes") as caught:
        list(FrameReader(limits).feed(bytes((kind,)) + encode_varint(limits[kind] + 1)))
    grows_with_metadata = limits[kind] > frame_limits(0)[kind]
    assert caught.value.code is (StatusCode.RESOURCE_EXHAUSTED if grows_with_metadata else StatusCode.INTERNAL)


@pytest.mark.parametrize("kind", [0x40, 0x7F, 0xFF])
def test_an_extension_is_skipped_up_to_a_chunk_and_refused_above(kind: int) -> None:
    reader = FrameReader(frame_limits(0))
    assert list(reader.feed(bytes((kind,)) + encode_varint(CHUNK_SIZE) + bytes(CHUNK_SIZE) + b"\x13\x00")) == [(FrameKind.END, b"")]
    with pytest.raises(RemoteProtocolError, match="extension frame of 16385 bytes"):
        list(reader.feed(bytes((kind,)) + encode_varint(CHUNK_SIZE + 1)))


@pytest.mark.parametrize("kind", sorted(set(range(0x40)) - set(FrameKind)))
def test_an_unknown_kind_below_the_extensions_is_refused(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown kind 0x{kind:02x}"):
        list(FrameReader(frame_limits(0)).feed(bytes((kind, 0))))


@pytest.mark.parametrize("kind", sorted(set(FrameKind) - set(CONTROL_KINDS)))
def test_a_kind_without_a_place_on_the_stream_is_refused_before_it_is_held(kind: FrameKind) -> None:
    with pytest.raises(RemoteProtocolError, match=f"a {kind.name} frame on a stream that has no place for it"):
        list(FrameReader(frame_limits(0, CONTROL_KINDS)).feed(bytes((kind,)) + encode_varint(2**62 - 1)))


def test_a_trailer_at_its_limit_is_sent_and_one_byte_more_is_refused_here() -> None:
    room = TRAILER_LIMIT - len(encode_trailer(Trailer(StatusCode.INTERNAL, message="x" * 16_384))) + 16_384 + 1 + 4
    frame = encode_trailer(Trailer(StatusCode.INTERNAL, message="x" * room, metadata=Metadata({"a": "b" * 8_000})))
    assert len(decode_trailer(_payload(frame, FrameKind.TRAILER), _LIMIT).message) == room
    with pytest.raises(LocalProtocolError, match="the limit is 65536 bytes"):
        encode_trailer(Trailer(StatusCode.INTERNAL, message="x" * (room + 1)))


def test_an_error_has_its_most_details_and_one_more_is_refused_here_and_there() -> None:
    details = (("", b""),) * MAX_DETAILS
    assert decode_trailer(_payload(encode_trailer(Trailer(StatusCode.ABORTED, details=details)), FrameKind.TRAILER), _LIMIT).details == details
    with pytest.raises(LocalProtocolError, match=f"{MAX_DETAILS + 1} details; the limit is {MAX_DETAILS}"):
        encode_trailer(Trailer(StatusCode.ABORTED, details=(*details, ("", b""))))
    many = bytes((StatusCode.ABORTED, 0, 0)) + encode_varint(MAX_DETAILS + 1) + bytes(2 * MAX_DETAILS + 2)
    with pytest.raises(RemoteProtocolError, match=f"an error with {MAX_DETAILS + 1} details") as caught:
        decode_trailer(many, _LIMIT)
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_a_manifest_beyond_the_limit_of_a_hello_is_refused_here() -> None:
    service = ServiceEntry("s" * 128, 1, False, bytes(32), tuple(MethodEntry("m" * 128, RpcPattern.UNARY, frozenset()) for _ in range(100)))
    with pytest.raises(LocalProtocolError, match="serve fewer services"):
        encode_hello(Hello((1,), {}, (service,) * 100))


# Metadata


@given(strategies.metadata)
def test_metadata_counts_at_least_what_it_takes_on_the_wire(metadata: Metadata) -> None:
    assert metadata_size(metadata) >= len(_payload(encode_metadata(metadata), FrameKind.METADATA))


@given(strategies.metadata)
def test_metadata_at_the_limit_passes_and_one_byte_less_of_limit_refuses_it(metadata: Metadata) -> None:
    size = metadata_size(metadata)
    header = _payload(encode_header(_START, None, metadata), FrameKind.HEADER)
    block = _payload(encode_metadata(metadata), FrameKind.METADATA)
    trailer = _payload(encode_trailer(Trailer(StatusCode.ABORTED, metadata=metadata)), FrameKind.TRAILER)
    assert decode_header(header, size).metadata == decode_metadata(block, size) == decode_trailer(trailer, size).metadata == metadata
    if size:
        for decode, payload in ((decode_header, header), (decode_metadata, block), (decode_trailer, trailer)):
            with pytest.raises(RemoteProtocolError, match="counts more than the limit") as caught:
                decode(payload, size - 1)
            assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_metadata_within_the_limit_is_never_stopped_by_the_size_of_its_frame() -> None:
    limits = frame_limits(_LIMIT)
    entries = _LIMIT // (METADATA_ENTRY_CHARGE + 1)
    for metadata in (Metadata([("k", "")] * entries), Metadata({"k" * 128: b"v" * (_LIMIT - 128 - METADATA_ENTRY_CHARGE)})):
        assert metadata_size(metadata) <= _LIMIT
        assert len(_payload(encode_header(_START, None, metadata), FrameKind.HEADER)) <= limits[FrameKind.HEADER]
        assert decode_metadata(_payload(encode_metadata(metadata), FrameKind.METADATA), _LIMIT) == metadata
    assert limits[FrameKind.HEADER] - _LIMIT == HEADER_ROOM


# Malformed payloads

_MALFORMED = [
    (FrameKind.METADATA, b"\x01\x01k\x02\xff", "not UTF-8"),
    (FrameKind.METADATA, b"\x01\x00\x00", "1 to 128 characters"),
    (FrameKind.METADATA, b"\x01\x01\xff\x00", "not UTF-8"),
    (FrameKind.METADATA, b"\x01\x07aster-a\x00", "reserved"),
    (FrameKind.METADATA, b"\x02\x01k\x00", "cut short"),
    (FrameKind.METADATA, b"\xff" * 8, "cut short"),
    (FrameKind.METADATA, b"\x00\x00", "left over"),
    (FrameKind.HEADER, b"", "cut short"),
    (FrameKind.HEADER, b"\x05\x00\x01\x00\x05\x01\x00", "not a valid RpcPattern"),
    (FrameKind.HEADER, b"\x05\x00\x01\x00\x01\x09\x00", "not a valid SerializationMode"),
    (FrameKind.HEADER, b"\x06\x00\x01\x00\x01\x01\x00\x00", "left over"),
    (FrameKind.TRAILER, b"\x11\x00\x00\x00", "not a valid StatusCode"),
    (FrameKind.TRAILER, b"\x02\x05\x00\x00", "not a valid TrailerOrigin"),
    (FrameKind.TRAILER, b"\x02", "cut short"),
    (FrameKind.CREDIT, b"\x05\x00", "left over"),
    (FrameKind.CREDIT, b"", "cut short"),
    (FrameKind.SESSION, b"\x01a", "cut short"),
    (FrameKind.SESSION, b"\x01\xff\x01", "not UTF-8"),
    (FrameKind.SESSION, b"\x01a\x01\x00", "left over"),
    (FrameKind.CALL, b"\x40", "cut short"),
    (FrameKind.CALL, b"\x00", "carries nothing"),
    (FrameKind.CALL_END, b"", "cut short"),
    (FrameKind.CALL_END, b"\x00\x00", "left over"),
    (FrameKind.CANCEL, b"\x00", "cut short"),
    (FrameKind.CANCEL, b"\x00\x01\x00", "left over"),
    (FrameKind.SESSION_END, b"\x11\x00\x00\x00", "not a valid StatusCode"),
    (FrameKind.SESSION_END, b"\x02", "cut short"),
    (FrameKind.GO_AWAY, b"\x00", "cut short"),
    (FrameKind.GO_AWAY, b"\x00\x00\x00", "left over"),
    (FrameKind.HELLO, b"\x00\x00\x00\x00\x00", "left over"),
    (FrameKind.HELLO, b"\x00\x00\x01\x00\x01\x00\x00\x01\x00\x09\x00\x00", "not a valid RpcPattern"),
]


@pytest.mark.parametrize(("kind", "payload", "problem"), _MALFORMED)
def test_a_malformed_payload_is_refused_with_what_is_wrong(kind: FrameKind, payload: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"malformed {kind.name} frame: .*{problem}"):
        _decode(kind, payload)


@given(st.sampled_from(FrameKind), st.binary(max_size=60))
def test_random_payloads_are_decoded_or_refused_as_the_peers_fault(kind: FrameKind, payload: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        _decode(kind, payload)


def test_modes_that_this_version_does_not_know_are_left_out_of_a_manifest() -> None:
    hello = decode_hello(b"\x00\x00\x01\x01s\x01\x00\x00\x01\x01m\x01\xff\x00")
    assert hello.services[0].methods[0].modes == frozenset(SerializationMode)


def test_the_upper_case_of_a_metadata_key_is_folded_on_arrival() -> None:
    assert decode_metadata(b"\x01\x01K\x02v", _LIMIT) == Metadata({"k": "v"})


def test_plain_success_is_shared() -> None:
    assert decode_trailer(b"", 0) is SUCCESS


def _decode(kind: FrameKind, payload: bytes) -> object:
    if kind is FrameKind.HELLO:
        return decode_hello(payload)
    if kind is FrameKind.GO_AWAY:
        return decode_go_away(payload)
    if kind is FrameKind.HEADER:
        return decode_header(payload, _LIMIT)
    if kind is FrameKind.METADATA:
        return decode_metadata(payload, _LIMIT)
    if kind is FrameKind.TRAILER:
        return decode_trailer(payload, _LIMIT)
    if kind is FrameKind.SESSION:
        return decode_session(payload)
    if kind is FrameKind.CALL:
        return decode_call(payload)
    if kind is FrameKind.CALL_END:
        return decode_call_end(payload)
    if kind is FrameKind.CANCEL:
        return decode_cancel(payload)
    if kind is FrameKind.SESSION_END:
        return decode_session_end(payload, _LIMIT)
    return decode_credit(payload)
