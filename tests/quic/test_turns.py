"""Who gets the loop's time: peers whose datagrams take long share what others leave, and keep nobody waiting. On a clock that only their datagrams move."""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.transports.quic.turns import LARGEST_INBOX, MOST_BEHIND, TURN, Inbox, Turns
from tests.quic.virtual import VirtualNetwork

_ADDRESS = ("peer", 1)


class _Busy(VirtualNetwork):
    """A loop on which time passes by what is done in it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0
        self.soon: deque[Callable[[], None]] = deque()
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self.clock

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        entry = (when, next(self._numbers), callback)
        heapq.heappush(self.timers, entry)
        return _Timer(self, entry)

    @property
    def idle(self) -> bool:
        return not self.soon and not self.timers

    def round(self) -> None:
        """What a loop does between two looks at its sockets; it sleeps only when there is nothing else."""
        self.clock += 0.000_05
        if not self.soon and self.timers:
            self.clock = max(self.clock, self.timers[0][0])
        while self.timers and self.timers[0][0] <= self.clock:
            self.soon.append(heapq.heappop(self.timers)[2])
        for _ in range(len(self.soon)):
            self.soon.popleft()()  # one that raises leaves the others for the next round


class _Timer:
    def __init__(self, loop: _Busy, entry: tuple[float, int, Callable[[], None]]) -> None:
        self._loop = loop
        self._entry = entry

    def cancel(self) -> None:
        if self._entry in self._loop.timers:
            self._loop.timers.remove(self._entry)


class _Peer:
    """Each of its datagrams takes so many seconds."""

    def __init__(self, loop: _Busy, cost: float, place: bytes | None = None) -> None:
        self.inbox: Inbox = deque()
        self.place = b"%d" % id(self) if place is None else place
        self.taken: list[bytes] = []
        self.unsettled = 0
        self.seconds = 0.0
        self._loop = loop
        self._cost = cost

    def receive(self, data: bytes, addr: object, now: float) -> None:
        assert now == self._loop.clock
        if data == b"fail":
            raise RuntimeError
        self.taken.append(data)
        self.unsettled += 1
        self._loop.clock += self._cost
        self.seconds += self._cost

    def settle(self) -> None:
        self.unsettled = 0


def _flood(turns: Turns, peer: _Peer) -> None:
    while len(peer.inbox) < LARGEST_INBOX:
        turns.add(peer, b"x", _ADDRESS)


@pytest.mark.parametrize("cost", [0.000_2, 0.003, 0.05])
@pytest.mark.parametrize("crowd", [1, 5])
def test_peers_that_flood_have_half_of_the_time_at_most_while_another_is_there(cost: float, crowd: int) -> None:
    loop = _Busy()
    turns = Turns(loop)
    flooding = [_Peer(loop, cost) for _ in range(crowd)]
    honest = _Peer(loop, 0.000_2)
    waited: list[float] = []
    while loop.clock < 20.0:
        for peer in flooding:
            _flood(turns, peer)
        turns.add(honest, b"call", _ADDRESS)
        asked = loop.clock
        turns.take()
        waited.append(loop.clock - asked)
        assert not honest.inbox
        loop.round()
    assert sum(peer.seconds for peer in flooding) <= 0.55 * loop.clock
    assert all(peer.seconds > 0.1 * loop.clock / crowd for peer in flooding), "those who are behind are served too, each of them"
    # Only the first round has them all at once: from then on they are behind.
    assert max(waited[1:]) < 0.001


def test_who_floods_alone_has_all_the_time() -> None:
    loop = _Busy()
    turns = Turns(loop)
    peer = _Peer(loop, 0.000_2)
    while loop.clock < 5.0:
        _flood(turns, peer)
        turns.take()
        loop.round()
    assert peer.seconds > 0.95 * loop.clock


def test_a_turn_ends_in_time_and_the_rest_of_the_loop_has_its_own() -> None:
    loop = _Busy()
    turns = Turns(loop)
    peer = _Peer(loop, TURN / 3)
    _flood(turns, peer)
    turns.take()
    assert len(peer.taken) == 4
    assert loop.clock < 2 * TURN
    loop.round()
    assert len(peer.taken) == 8


@pytest.mark.parametrize("cost", [0.0, 0.000_2])
def test_a_datagram_at_which_a_peer_fails_keeps_nobody_else_from_its_turn(cost: float) -> None:
    loop = _Busy()
    turns = Turns(loop)
    peers = [_Peer(loop, cost) for _ in range(3)]
    sent = [b"%d" % number for number in range(100)]
    for number in sent:
        for peer in peers:
            turns.add(peer, b"fail" if peer is peers[1] and number in sent[::10] else number, _ADDRESS)
    with pytest.raises(RuntimeError):
        turns.take()
    while not loop.idle:
        with contextlib.suppress(RuntimeError):
            loop.round()
    assert peers[0].taken == peers[2].taken == sent
    assert not peers[1].inbox
    assert not any(peer.unsettled for peer in peers)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from((0.0, 0.000_1, 0.002, 0.01)), st.booleans()), max_size=60))
def test_every_datagram_is_taken_once_in_order_and_settled(steps: list[tuple[int, float, bool]]) -> None:
    loop = _Busy()
    turns = Turns(loop)
    peers = [_Peer(loop, cost) for cost in (0.0, 0.001, 0.01)]
    sent: list[list[bytes]] = [[], [], []]
    for number, (index, pause, takes) in enumerate(steps):
        sent[index].append(b"%d" % number)
        turns.add(peers[index], sent[index][-1], _ADDRESS)
        loop.clock += pause
        if takes:
            turns.take()
            loop.round()
    turns.take()
    while not loop.idle:
        loop.round()
    assert [peer.taken for peer in peers] == sent
    assert not any(peer.unsettled for peer in peers)


def test_what_waits_for_a_peer_is_bounded() -> None:
    loop = _Busy()
    turns = Turns(loop)
    peer = _Peer(loop, 0.0)
    for number in range(2 * LARGEST_INBOX):
        turns.add(peer, b"%d" % number, _ADDRESS)
    turns.take()
    assert peer.taken == [b"%d" % number for number in range(LARGEST_INBOX)]


def test_what_waits_for_all_who_are_behind_is_bounded() -> None:
    loop = _Busy()
    turns = Turns(loop)
    peers = [_Peer(loop, 2 * TURN, b"%d" % (number % 10)) for number in range(200)]
    for _ in range(2):
        for peer in peers:
            for _ in range(LARGEST_INBOX):
                turns.add(peer, b"x", _ADDRESS)
            turns.take()
        for _ in peers:
            loop.round()
    assert MOST_BEHIND // 2 < sum(len(peer.inbox) for peer in peers) <= MOST_BEHIND


def test_many_connections_from_one_address_have_no_more_turns_than_one_from_another() -> None:
    loop = _Busy()
    turns = Turns(loop)
    greedy = [_Peer(loop, 0.000_2, b"greedy") for _ in range(100)]
    modest = _Peer(loop, 0.000_2, b"modest")
    waited = [0.0]
    for peer in greedy:
        _flood(turns, peer)
    turns.take()
    while loop.clock < 3.0:
        for peer in (*greedy, modest):
            for _ in range(30):
                turns.add(peer, b"x", _ADDRESS)
        before, asked = modest.seconds, loop.clock
        turns.take()
        while modest.seconds == before:
            loop.round()
        waited.append(loop.clock - asked)
    assert max(waited) < 5 * TURN


def test_nothing_is_left_in_the_loop_after_the_end() -> None:
    loop = _Busy()
    turns = Turns(loop)
    flooding, honest = _Peer(loop, 0.003), _Peer(loop, 0.0)
    _flood(turns, flooding)
    turns.add(honest, b"call", _ADDRESS)
    turns.take()
    while not loop.timers:
        loop.round()
    turns.close()
    taken = len(flooding.taken)
    while not loop.idle:
        loop.round()
    assert len(flooding.taken) == taken
