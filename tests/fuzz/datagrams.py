"""Datagrams at a listener: strangers' first packets, garbage, replays, and packets that are properly protected and hold what they should not."""

# The packets of a hostile client are made with the keys of a plain one.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import QuicEvent, StreamDataReceived
from aioquic.tls import Epoch

from aster.errors import AsterError
from aster.transports.base import Connection, ConnectionOptions, Stream, StreamSink
from aster.transports.quic.check import engine_configuration
from aster.transports.quic.listener import QuicListener
from aster.trust import Identity
from tests.fuzz import quic_frames
from tests.fuzz.script import Script, chunk, entry
from tests.fuzz.target import Run, Target
from tests.quic.raw import raw_configuration
from tests.quic.virtual import DELAY, VirtualNetwork, VirtualSocket

__all__ = ["DATAGRAMS"]

_OPTIONS = ConnectionOptions()
_CLIENT_LOG = logging.getLogger("tests.fuzz.client")
_CLIENT_LOG.disabled = True
_FIRST = 1_200
"""Bytes of a client's first datagram at the least (RFC 9000, section 14.1)."""
_SHORTEST_ID = 8
"""Bytes of the id that a client's first packet is for, at the least (RFC 9000, section 7.2)."""
_MOST_ACTIONS = 6
"""Of one input: a handshake takes milliseconds."""
_KEPT = 32
"""Old datagrams that may come again."""
_UNFILLED = 200
"""Of 256 numbers for how a first packet is sent, those above leave its datagram as small as it is."""
_QUIET = 120.0
"""Seconds of silence after which nothing may be left: the handshake's and the idle timeout, and what a closed connection lingers."""


class _Echo:
    """Owner of each connection and stream: what comes on a stream goes back."""

    def __init__(self) -> None:
        self.stream: Stream

    def stream_opened(self, stream: Stream) -> StreamSink:
        sink = _Echo()
        sink.stream = stream
        return sink

    def streams_available(self) -> None:
        """Servers open no streams."""

    def data_received(self, data: bytes) -> None:
        self.stream.write(data)

    def finished(self) -> None:
        self.stream.finish()

    def was_reset(self, code: int) -> None:
        self.stream.reset(code)

    def was_stopped(self, code: int) -> None:
        """This half counts as reset."""

    def connection_lost(self, error: AsterError) -> None:
        """The listener's bookkeeping is looked at instead."""


class _Socket(VirtualSocket):
    """Counts what goes where, by port."""

    def __init__(self, network: VirtualNetwork, port: int, peer: int | None) -> None:
        super().__init__(network, port, peer)
        self.sent = Counter[int]()
        self.heard = Counter[int]()

    def sendto(self, data: bytes, addr: tuple[str, int]) -> None:
        self.sent[addr[1]] += len(data)
        super().sendto(data, addr)

    def deliver(self, item: tuple[bytes, int] | OSError) -> None:
        if isinstance(item, tuple):
            self.heard[item[1]] += len(item[0])
        super().deliver(item)


