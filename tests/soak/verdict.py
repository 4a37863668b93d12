"""Whether a soak was flat, and what grew if it was not."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.soak.run import Mark

__all__ = ["growths"]

_CANCELLED_TIMERS = 200
"""A loop keeps cancelled timers until they are a hundred and half of all (asyncio's rule, and that of the reactor on trio); each keeps its context."""

_WINDOW = 3_072
"""Numbers of packets that an engine remembers to recognize copies: 256 at the most, for each end of the lasting connections and of those that failures made."""

_PACKETS = 40
"""Packets that nobody has acknowledged, for they only acknowledge: the next that comes tells of them. Some at each end of a connection."""

_CACHED_KEYS = 16
"""Identities whose certificate is cached."""

_MOVES: Mapping[str, int] = {
    "items in aioquic.quic.packet_builder.QuicSentPacket.delivery_handlers": _PACKETS,
    "items in aioquic.quic.recovery.QuicPacketNumberWindow._received": _WINDOW,
    "items in aioquic.quic.recovery.QuicPacketSpace.sent_packets": _PACKETS,
    "items in aster._reactor._TrioReactor._timers": _CANCELLED_TIMERS,
    "objects of aioquic.quic.packet_builder.QuicSentPacket": _PACKETS,
    "objects of aster._incoming._MetadataSender": _CANCELLED_TIMERS,
    "objects of aster._incoming_session.SessionContext": _CANCELLED_TIMERS,
    "objects of aster._reactor._TrioTimer": _CANCELLED_TIMERS,
    "objects of aster.trust.Identity": _CACHED_KEYS,
    "objects of aster.types.CallContext": _CANCELLED_TIMERS,
    "objects of aster.types.Metadata": _CANCELLED_TIMERS,
    "objects of aster.types.Peer": _CANCELLED_TIMERS,
    "objects of method": _PACKETS,
}
"""What is not equal each time, and by how much it may differ, however many calls there are. All else must be equal."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """A measure of memory, which is never quite flat.

    Attributes:
        name: for people.
        of: gives it.
        noise: by how much it moves without growing.
        each: by how much it may grow for each call.
    """

    name: str
    of: Callable[[Mark], int | None]
    noise: int
    each: float


_MEMORY = (
    # What is kept for each call is at least one block; the noise is what trio and the timers above keep for a while.
    _Memory("blocks of Python's memory", lambda mark: mark.blocks, 6_000, 0.02),
    # An object of Python's takes 16 bytes without counting what refers to it; allocators keep pages that are not quite empty.
    _Memory("bytes in memory", lambda mark: mark.resident, 2 << 20, 16),
)


def growths(marks: Sequence[Mark]) -> list[str]:
    """What grew, or differed where all must be equal, as sentences; empty when all was flat."""
    return [*_unequal(marks), *_grown(marks)]


def _unequal(marks: Sequence[Mark]) -> Iterator[str]:
    for name in sorted({name for mark in marks for name in mark.census}):
        counts = [mark.census[name] for mark in marks]
        if max(counts) - min(counts) > _MOVES.get(name, 0):
            yield f"{name}: {', '.join(map(str, counts))}"


def _grown(marks: Sequence[Mark]) -> Iterator[str]:
    """The two parts apart: failures, with their connections, take memory that calls need not, and a line through both would show that as growth."""
    for part in dict.fromkeys(mark.part for mark in marks[1:]):
        chosen = [mark for mark in marks if mark.part == part]
        for memory in _MEMORY:
            values = [value for mark in chosen if (value := memory.of(mark)) is not None]
            calls = [mark.calls for mark in chosen]
            if values and len(set(calls)) > 1:
                slope = statistics.linear_regression(calls, values).slope
                span = calls[-1] - calls[0]
                if slope * span > memory.noise + memory.each * span:
                    yield f"{memory.name} during the {part}: {slope:+,.1f} a call, {', '.join(f'{value:,}' for value in values)}"
