"""What an engine holds for its peer does not grow for the life of a connection, whatever the peer sends, and however long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aioquic.quic.events import StopSendingReceived
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription, Epoch

from aster.transports.quic import bounds
from aster.transports.quic.engine import ActiveEngine, Engine
from tests.quic.engines import BOTH_ENGINES, Network, ack_frame, connected, crypto_frame, data_frame, held, reset_frame, send_frames
from tests.quic.raw import frame_of

_WARM_UP = 400
"""Rounds after which all that is bounded has reached its bound."""

_ROUNDS = 2_500
"""Rounds after those, one packet each. What keeps one item a round holds so many more."""

_SLACK = 1_200
"""Items by which what is bounded rises and falls: half of the packets that are remembered at a time, with some items each."""


@dataclass
class _Flood:
    """What a peer sends in each round.

    Attributes:
        frames: the frames of a round.
        acknowledges: whether it acknowledges all that it was sent; else it never does.
        by_server: whether a client is flooded rather than a server.
        ends: the code with which the engine ends the connection, if it does.
        each: what the flooded engine's owner, or the peer, does besides.
        to: which of the flooded engine's connection ids a packet is for.
        source: where it comes from.
    """

    frames: Callable[[int], bytes] = lambda n: b""
    acknowledges: bool = False
    by_server: bool = False
    ends: int | None = None
    each: Callable[[Network, int], object] = lambda network, n: None
    to: Callable[[Engine, int], bytes | None] = lambda engine, n: None
    source: Callable[[int], tuple[str, int] | None] = lambda n: None


def _new_id(number: int, retire_prior_to: int) -> bytes:
    return frame_of(0x18, number, retire_prior_to) + b"\x08" + number.to_bytes(8) + bytes(16)


def _ticket(n: int) -> bytes:
    """A session ticket of TLS, of 100 bytes."""
    return b"\x04" + (96).to_bytes(3) + bytes(8) + b"\x00" + (83).to_bytes(2) + bytes(83) + b"\x00\x00"


def _first_two(engine: Engine, n: int) -> bytes:
    """Another one of the engine's connection ids in each round."""
    ids = [host_cid.cid for host_cid in vars(engine)["_host_cids"]]
    return ids[n % 2]


def _end_stream(network: Network, n: int) -> None:
    if n:
        network.server.send_stream_data(4 * n, b"reply", end_stream=True)


def _update_keys(network: Network, n: int) -> None:
    vars(network.client)["_cryptos"][Epoch.ONE_RTT].update_key()


def _validate_paths(network: Network, n: int) -> None:
    for path in vars(network.server)["_network_paths"]:
        path.is_validated = True


def _keep_one_id(network: Network, n: int) -> None:
    """Let one id of the peer stay in use for a path that is being probed, whatever happens to the others."""
    state = vars(network.server)
    if n == 0:
        path = state["_network_paths"][0]
        path.peer_cid = state["_peer_cid_available"].pop(0)


