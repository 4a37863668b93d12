"""Numbers and bytes one after the other, as Fory's specification writes them."""

from __future__ import annotations

import struct
from typing import Any


class Malformed(Exception):
    """The bytes break a rule of the specification, or use what this decoder does not know."""


class Cursor:
    """Reads on from where the last read ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._index = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._index : self._index + size]
        if len(taken) != size:
            raise Malformed(f"{size} bytes were announced and {len(taken)} are there")
        self._index += size
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def fixed(self, form: str) -> Any:
        """One little-endian value, in the notation of ``struct``."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def varuint(self) -> int:
        """Seven bits a byte, lowest first, the eighth telling that more follow; a ninth byte has all eight."""
        value = 0
        for shift in range(0, 56, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        return value | self.byte() << 56

    def varint(self) -> int:
        """Zigzag: the lowest bit is the sign."""
        number = self.varuint()
        return number >> 1 ^ -(number & 1)

    def expect_end(self) -> None:
        if self._index != len(self._data):
            raise Malformed(f"{len(self._data) - self._index} bytes are left over")
