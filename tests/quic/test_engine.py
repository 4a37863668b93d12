"""The engine: its private names, the streams it looks at, and what it does on a bad network. On a clock of its own, without sockets."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from typing import Any

import pytest
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStream
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.transports.quic import check
from aster.transports.quic.check import check_engine, engine_class, engine_configuration
from aster.transports.quic.engine import ActiveEngine, Engine
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
