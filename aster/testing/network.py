"""A network that is not there: Aster's own QUIC at both ends, and between them links that lose, delay and reorder by a seed.

On virtual time (``virtual_time_backend``) hours of it pass in seconds, and a program meets the same network each time it runs.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import socket
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aster._reactor import Reactor, TimerHandle, Waiter
from aster.testing.link import Datagram, Link, LinkState, Statistics
from aster.transports.base import Accept, Connection, ConnectionHandler, ConnectionOptions, Listener, Transport, listen_error
from aster.transports.quic.engine import OrderedEngine
from aster.transports.quic.sockets import SMALLEST_DATAGRAM
from aster.transports.quic.transport import connect_over, listen_over
from aster.trust import Address, Identity

__all__ = ["SimulatedNetwork"]

_Place = tuple[str, int]

_Item = tuple[bytes, _Place] | OSError
"""A datagram and where it came from, or the news that one sent earlier found nobody."""

_LISTENERS_PORTS = 20_000
_CLIENTS_PORTS = 50_000
_PORTS = 65_536
_CLIENTS_NETWORK = int(ipaddress.IPv4Address("10.0.0.0"))

_WILDCARDS = ("0.0.0.0", "::")

_ALL_NAMES = "127.0.0.1"
"""Where every host name leads: there is no other host."""


class SimulatedNetwork(Transport):
    """A transport whose datagrams go through a simulated network; endpoints that are given the same one reach each other.

    ::

        network = SimulatedNetwork(Link(latency=0.05, loss=0.1), seed=1)
        async with aster.serve([Tasks()], transport=network) as server, aster.connect(server.address, transport=network) as client:
            ...

    What it does to a datagram depends on the seed, the client, the direction and the number of the datagram alone, but for a full queue. Which datagrams
    there are depends on the program; TLS draws random numbers, which can change the size of a datagram by a few bytes. Expect equal outcomes for equal seeds,
    not equal timing.

    Args:
        link: from clients to servers, and back unless ``back`` is given.
        back: from servers to clients.
        seed: of all decisions.

    Attributes:
        link, back: may be set at any time, for what is sent from then on.
        statistics: what became of all datagrams so far.
        observer: called with what became of each datagram, if it is set.
    """

    def __init__(self, link: Link | None = None, *, back: Link | None = None, seed: int = 0) -> None:
        self.link = link or Link()
        self.back = back
        self.statistics = Statistics()
        self.observer: Callable[[Datagram], None] | None = None
        self._seed = seed
        self._partitioned = False
        self._sockets: dict[_Place, _Socket] = {}
        self._numbers = itertools.count(1)
        self._clients = itertools.count(1)

    def partition(self) -> None:
        """Let nothing pass until ``heal``; what is under way arrives. Idempotent."""
        self._partitioned = True

    def heal(self) -> None:
        """Let datagrams pass again. Idempotent."""
        self._partitioned = False

    @contextmanager
    def partitioned(self) -> Generator[None]:
        """A block in which nothing passes."""
        self.partition()
        try:
            yield
        finally:
            self.heal()

    def rebind(self) -> None:
        """Give every client another port, as an address translator does that has forgotten them: what is under way to the old ones goes astray."""
        for sock in [sock for sock in self._sockets.values() if sock.peer is not None]:
            del self._sockets[sock.place]
            sock.place = (sock.place[0], self._free_port(sock.place[0], _CLIENTS_PORTS))
            self._sockets[sock.place] = sock
            self.statistics.rebound += 1

    # The transport

    async def listen(self, host: str, port: int, *, identity: Identity, accept: Accept, reactor: Reactor, options: ConnectionOptions) -> Listener:
        own = _numeric(host)
        place = (own, port or self._free_port(own, _LISTENERS_PORTS))
        if place in self._sockets:
            raise listen_error(host, port, errno.EADDRINUSE)
        sock = self._open(place, None, reactor)
        sizes = (SMALLEST_DATAGRAM, SMALLEST_DATAGRAM)
        return listen_over(_as_socket(sock), sizes, identity=identity, accept=accept, reactor=_SocketReactor(reactor), options=options, engine=OrderedEngine)

    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        target = (_numeric(address.host), address.port)
        own = str(ipaddress.IPv4Address(_CLIENTS_NETWORK + next(self._numbers)))
        place = (own, self._free_port(own, _CLIENTS_PORTS))
        sock = self._open(place, target, reactor)
        connection = await connect_over(
            _as_socket(sock), target, SMALLEST_DATAGRAM, address, identity=identity, reactor=_SocketReactor(reactor), options=options, engine=OrderedEngine
        )
        connection.attach(handler)
        return connection

    def _free_port(self, host: str, first: int) -> int:
        # They begin again after the last, as a system's do: the engine writes an address into a token with two bytes for the port.
        while True:
            place = (host, first + next(self._numbers) % (_PORTS - first))
            if place not in self._sockets:
                return place[1]

    def _open(self, place: _Place, peer: _Place | None, reactor: Reactor) -> _Socket:
        sock = self._sockets[place] = _Socket(self, place, peer, reactor)
        if peer is not None:
            name = f"client {next(self._clients)}"
            sock.upwards = LinkState(self._seed, f"{name} up", self.statistics)
            sock.downwards = LinkState(self._seed, f"{name} down", self.statistics)
        return sock

    # Called by the sockets

    def carry(self, sender: _Socket, data: bytes, target: _Place) -> None:
        """Take a datagram on its way."""
        receiver = self._socket_at(target)
        client = sender if sender.peer is not None else receiver
        if client is None:
            # An answer to the port that a client had before it was rebound, or after it was closed.
            self.statistics.sent += 1
            self.statistics.unreachable += 1
            self._observe(Datagram(sender.reactor.now(), "nowhere", self.statistics.unreachable, len(data), "unreachable", ()))
            return
        upwards = client is sender
        link = self.link if upwards or self.back is None else self.back
        flow = client.upwards if upwards else client.downwards
        report = flow.send(len(data), sender.reactor.now(), link, partitioned=self._partitioned)
        self._observe(report)
        for arrival in report.arrivals:
            if receiver is not None:
                receiver.deliver_at(arrival.time, (data[: arrival.size], sender.place))
            else:
                self.statistics.unreachable += 1
                # The host where nobody listens says so.
                latency = (self.back or self.link).latency
                sender.deliver_at(arrival.time + latency, ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there"))

    def _observe(self, report: Datagram) -> None:
        if self.observer is not None:
            self.observer(report)

    def _socket_at(self, place: _Place) -> _Socket | None:
        found = self._sockets.get(place)
        if found is None:
            found = next((sock for host in _WILDCARDS if (sock := self._sockets.get((host, place[1])))), None)
        return found

    def closed(self, sock: _Socket) -> None:
        """A socket is no more."""
        self._sockets.pop(sock.place, None)


class _Socket:
    """What a QUIC endpoint uses of a UDP socket. One that is connected is a client's; its two flows are decided on by their own counts."""

    upwards: LinkState
    downwards: LinkState

    def __init__(self, network: SimulatedNetwork, place: _Place, peer: _Place | None, reactor: Reactor) -> None:
        self.place = place
        self.peer = peer
        self.reactor = reactor
        self.reader: Callable[[], None] | None = None
        self._network = network
        self._numbers = itertools.count()
        self._under_way: dict[int, tuple[TimerHandle, _Item]] = {}
        self._received: deque[_Item] = deque()

    def getsockname(self) -> _Place:
        return self.place

    def sendto(self, data: bytes, addr: _Place) -> None:
        self._network.carry(self, data, (addr[0], addr[1]))

    def send(self, data: bytes) -> None:
        assert self.peer is not None
        self._network.carry(self, data, self.peer)

    def recvfrom(self, size: int) -> tuple[bytes, _Place]:
        if not self._received:
            raise BlockingIOError
        item = self._received.popleft()
        if isinstance(item, OSError):
            raise item
        return item[0][:size], item[1]

    def recv(self, size: int) -> bytes:
        return self.recvfrom(size)[0]

    def close(self) -> None:
        """What is under way to here arrives nowhere."""
        for timer, item in self._under_way.values():
            timer.cancel()
            self._network.statistics.unreachable += isinstance(item, tuple)
        self._under_way.clear()
        self._received.clear()
        self._network.closed(self)

    def deliver_at(self, when: float, item: _Item) -> None:
        """Have something arrive here, if this socket is still at its place then."""
        number = next(self._numbers)
        self._under_way[number] = self.reactor.call_at(when, partial(self._arrive, number, self.place)), item

    def _arrive(self, number: int, place: _Place) -> None:
        _, item = self._under_way.pop(number)
        if isinstance(item, tuple):
            if place != self.place:
                self._network.statistics.unreachable += 1
                return
            self._network.statistics.delivered += 1
        self._received.append(item)
        self.tell_reader()

    def tell_reader(self) -> None:
        """A reader is called as long as there is something to read, as by a loop that watches a real socket."""
        if self.reader is not None and self._received:
            self.reader()
            if self._received:
                self.reactor.call_soon(self.tell_reader)


def _as_socket(sock: _Socket) -> socket.socket:
    """Endpoints use no more of a socket than ``_Socket`` has."""
    whole: Any = sock
    return whole


class _SocketReactor(Reactor):
    """An endpoint's reactor that watches simulated sockets."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    def now(self) -> float:
        return self._reactor.now()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._reactor.call_soon(callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self._reactor.call_soon_threadsafe(callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        return self._reactor.call_at(when, callback)

    def waiter(self) -> Waiter:
        return self._reactor.waiter()

    def current_task(self) -> object:
        return self._reactor.current_task()

    def close(self) -> None:
        self._reactor.close()

    def add_reader(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        simulated: Any = sock
        simulated.reader = callback
        simulated.tell_reader()

    def remove_reader(self, sock: socket.socket) -> None:
        simulated: Any = sock
        simulated.reader = None


def _numeric(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return _ALL_NAMES
