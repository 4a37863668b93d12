"""The datagrams that a listener answers without making a connection: version negotiation, Retry, refusal. And what it must read to tell connections apart."""

from __future__ import annotations

from aioquic.buffer import Buffer  # pyright: ignore[reportPrivateImportUsage] # its documented place
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder

from aster.transports.quic.engine import CONNECTION_ID_LENGTH, VERSIONS

__all__ = ["destination_id", "is_first_packet", "may_begin", "read_header", "refusal", "retry", "version_negotiation", "wants_other_version"]

_SMALLEST_PACKET = 21
"""Bytes of the smallest packet that can be decrypted (RFC 9000, section 10.3)."""

_VERSION = slice(1, 5)
"""Where a long header has QUIC's version."""

_SHORTEST_FIRST_ID = 8
"""Bytes of the id that a client gives a server which has not yet chosen one."""


def destination_id(datagram: bytes) -> bytes:
    """The connection id that a datagram is for; empty when it is no QUIC. Reads only what does not depend on QUIC's version (RFC 8999)."""
    if len(datagram) < _SMALLEST_PACKET:
        return b""
    if datagram[0] < 0x80:  # a short header, by its first bit: the id follows at once, and its length is ours
        return datagram[1 : 1 + CONNECTION_ID_LENGTH]
    return datagram[6 : 6 + datagram[5]]


def may_begin(datagram: bytes) -> bool:
    """Whether a stranger's datagram is worth a look: its first packet has a long header, and is no version negotiation, which only a client is to read."""
    return len(datagram) > _VERSION.stop and datagram[0] >= 0x80 and any(datagram[_VERSION])


def read_header(datagram: bytes) -> QuicHeader | None:
    """The header of a datagram's first packet, or None when it is malformed."""
    try:
        return pull_quic_header(Buffer(data=datagram), host_cid_length=CONNECTION_ID_LENGTH)
    except ValueError:
        return None


def wants_other_version(header: QuicHeader) -> bool:
    """Whether a packet should be answered by version negotiation. Never when it is one itself: two servers could be set to answer each other for ever."""
    return header.version is not None and header.version not in VERSIONS and header.packet_type is not QuicPacketType.VERSION_NEGOTIATION


def is_first_packet(header: QuicHeader, datagram: bytes) -> bool:
    """Whether a datagram may begin a connection. A smaller one must not be answered: it could make this host send more than it received (RFC 9000, 14.1).
    A shorter id could be guessed, and is not allowed (7.2)."""
    return header.packet_type is QuicPacketType.INITIAL and len(datagram) >= SMALLEST_MAX_DATAGRAM_SIZE and len(header.destination_cid) >= _SHORTEST_FIRST_ID


def version_negotiation(header: QuicHeader) -> bytes:
    """The datagram that names the versions of QUIC that are spoken here."""
    return encode_quic_version_negotiation(source_cid=header.destination_cid, destination_cid=header.source_cid, supported_versions=VERSIONS)


def retry(header: QuicHeader, *, source_id: bytes, token: bytes) -> bytes:
    """The datagram that asks a client to come again with a token, which proves that its address is not forged."""
    assert header.version is not None, "a first packet has a long header"
    return encode_quic_retry(
        version=header.version,
        source_cid=source_id,
        destination_cid=header.source_cid,
        original_destination_cid=header.destination_cid,
        retry_token=token,
    )


def refusal(header: QuicHeader, code: QuicErrorCode, reason: str = "") -> bytes:
    """The datagram that closes a connection before there is one: an Initial packet with CONNECTION_CLOSE, under keys that anyone can derive. ``reason``: some
    hundred bytes at the most, since the answer to a forged address should be no weapon."""
    assert header.version is not None, "a first packet has a long header"
    keys = CryptoPair()
    keys.setup_initial(cid=header.destination_cid, is_client=False, version=header.version)
    builder = QuicPacketBuilder(
        host_cid=header.destination_cid,
        peer_cid=header.source_cid,
        version=header.version,
        is_client=False,
        max_datagram_size=SMALLEST_MAX_DATAGRAM_SIZE,
    )
    builder.start_packet(QuicPacketType.INITIAL, keys)
    phrase = reason.encode()
    frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY + len(phrase))
    frame.push_uint_var(code)
    frame.push_uint_var(QuicFrameType.PADDING)  # the frame that is to blame: none
    frame.push_uint_var(len(phrase))
    frame.push_bytes(phrase)
    return builder.flush()[0][0]
