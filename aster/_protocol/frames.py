"""The only place where bytes of the wire are packed and unpacked; ``docs/wire.md`` describes the same layout for other languages.

A frame is a kind (one byte), the length of its payload (a variable-length integer, RFC 9000 section 16) and the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import TypeVar

from aster._protocol.events import SUCCESS, Describe, Description, GoAway, Header, Hello, MethodEntry, ServiceEntry, Target, Trailer, TrailerOrigin
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, MetadataValue, RpcPattern, SerializationMode

__all__ = [
    "CHUNK_SIZE",
    "CLIENT_CONTROL_KINDS",
    "CLIENT_HELLO_LIMIT",
    "CONTRACT_FRAME_LIMIT",
    "CONTROL_KINDS",
    "FIRST_EXTENSION_KIND",
    "HEADER_ROOM",
    "HELLO_LIMIT",
    "MESSAGE_CHARGE",
    "METADATA_ENTRY_CHARGE",
    "REQUEST_KINDS",
    "RESPONSE_KINDS",
    "SERVER_CONTROL_KINDS",
    "TRAILER_LIMIT",
    "FrameKind",
    "FrameReader",
    "decode_contract",
    "decode_credit",
    "decode_describe",
    "decode_go_away",
    "decode_header",
    "decode_hello",
    "decode_metadata",
    "decode_trailer",
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
    "encode_trailer",
    "encode_varint",
    "frame_limits",
    "metadata_size",
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


FIRST_EXTENSION_KIND = 0x40

CLIENT_CONTROL_KINDS = (FrameKind.HELLO, FrameKind.DESCRIBE)
SERVER_CONTROL_KINDS = (FrameKind.HELLO, FrameKind.GO_AWAY, FrameKind.CONTRACT)
CONTROL_KINDS = (*SERVER_CONTROL_KINDS, FrameKind.DESCRIBE)
REQUEST_KINDS = (FrameKind.HEADER, FrameKind.MESSAGE, FrameKind.PART, FrameKind.END, FrameKind.CREDIT)
RESPONSE_KINDS = (FrameKind.METADATA, FrameKind.MESSAGE, FrameKind.PART, FrameKind.CREDIT, FrameKind.TRAILER)
"""Which kinds have a place on which stream; another is refused by its first bytes, before it is held."""

CHUNK_SIZE = 16_384
"""The most bytes of a message that one frame carries, so that what must overtake a large message never waits behind all of it."""

MESSAGE_CHARGE = 64
"""Credit that a message costs besides its bytes: what CPython spends on an object and a queue slot (measured: 33 + 8 bytes, and room)."""

HELLO_LIMIT = 1_048_576
"""Bytes of a hello: a manifest of some thousand methods."""

CLIENT_HELLO_LIMIT = 65_536
"""Bytes of a client's hello, which has no manifest. Anyone may be a client: one MiB of the smallest entries keeps a server's loop busy for a second and
takes 70 MB (measured)."""

HEADER_ROOM = 1_024
"""Bytes of a header besides its metadata: three names of at most 128 characters, and numbers."""

CONTRACT_FRAME_LIMIT = HEADER_ROOM + 262_144
"""Bytes of a contract with its service's name: the canonical form takes 256 KiB at the most, some 4,000 fields."""

TRAILER_LIMIT = 65_536
"""Bytes of a trailer's message and details, besides its metadata."""

METADATA_ENTRY_CHARGE = 32
"""What an entry counts besides its key and value, as in RFC 9113 section 6.5.2."""

_VARINT_MAX = (1 << 62) - 1

_LONGEST_TIMEOUT = float(1 << 61)
"""Microseconds, some 73,000 years; a longer time, an infinite one included, is cut down to it."""

T = TypeVar("T")


def encode_varint(value: int) -> bytes:
    """A variable-length integer (RFC 9000 section 16), in its shortest form."""
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    if value <= _VARINT_MAX:
        return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")
    raise LocalProtocolError(f"{value} does not fit the wire's integers; the largest is 2**62 - 1")


