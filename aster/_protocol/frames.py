"""The only place where frames are packed and unpacked; ``docs/wire.md`` describes the same layout for other languages.

A frame is a kind (one byte), the length of its payload (a variable-length integer, RFC 9000 section 16) and the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import TypeVar

from aster._protocol.events import SUCCESS, Describe, Description, GoAway, Header, Hello, MethodEntry, ServiceEntry, Target, Trailer, TrailerOrigin
from aster._protocol.values import PayloadReader, encode_block, encode_list, encode_metadata_block, encode_text, encode_varint, read_metadata
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode

__all__ = [
    "CHUNK_SIZE",
    "CLIENT_CONTROL_KINDS",
    "CLIENT_HELLO_LIMIT",
    "CONTRACT_FRAME_LIMIT",
    "CONTROL_KINDS",
    "FIRST_EXTENSION_KIND",
    "HEADER_ROOM",
    "HELLO_LIMIT",
    "MAX_DETAILS",
    "MESSAGE_CHARGE",
    "REQUEST_KINDS",
    "RESPONSE_KINDS",
    "SERVER_CONTROL_KINDS",
    "SESSION_REQUEST_KINDS",
    "SESSION_RESPONSE_KINDS",
    "TRAILER_LIMIT",
    "FrameKind",
    "FrameReader",
    "decode_call",
    "decode_call_end",
    "decode_cancel",
    "decode_contract",
    "decode_credit",
    "decode_describe",
    "decode_go_away",
    "decode_header",
    "decode_hello",
    "decode_metadata",
    "decode_session",
    "decode_session_end",
    "decode_trailer",
    "encode_call",
    "encode_call_end",
    "encode_cancel",
    "encode_contract",
    "encode_credit",
    "encode_describe",
    "encode_frame",
    "encode_go_away",
    "encode_header",
    "encode_header_start",
    "encode_hello",
    "encode_message",
    "encode_metadata",
    "encode_session",
    "encode_session_end",
    "encode_trailer",
    "frame_limits",
]


class FrameKind(IntEnum):
    """What a frame is. Kinds from 0x40 on are extensions: a receiver that does not know one skips it."""

    HELLO = 0x01
    GO_AWAY = 0x02
    DESCRIBE = 0x03
    CONTRACT = 0x04
    HEADER = 0x10
    MESSAGE = 0x11
    PART = 0x12
    END = 0x13
    CREDIT = 0x14
    METADATA = 0x15
    TRAILER = 0x16
    SESSION = 0x17
    READY = 0x18
    CALL = 0x19
    CALL_END = 0x1A
    CANCEL = 0x1B
    SESSION_END = 0x1C


FIRST_EXTENSION_KIND = 0x40

CLIENT_CONTROL_KINDS = (FrameKind.HELLO, FrameKind.DESCRIBE)
SERVER_CONTROL_KINDS = (FrameKind.HELLO, FrameKind.GO_AWAY, FrameKind.CONTRACT)
CONTROL_KINDS = (*SERVER_CONTROL_KINDS, FrameKind.DESCRIBE)
REQUEST_KINDS = (FrameKind.HEADER, FrameKind.MESSAGE, FrameKind.PART, FrameKind.END, FrameKind.CREDIT)
RESPONSE_KINDS = (FrameKind.METADATA, FrameKind.MESSAGE, FrameKind.PART, FrameKind.CREDIT, FrameKind.TRAILER)
SESSION_REQUEST_KINDS = (FrameKind.SESSION, FrameKind.CALL, FrameKind.CANCEL, FrameKind.SESSION_END)
SESSION_RESPONSE_KINDS = (FrameKind.READY, FrameKind.CALL, FrameKind.CALL_END, FrameKind.SESSION_END)
"""Which kinds have a place on which stream; another is refused by its first bytes, before it is held."""

_WITH_METADATA = (FrameKind.HEADER, FrameKind.METADATA, FrameKind.TRAILER, FrameKind.SESSION_END)
"""Of these the receiver's metadata limit says how long they may be."""

CHUNK_SIZE = 16_384
"""The most bytes of a message that one frame carries, so that what must overtake a large message never waits behind all of it."""

MESSAGE_CHARGE = 64
"""Credit that a message costs besides its bytes: what CPython spends on an object and a queue slot (measured: 33 + 8 bytes, and room)."""

HELLO_LIMIT = 1_048_576
"""Bytes of a hello: a manifest of some thousand methods."""

