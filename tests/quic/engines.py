"""A pair of engines and a network between them on a clock of its own, without sockets; frames that no engine of ours would send (RFC 9000, section 19)."""

from __future__ import annotations

import heapq
import logging
import random
from collections import Counter, defaultdict, deque
from enum import Enum
from itertools import pairwise
from types import FunctionType, MethodType
from typing import Any, cast

import pytest
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.tls import Epoch

from aster.transports.quic.check import engine_configuration
from aster.transports.quic.engine import ActiveEngine, Engine
from aster.trust import Identity
from tests.quic.raw import frame_of, packet_of

__all__ = [
    "ADDRESSES",
    "BOTH_ENGINES",
    "KEYS",
    "Network",
    "ack_frame",
    "connected",
    "crypto_frame",
    "data_frame",
    "held",
    "reset_frame",
    "send_frames",
]

KEYS = Identity.generate(), Identity.generate()
ADDRESSES = ("client", 1), ("server", 1)

BOTH_ENGINES = pytest.mark.parametrize("kind", [Engine, ActiveEngine])


class Network:
    """A pair of engines and a network between them that loses, doubles and delays by a seed, on a clock that jumps from event to event."""

    def __init__(self, kind: type[Engine], seed: int, loss: float, max_streams: int = 2_000) -> None:
        self._chance = random.Random(seed)
        self._loss = loss
        self.now = 0.0
        configuration = [engine_configuration(key, is_client=index == 0, idle_timeout=10_000.0, datagram_size=1_200) for index, key in enumerate(KEYS)]
        self.client = kind(configuration[0], max_streams=0)
        self.client.connect(ADDRESSES[1], 0.0)
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
                engines[index].receive_datagram(data, ADDRESSES[1 - index], self.now)
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


def crypto_frame(offset: int, data: bytes) -> bytes:
    return frame_of(6, offset, len(data), data)


def data_frame(stream_id: int, offset: int, data: bytes) -> bytes:
    return frame_of(0xE, stream_id, offset, len(data), data)


def reset_frame(stream_id: int, final_size: int) -> bytes:
    return frame_of(4, stream_id, 7, final_size)


def ack_frame(*packets: int) -> bytes:
    """For single packets, none next to another, from the highest to the lowest."""
    gaps = [frame_of(after - packet - 2, 0) for after, packet in pairwise(packets)]
    return frame_of(2, packets[0], 0, len(gaps), 0, *gaps)


def send_frames(
    network: Network,
    frames: bytes,
    *,
    by_server: bool = False,
    epoch: Epoch = Epoch.ONE_RTT,
    to: bytes | None = None,
    source: tuple[str, int] | None = None,
    first: int = 1,
) -> None:
    """Give one end a packet of the other's keys that the other's engine knows nothing of, to an id and from an address of its choice."""
    sender, receiver = (network.server, network.client) if by_server else (network.client, network.server)
    receiver.receive_datagram(packet_of(sender, frames, epoch, to=to, first=first), source or ADDRESSES[by_server], network.now)


def connected(kind: type[Engine]) -> Network:
    network = Network(kind, seed=1, loss=0.0)
    network.run(until=1.0)
    assert network.client.handshake_confirmed
    return network


def held(root: object) -> Counter[str]:
    """How many items each container holds that an object has, deep down, by the names of the attributes that lead to it; of buffers, how many bytes."""
    counts: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", root)]
    while waiting:
        path, thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, bytes | str | range | type | Enum | logging.Logger):
            continue
        seen.add(id(thing))
        if isinstance(thing, bytearray):
            counts[path] += len(thing)
        elif isinstance(thing, dict | list | tuple | set | frozenset | deque):
            things = cast("Any", thing)
            items: list[object] = list(things.values() if isinstance(thing, dict) else things)
            counts[path] += len(items)
            waiting += [(path + "[]", item) for item in items]
        elif hasattr(thing, "__dict__") and not isinstance(thing, MethodType | FunctionType):
            waiting += [(f"{path}.{name}", value) for name, value in vars(thing).items()]
    return counts
