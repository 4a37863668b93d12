"""A second reading of ``docs/wire.md``: decodes frames without a line of Aster's own, so that a mistake there is not repeated here.

It is slow, plain and strict about layout. States, credit and the message limit are not its business: it reads one half of a stream as a list of frames.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Frame", "WireError", "decode", "decode_integer", "describe", "read_hex", "write_hex"]

_CHUNK = 16_384
_DETAILS = 64

_KINDS = {
    0x01: "HELLO",
    0x02: "GO_AWAY",
    0x03: "DESCRIBE",
    0x04: "CONTRACT",
    0x10: "HEADER",
    0x11: "MESSAGE",
    0x12: "PART",
    0x13: "END",
    0x14: "CREDIT",
    0x15: "METADATA",
    0x16: "TRAILER",
    0x17: "SESSION",
    0x18: "READY",
    0x19: "CALL",
    0x1A: "CALL_END",
    0x1B: "CANCEL",
    0x1C: "SESSION_END",
}


class WireError(Exception):
    """The bytes do not follow the specification."""


@dataclass(frozen=True)
class Frame:
    """One frame: the name of its kind, and its fields as JSON has them (bytes as hex)."""

    kind: str
    fields: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {json.dumps(self.fields, ensure_ascii=False)}"


def read_hex(text: str) -> bytes:
    """Hex digits in groups; ``61*16384`` is one byte that is repeated."""
    out = b""
    for group in text.split():
        digits, _, times = group.partition("*")
        out += bytes.fromhex(digits) * int(times or 1)
    return out


def write_hex(data: bytes) -> str:
    """Hex digits; a long run of one byte is shortened as ``read_hex`` understands it."""
    if len(data) > 64 and data == data[:1] * len(data):
        return f"{data[0]:02x}*{len(data)}"
    return data.hex()


def describe(frames: list[Frame]) -> str:
    """Frames in the notation of the specification's tables."""
    return " then ".join(str(frame) for frame in frames)


def decode_integer(data: bytes) -> int:
    """One integer that fills ``data``."""
    cursor = _Cursor(data)
    value = cursor.integer()
    cursor.finish()
    return value


def decode(data: bytes, metadata_limit: int = 8_192) -> list[Frame]:
    """The frames of one half of a stream, extension frames left out."""
    cursor, frames = _Cursor(data), list[Frame]()
    while not cursor.finished:
        kind = cursor.byte()
        length = cursor.integer()
        if length > _limit(kind, metadata_limit):
            raise WireError(f"a frame of kind 0x{kind:02x} has {length} bytes")
        payload = cursor.take(length)
        if kind < 0x40:
            frames.append(_frame(_KINDS[kind], _Cursor(payload)))
    return frames