_FLOODS = {
    "PING": _Flood(),
    "PING, all acknowledged": _Flood(acknowledges=True),
    "ACK of every other packet": _Flood(lambda n: ack_frame(*range(200 + n, n, -2))),
    "RESET_STREAM": _Flood(lambda n: reset_frame(0, 4) * 20),
    "STOP_SENDING": _Flood(lambda n: frame_of(5, 0, 7) * 20),
    "STOP_SENDING of several streams": _Flood(lambda n: frame_of(5, 4 * (n % 50), 7) * 20),
    "CRYPTO in pieces": _Flood(lambda n: crypto_frame(1 + 2 * (n % 9_000), b"x")),
    "CRYPTO with sense": _Flood(lambda n: crypto_frame(100 * n, _ticket(n)), by_server=True, ends=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED),
    "CRYPTO without sense": _Flood(lambda n: crypto_frame(0, b"\x63\0\0\1x"), ends=QuicErrorCode.CRYPTO_ERROR + int(AlertDescription.unexpected_message)),
    "NEW_TOKEN": _Flood(lambda n: frame_of(7, 50, bytes(50)) * 20, by_server=True),
    "NEW_TOKEN of a client": _Flood(lambda n: frame_of(7, 5, b"token"), ends=QuicErrorCode.PROTOCOL_VIOLATION),
    "STREAM in pieces": _Flood(lambda n: data_frame(0, 1 + 2 * (n % 100_000), b"x")),
    "STREAM again": _Flood(lambda n: data_frame(0, 0, b"x") * 20),
    "streams that are opened and reset": _Flood(lambda n: data_frame(4 * n + 4, 0, b"x") + reset_frame(4 * n + 4, 1), acknowledges=True, each=_end_stream),
    "MAX_DATA": _Flood(lambda n: frame_of(0x10, n) * 20),
    "MAX_STREAM_DATA": _Flood(lambda n: frame_of(0x11, 4 * (n % 50), n) * 20),
    "MAX_STREAMS": _Flood(lambda n: (frame_of(0x12, n) + frame_of(0x13, n)) * 20),
    "DATA_BLOCKED": _Flood(lambda n: frame_of(0x14, n) * 20),
    "STREAM_DATA_BLOCKED": _Flood(lambda n: frame_of(0x15, 4 * (n % 50), n) * 20),
    "STREAMS_BLOCKED": _Flood(lambda n: (frame_of(0x16, n) + frame_of(0x17, n)) * 20),
    "NEW_CONNECTION_ID": _Flood(lambda n: _new_id(10 + n, 0), ends=QuicErrorCode.CONNECTION_ID_LIMIT_ERROR),
    "NEW_CONNECTION_ID that retires the others": _Flood(lambda n: _new_id(10 + n, 10 + n), ends=QuicErrorCode.CONNECTION_ID_LIMIT_ERROR),
    "NEW_CONNECTION_ID that retires the others, all acknowledged": _Flood(lambda n: _new_id(10 + n, 10 + n), acknowledges=True),
    "NEW_CONNECTION_ID again": _Flood(lambda n: _new_id(3, 0) * 20),
    "a change of connection id": _Flood(lambda n: _new_id(8 + n, 0) if n > 1 else b"", acknowledges=True, to=_first_two),
    "a change of all connection ids but one": _Flood(
        lambda n: _new_id(8 + n, 0) if n > 1 else b"", acknowledges=True, to=_first_two, each=_keep_one_id, ends=QuicErrorCode.CONNECTION_ID_LIMIT_ERROR
    ),
    "RETIRE_CONNECTION_ID": _Flood(lambda n: frame_of(0x19, 1 + n), acknowledges=True),
    "RETIRE_CONNECTION_ID, nothing acknowledged": _Flood(lambda n: frame_of(0x19, 1 + n), ends=QuicErrorCode.PROTOCOL_VIOLATION),
    "RETIRE_CONNECTION_ID of ids to come": _Flood(lambda n: b"".join(frame_of(0x19, 1 + i) for i in range(500)), ends=QuicErrorCode.PROTOCOL_VIOLATION),
    "PATH_CHALLENGE": _Flood(lambda n: (frame_of(0x1A) + n.to_bytes(8)) * 20),
    "PATH_CHALLENGE from everywhere": _Flood(lambda n: (frame_of(0x1A) + n.to_bytes(8)) * 20, source=lambda n: (f"client {n}", 1)),
    "PATH_CHALLENGE from two addresses": _Flood(lambda n: frame_of(0x1A) + n.to_bytes(8), source=lambda n: (f"client {n % 2}", 1), each=_validate_paths),
    "PATH_RESPONSE": _Flood(lambda n: (frame_of(0x1B) + n.to_bytes(8)) * 20),
    "PING from everywhere": _Flood(source=lambda n: (f"client {n}", 1)),
    "HANDSHAKE_DONE": _Flood(lambda n: frame_of(0x1E) * 20, by_server=True),
    "DATAGRAM": _Flood(lambda n: frame_of(0x31, 1, b"x"), ends=QuicErrorCode.PROTOCOL_VIOLATION),
    "updates of keys": _Flood(each=_update_keys),
}


