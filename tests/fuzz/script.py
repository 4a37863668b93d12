"""A little program in bytes: what a fuzzed world does is read from its input, so that any change of a byte is another program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["Script", "chunk", "entry", "long_chunk"]

_MOST_STEPS = 64
"""Steps of a program. A mutation can turn the bytes of a long piece into steps that do nothing; tens of thousands of them prove nothing and take long."""


class Script:
    """Reads a program. Past its end it reads zeros, so that every input is a program."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position >= len(self._data)

    def steps(self) -> Iterator[int]:
        """What to do next, as bytes, until the end or for as long as a program may be."""
        for _ in range(_MOST_STEPS):
            if self.at_end:
                return
            yield self.byte()

    def byte(self) -> int:
        """A number below 256."""
        position, self._position = self._position, self._position + 1
        return self._data[position] if position < len(self._data) else 0

    def number(self) -> int:
        """A number below 65,536."""
        return self.byte() << 8 | self.byte()

    def chunk(self) -> bytes:
        """Bytes, with their count before them; fewer where the program ends."""
        start = self._position + 2
        self._position = start + self.number()
        return self._data[start : self._position]

    def long_chunk(self) -> bytes:
        """The same with a count of three bytes."""
        start = self._position + 3
        self._position = start + (self.byte() << 16 | self.number())
        return self._data[start : self._position]

    def rest(self) -> bytes:
        """All that is left."""
        start, self._position = self._position, len(self._data)
        return self._data[start:]


def chunk(data: bytes) -> bytes:
    """What ``Script.chunk`` reads as ``data``, cut to what its count can say."""
    data = data[:0xFFFF]
    return len(data).to_bytes(2, "big") + data


def long_chunk(data: bytes) -> bytes:
    """What ``Script.long_chunk`` reads as ``data``."""
    return len(data).to_bytes(3, "big") + data


def entry(name: str, names: Sequence[str]) -> bytes:
    """The byte that chooses ``name`` among ``names``."""
    return bytes((names.index(name),))
