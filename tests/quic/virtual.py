"""A listener and a client of Aster's on a clock of their own, with the network and the sockets between them: no test on it depends on how fast anything is."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from aster.testing.recorders import HandlerRecorder, StreamRecorder, TransportPair
from aster.testing.simulation import VirtualReactor
from aster.transports.base import ConnectionOptions
from aster.transports.quic import QuicTransport
from aster.transports.quic.check import engine_configuration
from aster.transports.quic.client import ClientConnection
from aster.transports.quic.listener import QuicListener

__all__ = ["DELAY", "VirtualNetwork", "VirtualSocket", "connected_pair", "listening_pair", "new_client"]

DELAY = 0.01
"""Seconds that a datagram is under way."""


class VirtualSocket:
    """What a connection uses of a UDP socket.

    Attributes:
        unplugged: what is sent vanishes.
        refused: what is sent is answered by the news that nobody listens, as when the other process was killed.
    """

    def __init__(self, network: VirtualNetwork, port: int, peer: int | None) -> None:
        self.unplugged = False
        self.refused = False
        self.reader: Callable[[], None] | None = None
        self.received: deque[tuple[bytes, int] | OSError] = deque()
        self._network = network
        self._port = port
        self._peer = peer

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def sendto(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.refused:
            self._network.later(DELAY, lambda: self.deliver(ConnectionRefusedError(111, "Connection refused")))
        elif not self.unplugged:
            self._network.later(DELAY, lambda: self._network.sockets[addr[1]].deliver((data, self._port)))

    def send(self, data: bytes) -> None:
        assert self._peer is not None
        self.sendto(data, ("127.0.0.1", self._peer))

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        if not self.received:
            raise BlockingIOError
        item = self.received.popleft()
        if isinstance(item, OSError):
            raise item
        return item[0], ("127.0.0.1", item[1])

    def recv(self, size: int) -> bytes:
        return self.recvfrom(size)[0]

    def close(self) -> None:
        self.unplugged = True

    def deliver(self, item: tuple[bytes, int] | OSError) -> None:
        self.received.append(item)
        if self.reader is not None:
            self.reader()


class VirtualNetwork(VirtualReactor):
    """The reactor of all ends, and their sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: dict[int, VirtualSocket] = {}
        self._ports = itertools.count(1)

    def socket(self, peer: int | None = None) -> VirtualSocket:
        port = next(self._ports)
        sock = self.sockets[port] = VirtualSocket(self, port, peer)
        return sock


def listening_pair(
    options: ConnectionOptions, on_data: Callable[[StreamRecorder, bytes], None] | None = None
) -> tuple[VirtualNetwork, TransportPair, VirtualSocket]:
    """A listener without clients, and its socket."""
    network = VirtualNetwork()
    pair = TransportPair(QuicTransport(), network, options, on_data)
    sock = network.socket()
    far: Any = sock
    configuration = engine_configuration(pair.server_identity, is_client=False, idle_timeout=options.idle_timeout, datagram_size=1_200)
    pair.listener = QuicListener(far, (configuration, configuration), pair.accept, network, options)
    return network, pair, sock


def new_client(network: VirtualNetwork, pair: TransportPair, options: ConnectionOptions) -> tuple[ClientConnection, VirtualSocket]:
    """A client of the listener that has not begun, and its socket."""
    sock = network.socket(peer=pair.listener.port)
    near: Any = sock
    configuration = engine_configuration(pair.client_identity, is_client=True, idle_timeout=options.idle_timeout, datagram_size=1_200)
    return ClientConnection(near, ("127.0.0.1", pair.listener.port), pair.address, configuration, network, options), sock


def connected_pair(
    options: ConnectionOptions, on_data: Callable[[StreamRecorder, bytes], None] | None = None
) -> tuple[VirtualNetwork, TransportPair, VirtualSocket, VirtualSocket]:
    """A listener and a client that are connected, and the sockets of both."""
    network, pair, server = listening_pair(options, on_data)
    connection, client = new_client(network, pair, options)
    network.complete(connection.establish())
    owner = HandlerRecorder(pair.watch)
    owner.connection = connection
    connection.attach(owner)
    pair.connected.append(owner)
    network.run(condition=lambda: pair.accepted)
    return network, pair, client, server