CLIENT_HELLO_LIMIT = 65_536
"""Bytes of a client's hello, which has no manifest. Anyone may be a client: one MiB of the smallest entries keeps a server's loop busy for a second and
takes 70 MB (measured)."""

TRAILER_LIMIT = 65_536
"""Bytes of a trailer's message and details, besides its metadata."""

MAX_DETAILS = 64
"""Details of one error: far more than any has, and a bound on what 64 KiB of the smallest ones, of two bytes each, would become."""

HEADER_ROOM = 1_024
"""Bytes of a header besides its metadata: three names of at most 128 characters, and numbers."""

CONTRACT_FRAME_LIMIT = HEADER_ROOM + 262_144
"""Bytes of a contract with its service's name: the canonical form takes 256 KiB at the most, some 4,000 fields."""

_LONGEST_TIMEOUT = float(1 << 61)
"""Microseconds, some 73,000 years; a longer time, an infinite one included, is cut down to it."""

T = TypeVar("T")


def encode_frame(kind: FrameKind, payload: bytes) -> bytes:
    """One whole frame."""
    return bytes((kind,)) + encode_varint(len(payload)) + payload


# Frames of every stream


def frame_limits(metadata_limit: int, kinds: Collection[FrameKind] = tuple(FrameKind)) -> Mapping[int, int]:
    """The most bytes that the payload of each of ``kinds`` may have, for a metadata limit in bytes."""
    limits = {
        FrameKind.HELLO: HELLO_LIMIT,
        FrameKind.GO_AWAY: CHUNK_SIZE,
        FrameKind.DESCRIBE: HEADER_ROOM,
        FrameKind.CONTRACT: CONTRACT_FRAME_LIMIT,
        FrameKind.HEADER: HEADER_ROOM + metadata_limit,
        FrameKind.MESSAGE: CHUNK_SIZE,
        FrameKind.PART: CHUNK_SIZE,
        FrameKind.END: 0,
        FrameKind.CREDIT: 8,
        FrameKind.METADATA: metadata_limit,
        FrameKind.TRAILER: TRAILER_LIMIT + metadata_limit,
        FrameKind.SESSION: HEADER_ROOM,
        FrameKind.READY: 0,
        FrameKind.CALL: CHUNK_SIZE,
        FrameKind.CALL_END: 8,
        FrameKind.CANCEL: 16,
        FrameKind.SESSION_END: TRAILER_LIMIT + metadata_limit,
    }
    return {int(kind): limits[kind] for kind in kinds}


