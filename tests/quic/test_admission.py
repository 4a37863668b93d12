"""Who may begin a handshake and who may stay: the counts for themselves, and a listener that goes by them, on a clock of its own."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.errors import RefusedError
from aster.transports.base import ConnectionOptions
from aster.transports.quic import admission
from aster.transports.quic.admission import Admission, Answer, Visit
from aster.transports.quic.client import ClientConnection
from aster.transports.quic.listener import QuicListener
from tests.quic.virtual import VirtualNetwork, listening_pair, new_client

_OPTIONS = ConnectionOptions(max_connections=6, max_connections_per_address=3)
_SMALL = {"RETRY_ABOVE": 3, "MAX_HANDSHAKES": 8, "MAX_HANDSHAKES_PER_ADDRESS": 2, "MAX_RATE": 12, "MAX_UNPROVED_RATE": 4, "MAX_RATE_PER_ADDRESS": 6}

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), st.sampled_from("abcd"), st.booleans()),
        st.tuples(st.just("finish"), st.integers(0, 20), st.sampled_from(["a", "b", ""])),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.sampled_from([0.25, 1.0, 5.0])),
    ),
    max_size=120,
)


class _Door:
    """Does what a listener does, and keeps its own books."""

    def __init__(self) -> None:
        self.admission = Admission(_OPTIONS)
        self.now = 0.0
        self.here: list[tuple[Visit, str]] = []
        self.begun: list[tuple[int, str, bool]] = []

    def packet(self, name: str, proved: bool) -> None:
        addr = (f"10.0.0.{ord(name)}", 1)
        if self.admission.full(addr) or self.admission.answer(addr, self.now, proved=proved) is not Answer.BEGIN:
            return
        self.here.append((self.admission.begin(addr, self.now, proved=proved), name))
        self.begun.append((int(self.now), name, proved))

    def finish(self, index: int, where: str) -> None:
        """A handshake ends well, one without a token at any address or at none that is proved."""
        waiting = [(visit, name) for visit, name in self.here if not visit.connected]
        if waiting:
            visit, name = waiting[index % len(waiting)]
            self.here.remove((visit, name))
            name = name if visit.proved else where
            addr = (f"10.0.0.{ord(name)}", 1) if name else None
            if self.admission.full(addr):
                self.admission.leave(visit)
            else:
                self.admission.connect(visit, addr)
                self.here.append((visit, name))

    def leave(self, index: int) -> None:
        if self.here:
            self.admission.leave(self.here.pop(index % len(self.here))[0])

    def check(self) -> None:
        unfinished = [(visit, name) for visit, name in self.here if not visit.connected]
        assert self.admission.handshakes == len(unfinished) <= admission.MAX_HANDSHAKES
        assert sum(not visit.proved for visit, _ in unfinished) <= admission.RETRY_ABOVE
        assert max(Counter(name for visit, name in unfinished if visit.proved).values(), default=0) <= admission.MAX_HANDSHAKES_PER_ADDRESS
        connected = Counter(name for visit, name in self.here if visit.connected)
        assert connected.total() <= _OPTIONS.max_connections
        assert max(connected.values(), default=0) <= _OPTIONS.max_connections_per_address
        assert max(Counter(second for second, _, _ in self.begun).values(), default=0) <= admission.MAX_RATE
        assert max(Counter(second for second, _, proved in self.begun if not proved).values(), default=0) <= admission.MAX_UNPROVED_RATE
        assert max(Counter((second, name) for second, name, proved in self.begun if proved).values(), default=0) <= admission.MAX_RATE_PER_ADDRESS


@given(_STEPS)
def test_no_order_of_arrivals_passes_a_limit_and_nothing_is_kept_of_who_left(steps: list[tuple[object, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SMALL.items():
            patch.setattr(admission, name, value)
        door = _Door()
        for step in steps:
            match step:
                case ("packet", str(name), bool(proved)):
                    door.packet(name, proved)
                case ("finish", int(index), str(where)):
                    door.finish(index, where)
                case ("leave", int(index)):
                    door.leave(index)
                case ("wait", float(seconds)):
                    door.now += seconds
                case _:
                    raise AssertionError(step)
            door.check()
        while door.here:
            door.leave(0)
        door.now += 1.0
        assert door.admission.answer(("10.0.0.1", 1), door.now, proved=True) is Answer.BEGIN
        state = vars(door.admission)
        assert not any(state[name] for name in ("_all_connected", "_connected", "_handshakes", "_proved", "_begun_proved"))


def test_whoever_forges_an_address_takes_nothing_from_its_owner() -> None:
    victim = ("10.0.0.1", 1)
    door = Admission(ConnectionOptions())
    for number in range(60):
        while door.answer(victim, float(number), proved=False) is Answer.BEGIN:
            door.begin(victim, float(number), proved=False)
    assert door.handshakes == admission.RETRY_ABOVE
    begun = 0
    while door.answer(victim, 60.0, proved=True) is Answer.BEGIN:
        door.connect(door.begin(victim, 60.0, proved=True), victim)
        begun += 1
    assert begun == admission.MAX_RATE_PER_ADDRESS
    assert not door.full(victim)


def test_one_address_leaves_room_for_others() -> None:
    greedy, modest = ("10.0.0.1", 1), ("10.0.0.2", 1)
    door = Admission(ConnectionOptions())
    for number in range(60):
        while door.answer(greedy, float(number), proved=True) is Answer.BEGIN:
            door.begin(greedy, float(number), proved=True)
        assert door.answer(modest, float(number), proved=True) is Answer.BEGIN
    assert door.handshakes == admission.MAX_HANDSHAKES_PER_ADDRESS


def test_the_oldest_handshake_makes_room_when_all_places_are_taken_and_it_has_had_some_time() -> None:
    door = Admission(ConnectionOptions())
    crowd = [(f"10.0.0.{number}", 1) for number in range(16)]
    visits = [door.begin(crowd[number % 16], 0.0, proved=True) for number in range(admission.MAX_HANDSHAKES)]
    newcomer = ("10.0.1.1", 1)
    early, late = admission.SURE_OF_ITS_PLACE - 0.01, admission.SURE_OF_ITS_PLACE
    assert door.answer(newcomer, early, proved=False) is Answer.RETURN, "a token costs nothing to give"
    assert door.overstayed(early) is None
    assert door.answer(newcomer, early, proved=True) is Answer.SILENCE
    assert door.overstayed(late) is visits[0]
    door.leave(visits[0])
    assert door.overstayed(late) is None, "there is room"
    assert door.answer(newcomer, late, proved=True) is Answer.BEGIN
    door.begin(newcomer, late, proved=True)
    assert door.overstayed(late) is visits[1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%1", "fe80::2", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_an_ipv6_network_of_64_bits_counts_as_one_address(one: str, other: str, same: bool) -> None:
    door = Admission(ConnectionOptions(max_connections_per_address=1))
    door.connect(door.begin((one, 1, 0, 0), 0.0, proved=True), (one, 1, 0, 0))
    assert bool(door.full((other, 2))) is same


# A listener


def _connect_all(network: VirtualNetwork, clients: list[ClientConnection]) -> list[str]:
    """Let all connect at once; why each was refused, or nothing."""
    outcomes: list[str] = []

    async def connect(client: ClientConnection) -> None:
        try:
            await client.establish()
        except RefusedError as exc:
            outcomes.append(str(exc))
        else:
            outcomes.append("")

    tasks = [connect(client) for client in clients]
    for task in tasks:
        task.send(None)
    network.run(until=network.now() + 9.0)
    for task in tasks:
        with pytest.raises(StopIteration):
            task.send(None)
    return outcomes


@pytest.mark.parametrize(
    ("options", "limit"),
    [(ConnectionOptions(max_connections=2), "max_connections"), (ConnectionOptions(max_connections_per_address=2), "max_connections_per_address")],
)
def test_of_clients_that_come_at_once_those_above_a_limit_are_refused(options: ConnectionOptions, limit: str) -> None:
    network, pair, _ = listening_pair(options)
    clients = [new_client(network, pair, options)[0] for _ in range(5)]
    outcomes = _connect_all(network, clients)
    assert sorted(map(bool, outcomes)) == [False, False, True, True, True]
    assert all(f"refused this client: the server is at its {limit} of 2" in outcome for outcome in outcomes if outcome)
    assert len(pair.accepted) == 2
    assert isinstance(pair.listener, QuicListener)
    assert pair.listener.pending_handshakes == 0


def test_a_client_above_a_limit_is_refused_before_it_costs_a_handshake_and_takes_the_place_of_one_that_left() -> None:
    options = ConnectionOptions(max_connections=1)
    network, pair, _ = listening_pair(options)
    first, second, third = (new_client(network, pair, options)[0] for _ in range(3))
    assert _connect_all(network, [first]) == [""]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuicListener, "_new_connection", None)
        (refusal,) = _connect_all(network, [second])
    assert "refused this client: the server is at its max_connections of 1" in refusal
    first.close()
    network.run(until=network.now() + 0.1)
    assert _connect_all(network, [third]) == [""]


def test_clients_above_the_rate_of_handshakes_connect_a_little_later() -> None:
    options = ConnectionOptions()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MAX_RATE": 8, "MAX_UNPROVED_RATE": 2, "MAX_RATE_PER_ADDRESS": 4}.items():
            patch.setattr(admission, name, value)
        network, pair, _ = listening_pair(options)
        clients = [new_client(network, pair, options)[0] for _ in range(12)]
        for client in clients:
            client.establish().send(None)
        for second in range(1, 10):
            network.run(until=float(second))
            assert len(pair.accepted) <= 6 * second, "two that were not asked to return, and four that were"
        assert len(pair.accepted) == 12


def test_all_that_one_address_may_have_are_in_within_ten_seconds_when_they_come_at_once() -> None:
    """As after a restart of the server. A twentieth of the numbers that hold by default."""
    options = ConnectionOptions(max_connections_per_address=50)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_RATE", "MAX_UNPROVED_RATE", "MAX_RATE_PER_ADDRESS"):
            patch.setattr(admission, name, getattr(admission, name) // 20)
        network, pair, _ = listening_pair(options)
        for _ in range(50):
            new_client(network, pair, options)[0].establish().send(None)
        network.run(until=10.0)
        assert len(pair.accepted) == 50


def test_a_handshake_that_stops_leaves_its_place_when_its_time_is_over() -> None:
    options = ConnectionOptions(handshake_timeout=3.0)
    network, pair, _ = listening_pair(options)
    client, sock = new_client(network, pair, options)
    client.establish().send(None)
    sock.unplugged = True
    assert isinstance(pair.listener, QuicListener)
    network.run(until=3.0)
    assert pair.listener.pending_handshakes == 1
    network.run(until=3.1)
    assert pair.listener.pending_handshakes == 0
    assert not pair.accepted


def test_clients_that_hold_their_handshakes_open_do_not_keep_others_out() -> None:
    options = ConnectionOptions(handshake_timeout=1_000.0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RETRY_ABOVE": 0, "MAX_HANDSHAKES": 4}.items():
            patch.setattr(admission, name, value)
        network, pair, _ = listening_pair(options)
        assert isinstance(pair.listener, QuicListener)
        holding: list[ClientConnection] = []
        for _ in range(4):
            client, sock = new_client(network, pair, options)
            client.establish().send(None)
            network.run(until=network.now() + 0.035)  # it has come back with its token, and the server's answer is under way
            sock.unplugged = True
            holding.append(client)
        assert pair.listener.pending_handshakes == 4
        assert _connect_all(network, [new_client(network, pair, options)[0]]) == [""]
        assert pair.listener.pending_handshakes == 3
        assert len(pair.accepted) == 1
