"""The queue for what a peer takes a limited number of at a time."""

from __future__ import annotations

from collections.abc import Callable

from aster._reactor import Reactor, Waiter

__all__ = ["SlotQueue"]


class _Place:
    """A place in the queue."""

    __slots__ = ("granted", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.granted = False


class SlotQueue:
    """Slots, first come first served.

    Args:
        reactor: of the loop in which all that concerns the queue runs.
        free: how many slots there are, granted ones that are not used yet included.
        is_open: whether it is worth waiting.
        released: called soon after one that waited has gone on, or given up what it was granted; by default looks who is next here.
    """

    __slots__ = ("_free", "_is_open", "_queue", "_reactor", "_released", "reserved")

    def __init__(self, reactor: Reactor, free: Callable[[], int], is_open: Callable[[], bool], released: Callable[[], None] | None = None) -> None:
        self._reactor = reactor
        self._free = free
        self._is_open = is_open
        self._released = released or self.grant
        self._queue: dict[_Place, None] = {}  # in their order; one that gives up is found at once
        self.reserved = 0
        """How many were granted whose waiter has not run since."""

    @property
    def has_slot(self) -> bool:
        """Whether a slot may be used now, with nobody before in the queue."""
        return not self._queue and self._free() > self.reserved

    async def acquire(self) -> bool:
        """Wait for a slot. Use it before the next await.

        A waiter that is cancelled has touched nothing.

        Returns:
            Whether there is one; false when there will be none any more.
        """
        place = _Place(self._reactor.waiter())
        self._queue[place] = None
        self.grant()
        try:
            while not place.granted and self._is_open():
                await place.waiter.wait()
        finally:
            if place.granted:
                self.reserved -= 1
            else:
                del self._queue[place]
            self._reactor.call_soon(self._released)
        return self._is_open()

    def grant(self) -> None:
        """Some may have become free: give them to those who wait."""
        while self._queue and self._is_open() and self._free() > self.reserved:
            place = next(iter(self._queue))
            del self._queue[place]
            place.granted = True
            self.reserved += 1
            place.waiter.wake()

    def turn_away(self) -> None:
        """There will be none any more: wake all who wait."""
        for place in self._queue:
            place.waiter.wake()
