"""What a network does to datagrams: late, lost, doubled, out of order, cut short, each decided by a seed."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import NamedTuple

__all__ = ["Arrival", "Datagram", "Link", "LinkState", "Statistics"]

_SHORTEST_HOLD = 0.001
"""Seconds that a datagram is held back at the least to be out of order, where a link has no latency."""

_SHARES = frozenset({"loss", "duplication", "reordering", "truncation"})


@dataclass(frozen=True, slots=True)
class Link:
    """How one direction between two endpoints treats datagrams.

    Attributes:
        latency: seconds that a datagram is under way, finite.
        jitter: seconds at the most that are added to that, drawn for each datagram; so they may overtake one another.
        bandwidth: bytes a second that pass; infinity for no limit.
        queue: bytes that may wait for a limited bandwidth; a datagram that finds it full is dropped.
        loss: the share of datagrams that vanish, from 0 to 1; so are the next three.
        duplication: the share that arrives twice, the second time up to one latency later.
        reordering: the share that is held back for one to two latencies more, so that later ones overtake it.
        truncation: the share that arrives cut short, at a length that is drawn.

    Raises:
        TypeError: something is no number.
        ValueError: something is out of range.
    """

    latency: float = 0.01
    jitter: float = 0.0
    bandwidth: float = math.inf
    queue: float = 262_144
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    truncation: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value: object = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{item.name} of a Link must be a number, not {value!r}")
            if item.name in _SHARES and not 0 <= value <= 1:
                raise ValueError(f"{item.name} of a Link is a share of all datagrams, from 0 to 1, not {value!r}")
            if not value >= 0 or (item.name == "bandwidth" and value == 0):
                raise ValueError(f"{item.name} of a Link must not be negative, nor a bandwidth zero; it is {value!r}: use partition() to let nothing pass")
            if value == math.inf and item.name in ("latency", "jitter"):
                raise ValueError(f"{item.name} of a Link must be finite: use partition() to let nothing pass")


class Arrival(NamedTuple):
    """When a datagram, or a copy of it, arrives, and with how many of its bytes."""

    time: float
    size: int


class Datagram(NamedTuple):
    """What became of one datagram: a line of a trace. Times are in seconds, sizes in bytes.

    ``flow`` names the client by its number, and the direction; ``number`` counts the datagrams of that flow. ``fate`` is ``"passed"``, or why the
    link let nothing through, ``"lost"``, ``"overflowed"`` or ``"partitioned"``; what passed may still find nobody listening.
    """

    time: float
    flow: str
    number: int
    size: int
    fate: str
    arrivals: tuple[Arrival, ...]


@dataclass(slots=True)
class Statistics:
    """How many datagrams met with what, in both directions together.

    Of what was ``sent`` some were ``lost``, ``overflowed`` a queue or were ``partitioned``; the others arrived, some ``duplicated``, ``reordered`` or
    ``truncated``, and were ``delivered``, or ``unreachable`` where nobody listens. ``rebound`` counts clients that were given another port.
    """

    sent: int = 0
    lost: int = 0
    overflowed: int = 0
    partitioned: int = 0
    duplicated: int = 0
    reordered: int = 0
    truncated: int = 0
    delivered: int = 0
    unreachable: int = 0
    rebound: int = 0


class LinkState:
    """One flow of datagrams over a link. Each decision depends on the seed, the flow and the datagram's number in it alone, but for a full queue, which
    depends on what was sent before and when."""

    __slots__ = ("_busy_until", "_count", "_flow", "_seed", "_statistics")

    def __init__(self, seed: int, flow: str, statistics: Statistics) -> None:
        self._seed = seed
        self._flow = flow
        self._statistics = statistics
        self._count = 0
        self._busy_until = 0.0

    def send(self, size: int, now: float, link: Link, *, partitioned: bool) -> Datagram:
        """Decide what becomes of the next datagram, of ``size`` bytes, sent at ``now``."""
        index = self._count
        self._count += 1
        self._statistics.sent += 1
        drawn = _draw(self._seed, self._flow, index)
        arrivals: tuple[Arrival, ...] = ()
        if partitioned:
            fate = "partitioned"
            self._statistics.partitioned += 1
        elif drawn.loss < link.loss:
            fate = "lost"
            self._statistics.lost += 1
        elif not self._has_room(size, now, link):
            fate = "overflowed"
            self._statistics.overflowed += 1
        else:
            fate = "passed"
            arrivals = self._arrivals(size, now, link, drawn)
        return Datagram(now, self._flow, index, size, fate, arrivals)

    def _has_room(self, size: int, now: float, link: Link) -> bool:
        # One that begins at once waits in no queue, however large it is.
        return link.bandwidth == math.inf or now >= self._busy_until or (self._busy_until - now) * link.bandwidth + size <= link.queue

    def _arrivals(self, size: int, now: float, link: Link, drawn: _Drawn) -> tuple[Arrival, ...]:
        self._busy_until = max(now, self._busy_until) + size / link.bandwidth
        time = self._busy_until + link.latency + link.jitter * drawn.jitter
        if drawn.reordering < link.reordering:
            self._statistics.reordered += 1
            time += max(link.latency, _SHORTEST_HOLD) * (1 + drawn.hold)
        if drawn.truncation < link.truncation:
            self._statistics.truncated += 1
            size = int(size * drawn.cut)
        first = Arrival(time, size)
        if drawn.duplication >= link.duplication:
            return (first,)
        self._statistics.duplicated += 1
        return (first, Arrival(time + max(link.latency, _SHORTEST_HOLD) * drawn.copy, size))


class _Drawn(NamedTuple):
    """Eight numbers from 0 to 1, one for each decision."""

    loss: float
    jitter: float
    reordering: float
    hold: float
    truncation: float
    cut: float
    duplication: float
    copy: float


_EIGHT = struct.Struct("<8Q")


def _draw(seed: int, flow: str, index: int) -> _Drawn:
    # A hash, since a generator for each datagram would cost ten times as much, and one for all would couple their fates.
    digest = blake2b(f"{seed} {flow} {index}".encode()).digest()
    return _Drawn(*(value / 2**64 for value in _EIGHT.unpack(digest)))