def encode_frame(kind: FrameKind, payload: bytes) -> bytes:
    """One whole frame."""
    return bytes((kind,)) + encode_varint(len(payload)) + payload


class _Reader:
    """Reads the fields of one payload, and refuses what goes past its end."""

    __slots__ = ("_data", "_kind", "_position")

    def __init__(self, data: bytes, kind: FrameKind) -> None:
        self._data = data
        self._kind = kind
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position >= len(self._data)

    def varint(self) -> int:
        first = self.byte()
        if first < 0x40:
            return first
        return int.from_bytes(bytes((first & 0x3F,)) + self.take((1 << (first >> 6)) - 1), "big")

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, size: int) -> bytes:
        start, self._position = self._position, self._position + size
        if self._position > len(self._data):
            raise self.error("it is cut short")
        return self._data[start : self._position]

    def block(self) -> bytes:
        return self.take(self.varint())

    def text(self) -> str:
        try:
            return self.block().decode()
        except UnicodeDecodeError as exc:
            raise self.error("a text in it is not UTF-8") from exc

    def finish(self) -> None:
        if not self.at_end:
            raise self.error("bytes are left over after its last field")

    def error(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"the peer sent a malformed {self._kind.name} frame: {what}")


def _block(data: bytes) -> bytes:
    return encode_varint(len(data)) + data


def _text(text: str) -> bytes:
    return _block(text.encode())


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
        if position < end or self._rest:
            self._rest = bytearray(data[position:])
            self._needed = needed
        self._broken = False

    def _check(self, kind: int, length: int) -> None:
        limit = self._limits.get(kind)
        if limit is None and kind < FIRST_EXTENSION_KIND:
            raise RemoteProtocolError(_misplaced(kind))
        if limit is None and length <= CHUNK_SIZE:
            return
        name = "extension" if limit is None else FrameKind(kind).name
        code = StatusCode.RESOURCE_EXHAUSTED if kind in (FrameKind.HEADER, FrameKind.METADATA, FrameKind.TRAILER) else StatusCode.INTERNAL
        raise RemoteProtocolError(f"the peer sent a {name} frame of {length} bytes, above the limit of {CHUNK_SIZE if limit is None else limit} bytes", code)


def _misplaced(kind: int) -> str:
    if kind in FrameKind.__members__.values():
        return f"the peer sent a {FrameKind(kind).name} frame on a stream that has no place for it"
    return f"the peer sent a frame of unknown kind 0x{kind:02x}"


# Metadata


def metadata_size(metadata: Metadata) -> int:
    """Bytes that metadata counts against the metadata limit; never less than it takes on the wire."""
    if not len(metadata):
        return 0
    return sum(len(key) + len(value.encode() if isinstance(value, str) else value) + METADATA_ENTRY_CHARGE for key, value in metadata)


def _metadata_block(metadata: Metadata) -> bytes:
    """A count, then each key and value; the lowest bit of a value's length tells bytes (1) from text (0). Nothing at all when empty."""
    if not len(metadata):
        return b""
    parts = [encode_varint(len(metadata))]
    for key, value in metadata:
        binary = isinstance(value, bytes)
        data = value if isinstance(value, bytes) else value.encode()
        parts += (_text(key), encode_varint(len(data) << 1 | binary), data)
    return b"".join(parts)


_NO_METADATA = Metadata()


def _read_metadata(reader: _Reader, limit: int) -> Metadata:
    if reader.at_end:
        return _NO_METADATA
    pairs: list[tuple[str, MetadataValue]] = []
    room = limit
    for _ in range(reader.varint()):
        key = reader.text()
        size = reader.varint()
        data = reader.take(size >> 1)
        # Counted entry by entry: tiny entries cost far more here than on the wire.
        room -= len(key) + len(data) + METADATA_ENTRY_CHARGE
        if room < 0:
            raise RemoteProtocolError(f"the peer sent metadata that counts more than the limit of {limit} bytes", StatusCode.RESOURCE_EXHAUSTED)
        try:
            pairs.append((key, data if size & 1 else data.decode()))
        except UnicodeDecodeError as exc:
            raise reader.error("a metadata text is not UTF-8") from exc
    try:
        return Metadata(pairs)
    except ValueError as exc:
        raise reader.error(str(exc)) from exc