class FrameReader:
    """Cuts the bytes of one half of a stream into frames. Holds at most one frame that is not whole."""

    __slots__ = ("_broken", "_limits", "_needed", "_rest")

    def __init__(self, limits: Mapping[int, int]) -> None:
        self._limits = limits
        self._rest = bytearray()
        self._needed = 0
        self._broken = False

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that ``data`` completes, as kind and payload, one by one; extensions are left out.

        A frame is handed out before the next one is looked at, so what a peer sent ahead of a broken frame counts however its bytes were cut.
        When that frame is met, or the loop over the frames is left early, the reader is done: later bytes are dropped.

        Raises:
            RemoteProtocolError: a kind is unknown or has no place here, or a payload is longer than its kind allows.
        """
        if self._broken:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            # Now, and not at the end: a reader that is done would keep all that came with the frame that broke a rule.
            self._rest.clear()
        self._broken = True
        needed = position = 0
        end = len(data)
        limits = self._limits
        while end - position >= 2:
            kind = data[position]
            length = data[position + 1]
            start = position + 2
            if length >= 0x40:
                size = 1 << (length >> 6)
                if end - position <= size:
                    break
                start = position + 1 + size
                length = int.from_bytes(data[position + 1 : start], "big") & ((1 << (8 * size - 2)) - 1)
            limit = limits.get(kind)
            if limit is None or length > limit:
                self._check(kind, length)
            stop = start + length
            if stop > end:
                needed = stop - position
                break
            if limit is not None:
                yield kind, data[start:stop]
            position = stop
        if position < end:
            self._rest += data[position:]
            self._needed = needed
        self._broken = False

    def _check(self, kind: int, length: int) -> None:
        limit = self._limits.get(kind)
        if limit is None and kind < FIRST_EXTENSION_KIND:
            raise RemoteProtocolError(_misplaced(kind))
        if limit is None and length <= CHUNK_SIZE:
            return
        name = "extension" if limit is None else FrameKind(kind).name
        code = StatusCode.RESOURCE_EXHAUSTED if kind in _WITH_METADATA else StatusCode.INTERNAL
        raise RemoteProtocolError(f"the peer sent a {name} frame of {length} bytes, above the limit of {CHUNK_SIZE if limit is None else limit} bytes", code)


def _misplaced(kind: int) -> str:
    if kind in FrameKind.__members__.values():
        return f"the peer sent a {FrameKind(kind).name} frame on a stream that has no place for it"
    return f"the peer sent a frame of unknown kind 0x{kind:02x}"


# Metadata


def encode_metadata(metadata: Metadata) -> bytes:
    """A METADATA frame."""
    return encode_frame(FrameKind.METADATA, encode_metadata_block(metadata))


def decode_metadata(payload: bytes, limit: int) -> Metadata:
    """The payload of a METADATA frame; ``limit`` is in bytes as ``metadata_size`` counts them."""
    reader = PayloadReader(payload, "METADATA")
    metadata = read_metadata(reader, limit)
    reader.finish()
    return metadata


# Calls


def encode_header_start(target: Target) -> bytes:
    """The part of a HEADER that is the same for every call of one method: made once, by ``encode_header`` finished."""
    return encode_block(encode_text(target.service) + encode_varint(target.version) + encode_text(target.method) + bytes((target.pattern, target.mode)))


def encode_header(start: bytes, timeout: float | None, metadata: Metadata) -> bytes:
    """A HEADER frame. ``timeout`` is in seconds, and travels as whole microseconds (rounded down: it must not grow) plus one, zero meaning none."""
    ticks = 0 if timeout is None else int(min(max(0.0, timeout * 1e6), _LONGEST_TIMEOUT)) + 1
    return encode_frame(FrameKind.HEADER, start + encode_varint(ticks) + encode_metadata_block(metadata))


def decode_header(payload: bytes, metadata_limit: int) -> Header:
    """The payload of a HEADER frame."""
    reader = PayloadReader(payload, "HEADER")
    target = _decode_target(reader.block())
    ticks = reader.varint()
    metadata = read_metadata(reader, metadata_limit)
    reader.finish()
    return Header(target, (ticks - 1) / 1e6 if ticks else None, metadata)


@lru_cache(maxsize=1024)
def _decode_target(block: bytes) -> Target:
    # Cached because a service's methods are few and called often; what raises is not kept.
    reader = PayloadReader(block, "HEADER")
    service, version, method = reader.text(), reader.varint(), reader.text()
    try:
        target = Target(service, version, method, RpcPattern(reader.byte()), SerializationMode(reader.byte()))
    except ValueError as exc:
        raise reader.error(str(exc)) from exc
    reader.finish()
    return target


_MESSAGE = bytes((FrameKind.MESSAGE,))
_PART_HEAD = bytes((FrameKind.PART,)) + encode_varint(CHUNK_SIZE)


def encode_message(payload: bytes) -> bytes:
    """The frames of one message: PART frames of exactly ``CHUNK_SIZE`` bytes, then a MESSAGE with what is left ."""
    size = len(payload)
    if size <= CHUNK_SIZE:
        return _MESSAGE + encode_varint(size) + payload
    view = memoryview(payload)
    parts: list[bytes | memoryview] = []
    last = (size - 1) // CHUNK_SIZE * CHUNK_SIZE
    for start in range(0, last, CHUNK_SIZE):
        parts += (_PART_HEAD, view[start : start + CHUNK_SIZE])
    parts += (_MESSAGE, encode_varint(size - last), view[last:])
    return b"".join(parts)


def encode_credit(amount: int) -> bytes:
    """A CREDIT frame that allows the peer ``amount`` more."""
    return encode_frame(FrameKind.CREDIT, encode_varint(amount))


def decode_credit(payload: bytes) -> int:
    """The payload of a CREDIT frame."""
    reader = PayloadReader(payload, "CREDIT")
    amount = reader.varint()
    reader.finish()
    return amount


_SUCCESS = encode_frame(FrameKind.TRAILER, b"")


def encode_trailer(trailer: Trailer) -> bytes:
    """A TRAILER frame; its payload is empty for plain success. A lone surrogate in the message, which UTF-8 has no form for, travels as its escape.

    Raises:
        LocalProtocolError: message and details are above ``TRAILER_LIMIT`` bytes, or there are more details than ``MAX_DETAILS``.
    """
    # Compared field by field, the cheap ones first: tuples of enums and metadata compare slowly, and this is done for every call.
    status, origin, message, details, metadata = trailer
    if not (status or origin or message or details or len(metadata)):
        return _SUCCESS
    return encode_frame(FrameKind.TRAILER, _outcome_payload(trailer))


def decode_trailer(payload: bytes, metadata_limit: int) -> Trailer:
    """The payload of a TRAILER frame."""
    return _read_outcome(PayloadReader(payload, "TRAILER"), metadata_limit) if payload else SUCCESS


def _outcome_payload(trailer: Trailer) -> bytes:
    status, origin, message, details, metadata = trailer
    if len(details) > MAX_DETAILS:
        raise LocalProtocolError(f"an error has {len(details)} details; the limit is {MAX_DETAILS}")
    body = bytes((status, origin)) + encode_block(message.encode(errors="backslashreplace"))
    body += encode_list([encode_text(tag) + encode_block(data) for tag, data in details])
    if len(body) > TRAILER_LIMIT:
        raise LocalProtocolError(f"an error's message and details take {len(body)} bytes; the limit is {TRAILER_LIMIT} bytes")
    return body + encode_metadata_block(metadata)


def _read_outcome(reader: PayloadReader, metadata_limit: int) -> Trailer:
    try:
        status, origin = StatusCode(reader.byte()), TrailerOrigin(reader.byte())
    except ValueError as exc:
        raise reader.error(str(exc)) from exc
    message = reader.text()
    count = reader.varint()
    if count > MAX_DETAILS:
        raise RemoteProtocolError(f"the peer sent an error with {count} details, above the limit of {MAX_DETAILS}", StatusCode.RESOURCE_EXHAUSTED)
    details = tuple([(reader.text(), reader.block()) for _ in range(count)])
    metadata = read_metadata(reader, metadata_limit)
    reader.finish()
    return Trailer(status, origin, message, details, metadata)


# Sessions

_CALL = bytes((FrameKind.CALL,))
_CALL_ROOM = CHUNK_SIZE - 8
"""Bytes of a call that one CALL frame carries at the most, beside its number."""


def encode_session(service: str, version: int) -> bytes:
    """A SESSION frame, which opens one."""
    return encode_frame(FrameKind.SESSION, encode_text(service) + encode_varint(version))


def decode_session(payload: bytes) -> tuple[str, int]:
    """The payload of a SESSION frame: the service's name and its version."""
    reader = PayloadReader(payload, "SESSION")
    service, version = reader.text(), reader.varint()
    reader.finish()
    return service, version


