"""The engine: its private names, the streams it looks at, and what it does on a bad network. On a clock of its own, without sockets."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.transports.quic import check
from aster.transports.quic.bounds import CONNECTION_WINDOW, STREAM_WINDOW
from aster.transports.quic.check import check_engine, engine_class, engine_configuration
from aster.transports.quic.engine import ActiveEngine, Engine
from tests.quic.engines import ADDRESSES, BOTH_ENGINES, KEYS, Network, ack_frame, connected, crypto_frame, data_frame, reset_frame, send_frames


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


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1, 0.2]))
def test_all_that_is_written_arrives_over_a_bad_network(seed: int, loss: float) -> None:
    network = Network(ActiveEngine, seed, loss)
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


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.1, 0.3, 0.45]), kind=st.sampled_from([Engine, ActiveEngine]))
def test_a_transfer_with_more_gaps_and_packets_than_are_kept_comes_to_its_end(seed: int, loss: float, kind: type[Engine]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aster.transports.quic.bounds._MAX_ISLANDS", 2)
        patch.setattr("aster.transports.quic.bounds._MAX_IN_FLIGHT", 6)
        network = Network(kind, seed, loss)
        network.run(until=1_000.0)
        assert network.client.handshake_confirmed
        data = random.Random(seed).randbytes(60_000)
        network.client.send_stream_data(0, data, True)
        network.run_until_quiet()
        assert network.received[1, 0] == data


class _Counting(ActiveEngine):
    """Counts how often a stream is looked at."""

    looks = 0

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream) -> None:
        self.looks += 1
        super()._write_stream_limits(builder=builder, space=space, stream=stream)


def test_idle_streams_cost_nothing() -> None:
    network = Network(_Counting, seed=1, loss=0.0)
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
    network = Network(ActiveEngine, seed=1, loss=0.0, max_streams=10)
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


def _receiver(engine: Engine, stream_id: int) -> dict[str, Any]:
    stream: QuicStream = vars(engine)["_streams"][stream_id]
    return vars(stream.receiver)


@BOTH_ENGINES
@pytest.mark.parametrize("by_server", [False, True])
def test_a_byte_at_the_end_of_a_window_takes_no_more_memory_than_the_window(kind: type[Engine], by_server: bool) -> None:
    network = connected(kind)
    network.client.send_stream_data(0, b"open")
    network.client.send_stream_data(4, b"open")
    network.run(until=2.0)
    sender, receiver = (network.server, network.client) if by_server else (network.client, network.server)
    for stream_id in (0, 4):
        sender.send_stream_data(stream_id, b"")
        for _ in range(5):
            limit = vars(sender)["_streams"][stream_id].max_stream_data_remote
            assert limit <= STREAM_WINDOW + 4, "the window grew without anything delivered"
            send_frames(network, data_frame(stream_id, limit - 1, b"x"), by_server=by_server)
            network.run(until=network.now + 1.0)
    assert receiver.end() is None
    assert vars(sender)["_remote_max_data"] <= CONNECTION_WINDOW + 8, "the connection's window grew without anything delivered"
    assert sum(len(_receiver(receiver, stream_id)["_buffer"]) for stream_id in (0, 4)) <= CONNECTION_WINDOW


@BOTH_ENGINES
def test_the_streams_of_a_connection_share_its_window(kind: type[Engine]) -> None:
    network = connected(kind)
    for index in range(CONNECTION_WINDOW // STREAM_WINDOW):
        send_frames(network, data_frame(4 * index, STREAM_WINDOW - 1, b"x"))
    assert network.server.end() is None
    send_frames(network, data_frame(400, STREAM_WINDOW - 1, b"x"))
    end = network.server.end()
    assert end is not None
    assert end.code == QuicErrorCode.FLOW_CONTROL_ERROR


@BOTH_ENGINES
def test_limits_rise_with_what_is_delivered_and_no_further(kind: type[Engine]) -> None:
    network = connected(kind)
    size = CONNECTION_WINDOW + STREAM_WINDOW
    network.client.send_stream_data(0, bytes(size))
    network.run_until_quiet()
    assert len(network.received[1, 0]) == size
    state = vars(network.server)
    assert size + STREAM_WINDOW // 2 < state["_streams"][0].max_stream_data_local <= size + STREAM_WINDOW
    assert size + CONNECTION_WINDOW // 2 < state["_local_max_data"].value <= size + CONNECTION_WINDOW


@BOTH_ENGINES
def test_what_a_reset_stream_never_delivers_is_given_back(kind: type[Engine]) -> None:
    network = connected(kind)
    for index in range(3 * CONNECTION_WINDOW // STREAM_WINDOW):
        send_frames(network, data_frame(4 * index, STREAM_WINDOW - 2, b"x"))
        send_frames(network, reset_frame(4 * index, STREAM_WINDOW))
        assert not _receiver(network.server, 4 * index)["_buffer"]
        network.run(until=network.now + 1.0)
    assert network.server.end() is None


@BOTH_ENGINES
def test_a_stream_in_more_pieces_than_are_kept_arrives_all_the_same(kind: type[Engine]) -> None:
    network = connected(kind)
    content = bytes(range(1, 251)) * 8
    for first in range(1, 2_000, 200):
        send_frames(network, b"".join(data_frame(0, offset, content[offset : offset + 1]) for offset in range(first, first + 200, 2)))
    assert len(_receiver(network.server, 0)["_ranges"]) == 256
    assert network.server.end() is None, "a packet above the limit is dropped"
    heard_at = network.server.heard_at
    network.now += 1.0
    send_frames(network, data_frame(0, 1_999, b"x"))
    assert network.server.heard_at == heard_at, "what is dropped is not acknowledged"
    send_frames(network, data_frame(0, 2, content[2:3]))
    assert len(_receiver(network.server, 0)["_ranges"]) == 255, "what joins two pieces is kept"
    network.client.send_stream_data(0, content)
    network.run_until_quiet()
    assert bytes(network.received[1, 0]) == content


def _before_the_handshake(kind: type[Engine]) -> Network:
    """A pair whose server was never told anything."""
    network = Network(kind, seed=1, loss=1.0)
    network.run(until=0.01)
    return network


@BOTH_ENGINES
def test_a_handshake_in_many_pieces_is_not_kept(kind: type[Engine]) -> None:
    network = _before_the_handshake(kind)
    for first in range(1, 4_001, 400):
        send_frames(network, b"".join(crypto_frame(offset, b"x") for offset in range(first, first + 400, 2)), epoch=Epoch.INITIAL)
    stream: QuicStream = vars(network.server)["_crypto_streams"][Epoch.INITIAL]
    assert len(vars(stream.receiver)["_ranges"]) == 32
    assert network.server.end() is None


@BOTH_ENGINES
def test_a_handshake_that_does_not_come_to_its_end_is_closed(kind: type[Engine]) -> None:
    network = _before_the_handshake(kind)
    piece = b"\1\xff\xff\xff" + bytes(9_996)  # a message of 16 MiB begins
    for number in range(6):
        send_frames(network, crypto_frame(10_000 * number, piece), epoch=Epoch.INITIAL)
    assert network.server.end() is None
    send_frames(network, crypto_frame(60_000, piece), epoch=Epoch.INITIAL)
    end = network.server.end()
    assert end is not None
    assert end.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


@BOTH_ENGINES
def test_an_acknowledgement_of_too_many_ranges_is_dropped(kind: type[Engine]) -> None:
    network = connected(kind)
    network.now += 1.0
    send_frames(network, ack_frame(*range(1_024, 0, -2)))
    assert network.server.heard_at == network.now
    network.now += 1.0
    send_frames(network, ack_frame(*range(1_028, 0, -2)))
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
        for key, is_client in zip(KEYS, (True, False), strict=True)
    )
    client.connect(ADDRESSES[1], 0.0)
    [(first, _)] = client.datagrams_to_send(0.0)
    server.receive_datagram(first, ADDRESSES[0], 0.0)
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