def encode_metadata(metadata: Metadata) -> bytes:
    """A METADATA frame."""
    return encode_frame(FrameKind.METADATA, _metadata_block(metadata))


def decode_metadata(payload: bytes, limit: int) -> Metadata:
    """The payload of a METADATA frame; ``limit`` is in bytes as ``metadata_size`` counts them."""
    reader = _Reader(payload, FrameKind.METADATA)
    metadata = _read_metadata(reader, limit)
    reader.finish()
    return metadata


# Calls


def encode_header_start(target: Target) -> bytes:
    """The part of a HEADER that is the same for every call of one method: made once, by ``encode_header`` finished."""
    return _block(_text(target.service) + encode_varint(target.version) + _text(target.method) + bytes((target.pattern, target.mode)))


def encode_header(start: bytes, timeout: float | None, metadata: Metadata) -> bytes:
    """A HEADER frame. ``timeout`` is in seconds, and travels as whole microseconds (rounded down: it must not grow) plus one, zero meaning none."""
    ticks = 0 if timeout is None else int(min(max(0.0, timeout * 1e6), _LONGEST_TIMEOUT)) + 1
    return encode_frame(FrameKind.HEADER, start + encode_varint(ticks) + _metadata_block(metadata))


def decode_header(payload: bytes, metadata_limit: int) -> Header:
    """The payload of a HEADER frame."""
    reader = _Reader(payload, FrameKind.HEADER)
    target = _decode_target(reader.block())
    ticks = reader.varint()
    metadata = _read_metadata(reader, metadata_limit)
    reader.finish()
    return Header(target, (ticks - 1) / 1e6 if ticks else None, metadata)


@lru_cache(maxsize=1024)
def _decode_target(block: bytes) -> Target:
    # Cached because a service's methods are few and called often; what raises is not kept.
    reader = _Reader(block, FrameKind.HEADER)
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
    reader = _Reader(payload, FrameKind.CREDIT)
    amount = reader.varint()
    reader.finish()
    return amount


_SUCCESS = encode_frame(FrameKind.TRAILER, b"")


def encode_trailer(trailer: Trailer) -> bytes:
    """A TRAILER frame; its payload is empty for plain success. A lone surrogate in the message, which UTF-8 has no form for, travels as its escape.

    Raises:
        LocalProtocolError: message and details are above ``TRAILER_LIMIT`` bytes.
    """
    # Compared field by field, the cheap ones first: tuples of enums and metadata compare slowly, and this is done for every call.
    status, origin, message, details, metadata = trailer
    if not (status or origin or message or details or len(metadata)):
        return _SUCCESS
    body = bytes((status, origin)) + _block(message.encode(errors="backslashreplace"))
    body += _list([_text(tag) + _block(data) for tag, data in details])
    if len(body) > TRAILER_LIMIT:
        raise LocalProtocolError(f"an error's message and details take {len(body)} bytes; the limit is {TRAILER_LIMIT} bytes")
    return encode_frame(FrameKind.TRAILER, body + _metadata_block(metadata))


def decode_trailer(payload: bytes, metadata_limit: int) -> Trailer:
    """The payload of a TRAILER frame."""
    if not payload:
        return SUCCESS
    reader = _Reader(payload, FrameKind.TRAILER)
    try:
        status, origin = StatusCode(reader.byte()), TrailerOrigin(reader.byte())
    except ValueError as exc:
        raise reader.error(str(exc)) from exc
    message = reader.text()
    details = tuple((reader.text(), reader.block()) for _ in range(reader.varint()))
    metadata = _read_metadata(reader, metadata_limit)
    reader.finish()
    return Trailer(status, origin, message, details, metadata)


