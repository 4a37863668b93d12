"""The engine: its private names, the streams it looks at, and what it does on a bad network. On a clock of its own, without sockets."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.transports.quic import check
from aster.transports.quic.check import check_engine, engine_class, engine_configuration
from aster.transports.quic.engine import CONNECTION_WINDOW, STREAM_WINDOW, ActiveEngine, Engine
from aster.trust import Identity

_KEYS = Identity.generate(), Identity.generate()
_ADDRESSES = ("client", 1), ("server", 1)


def test_the_installed_aioquic_does_what_both_engines_need() -> None:
    check_engine(Engine)
    check_engine(ActiveEngine)


class _Forgetful(ActiveEngine):
    """Leaves idle streams alone even when they have something to do."""

    def _activate(self, stream: QuicStream) -> None:
        return None


class _Blind(Engine):
    """Cannot tell who the peer is."""

    def peer_key(self) -> Ed25519PublicKey | None:
        return None


def test_an_engine_that_does_not_do_what_is_needed_is_found_out() -> None:
    for kind in (_Forgetful, _Blind):
        with pytest.raises(RuntimeError, match="does not behave as expected"):
            check_engine(kind)


def test_an_unknown_aioquic_gets_the_best_engine_that_works_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose() -> type[Engine]:
        engine_class.cache_clear()
        return engine_class()

    try:
        assert choose() is ActiveEngine
        monkeypatch.setattr(check, "TESTED_VERSIONS", frozenset({"0.0"}))
        assert choose() is ActiveEngine
        monkeypatch.setattr(check, "ActiveEngine", _Forgetful)
        assert choose() is Engine
        monkeypatch.setattr(check, "Engine", _Blind)
        with pytest.raises(ImportError, match=r"lacks what Aster needs.*install a version that Aster was tested with: 0\.0"):
            choose()
    finally:
        engine_class.cache_clear()


class _Network:
    """A pair of engines and a network between them that loses, doubles and delays by a seed, on a clock that jumps from event to event."""

    def __init__(self, kind: type[Engine], seed: int, loss: float, max_streams: int = 2_000) -> None:
        self._chance = random.Random(seed)
        self._loss = loss
        self.now = 0.0
        configuration = [engine_configuration(key, is_client=index == 0, idle_timeout=10_000.0, datagram_size=1_200) for index, key in enumerate(_KEYS)]
        self.client = kind(configuration[0], max_streams=0)
        self.client.connect(_ADDRESSES[1], 0.0)
        self.server = kind(configuration[1], max_streams=max_streams, original_destination_connection_id=self.client.original_destination_connection_id)
        self._on_the_way: list[tuple[float, int, int, bytes]] = []
        self._serial = 0
        self.received: dict[tuple[int, int], bytearray] = defaultdict(bytearray)
        self.endings: dict[tuple[int, int], str] = {}
        self.counts: Counter[str] = Counter()

    def run(self, until: float) -> None:
        """Let time pass until then, or until nothing is on the way and nothing waits."""
        engines = self.client, self.server
        while True:
            for index, engine in enumerate(engines):
                if engine is self.client or self.counts["arrived at server"]:
                    self._send(index, engine)
                    self._collect(index, engine)
            timers = [(at, index) for index, engine in enumerate(engines) if (at := engine.get_timer()) is not None]
            due = min([at for at, _ in timers] + [entry[0] for entry in self._on_the_way[:1]])
            if due > until:
                self.now = until
                return
            self.now = max(self.now, due) + 1e-6  # exactly on time, a rounding error can make the engine wait for ever
            while self._on_the_way and self._on_the_way[0][0] <= self.now:
                _, _, index, data = heapq.heappop(self._on_the_way)
                self.counts["arrived at server" if index else "arrived at client"] += 1
                engines[index].receive_datagram(data, _ADDRESSES[1 - index], self.now)
            for at, index in timers:
                if at <= self.now:
                    engines[index].handle_timer(self.now)

    def run_until_quiet(self) -> None:
        """Let time pass until all is acknowledged. Probes back off exponentially, so that an unlucky one can take long."""
        for _ in range(200):
            self.run(until=self.now + 10.0)
            if self.client.all_acknowledged() and self.server.all_acknowledged():
                return
        raise AssertionError("something was never acknowledged")

    def _send(self, index: int, engine: Engine) -> None:
        for data, _ in engine.datagrams_to_send(self.now):
            for _ in range(2 if self._chance.random() < self._loss / 4 else 1):
                if self._chance.random() < self._loss:
                    self.counts["lost"] += 1
                    continue
                self._serial += 1
                delay = 0.01 + self._chance.random() * 0.01
                heapq.heappush(self._on_the_way, (self.now + delay, self._serial, 1 - index, data))

    def _collect(self, index: int, engine: Engine) -> None:
        while engine.event_queue:
            event = engine.event_queue.popleft()
            if isinstance(event, StreamDataReceived):
                self.received[index, event.stream_id] += event.data
                if event.end_stream:
                    self.endings[index, event.stream_id] = "finished"
            elif isinstance(event, StreamReset):
                self.endings[index, event.stream_id] = f"reset {event.error_code}"


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1, 0.2]))
def test_all_that_is_written_arrives_over_a_bad_network(seed: int, loss: float) -> None:
    network = _Network(ActiveEngine, seed, loss)
    chance = random.Random(seed)
    network.run(until=60.0)
    assert network.client.handshake_confirmed, "the handshake took more than a minute"
    written: dict[tuple[int, int], bytearray] = defaultdict(bytearray)
    ended: dict[tuple[int, int], str] = {}
    for _ in range(60):
        side, engine = chance.choice([(0, network.client), (1, network.server)])
        stream_id = 4 * chance.randrange(12)
        opened = side == 0 or (1, stream_id) in network.received or (1, stream_id) in network.endings
        if (side, stream_id) in ended or not opened:
            continue
        for lower in range(0, stream_id + 4, 4):
            if side == 0 and (0, lower) not in written:
                written[0, lower] = bytearray()
                engine.send_stream_data(lower, b"")
        if chance.random() < 0.1:
            engine.reset_stream(stream_id, 7)
            ended[side, stream_id] = "reset 7"
        else:
            data = chance.randbytes(chance.choice([1, 60, 1_200, 30_000]))
            end = chance.random() < 0.3
            engine.send_stream_data(stream_id, data, end)
            written[side, stream_id] += data
            if end:
                ended[side, stream_id] = "finished"
        network.run(until=network.now + chance.choice([0.0, 0.0, 0.02, 0.5]))
    network.run_until_quiet()
    for (side, stream_id), data in written.items():
        outcome = ended.get((side, stream_id), "")
        got = bytes(network.received[1 - side, stream_id])
        assert network.endings.get((1 - side, stream_id), "") == outcome
        assert got == data if not outcome.startswith("reset") else data.startswith(got)
    assert bool(network.counts["lost"]) == bool(loss), "nothing was lost, so nothing was tested"


class _Counting(ActiveEngine):
    """Counts how often a stream is looked at."""

    looks = 0

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream) -> None:
        self.looks += 1
        super()._write_stream_limits(builder=builder, space=space, stream=stream)


def test_idle_streams_cost_nothing() -> None:
    network = _Network(_Counting, seed=1, loss=0.0)
    network.run(until=1.0)
    for index in range(1_000):
        network.client.send_stream_data(4 * index, b"open")
    network.run(until=5.0)
    assert len(network.received) == 1_000
    for engine in (network.client, network.server):
        assert isinstance(engine, _Counting)
        engine.looks = 0
        for _ in range(10):
            network.client.send_stream_data(4, b"busy")
            network.run(until=network.now + 1.0)
        assert 0 < engine.looks < 100, "idle streams were looked at"


def test_streams_that_have_ended_are_forgotten() -> None:
    network = _Network(ActiveEngine, seed=1, loss=0.0, max_streams=10)
    network.run(until=1.0)
    for index in range(100):
        network.client.send_stream_data(4 * index, b"request", end_stream=True)
        network.run(until=network.now + 0.2)
        network.server.send_stream_data(4 * index, b"reply", end_stream=True)
        network.run(until=network.now + 0.2)
    network.run(until=network.now + 1.0)
    for engine in (network.client, network.server):
        state = vars(engine)
        assert (len(state["_streams"]), len(state["_streams_queue"]), len(state["_active"])) == (0, 0, 0)


# What hostile peers do. Frames by RFC 9000, section 19.

_BOTH_ENGINES = pytest.mark.parametrize("kind", [Engine, ActiveEngine])


def _frame(*items: int | bytes) -> bytes:
    return b"".join(encode_uint_var(item) if isinstance(item, int) else item for item in items)


def _crypto(offset: int, data: bytes) -> bytes:
    return _frame(6, offset, len(data), data)


def _data(stream_id: int, offset: int, data: bytes) -> bytes:
    return _frame(0xE, stream_id, offset, len(data), data)


def _reset(stream_id: int, final_size: int) -> bytes:
    return _frame(4, stream_id, 7, final_size)


def _ack(*packets: int) -> bytes:
    """For single packets, none next to another, from the highest to the lowest."""
    gaps = [_frame(after - packet - 2, 0) for after, packet in pairwise(packets)]
    return _frame(2, packets[0], 0, len(gaps), 0, *gaps)


def _send_frames(network: _Network, frames: bytes, *, by_server: bool = False, epoch: Epoch = Epoch.ONE_RTT) -> None:
    """Give one end a packet of the other's keys that the other's engine knows nothing of."""
    sender, receiver = (network.server, network.client) if by_server else (network.client, network.server)
    state = vars(sender)
    keys = state["_cryptos"][Epoch.ONE_RTT]
    if epoch is Epoch.INITIAL:
        keys = CryptoPair()
        keys.setup_initial(cid=sender.original_destination_connection_id, is_client=True, version=1)
    builder = QuicPacketBuilder(
        host_cid=sender.host_cid,
        peer_cid=state["_peer_cid"].cid,
        version=1,
        is_client=not by_server,
        max_datagram_size=16_000,
        packet_number=state["_packet_number"],
    )
    builder.start_packet(QuicPacketType.INITIAL if epoch is Epoch.INITIAL else QuicPacketType.ONE_RTT, keys)
    builder.start_frame(1).push_bytes(frames)  # behind a PING
    datagrams, _ = builder.flush()
    state["_packet_number"] = builder.packet_number
    assert len(datagrams) == 1
    receiver.receive_datagram(datagrams[0], _ADDRESSES[by_server], network.now)


def _connected(kind: type[Engine]) -> _Network:
    network = _Network(kind, seed=1, loss=0.0)
    network.run(until=1.0)
    assert network.client.handshake_confirmed
    return network


def _receiver(engine: Engine, stream_id: int) -> dict[str, Any]:
    stream: QuicStream = vars(engine)["_streams"][stream_id]
    return vars(stream.receiver)


@_BOTH_ENGINES
@pytest.mark.parametrize("by_server", [False, True])
def test_a_byte_at_the_end_of_a_window_takes_no_more_memory_than_the_window(kind: type[Engine], by_server: bool) -> None:
    network = _connected(kind)
    network.client.send_stream_data(0, b"open")
    network.client.send_stream_data(4, b"open")
    network.run(until=2.0)
    sender, receiver = (network.server, network.client) if by_server else (network.client, network.server)
    for stream_id in (0, 4):
        sender.send_stream_data(stream_id, b"")
        for _ in range(5):
            limit = vars(sender)["_streams"][stream_id].max_stream_data_remote
            assert limit <= STREAM_WINDOW + 4, "the window grew without anything delivered"
            _send_frames(network, _data(stream_id, limit - 1, b"x"), by_server=by_server)
            network.run(until=network.now + 1.0)
    assert receiver.end() is None
    assert vars(sender)["_remote_max_data"] <= CONNECTION_WINDOW + 8, "the connection's window grew without anything delivered"
    assert sum(len(_receiver(receiver, stream_id)["_buffer"]) for stream_id in (0, 4)) <= CONNECTION_WINDOW


@_BOTH_ENGINES
def test_the_streams_of_a_connection_share_its_window(kind: type[Engine]) -> None:
    network = _connected(kind)
    for index in range(CONNECTION_WINDOW // STREAM_WINDOW):
        _send_frames(network, _data(4 * index, STREAM_WINDOW - 1, b"x"))
    assert network.server.end() is None
    _send_frames(network, _data(400, STREAM_WINDOW - 1, b"x"))
    end = network.server.end()
    assert end is not None
    assert end.code == QuicErrorCode.FLOW_CONTROL_ERROR


@_BOTH_ENGINES
def test_limits_rise_with_what_is_delivered_and_no_further(kind: type[Engine]) -> None:
    network = _connected(kind)
    size = CONNECTION_WINDOW + STREAM_WINDOW
    network.client.send_stream_data(0, bytes(size))
    network.run_until_quiet()
    assert len(network.received[1, 0]) == size
    state = vars(network.server)
    assert size + STREAM_WINDOW // 2 < state["_streams"][0].max_stream_data_local <= size + STREAM_WINDOW
    assert size + CONNECTION_WINDOW // 2 < state["_local_max_data"].value <= size + CONNECTION_WINDOW


@_BOTH_ENGINES
def test_what_a_reset_stream_never_delivers_is_given_back(kind: type[Engine]) -> None:
    network = _connected(kind)
    for index in range(3 * CONNECTION_WINDOW // STREAM_WINDOW):
        _send_frames(network, _data(4 * index, STREAM_WINDOW - 2, b"x"))
        _send_frames(network, _reset(4 * index, STREAM_WINDOW))
        assert not _receiver(network.server, 4 * index)["_buffer"]
        network.run(until=network.now + 1.0)
    assert network.server.end() is None


@_BOTH_ENGINES
def test_a_stream_in_more_pieces_than_are_kept_arrives_all_the_same(kind: type[Engine]) -> None:
    network = _connected(kind)
    content = bytes(range(1, 251)) * 8
    for first in range(1, 2_000, 200):
        _send_frames(network, b"".join(_data(0, offset, content[offset : offset + 1]) for offset in range(first, first + 200, 2)))
    assert len(_receiver(network.server, 0)["_ranges"]) == 256
    assert network.server.end() is None, "a packet above the limit is dropped"
    heard_at = network.server.heard_at
    network.now += 1.0
    _send_frames(network, _data(0, 1_999, b"x"))
    assert network.server.heard_at == heard_at, "what is dropped is not acknowledged"
    _send_frames(network, _data(0, 2, content[2:3]))
    assert len(_receiver(network.server, 0)["_ranges"]) == 255, "what joins two pieces is kept"
    network.client.send_stream_data(0, content)
    network.run_until_quiet()
    assert bytes(network.received[1, 0]) == content


def _before_the_handshake(kind: type[Engine]) -> _Network:
    """A pair whose server was never told anything."""
    network = _Network(kind, seed=1, loss=1.0)
    network.run(until=0.01)
    return network


@_BOTH_ENGINES
def test_a_handshake_in_many_pieces_is_not_kept(kind: type[Engine]) -> None:
    network = _before_the_handshake(kind)
    for first in range(1, 4_001, 400):
        _send_frames(network, b"".join(_crypto(offset, b"x") for offset in range(first, first + 400, 2)), epoch=Epoch.INITIAL)
    stream: QuicStream = vars(network.server)["_crypto_streams"][Epoch.INITIAL]
    assert len(vars(stream.receiver)["_ranges"]) == 32
    assert network.server.end() is None


@_BOTH_ENGINES
def test_a_handshake_that_does_not_come_to_its_end_is_closed(kind: type[Engine]) -> None:
    network = _before_the_handshake(kind)
    piece = b"\1\xff\xff\xff" + bytes(9_996)  # a message of 16 MiB begins
    for number in range(6):
        _send_frames(network, _crypto(10_000 * number, piece), epoch=Epoch.INITIAL)
    assert network.server.end() is None
    _send_frames(network, _crypto(60_000, piece), epoch=Epoch.INITIAL)
    end = network.server.end()
    assert end is not None
    assert end.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


@_BOTH_ENGINES
def test_an_acknowledgement_of_too_many_ranges_is_dropped(kind: type[Engine]) -> None:
    network = _connected(kind)
    network.now += 1.0
    _send_frames(network, _ack(*range(1_024, 0, -2)))
    assert network.server.heard_at == network.now
    network.now += 1.0
    _send_frames(network, _ack(*range(1_028, 0, -2)))
    assert network.server.heard_at == network.now - 1.0
    assert network.server.end() is None


@pytest.mark.parametrize("kind", [Engine, ActiveEngine])
@pytest.mark.parametrize("probes", range(5))
def test_an_address_that_was_not_validated_gets_three_times_what_came_from_it_at_most_the_close_included(kind: type[Engine], probes: int) -> None:
    client, server = (
        kind(
            engine_configuration(key, is_client=is_client, idle_timeout=3600.0, datagram_size=1_200),
            max_streams=1,
            original_destination_connection_id=None if is_client else b"original",
        )
        for key, is_client in zip(_KEYS, (True, False), strict=True)
    )
    client.connect(_ADDRESSES[1], 0.0)
    [(first, _)] = client.datagrams_to_send(0.0)
    server.receive_datagram(first, _ADDRESSES[0], 0.0)
    now, sent = 0.0, 0
    for _ in range(probes):
        sent += sum(len(data) for data, _ in server.datagrams_to_send(now))
        now = min(server.get_timer() or now, now + 10.0)
        server.handle_timer(now)
    server.close_application(0, "the handshake took too long")
    closing = server.datagrams_to_send(now)
    room = 3 * len(first) - sent
    assert sum(len(data) for data, _ in closing) <= room
    assert closing or room < 200, "it is sent as long as there is room for it"
    # Sent or not, the connection is over.
    assert server.end() is not None
    server.handle_timer(now + 60.0)
    assert not server.datagrams_to_send(now + 60.0)
    assert server.get_timer() is None
