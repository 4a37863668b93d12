"""How many calls of one service run at a time, over all connections: ``max_concurrent_streams``."""

from __future__ import annotations

from collections import deque

from aster._reactor import Reactor, Waiter
from aster.errors import RpcError, StatusCode

__all__ = ["MAX_WAITING", "Gate", "Place"]

MAX_WAITING = 1_000
"""Calls and sessions that wait for one service at a time: as many as one connection may have of them by default. Each takes a task, some 10 KB."""


class Place:
    """The place of a call or session, from its arrival to its end: in the queue of its peer, then inside."""

    __slots__ = ("_waiter", "inside", "peer", "refused")

    def __init__(self, peer: str, waiter: Waiter) -> None:
        self.peer = peer
        self.inside = False
        self.refused = False
        self._waiter = waiter

    def wake(self) -> None:
        """Something about it has changed."""
        self._waiter.wake()

    async def wait(self) -> None:
        """Wait until it is inside, or refused."""
        while not (self.inside or self.refused):
            await self._waiter.wait()


class Gate:
    """Lets a number of calls in at a time; the others wait.

    Peers take turns: the next one in is of the peer whose turn is next, and among its own the one that came first. When too many wait, the last one of the peer
    that has the most of them is refused, so that a peer that asks for ever more has its own calls refused, and no one else's.

    Args:
        limit: how many at a time.
        label: how messages to people name the service.
        kind: what comes in, in the plural.
    """

    def __init__(self, limit: int, label: str, kind: str = "calls") -> None:
        self._limit = limit
        self._label = label
        self._kind = kind
        self._inside = 0
        self._waiting = 0
        self._queues: dict[str, deque[Place]] = {}  # by peer, in the order of their turns; none is empty

    def join(self, peer: str, reactor: Reactor) -> Place:
        """A place for one that has arrived. To be left in any case."""
        place = Place(peer, reactor.waiter())
        if self._inside < self._limit:
            self._inside += 1
            place.inside = True
            return place
        self._queues.setdefault(peer, deque()).append(place)
        self._waiting += 1
        if self._waiting > MAX_WAITING:
            self._refuse_one()
        return place

    async def enter(self, place: Place) -> None:
        """Wait until a place is inside. Who gives up leaves it.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, too many wait.
        """
        await place.wait()
        if place.refused:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{self._label} serves {self._limit} {self._kind} at a time, and {MAX_WAITING} wait already; make fewer at a time, or try again later",
            )

    def leave(self, place: Place) -> None:
        """Give a place up, wherever it is; what was inside makes room for the one whose turn it is."""
        if place.refused:
            return
        if not place.inside:
            self._remove(place)
        elif self._queues:
            self._let_next_in()
        else:
            self._inside -= 1

    def _let_next_in(self) -> None:
        peer = next(iter(self._queues))
        queue = self._queues.pop(peer)
        place = queue.popleft()
        if queue:
            self._queues[peer] = queue
        self._waiting -= 1
        place.inside = True
        place.wake()

    def _refuse_one(self) -> None:
        # Of equals the one whose turn is the furthest away: who has waited longest is not to lose to a stranger.
        place = max(reversed(self._queues.values()), key=len)[-1]
        self._remove(place)
        place.refused = True
        place.wake()

    def _remove(self, place: Place) -> None:
        queue = self._queues[place.peer]
        queue.remove(place)
        if not queue:
            del self._queues[place.peer]
        self._waiting -= 1
