"""Changes to bytes, all drawn from a ``random.Random``, so that a seed says what was done."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aster._protocol.values import encode_varint

__all__ = ["EDGES", "mutated"]

EDGES = (0, 1, 2, 63, 64, 255, 16_383, 16_384, 16_385, 65_535, 65_536, 2**30 - 1, 2**30, 2**32, 2**53, 2**62 - 1)
"""Numbers around which code makes mistakes."""

_VARINTS = (*map(encode_varint, EDGES), b"\x40\x00", b"\x80\x00\x00\x01", b"\xc0" + bytes(7))
"""The same on the wire, and some in a form that is longer than it need be."""

_LENGTHS = (1, 1, 1, 2, 4, 8, 16, 64)


def mutated(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """``data`` after a few changes; ``others`` are inputs that a piece may be taken from."""
    work = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        _mutate(work, others, chance)
    return bytes(work)


def _mutate(work: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    # Near the beginning more often than not: that is where lengths and kinds are.
    at = chance.randrange(min(len(work), chance.choice((24, 24, 1 << 30))) + 1)
    to = min(len(work), at + chance.choice(_LENGTHS))
    match chance.randrange(9):
        case 0 if at < len(work):
            work[at] ^= 1 << chance.randrange(8)
        case 1:
            work[at:to] = chance.randbytes(to - at)
        case 2:
            del work[at:to]
        case 3:
            work[at:at] = chance.randbytes(chance.choice(_LENGTHS))
        case 4:
            work[at:at] = work[at:to] * chance.choice((1, 1, 2, 40))
        case 5:
            piece = chance.choice(_VARINTS)
            work[at : at + chance.choice((0, 1, len(piece)))] = piece
        case 6:
            other = chance.choice(others) if others else b""
            start = chance.randrange(len(other) + 1)
            work[at:to] = other[start : start + chance.choice((4, 32, 1 << 30))]
        case 7:
            del work[at:]
        case _:
            work[at:to] = bytes((chance.choice((0x00, 0x7F, 0x80, 0xFF)),)) * (to - at)
