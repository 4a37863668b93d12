"""Whose datagrams are taken next: no peer has the loop to itself, whatever it sends."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from aster._reactor import Reactor, TimerHandle
from aster.transports.quic.sockets import SocketAddress

__all__ = ["LARGEST_INBOX", "MOST_BEHIND", "TURN", "Inbox", "Turns", "Visitor"]

TURN = 0.004
"""Seconds that one peer's datagrams may take before the loop goes on to others. A datagram takes about 0.2 ms, and one that was made to be slow ten times that.
Long enough that what is answered at the end of a turn is answered for many datagrams at once, which is what makes transfers fast."""

LARGEST_INBOX = 256
"""Datagrams of one peer that wait for its turn. Those beyond are dropped as a network would, which an honest sender takes for congestion."""

MOST_BEHIND = 4096
"""Datagrams that wait for all peers together that are behind. Each address has the same share of them, and of that each of its connections."""

_COMPANY = 0.1
"""Seconds for which a peer that does not fall behind counts as present after its last datagram: while there is one, those who do rest between turns."""

Inbox = deque[tuple[bytes, SocketAddress]]
"""Datagrams, each with the address that it came from."""


class Visitor(Protocol):
    """Somebody whose datagrams take time."""

    inbox: Inbox

    @property
    def place(self) -> bytes:
        """What it shares with those who take turns with it; may change."""
        ...

    def receive(self, data: bytes, addr: SocketAddress, now: float) -> None:
        """Take one datagram."""

    def settle(self) -> None:
        """Do the rest, after a batch of them."""


class Turns:
    """Shares the loop's time out among peers.

    Who is done within a turn is served at once. Those who are not are behind: they take their turns one by one, and while others are there the loop then has as
    much time without them as their turn took together with what it led to. So they have half of the time at most, all of them together, and the others' calls
    are answered between two turns. Turns go from address to address: a thousand connections from one have no more of them than a single one from another.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._prompt: dict[Visitor, None] = {}
        self._behind: dict[bytes, dict[Visitor, None]] = {}  # by place, both in the order of their turns
        self._place_of: dict[Visitor, bytes] = {}  # of all who are behind
        self._company_until = -math.inf
        self._timer: TimerHandle | None = None

    def add(self, visitor: Visitor, data: bytes, addr: SocketAddress) -> None:
        """Let a datagram wait for the visitor's turn."""
        place = self._place_of.get(visitor)
        if len(visitor.inbox) < (LARGEST_INBOX if place is None else self._room(place)):
            visitor.inbox.append((data, addr))
            if place is None:
                self._prompt[visitor] = None

    def take(self) -> None:
        """Serve all who are not behind."""
        try:
            while self._prompt:
                visitor = next(iter(self._prompt))
                del self._prompt[visitor]
                self._serve_prompt(visitor)
        finally:  # a visitor that fails is a bug, and the others' turns come all the same
            if self._prompt:
                self._reactor.call_soon(self.take)

    def _serve_prompt(self, visitor: Visitor) -> None:
        try:
            self._serve(visitor)
        finally:
            if visitor.inbox:
                if not self._behind:
                    self._reactor.call_soon(self._serve_one_behind)
                self._fall_behind(visitor)
            else:
                self._company_until = self._reactor.now() + _COMPANY

    def _room(self, place: bytes) -> int:
        """How many datagrams may wait for each who is behind at a place."""
        return max(1, min(LARGEST_INBOX, MOST_BEHIND // len(self._behind) // len(self._behind[place])))

    def _fall_behind(self, visitor: Visitor) -> None:
        self._place_of[visitor] = place = visitor.place
        self._behind.setdefault(place, {})[visitor] = None
        room = self._room(place)
        while len(visitor.inbox) > room:
            visitor.inbox.pop()

    def _next_behind(self) -> Visitor:
        """Whose turn it is; until it falls behind again it is none of them."""
        place = next(iter(self._behind))
        visitors = self._behind.pop(place)
        visitor = next(iter(visitors))
        del visitors[visitor], self._place_of[visitor]
        if visitors:
            self._behind[place] = visitors  # the next turn of this place comes after those of all others
        return visitor

    def _serve(self, visitor: Visitor) -> None:
        reactor, inbox = self._reactor, visitor.inbox
        now = reactor.now()
        end = now + TURN
        try:
            while inbox and now <= end:
                data, addr = inbox.popleft()
                visitor.receive(data, addr, now)
                now = reactor.now()
        finally:
            visitor.settle()

    def close(self) -> None:
        """Forget everybody."""
        self._prompt.clear()
        self._behind.clear()
        self._place_of.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _serve_one_behind(self) -> None:
        if not self._behind:
            return
        began = self._reactor.now()
        visitor = self._next_behind()
        try:
            self._serve(visitor)
        finally:
            if visitor.inbox:
                self._fall_behind(visitor)
            if self._behind:
                # The next round comes after what this turn led to: answers that are sent, tasks that begin.
                self._reactor.call_soon(lambda: self._rest(began))

    def _rest(self, began: float) -> None:
        now = self._reactor.now()
        if now < self._company_until:
            self._timer = self._reactor.call_at(2 * now - began, self._serve_one_behind)
        else:
            self._serve_one_behind()