def encode_call(number: int, data: bytes) -> bytes:
    """The CALL frames that carry ``data``, frames of a call's half cut anywhere."""
    head = encode_varint(number)
    if len(data) <= _CALL_ROOM:
        return _CALL + encode_varint(len(head) + len(data)) + head + data
    pieces = [data[start : start + _CALL_ROOM] for start in range(0, len(data), _CALL_ROOM)]
    return b"".join([_CALL + encode_varint(len(head) + len(piece)) + head + piece for piece in pieces])


def decode_call(payload: bytes) -> tuple[int, bytes]:
    """The payload of a CALL frame: the call's number, and bytes of its half."""
    reader = PayloadReader(payload, "CALL")
    number, data = reader.varint(), reader.rest()
    if not data:
        raise reader.error("it carries nothing")
    return number, data


def encode_call_end(number: int) -> bytes:
    """A CALL_END frame: the server's half of a call has ended."""
    return encode_frame(FrameKind.CALL_END, encode_varint(number))


def decode_call_end(payload: bytes) -> int:
    """The payload of a CALL_END frame: the call's number."""
    reader = PayloadReader(payload, "CALL_END")
    number = reader.varint()
    reader.finish()
    return number


def encode_cancel(number: int, code: int) -> bytes:
    """A CANCEL frame: the client wants a call no more; ``code`` is a ``ResetCode``."""
    return encode_frame(FrameKind.CANCEL, encode_varint(number) + encode_varint(code))


def decode_cancel(payload: bytes) -> tuple[int, int]:
    """The payload of a CANCEL frame: the call's number, and the reason."""
    reader = PayloadReader(payload, "CANCEL")
    number, code = reader.varint(), reader.varint()
    reader.finish()
    return number, code


_ORDINARY_END = encode_frame(FrameKind.SESSION_END, b"")


def encode_session_end(outcome: Trailer) -> bytes:
    """A SESSION_END frame, whose payload is that of a TRAILER: why the session ends; success when its client has left it."""
    return _ORDINARY_END if outcome == SUCCESS else encode_frame(FrameKind.SESSION_END, _outcome_payload(outcome))