def _limit(kind: int, metadata_limit: int) -> int:
    if kind >= 0x40:
        return _CHUNK
    if kind not in _KINDS:
        raise WireError(f"a frame of unknown kind 0x{kind:02x}")
    return {
        "HELLO": 1_048_576,
        "GO_AWAY": _CHUNK,
        "DESCRIBE": 1_024,
        "CONTRACT": 263_168,
        "HEADER": 1_024 + metadata_limit,
        "MESSAGE": _CHUNK,
        "PART": _CHUNK,
        "END": 0,
        "CREDIT": 8,
        "METADATA": metadata_limit,
        "TRAILER": 65_536 + metadata_limit,
        "SESSION": 1_024,
        "READY": 0,
        "CALL": _CHUNK,
        "CALL_END": 8,
        "CANCEL": 16,
        "SESSION_END": 65_536 + metadata_limit,
    }[_KINDS[kind]]


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    @property
    def finished(self) -> bool:
        return self.offset == len(self.data)

    def finish(self) -> None:
        if not self.finished:
            raise WireError("bytes are left over")

    def take(self, size: int) -> bytes:
        if self.offset + size > len(self.data):
            raise WireError("cut short")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self) -> int:
        first = self.byte()
        value = first % 64
        for byte in self.take({0: 0, 1: 1, 2: 3, 3: 7}[first // 64]):
            value = value * 256 + byte
        return value

    def block(self) -> bytes:
        return self.take(self.integer())

    def text(self) -> str:
        try:
            return self.block().decode("utf-8")
        except UnicodeDecodeError as exc:
            raise WireError("a text is not UTF-8") from exc

    def metadata(self) -> list[list[Any]]:
        pairs: list[list[Any]] = []
        if self.finished:
            return pairs
        for _ in range(self.integer()):
            key, tagged = self.text(), self.integer()
            value = self.take(tagged // 2)
            pairs.append([key, {"hex": value.hex()} if tagged % 2 else value.decode("utf-8")])
        return pairs


def _frame(kind: str, cursor: _Cursor) -> Frame:
    fields: dict[str, Any] = {}
    if kind == "HELLO":
        fields = _hello(cursor)
    elif kind == "GO_AWAY":
        last = cursor.integer()
        fields = {"last_stream": last - 1 if last else None, "reason": cursor.text()}
    elif kind == "DESCRIBE":
        fields = {"service": cursor.text(), "version": cursor.integer()}
    elif kind == "CONTRACT":
        fields = {"service": cursor.text(), "version": cursor.integer(), "form": json.loads(cursor.text())}
    elif kind == "HEADER":
        fields = _header(cursor)
    elif kind in ("MESSAGE", "PART"):
        fields = {"data": write_hex(cursor.take(len(cursor.data)))}
    elif kind == "CREDIT":
        fields = {"amount": cursor.integer()}
    elif kind == "METADATA":
        fields = {"metadata": cursor.metadata()}
    elif kind in ("TRAILER", "SESSION_END"):
        fields = _trailer(cursor)
    elif kind == "SESSION":
        fields = {"service": cursor.text(), "version": cursor.integer()}
    elif kind in ("CALL", "CALL_END", "CANCEL"):
        fields = _of_a_call(kind, cursor)
    cursor.finish()
    return Frame(kind, fields)


def _hello(cursor: _Cursor) -> dict[str, Any]:
    versions = [cursor.integer() for _ in range(cursor.integer())]
    settings = {str(cursor.integer()): cursor.integer() for _ in range(cursor.integer())}
    services = [_service(cursor) for _ in range(cursor.integer())]
    extensions = {cursor.text(): cursor.block().hex() for _ in range(cursor.integer())}
    return {"versions": versions, "settings": settings, "services": services, "extensions": extensions}


def _service(cursor: _Cursor) -> dict[str, Any]:
    service: dict[str, Any] = {"name": cursor.text(), "version": cursor.integer(), "session": cursor.byte(), "contract_id": cursor.block().hex()}
    service["methods"] = [_method(cursor) for _ in range(cursor.integer())]
    return service


def _method(cursor: _Cursor) -> dict[str, Any]:
    name, pattern, bits = cursor.text(), cursor.byte(), cursor.byte()
    return {"name": name, "pattern": pattern, "modes": [mode for mode in range(8) if bits & 2**mode]}


def _header(cursor: _Cursor) -> dict[str, Any]:
    target = _Cursor(cursor.block())
    fields: dict[str, Any] = {"service": target.text(), "version": target.integer(), "method": target.text(), "pattern": target.byte(), "mode": target.byte()}
    target.finish()
    time = cursor.integer()
    return {**fields, "timeout_us": time - 1 if time else None, "metadata": cursor.metadata()}


def _of_a_call(kind: str, cursor: _Cursor) -> dict[str, Any]:
    fields: dict[str, Any] = {"call": cursor.integer()}
    if kind == "CANCEL":
        fields["code"] = cursor.integer()
    elif kind == "CALL":
        if cursor.finished:
            raise WireError("a CALL carries nothing")
        fields["data"] = write_hex(cursor.take(len(cursor.data) - cursor.offset))
    return fields


def _trailer(cursor: _Cursor) -> dict[str, Any]:
    if cursor.finished:
        return {"status": 0, "origin": 0, "message": "", "details": [], "metadata": []}
    fields: dict[str, Any] = {"status": cursor.byte(), "origin": cursor.byte(), "message": cursor.text()}
    count = cursor.integer()
    if count > _DETAILS:
        raise WireError(f"an error with {count} details")
    fields["details"] = [[cursor.text(), cursor.block().hex()] for _ in range(count)]
    return {**fields, "metadata": cursor.metadata()}
