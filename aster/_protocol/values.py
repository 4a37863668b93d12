"""The values that frames are made of: integers, blocks, texts and lists."""

from __future__ import annotations

from aster.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["PayloadReader", "encode_block", "encode_list", "encode_text", "encode_varint"]

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
