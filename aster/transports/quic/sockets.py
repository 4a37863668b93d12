"""UDP sockets: opened for speed, read in bursts, written without waiting."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from contextlib import suppress
from typing import Any

import anyio

__all__ = [
    "BURST",
    "LARGEST_DATAGRAM",
    "RECEIVE_SIZE",
    "SMALLEST_DATAGRAM",
    "SocketAddress",
    "is_loopback",
    "is_same_host",
    "local_datagram_size",
    "open_socket",
    "resolve",
]

logger = logging.getLogger("aster.quic")

SocketAddress = Any
"""What the socket module takes for an address: a tuple of two items for IPv4, of four for IPv6."""

SMALLEST_DATAGRAM = 1200
"""Bytes that every path carries (RFC 9000, section 14.1). The engine does not look for more, so this is what leaves the host."""

LARGEST_DATAGRAM = 16_000
"""Bytes of a datagram that stays on this host, where they are six times as fast for bulk. The engine writes the length of a frame in 14 bits: 16,383."""

_OTHER_SYSTEMS_DATAGRAM = 9_000
"""The same elsewhere than on Linux: macOS takes no more than 9,216 bytes (net.inet.udp.maxdgram) unless it is configured otherwise."""

_BUFFER = 2 * 1024 * 1024
"""Bytes of socket buffer to ask for; systems grant less. The default of Linux holds about ten large datagrams, and one window of the engine's is as many."""

BURST = 256
"""Datagrams read in one go, before anything else of the loop runs: about as many small ones as Linux holds for a socket."""

RECEIVE_SIZE = 65_535
"""Bytes of the largest UDP datagram."""


async def resolve(host: str, port: int, *, passive: bool) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """The socket addresses of a host, in the order in which the system prefers them.

    Raises:
        OSError: the host name does not resolve.
    """
    flags = socket.AI_PASSIVE if passive else 0
    try:
        ipaddress.ip_address(host)
    except ValueError:
        infos = await anyio.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
    else:
        # A numeric address needs no resolver, and so no thread that would be left behind.
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags | socket.AI_NUMERICHOST)
    return [(socket.AddressFamily(info[0]), info[4]) for info in infos]


def open_socket(family: socket.AddressFamily) -> socket.socket:
    """A non-blocking UDP socket with large buffers."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with suppress(OSError):  # only slower without
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    return sock


def is_same_host(peer: SocketAddress, own: SocketAddress) -> bool:
    """Whether datagrams between two addresses never leave this host."""
    return peer[0] == own[0] or is_loopback(peer)


def is_loopback(addr: SocketAddress) -> bool:
    """Whether an address is this host's for talking to itself."""
    return ipaddress.ip_address(addr[0]).is_loopback


def local_datagram_size() -> int:
    """Bytes of a datagram to a peer on the same host."""
    return LARGEST_DATAGRAM if sys.platform == "linux" else _OTHER_SYSTEMS_DATAGRAM