class _World:
    """A listener without sockets, on a clock of its own; strangers at some ports, and one client that is let in."""

    def __init__(self) -> None:
        self.network = VirtualNetwork()
        self.server = _Socket(self.network, 1, None)
        self.network.sockets[1] = self.server
        self.honest_port, self.client_port, *self.strangers = range(2, 7)
        for port in (self.honest_port, self.client_port, *self.strangers):
            self.network.sockets[port] = _Socket(self.network, port, 1)
        self._identities = Identity.generate(), Identity.generate()
        self._client: QuicConnection | None = None
        self._half_open: QuicConnection | None = None
        self._numbers = 100
        self.old: list[bytes] = []
        sock: Any = self.server
        configuration = engine_configuration(self._identities[0], is_client=False, idle_timeout=30.0, datagram_size=1_200)
        self.listener = QuicListener(sock, (configuration, configuration), self._accept, self.network, _OPTIONS)
        self._inside: Any = self.listener

    def _accept(self, connection: Connection) -> _Echo:
        return _Echo()

    @property
    def connections(self) -> set[Any]:
        return set(self._inside._connections.values())

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def send(self, data: bytes, port: int) -> None:
        """A datagram of any port reaches the listener."""
        self.old = [*self.old[1 - _KEPT :], data]
        may_matter = self.listener.connection_of(data) is not None or _may_begin(data)
        before = self.connections, self.server.sent.copy()
        self.server.deliver((data, port))
        # No time passes meanwhile, so that all that has happened is this datagram's doing.
        assert may_matter or before == (self.connections, self.server.sent), f"{len(data)} bytes that can begin nothing led to something"

    def pass_time(self, seconds: float) -> None:
        self.network.run(until=self.network.now() + seconds)

    def exchange(self, client: QuicConnection, port: int, rounds: int) -> None:
        """Let a client and the listener talk."""
        sock = self.network.sockets[port]
        for _ in range(rounds):
            for data, _ in client.datagrams_to_send(self.network.now()):
                self.send(data, port)
            self.pass_time(DELAY * 2)
            while sock.received:
                data, sender = sock.recvfrom(_FIRST)
                client.receive_datagram(data, sender, self.network.now())

    def client(self) -> QuicConnection:
        """A client whose handshake is over; another one if the listener has closed the last."""
        if self._client is None or not self._is_routed(self._client):
            self._client = self._new_client(self.client_port, 4)
            assert self._is_routed(self._client), "an honest client was not let in"
        return self._client

    def half_open(self) -> QuicConnection:
        """A client that has the keys of the handshake, and has not answered."""
        if self._half_open is None or not self._is_routed(self._half_open):
            self._half_open = self._new_client(self.strangers[0], 1)
        return self._half_open

    def _new_client(self, port: int, rounds: int) -> QuicConnection:
        self.network.sockets[port].received.clear()
        client = QuicConnection(configuration=raw_configuration(is_client=True, identity=self._identities[1], idle_timeout=30.0))
        # What a plain client finds wrong is not what Aster logs.
        log: Any = logging.LoggerAdapter(_CLIENT_LOG)
        client._logger = log
        client.connect(("127.0.0.1", 1), self.network.now())
        self.exchange(client, port, rounds)
        return client

    def _is_routed(self, client: QuicConnection) -> bool:
        return client._peer_cid.cid in self._inside._routes

    def settle(self) -> None:
        """Let answers come. Nobody hears them: a client whose engine does not know what was said in its name would close its connection."""
        self.pass_time(DELAY * 2)
        for sock in self.network.sockets.values():
            sock.received.clear()

    def check(self) -> None:
        """To who has not shown that it receives at its address, three times as much as came from there, at the most (RFC 9000, section 8.1)."""
        for port in self.strangers:
            assert self.server.sent[port] <= 3 * self.server.heard[port], f"{self.server.sent[port]} bytes for {self.server.heard[port]}"

    def close(self) -> None:
        """Another client is served, and after some silence nothing of anybody is left."""
        honest = self._new_client(self.honest_port, 4)
        honest.send_stream_data(0, b"request", end_stream=True)
        self.exchange(honest, self.honest_port, 3)
        answered = StreamDataReceived(data=b"request", end_stream=True, stream_id=0)
        assert answered in _events_of(honest), "an honest client was not served"
        self.pass_time(_QUIET)
        inside = self._inside
        left = len(inside._connections), self.listener.pending_handshakes, len(inside._routes)
        assert left == (0, 0, 0), f"connections, handshakes and routes that are left: {left}"
        self.check()


def _may_begin(data: bytes) -> bool:
    """Whether a stranger's datagram may lead to anything, by the RFC's words and not by Aster's code: it has a first packet's size and a long header;
    its version is one that is not spoken here, and wants an answer, or it is an Initial packet for an id that nobody could guess."""
    if len(data) < _FIRST or not data[0] & 0x80:
        return False
    version = data[1:5]
    return any(version) if version != quic_frames.VERSION else data[0] & 0x30 == 0 and data[5] >= _SHORTEST_ID


def _events_of(client: QuicConnection) -> list[QuicEvent]:
    return list(iter(client.next_event, None))


def _raw(world: _World, script: Script) -> None:
    """Anything, from a stranger, or from where a client is."""
    port, data = _port(world, script), script.chunk()
    world.send(data if script.byte() % 2 else data.ljust(_FIRST, b"\x00"), port)


def _port(world: _World, script: Script) -> int:
    return world.strangers[script.byte() % len(world.strangers)]


def _first(world: _World, script: Script) -> None:
    """An Initial packet that is properly protected, whatever it holds."""
    port = _port(world, script)
    destination, source, token = script.chunk()[:20], script.chunk()[:20], script.chunk()[:100]
    payload = script.chunk()[:_FIRST]
    keys = CryptoPair()
    keys.setup_initial(cid=destination, is_client=True, version=1)
    how = script.byte()
    if how % 4:
        payload = payload.ljust(_FIRST - 100, b"\x00")
    packet = quic_frames.long_packet(keys, destination, source, payload, script.byte(), initial=True, token=token)
    world.send(packet if how >= _UNFILLED else packet.ljust(_FIRST, b"\x00"), port)


