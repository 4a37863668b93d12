"""Both ends of Aster's QUIC and the network between them in plain calls, on a clock of their own: the same seed gives the same datagrams, to the byte count.

No event loop runs. Owners of connections and streams are called back as any transport calls them; what drives them is ``run``.
"""

from __future__ import annotations

import heapq
import itertools
import math
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NamedTuple, TypeVar

from aster._reactor import Reactor, TimerHandle, Waiter
from aster.testing.link import Datagram, Link
from aster.testing.network import SimulatedNetwork
from aster.transports.base import Accept, Connection, ConnectionHandler, ConnectionOptions, Listener
from aster.trust import Address, Identity

__all__ = ["Event", "Simulation", "VirtualReactor"]

T = TypeVar("T")


class Event(NamedTuple):
    """What an owner noted, at a time in seconds."""

    time: float
    what: object


class VirtualReactor(Reactor):
    """A reactor without a loop: time passes in ``run`` alone, and is nothing while callbacks run. It begins at zero."""

    def __init__(self) -> None:
        self._now = 0.0
        self._serial = itertools.count()
        self._due: list[tuple[float, int, _Timer]] = []

    def now(self) -> float:
        return self._now

    def later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        """Run ``callback`` in ``delay`` seconds."""
        return self.call_at(self._now + delay, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.call_at(self._now, callback)

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        timer = _Timer(callback)
        heapq.heappush(self._due, (when, next(self._serial), timer))
        return timer

    def add_reader(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        # A simulated one, which calls its reader when something arrives.
        simulated: Any = sock
        simulated.reader = callback

    def remove_reader(self, sock: socket.socket) -> None:
        simulated: Any = sock
        simulated.reader = None

    def waiter(self) -> Waiter:
        return _Waiter()

    def current_task(self) -> object:
        return None  # there are none

    def close(self) -> None:
        self._due.clear()

    def run(self, until: float = math.inf, condition: Callable[[], object] = lambda: False) -> None:
        """Let time pass until then, in seconds of this clock, or until the condition holds.

        Raises:
            AssertionError: nothing is due any more, and the condition does not hold.
        """
        while not condition():
            if not self._due or self._due[0][0] > until:
                assert until < math.inf, "nothing is due any more, and the condition does not hold"
                self._now = max(self._now, until)
                return
            when, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, when)
            if timer.callback is not None:
                timer.callback()

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Let time pass until a coroutine that waits for this reactor alone has ended: its result, or what it raised."""
        result = list[T]()

        def ended() -> bool:
            try:
                coroutine.send(None)
            except StopIteration as stop:
                result.append(stop.value)
                return True
            return False

        try:
            self.run(condition=ended)
        finally:
            coroutine.close()
        return result[0]


class Simulation(VirtualReactor):
    """A simulated network, its clock, and a trace of all that happens on it.

    Two simulations of one program with equal seeds have equal traces: when each datagram was sent, its size and its fate, and what the owners noted. What is in
    a datagram is encrypted with keys that differ each time, and no part of the trace.

    Args:
        link: from clients to servers, and back unless ``back`` is given.
        back: from servers to clients.
        seed: of the network's decisions.

    Attributes:
        network: for partitions and the like.
        trace: datagrams and events, in the order in which they happened.
    """

    def __init__(self, link: Link | None = None, *, back: Link | None = None, seed: int = 0) -> None:
        super().__init__()
        self.network = SimulatedNetwork(link, back=back, seed=seed)
        self.trace = list[Datagram | Event]()
        self.network.observer = self.trace.append

    def note(self, what: object) -> None:
        """Add an event to the trace."""
        self.trace.append(Event(self._now, what))

    def listen(self, accept: Accept, *, identity: Identity, options: ConnectionOptions | None = None) -> tuple[Listener, Address]:
        """A listener, and where clients find it."""
        listener = self.complete(self.network.listen("127.0.0.1", 0, identity=identity, accept=accept, reactor=self, options=options or ConnectionOptions()))
        return listener, Address(identity.endpoint_id, listener.host, listener.port)

    def connect(self, address: Address, handler: ConnectionHandler, *, identity: Identity, options: ConnectionOptions | None = None) -> Connection:
        """A connection, once its handshake is over; time passes meanwhile.

        Raises:
            ConnectError: as ``Transport.connect`` tells.
        """
        return self.complete(self.network.connect(address, identity=identity, handler=handler, reactor=self, options=options or ConnectionOptions()))


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
        """The reactor resumes who waits after each event."""

    async def wait(self) -> None:
        await _NextEvent()