# The control stream


def encode_hello(hello: Hello) -> bytes:
    """A HELLO frame: versions, settings as pairs of numbers, the manifest, and named extensions."""
    parts = [_list([encode_varint(version) for version in hello.versions])]
    parts.append(_list([encode_varint(key) + encode_varint(value) for key, value in sorted(hello.settings.items())]))
    parts.append(_list([_service_entry(service) for service in hello.services]))
    parts.append(_list([_text(name) + _block(data) for name, data in sorted(hello.extensions.items())]))
    payload = b"".join(parts)
    if len(payload) > HELLO_LIMIT:
        raise LocalProtocolError(f"the manifest takes {len(payload)} bytes; the limit is {HELLO_LIMIT} bytes: serve fewer services at one endpoint")
    return encode_frame(FrameKind.HELLO, payload)


def decode_hello(payload: bytes) -> Hello:
    """The payload of a HELLO frame. Settings and extensions that are not known are kept: who reads them decides."""
    reader = _Reader(payload, FrameKind.HELLO)
    versions = tuple(_items(reader, reader.varint))
    settings = dict(_items(reader, lambda: (reader.varint(), reader.varint())))
    services = tuple(_items(reader, lambda: _read_service_entry(reader)))
    extensions = dict(_items(reader, lambda: (reader.text(), reader.block())))
    reader.finish()
    return Hello(versions, settings, services, extensions)


def _list(items: list[bytes]) -> bytes:
    return encode_varint(len(items)) + b"".join(items)


def _items(reader: _Reader, read: Callable[[], T]) -> Iterable[T]:
    for _ in range(reader.varint()):
        yield read()


def _service_entry(service: ServiceEntry) -> bytes:
    methods = [_text(method.name) + bytes((method.pattern, _mode_bits(method.modes))) for method in service.methods]
    return _text(service.name) + encode_varint(service.version) + bytes((service.session,)) + _block(service.contract_id) + _list(methods)


def _read_service_entry(reader: _Reader) -> ServiceEntry:
    name, version, session, contract_id = reader.text(), reader.varint(), reader.byte(), reader.block()
    return ServiceEntry(name, version, bool(session), contract_id, tuple(_items(reader, lambda: _read_method_entry(reader))))


def _read_method_entry(reader: _Reader) -> MethodEntry:
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
    return encode_frame(FrameKind.GO_AWAY, encode_varint(go_away.last_stream + 1) + _text(go_away.reason))


def decode_go_away(payload: bytes) -> GoAway:
    """The payload of a GO_AWAY frame; the last stream travels plus one, zero meaning none."""
    reader = _Reader(payload, FrameKind.GO_AWAY)
    last_stream, reason = reader.varint() - 1, reader.text()
    reader.finish()
    return GoAway(last_stream, reason)


def encode_describe(describe: Describe) -> bytes:
    """A DESCRIBE frame."""
    return encode_frame(FrameKind.DESCRIBE, _text(describe.service) + encode_varint(describe.version))


def decode_describe(payload: bytes) -> Describe:
    """The payload of a DESCRIBE frame."""
    reader = _Reader(payload, FrameKind.DESCRIBE)
    describe = Describe(reader.text(), reader.varint())
    reader.finish()
    return describe


def encode_contract(description: Description) -> bytes:
    """A CONTRACT frame."""
    return encode_frame(FrameKind.CONTRACT, _text(description.service) + encode_varint(description.version) + _block(description.form))


def decode_contract(payload: bytes) -> Description:
    """The payload of a CONTRACT frame; what the form says is the business of who reads it."""
    reader = _Reader(payload, FrameKind.CONTRACT)
    description = Description(reader.text(), reader.varint(), reader.block())
    reader.finish()
    return description
