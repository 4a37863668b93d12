"""The values that frames are made of: integers, blocks, texts, lists and metadata."""

from __future__ import annotations

from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, MetadataValue

__all__ = [
    "METADATA_ENTRY_CHARGE",
    "PayloadReader",
    "encode_block",
    "encode_list",
    "encode_metadata_block",
    "encode_text",
    "encode_varint",
    "metadata_size",
    "read_metadata",
]

METADATA_ENTRY_CHARGE = 32
"""What an entry counts besides its key and value, as in RFC 9113 section 6.5.2."""

_VARINT_MAX = (1 << 62) - 1


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


def encode_block(data: bytes) -> bytes:
    """Bytes, with their number ahead."""
    return encode_varint(len(data)) + data


def encode_text(text: str) -> bytes:
    """A block of UTF-8."""
    return encode_block(text.encode())


def encode_list(items: list[bytes]) -> bytes:
    """Items one after the other, with their number ahead."""
    return encode_varint(len(items)) + b"".join(items)


class PayloadReader:
    """Reads the fields of the payload of a frame, ``name``, and refuses what goes past its end."""

    __slots__ = ("_data", "_name", "_position")

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
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

    def rest(self) -> bytes:
        start, self._position = self._position, len(self._data)
        return self._data[start:]

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
        return RemoteProtocolError(f"the peer sent a malformed {self._name} frame: {what}")


def metadata_size(metadata: Metadata) -> int:
    """Bytes that metadata counts against the metadata limit; never less than it takes on the wire."""
    if not len(metadata):
        return 0
    return sum(len(key) + len(value.encode() if isinstance(value, str) else value) + METADATA_ENTRY_CHARGE for key, value in metadata)


def encode_metadata_block(metadata: Metadata) -> bytes:
    """Metadata: a count, then each key and value; the lowest bit of a value's length tells bytes (1) from text (0). Nothing at all when empty."""
    if not len(metadata):
        return b""
    parts = [encode_varint(len(metadata))]
    for key, value in metadata:
        binary = isinstance(value, bytes)
        data = value if isinstance(value, bytes) else value.encode()
        parts += (encode_text(key), encode_varint(len(data) << 1 | binary), data)
    return b"".join(parts)


_NO_METADATA = Metadata()


def read_metadata(reader: PayloadReader, limit: int) -> Metadata:
    """What ``encode_metadata_block`` wrote, as the last field of a payload; ``limit`` is in bytes as ``metadata_size`` counts them."""
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
