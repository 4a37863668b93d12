"""A listener and a client of Aster's on a clock of their own, with the network and the sockets between them: no test on it depends on how fast anything is."""

from __future__ import annotations

import heapq
import itertools
import math
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from aster._reactor import Reactor, TimerHandle, Waiter
from aster.testing.recorders import HandlerRecorder, StreamRecorder, TransportPair
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


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class _NextEvent:
    def __await__(self) -> Generator[None]:
        yield


class _Waiter:
    def wake(self) -> None:
        """The network resumes who waits after each event."""

    async def wait(self) -> None:
        await _NextEvent()


class VirtualNetwork(Reactor):
    """The reactor of all ends. Time passes in ``run`` alone."""

    def __init__(self) -> None:
        self.sockets: dict[int, VirtualSocket] = {}
        self._now = 0.0
        self._serial = itertools.count(1)
        self._due: list[tuple[float, int, _Timer]] = []

    def socket(self, peer: int | None = None) -> VirtualSocket:
        port = next(self._serial)
        sock = self.sockets[port] = VirtualSocket(self, port, peer)
        return sock

    def now(self) -> float:
        return self._now

    def later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        return self.call_at(self._now + delay, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.call_at(self._now, callback)

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        timer = _Timer(callback)
        heapq.heappush(self._due, (when, next(self._serial), timer))
        return timer

    def add_reader(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        assert isinstance(sock, VirtualSocket)
        sock.reader = callback

    def remove_reader(self, sock: socket.socket) -> None:
        assert isinstance(sock, VirtualSocket)
        sock.reader = None

    def waiter(self) -> Waiter:
        return _Waiter()

    def close(self) -> None:
        self._due.clear()

    def run(self, until: float = math.inf, condition: Callable[[], object] = lambda: False) -> None:
        """Let time pass until then, or until the condition holds."""
        while not condition():
            if not self._due or self._due[0][0] > until:
                assert until < math.inf, "nothing is due any more, and the condition does not hold"
                self._now = until
                return
            when, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, when)
            if timer.callback is not None:
                timer.callback()

    def complete(self, task: Coroutine[Any, Any, None]) -> None:
        """Let time pass until a coroutine of this reactor has ended."""

        def ended() -> bool:
            try:
                task.send(None)
            except StopIteration:
                return True
            return False

        self.run(condition=ended)


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
