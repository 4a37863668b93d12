"""QUIC's own frames and packets, drawn from a ``random.Random`` (RFC 9000, sections 17 and 19)."""

from __future__ import annotations

import random
from collections.abc import Callable

from aioquic.quic.crypto import CryptoPair

from aster._protocol.values import encode_varint
from tests.fuzz import grammar
from tests.fuzz.grammar import number

__all__ = ["VERSION", "any_header", "frames", "handshake_frames", "long_packet", "short_packet"]

VERSION = (1).to_bytes(4, "big")
_INITIAL, _HANDSHAKE = 0xC0, 0xE0
_NUMBER_SIZE = 2
_TAG_SIZE = 16
_SMALLEST_PAYLOAD = 4  # with less there is nothing to take the header's protection from


def _varints(*values: int) -> bytes:
    return b"".join(map(encode_varint, values))


def _small(chance: random.Random) -> int:
    return chance.choice((0, 1, 2, 3, 7, 63)) if chance.random() < 0.8 else number(chance)


def _stream_id(chance: random.Random) -> int:
    return chance.choice((0, 4, 8, 400)) if chance.random() < 0.9 else chance.choice((1, 2, 3, 5_024, number(chance)))


def _data(chance: random.Random) -> bytes:
    size = chance.choice((0, 1, 9, 80, 300))
    return grammar.requests(chance)[:300] if chance.random() < 0.3 else chance.randbytes(size)


def _padding(chance: random.Random) -> bytes:
    return bytes(chance.choice((1, 5, 100)))


def _ping(chance: random.Random) -> bytes:
    return b"\x01"


def _ack(chance: random.Random) -> bytes:
    ranges = chance.choice((0, 0, 1, 3, 40))
    claimed = ranges if chance.random() < 0.8 else number(chance)
    pairs = [number_ for _ in range(ranges) for number_ in (_small(chance), _small(chance))]
    counts = _varints(_small(chance), _small(chance), _small(chance)) if chance.random() < 0.5 else b""
    return (b"\x03" if counts else b"\x02") + _varints(_small(chance), _small(chance), claimed, _small(chance), *pairs) + counts


def _reset_stream(chance: random.Random) -> bytes:
    return b"\x04" + _varints(_stream_id(chance), _small(chance), _small(chance))


def _stop_sending(chance: random.Random) -> bytes:
    return b"\x05" + _varints(_stream_id(chance), _small(chance))


def _crypto(chance: random.Random) -> bytes:
    data = _tls(chance) if chance.random() < 0.7 else _data(chance)
    return b"\x06" + _varints(_small(chance) if chance.random() < 0.3 else 0, len(data) if chance.random() < 0.9 else number(chance)) + data


def _tls(chance: random.Random) -> bytes:
    """A message of the handshake (RFC 8446, section 4): its kind, its length, and anything."""
    data = chance.randbytes(chance.choice((0, 4, 36, 200)))
    length = len(data) if chance.random() < 0.8 else chance.getrandbits(24)
    return bytes((chance.choice((0, 1, 2, 4, 8, 11, 13, 15, 20, 24, 254)),)) + length.to_bytes(3, "big") + data


def _new_token(chance: random.Random) -> bytes:
    token = chance.randbytes(chance.choice((0, 1, 40)))
    return b"\x07" + _varints(len(token)) + token


def _stream(chance: random.Random) -> bytes:
    kind, data = 0x08 | chance.randrange(8), _data(chance)
    parts = [bytes((kind,)), encode_varint(_stream_id(chance))]
    if kind & 4:
        parts.append(encode_varint(_small(chance)))
    if kind & 2:
        parts.append(encode_varint(len(data) if chance.random() < 0.9 else number(chance)))
    return b"".join(parts) + data


def _limit(chance: random.Random) -> bytes:
    kind = chance.choice((0x10, 0x11, 0x12, 0x14, 0x15, 0x16)) if chance.random() < 0.9 else chance.choice((0x13, 0x17))
    return bytes((kind,)) + (_varints(_stream_id(chance), number(chance)) if kind in (0x11, 0x15) else _varints(number(chance)))


def _new_connection_id(chance: random.Random) -> bytes:
    size = chance.choice((0, 1, 8, 8, 8, 20, 21, 255))
    return b"\x18" + _varints(_small(chance), _small(chance)) + bytes((size,)) + chance.randbytes(size % 32) + chance.randbytes(16)


