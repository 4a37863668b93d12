"""Who may begin a handshake with a listener, and who may stay: counted for the server and for each address, without I/O or a clock."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from enum import Enum, auto

from aster.transports.base import ConnectionOptions, server_full
from aster.transports.quic.sockets import SocketAddress

__all__ = [
    "MAX_HANDSHAKES",
    "MAX_HANDSHAKES_PER_ADDRESS",
    "MAX_RATE",
    "MAX_RATE_PER_ADDRESS",
    "MAX_UNPROVED_RATE",
    "RETRY_ABOVE",
    "SURE_OF_ITS_PLACE",
    "Admission",
    "Answer",
    "Visit",
]

RETRY_ABOVE = 64
"""Unfinished handshakes from which on a new client must first show that it receives at its address: each costs signatures and memory here, and nothing there.
Below, connecting saves the round trip. So whoever forges addresses holds this many at the most."""

MAX_HANDSHAKES = 1024
"""Unfinished handshakes at most; one holds some 90 KB, for no longer than the handshake timeout."""

SURE_OF_ITS_PLACE = 2.0
"""Seconds for which a handshake keeps its place when all are taken; after that the oldest makes room for a client that showed that it receives at its address.
Else a few addresses that never finish could keep all others out. Long enough for a round trip of a second: a handshake takes two."""

MAX_HANDSHAKES_PER_ADDRESS = MAX_HANDSHAKES // 4
"""Unfinished handshakes of clients that showed that they receive at one address, above which that address is not answered. Others do not count, since
anyone can begin them in its name."""

MAX_RATE = 200
"""Handshakes that begin in a second. One takes the server 2 to 3 ms, so that this is about half of what one core can do; the rest is for calls."""

MAX_UNPROVED_RATE = MAX_RATE // 4
"""Those of them that may begin before the client has shown that it receives at its address, so that forged addresses leave three quarters to all others."""

MAX_RATE_PER_ADDRESS = MAX_RATE // 2
"""Those of them that may begin at one address which showed that it receives. Behind one address there may be a whole company, whose clients all come back at
once when the server was restarted: a thousand of them, the default of ``max_connections_per_address``, are in within their connect timeout of 10 s."""


class Answer(Enum):
    """What becomes of a client's first packet."""

    BEGIN = auto()
    RETURN = auto()
    """It must come again with a token."""
    SILENCE = auto()
    """Not now. A client sends its first packet several times, so that an honest one begins a little later."""


class Visit:
    """One client, from the beginning of its handshake to the end of its connection."""

    __slots__ = ("began", "connected", "place", "proved")

    def __init__(self, place: bytes, began: float, *, proved: bool) -> None:
        self.place = place
        self.began = began
        self.proved = proved
        self.connected = False


class Admission:
    """Counts handshakes and connections. What only a forged address could have caused is never held against that address."""

    def __init__(self, options: ConnectionOptions) -> None:
        self._most = options.max_connections
        self._most_per_address = options.max_connections_per_address
        self._all_connected = 0
        self._connected: Counter[bytes] = Counter()
        self._handshakes: dict[Visit, None] = {}  # in the order in which they began
        self._proved: Counter[bytes] = Counter()
        self._second = -math.inf
        self._begun = 0
        self._begun_unproved = 0
        self._begun_proved: Counter[bytes] = Counter()

    @property
    def handshakes(self) -> int:
        """Handshakes that have begun and not ended."""
        return len(self._handshakes)

    def full(self, addr: SocketAddress | None) -> str:
        """Which limit of connections leaves no room for one more from an address, or from none that is proved; empty when there is room."""
        if self._all_connected >= self._most:
            return server_full(self._most)
        if self._connected[_place(addr)] >= self._most_per_address:
            return f"the server is at its max_connections_per_address of {self._most_per_address} for this client's address"
        return ""

    def answer(self, addr: SocketAddress, now: float, *, proved: bool) -> Answer:
        """What to do with a client's first packet. ``proved``: it came with a token that was sent to this address."""
        self._turn(now)
        if self._begun >= MAX_RATE:
            return Answer.SILENCE
        if not proved:
            many = self.handshakes >= RETRY_ABOVE or self._begun_unproved >= MAX_UNPROVED_RATE
            return Answer.RETURN if many else Answer.BEGIN
        if self.handshakes >= MAX_HANDSHAKES:
            return Answer.SILENCE
        place = _place(addr)
        many = self._proved[place] >= MAX_HANDSHAKES_PER_ADDRESS or self._begun_proved[place] >= MAX_RATE_PER_ADDRESS
        return Answer.SILENCE if many else Answer.BEGIN

    def overstayed(self, now: float) -> Visit | None:
        """The handshake that must make room for one more, if all places are taken."""
        if self.handshakes < MAX_HANDSHAKES:
            return None
        oldest = next(iter(self._handshakes))
        return oldest if now - oldest.began >= SURE_OF_ITS_PLACE else None

    def begin(self, addr: SocketAddress, now: float, *, proved: bool) -> Visit:
        """A handshake begins."""
        self._turn(now)
        visit = Visit(_place(addr), now, proved=proved)
        self._handshakes[visit] = None
        self._begun += 1
        if proved:
            self._proved[visit.place] += 1
            self._begun_proved[visit.place] += 1
        else:
            self._begun_unproved += 1
        return visit

    def connect(self, visit: Visit, addr: SocketAddress | None) -> None:
        """The handshake has ended well; from here on its client is one of the connections. ``addr``: where it has proved that it receives, if anywhere, which
        need not be where its first packet came from."""
        self._end_handshake(visit)
        visit.place = _place(addr)
        visit.connected = True
        self._all_connected += 1
        self._connected[visit.place] += 1

    def leave(self, visit: Visit) -> None:
        """The client is gone, with or without a finished handshake."""
        self._end_handshake(visit)
        if visit.connected:
            visit.connected = False
            self._all_connected -= 1
            _take_one(self._connected, visit.place)

    def _end_handshake(self, visit: Visit) -> None:
        if visit in self._handshakes:
            del self._handshakes[visit]
            if visit.proved:
                _take_one(self._proved, visit.place)

    def _turn(self, now: float) -> None:
        """Count from zero in each new second."""
        second = math.floor(now)
        if second != self._second:
            self._second = second
            self._begun = self._begun_unproved = 0
            self._begun_proved.clear()


def _take_one(counter: Counter[bytes], place: bytes) -> None:
    counter[place] -= 1
    if not counter[place]:
        del counter[place]  # or one entry would stay for each address that ever connected


def _place(addr: SocketAddress | None) -> bytes:
    """What counts as one address: an IPv4 address, or the network of 2**64 IPv6 addresses that the smallest customer of a provider has for itself; and
    all together that is not proved."""
    if addr is None:
        return b""
    ip = ipaddress.ip_address(addr[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.packed
    return ip.ipv4_mapped.packed if ip.ipv4_mapped is not None else ip.packed[:8]