@pytest.mark.timeout(120)  # three thousand packets take 2 to 9 s on a busy core
@pytest.mark.parametrize("name", _FLOODS)
def test_no_frame_makes_an_engine_hold_more_and_more(name: str) -> None:
    flood = _FLOODS[name]
    network = connected(ActiveEngine)
    network.client.send_stream_data(0, b"open")
    network.run(until=2.0)
    victim = network.client if flood.by_server else network.server
    before = held(victim)
    for n in range(_WARM_UP + _ROUNDS):
        flood.each(network, n)
        acknowledgement = frame_of(2, vars(victim)["_packet_number"] - 1, 0, 0, 0) if flood.acknowledges else b""
        send_frames(network, acknowledgement + flood.frames(n), by_server=flood.by_server, to=flood.to(victim, n), source=flood.source(n))
        assert len(victim.event_queue) <= 100, "one packet leads to a few events"
        victim.event_queue.clear()
        if victim.end() is not None:
            break
        network.now += 0.01
        timer = victim.get_timer()
        if timer is not None and timer <= network.now:
            victim.handle_timer(network.now)
        victim.datagrams_to_send(network.now)  # which arrive nowhere
        if n == _WARM_UP:
            before = held(victim)
    end = victim.end()
    assert (end.code if end is not None else None) == flood.ends, end
    if end is not None:
        return
    after = held(victim)
    growth = {path: count - before[path] for path, count in after.items() if count > before[path]}
    assert after.total() < before.total() + _SLACK, growth


@pytest.mark.timeout(120)  # ten thousand packets, above what is in flight at a time, take 5 to 10 s on a busy core
@BOTH_ENGINES
@pytest.mark.parametrize("acknowledges", [False, True], ids=["none", "every other"])
def test_the_packets_and_pieces_of_a_transfer_that_wait_for_acknowledgement_are_bounded(kind: type[Engine], acknowledges: bool) -> None:
    network = connected(kind)
    network.client.send_stream_data(0, b"open")
    network.run(until=2.0)
    server = network.server
    state: dict[str, Any] = vars(server)
    size = 20_000
    server.send_stream_data(0, bytes(size))
    stream = state["_streams"][0]
    sender: Any = stream.sender
    recovery = state["_loss"]
    most_in_flight = most_pieces = 0
    # Its window is as wide as that of a peer that has acknowledged much, and it lets the server send one byte at a time.
    recovery._cc.congestion_window = 1 << 30
    stream.max_stream_data_remote = 0
    for n in range(9_000):
        send_frames(network, frame_of(0x11, 0, n + 1))
        if acknowledges and n % 3_000 == 2_999:
            last = state["_packet_number"] - 1
            for highest in range(last, last - 3_000, -1_000):
                send_frames(network, ack_frame(*range(highest, highest - 1_000, -2)))
        network.now += 0.000_1
        server.datagrams_to_send(network.now)
        most_in_flight = max(most_in_flight, sum(space.ack_eliciting_in_flight for space in recovery.spaces))
        most_pieces = max(most_pieces, len(sender._acked))
    assert most_in_flight <= 4_096
    assert most_pieces <= 256 + 4_096 // 2
    assert most_pieces >= 256 if acknowledges else most_in_flight == 4_096, "the bound was not reached"
    for _ in range(200):
        last = state["_packet_number"] - 1
        send_frames(network, frame_of(2, last, 0, 0, last) + frame_of(0x11, 0, size))
        network.now += 0.1
        server.datagrams_to_send(network.now)
    assert sender._buffer_start == size, "it goes on once the peer acknowledges"
    assert server.end() is None


def test_one_packet_full_of_requests_to_stop_leads_to_one_event() -> None:
    network = connected(ActiveEngine)
    network.client.send_stream_data(0, b"open")
    network.run(until=2.0)
    send_frames(network, frame_of(5, 0, 7) * 5_000)
    assert list(network.server.event_queue) == [StopSendingReceived(error_code=7, stream_id=0)]


def test_unanswered_keepalives_do_not_add_up() -> None:
    network = connected(ActiveEngine)
    server = network.server
    for _ in range(200):
        server.send_ping(0)
        server.datagrams_to_send(network.now)
        network.now += 0.001
    send_frames(network, frame_of(2, vars(server)["_packet_number"] - 1, 0, 0, 0))
    assert server.end() is None
    assert len(vars(server)["_ping_pending"]) == 1, "those before the one that was acknowledged are taken for lost"


def test_answers_to_a_client_that_probes_an_address_count_as_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_MAX_IN_FLIGHT", 100)
    network = connected(ActiveEngine)
    elsewhere = ("elsewhere", 1)
    for n in range(300):
        send_frames(network, n.to_bytes(8), first=0x1A, source=elsewhere)
        _validate_paths(network, n)
        network.now += 0.01
        network.server.datagrams_to_send(network.now)
    recovery = vars(network.server)["_loss"]
    assert sum(space.ack_eliciting_in_flight for space in recovery.spaces) == 100
    assert network.server.end() is None