def decode_session_end(payload: bytes, metadata_limit: int) -> Trailer:
    """The payload of a SESSION_END frame."""
    return _read_outcome(PayloadReader(payload, "SESSION_END"), metadata_limit) if payload else SUCCESS


# The control stream


def encode_hello(hello: Hello) -> bytes:
    """A HELLO frame: versions, settings as pairs of numbers, the manifest, and named extensions."""
    parts = [encode_list([encode_varint(version) for version in hello.versions])]
    parts.append(encode_list([encode_varint(key) + encode_varint(value) for key, value in sorted(hello.settings.items())]))
    parts.append(encode_list([_service_entry(service) for service in hello.services]))
    parts.append(encode_list([encode_text(name) + encode_block(data) for name, data in sorted(hello.extensions.items())]))
    payload = b"".join(parts)
    if len(payload) > HELLO_LIMIT:
        raise LocalProtocolError(f"the manifest takes {len(payload)} bytes; the limit is {HELLO_LIMIT} bytes: serve fewer services at one endpoint")
    return encode_frame(FrameKind.HELLO, payload)


def decode_hello(payload: bytes) -> Hello:
    """The payload of a HELLO frame. Settings and extensions that are not known are kept: who reads them decides."""
    reader = PayloadReader(payload, "HELLO")
    versions = tuple(_items(reader, reader.varint))
    settings = dict(_items(reader, lambda: (reader.varint(), reader.varint())))
    services = tuple(_items(reader, lambda: _read_service_entry(reader)))
    extensions = dict(_items(reader, lambda: (reader.text(), reader.block())))
    reader.finish()
    return Hello(versions, settings, services, extensions)


def _items(reader: PayloadReader, read: Callable[[], T]) -> Iterable[T]:
    for _ in range(reader.varint()):
        yield read()


def _service_entry(service: ServiceEntry) -> bytes:
    methods = [encode_text(method.name) + bytes((method.pattern, _mode_bits(method.modes))) for method in service.methods]
    return encode_text(service.name) + encode_varint(service.version) + bytes((service.session,)) + encode_block(service.contract_id) + encode_list(methods)


def _read_service_entry(reader: PayloadReader) -> ServiceEntry:
    name, version, session, contract_id = reader.text(), reader.varint(), reader.byte(), reader.block()
    return ServiceEntry(name, version, bool(session), contract_id, tuple(_items(reader, lambda: _read_method_entry(reader))))


def _read_method_entry(reader: PayloadReader) -> MethodEntry:
    name = reader.text()
    try:
        return MethodEntry(name, RpcPattern(reader.byte()), _modes_of(reader.byte()))
    except ValueError as exc:
        raise reader.error(str(exc)) from exc


def _mode_bits(modes: Iterable[SerializationMode]) -> int:
    return sum(1 << mode for mode in set(modes))


def _modes_of(bits: int) -> frozenset[SerializationMode]:
    # A mode that this version does not know is left out: it will not ask for it.
    return frozenset(mode for mode in SerializationMode if bits >> mode & 1)


def encode_go_away(go_away: GoAway) -> bytes:
    """A GO_AWAY frame."""
    return encode_frame(FrameKind.GO_AWAY, encode_varint(go_away.last_stream + 1) + encode_text(go_away.reason))


def decode_go_away(payload: bytes) -> GoAway:
    """The payload of a GO_AWAY frame; the last stream travels plus one, zero meaning none."""
    reader = PayloadReader(payload, "GO_AWAY")
    last_stream, reason = reader.varint() - 1, reader.text()
    reader.finish()
    return GoAway(last_stream, reason)


def encode_describe(describe: Describe) -> bytes:
    """A DESCRIBE frame."""
    return encode_frame(FrameKind.DESCRIBE, encode_text(describe.service) + encode_varint(describe.version))


def decode_describe(payload: bytes) -> Describe:
    """The payload of a DESCRIBE frame."""
    reader = PayloadReader(payload, "DESCRIBE")
    describe = Describe(reader.text(), reader.varint())
    reader.finish()
    return describe


def encode_contract(description: Description) -> bytes:
    """A CONTRACT frame."""
    return encode_frame(FrameKind.CONTRACT, encode_text(description.service) + encode_varint(description.version) + encode_block(description.form))


def decode_contract(payload: bytes) -> Description:
    """The payload of a CONTRACT frame; what the form says is the business of who reads it."""
    reader = PayloadReader(payload, "CONTRACT")
    description = Description(reader.text(), reader.varint(), reader.block())
    reader.finish()
    return description