def _retire_connection_id(chance: random.Random) -> bytes:
    return b"\x19" + _varints(_small(chance))


def _path(chance: random.Random) -> bytes:
    return chance.choice((b"\x1a", b"\x1b")) + chance.randbytes(8)


def _close(chance: random.Random) -> bytes:
    reason = chance.choice((b"", b"why", b"\xff", bytes(300)))
    kind = chance.choice((0x1C, 0x1D))
    return bytes((kind,)) + _varints(*([_small(chance)] * (0x1E - kind))) + _varints(len(reason)) + reason


def _handshake_done(chance: random.Random) -> bytes:
    return b"\x1e"


def _datagram(chance: random.Random) -> bytes:
    return chance.choice((b"\x30", b"\x31\x03")) + b"abc"


def _unknown(chance: random.Random) -> bytes:
    return encode_varint(number(chance)) + chance.randbytes(3)


_Maker = Callable[[random.Random], bytes]

_LEGAL: tuple[_Maker, ...] = (_padding, _ping, _ack, _reset_stream, _stop_sending, _crypto, _stream, _stream, _stream, _limit, _retire_connection_id, _path)
# These end the connection that they come on, and a new one takes long.
_FATAL: tuple[_Maker, ...] = (_new_token, _new_connection_id, _close, _handshake_done, _datagram, _unknown)
_OF_HANDSHAKE: tuple[_Maker, ...] = (_crypto, _crypto, _crypto, _ack, _ping, _padding, _close)


def frames(chance: random.Random) -> bytes:
    """What a packet may hold once the handshake is over, and what none may."""
    return b"".join(chance.choice(_LEGAL if chance.random() < 0.93 else _FATAL)(chance) for _ in range(chance.choice((1, 1, 2, 4))))


def handshake_frames(chance: random.Random) -> bytes:
    """What a packet of the handshake may hold, mostly."""
    return b"".join(chance.choice(_OF_HANDSHAKE if chance.random() < 0.9 else _LEGAL + _FATAL)(chance) for _ in range(chance.choice((1, 1, 2, 4))))


def any_header(chance: random.Random) -> bytes:
    """A long header of any version and kind, with ids of any length, and random bytes behind it."""
    version = chance.choice((VERSION, VERSION, bytes(4), b"\x6b\x33\x43\xcf", b"\x0a\x0a\x0a\x0a", chance.randbytes(4)))
    sizes = (chance.choice((0, 7, 8, 8, 20)) if chance.random() < 0.9 else chance.choice((21, 255)) for _ in range(2))
    ids = b"".join(bytes((size,)) + chance.randbytes(min(size, 30)) for size in sizes)
    return bytes((0x80 | chance.randrange(128),)) + version + ids + chance.choice((b"", b"\x00", encode_varint(number(chance)))) + chance.randbytes(20)


def long_packet(keys: CryptoPair, destination: bytes, source: bytes, payload: bytes, packet_number: int, *, initial: bool, token: bytes = b"") -> bytes:
    """An Initial or Handshake packet, properly protected."""
    payload += bytes(max(0, _SMALLEST_PAYLOAD - len(payload)))
    head = bytes(((_INITIAL if initial else _HANDSHAKE) | (_NUMBER_SIZE - 1),)) + VERSION
    head += bytes((len(destination),)) + destination + bytes((len(source),)) + source
    if initial:
        head += encode_varint(len(token)) + token
    head += encode_varint(_NUMBER_SIZE + len(payload) + _TAG_SIZE) + (packet_number & 0xFFFF).to_bytes(_NUMBER_SIZE, "big")
    return keys.encrypt_packet(head, payload, packet_number)


def short_packet(keys: CryptoPair, destination: bytes, payload: bytes, packet_number: int) -> bytes:
    """A packet of a connection whose handshake is over, properly protected."""
    payload += bytes(max(0, _SMALLEST_PAYLOAD - len(payload)))
    head = bytes((0x40 | keys.key_phase << 2 | (_NUMBER_SIZE - 1),)) + destination + (packet_number & 0xFFFF).to_bytes(_NUMBER_SIZE, "big")
    return keys.encrypt_packet(head, payload, packet_number)