def _let_in(world: _World, script: Script) -> None:
    """A packet of a client that was let in."""
    client = world.client()
    keys = client._cryptos[Epoch.ONE_RTT]
    world.send(quic_frames.short_packet(keys, client._peer_cid.cid, script.chunk()[:_FIRST], world.next_number()), world.client_port)


def _handshake(world: _World, script: Script) -> None:
    """A packet of a handshake that goes another way."""
    client = world.half_open()
    initial = script.byte() % 4 == 0
    keys = client._cryptos[Epoch.INITIAL if initial else Epoch.HANDSHAKE]
    payload = script.chunk()[:_FIRST]
    if keys.send.is_valid():
        packet = quic_frames.long_packet(keys, client._peer_cid.cid, client.host_cid, payload, world.next_number(), initial=initial)
        world.send(packet.ljust(_FIRST, b"\x00") if initial else packet, world.strangers[0])


def _replay(world: _World, script: Script) -> None:
    """An old datagram once more, as it was, cut short or damaged, from its place or another."""
    how, which, at = script.byte(), script.byte(), script.number()
    if not world.old:
        return
    data = bytearray(world.old[which % len(world.old)])
    at %= max(1, len(data))
    if how % 3 == 1:
        del data[at:]
    elif how % 3 == 2 and data:
        data[at] ^= 1 << how % 8
    world.send(bytes(data), world.client_port if how & 8 else _port(world, script))


def _coalesced(world: _World, script: Script) -> None:
    """Some old datagrams in one."""
    pieces = [world.old[script.byte() % len(world.old)] for _ in range(2) if world.old]
    world.send(b"".join(pieces), _port(world, script))


def _wait(world: _World, script: Script) -> None:
    """Time passes."""
    world.pass_time((0.05, 0.5, 5.0, 40.0)[script.byte() % 4])


_ACTIONS: Mapping[str, Callable[[_World, Script], None]] = {
    "let in": _let_in,
    "raw": _raw,
    "first": _first,
    "handshake": _handshake,
    "replay": _replay,
    "coalesced": _coalesced,
    "wait": _wait,
}
_NAMES = tuple(_ACTIONS)
_WEIGHTS = (10, 4, 5, 2, 4, 1, 0.2)


def _make(chance: random.Random) -> bytes:
    return b"".join(_step(chance) for _ in range(chance.choice((1, 1, 1, 2, 3))))


def _step(chance: random.Random) -> bytes:
    name = chance.choices(_NAMES, _WEIGHTS)[0]
    port = chance.randbytes(1)
    match name:
        case "let in":
            rest = chunk(quic_frames.frames(chance))
        case "raw":
            rest = port + chunk(quic_frames.any_header(chance)) + chance.randbytes(1)
        case "first":
            ids = (chance.randbytes(chance.choice((8, 8, 8, 7, 0, 20))) for _ in range(2))
            token = chance.choice((b"", b"", b"", b"", chance.randbytes(60)))
            rest = port + b"".join(map(chunk, (*ids, token, quic_frames.handshake_frames(chance)))) + chance.randbytes(2)
        case "handshake":
            rest = port + chunk(quic_frames.handshake_frames(chance))
        case _:
            rest = chance.randbytes(5)
    return entry(name, _NAMES) + rest


def _runner(world: _World) -> Run:
    def run(data: bytes) -> str:
        script = Script(data)
        before, sent = world.connections, sum(world.server.sent.values())
        for step in islice(script.steps(), _MOST_ACTIONS):
            _ACTIONS[_NAMES[step % len(_NAMES)]](world, script)
        world.settle()
        world.check()
        after = world.connections
        if before - after:
            return "connection closed"
        if after - before:
            return "connection begun"
        return "answered" if sum(world.server.sent.values()) > sent else "ignored"

    return run


@contextmanager
def _open() -> Generator[Run]:
    world = _World()
    yield _runner(world)
    world.close()


_WORDS = frozenset({"ignored", "answered", "connection begun", "connection closed"})
DATAGRAMS = Target("datagrams", "datagrams and QUIC packets", "datagrams", _make, _open, _WORDS, share=40, cost=3.2, batch=64)
