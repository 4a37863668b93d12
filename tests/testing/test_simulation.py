"""A simulation without a loop repeats exactly: equal seeds give equal traces, in one process and in another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from aster._protocol.call import ClientCall, ServerCall
from aster._protocol.events import SUCCESS, Target
from aster._protocol.frames import encode_header_start
from aster.errors import AsterError, ConnectionLost, UnreachableError
from aster.testing import Datagram, Event, Link, Simulation
from aster.transports.base import Connection, ConnectionOptions, Stream, StreamSink
from aster.trust import Address, Identity
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.protocol.pair import limits_of

_BAD = Link(latency=0.02, jitter=0.02, bandwidth=500_000, queue=20_000, loss=0.1, duplication=0.1, reordering=0.1, truncation=0.05)
_LIMITS = limits_of(window=4_096, peer_window=4_096, message=65_536, metadata=1_024)
_HEADER = encode_header_start(Target("Echo", 1, "chat", RpcPattern.BIDI_STREAM, SerializationMode.XLANG))


class _Served:
    """The server's end of a call that sends back what comes, whenever it has credit."""

    def __init__(self, simulation: Simulation, stream: Stream) -> None:
        self._simulation = simulation
        self._stream = stream
        self._call = ServerCall(_LIMITS)
        self._over = False

    def data_received(self, data: bytes) -> None:
        self._simulation.note(("server", self._stream.id, len(data)))
        self._call.receive_data(data)
        while self._call.requests.inbox and self._call.responses.ready:
            self._stream.write(self._call.send_message(self._call.requests.take()) + self._call.requests.grant())
        if self._call.requests_ended and not self._call.requests.inbox and not self._over:
            self._over = True
            self._stream.write(self._call.send_trailer(SUCCESS))
            self._stream.finish()

    def finished(self) -> None:
        self._simulation.note(("server", self._stream.id, "finished"))

    def was_reset(self, code: int) -> None:
        raise AssertionError(code)

    was_stopped = was_reset

    def connection_lost(self, error: AsterError) -> None:
        self._simulation.note(("server", self._stream.id, "lost"))


class _Caller:
    """The client's end of a call that sends messages of the sizes given, as credit allows."""

    def __init__(self, simulation: Simulation, connection: Connection, sizes: list[int]) -> None:
        self._simulation = simulation
        self._sizes = sizes
        self._call = ClientCall(RpcPattern.BIDI_STREAM, _LIMITS)
        self.received = list[int]()
        self.lost = False
        self.stream = connection.open_stream(self)
        self.stream.write(self._call.send_header(_HEADER, None, Metadata()))
        self._send()

    @property
    def over(self) -> bool:
        return self._call.trailer is not None

    def _send(self) -> None:
        while self._sizes and self._call.requests.ready:
            self.stream.write(self._call.send_message(bytes(self._sizes.pop(0))))
            if not self._sizes:
                self.stream.write(self._call.send_end())

    def data_received(self, data: bytes) -> None:
        self._simulation.note(("client", self.stream.id, len(data)))
        self._call.receive_data(data)
        while self._call.responses.inbox:
            self.received.append(len(self._call.responses.take()))
            self.stream.write(self._call.responses.grant())
        self._send()

    def finished(self) -> None:
        self._simulation.note(("client", self.stream.id, "finished"))
        self.stream.finish()

    def was_reset(self, code: int) -> None:
        raise AssertionError(code)

    was_stopped = was_reset

    def connection_lost(self, error: AsterError) -> None:
        self._simulation.note(("client", self.stream.id, "lost"))
        self.lost = True


class _Owner:
    def __init__(self, simulation: Simulation, name: str) -> None:
        self._simulation = simulation
        self._name = name
        self.lost: AsterError | None = None

    def stream_opened(self, stream: Stream) -> StreamSink:
        self._simulation.note((self._name, "opened", stream.id))
        return _Served(self._simulation, stream)

    def streams_available(self) -> None:
        """There are always enough."""

    def connection_lost(self, error: AsterError) -> None:
        self._simulation.note((self._name, "lost"))
        self.lost = error


def _listening(simulation: Simulation) -> Address:
    _, address = simulation.listen(lambda connection: _Owner(simulation, "server"), identity=Identity.generate())
    return address


def _connected(simulation: Simulation, address: Address, options: ConnectionOptions | None = None) -> tuple[Connection, _Owner]:
    owner = _Owner(simulation, "client")
    return simulation.connect(address, owner, identity=Identity.generate(), options=options), owner


def _run(seed: int, link: Link = _BAD) -> Simulation:
    """Two clients with three calls each, a partition and a rebinding."""
    simulation = Simulation(link, seed=seed)
    address = _listening(simulation)
    connections = [_connected(simulation, address)[0] for _ in range(2)]
    callers = [_Caller(simulation, connection, [0, 100, 5_000, 1, 30_000, 7]) for connection in connections for _ in range(3)]
    simulation.run(until=simulation.now() + 0.1)
    with simulation.network.partitioned():
        simulation.run(until=simulation.now() + 2)
    simulation.network.rebind()
    simulation.run(until=simulation.now() + 300, condition=lambda: all(caller.over for caller in callers))
    for caller in callers:
        assert caller.received == [0, 100, 5_000, 1, 30_000, 7]
    for connection in connections:
        connection.close()
    simulation.run(until=simulation.now() + 60)
    return simulation


@pytest.mark.parametrize("link", [Link(), _BAD], ids=["good", "bad"])
def test_equal_seeds_give_equal_traces(link: Link) -> None:
    first = _run(7, link)
    for _ in range(3):
        again = _run(7, link)
        assert again.trace == first.trace
        assert again.network.statistics == first.network.statistics
    assert sum(isinstance(line, Datagram) for line in first.trace) == first.network.statistics.sent
    assert any(isinstance(line, Event) for line in first.trace)


def test_another_process_sees_the_same() -> None:
    program = "from tests.testing.test_simulation import _run, _digest; print(_digest(_run(3)))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True, timeout=120
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {_digest(_run(3))}


def _digest(simulation: Simulation) -> str:
    return hashlib.sha256(repr(simulation.trace).encode()).hexdigest()


def test_other_seeds_give_other_traces_and_everything_a_link_does_happens() -> None:
    traces = {_digest(_run(seed)) for seed in range(5)}
    assert len(traces) == 5
    statistics = _run(0).network.statistics
    assert 0 not in (statistics.lost, statistics.duplicated, statistics.reordered, statistics.truncated, statistics.partitioned, statistics.rebound)


def test_a_partition_loses_the_connection_at_both_ends_in_time() -> None:
    simulation = Simulation()
    address = _listening(simulation)
    connection, owner = _connected(simulation, address)
    caller = _Caller(simulation, connection, [10])
    simulation.network.partition()
    began = simulation.now()
    simulation.run(until=began + 45)
    assert isinstance(owner.lost, ConnectionLost)
    assert caller.lost
    lost = [line.time - began for line in simulation.trace if isinstance(line, Event) and "lost" in repr(line.what)]
    assert max(lost) <= 30 + 10 + 1e-6


def test_nobody_there_is_told() -> None:
    simulation = Simulation()
    address = Address(Identity.generate().endpoint_id, "127.0.0.1", 9)
    with pytest.raises(UnreachableError):
        _connected(simulation, address)
    assert simulation.now() == pytest.approx(0.02)


def test_ports_are_free_ones_and_remain_ports_however_many_were_used() -> None:
    simulation = Simulation()
    identity, peers = Identity.generate(), list[str]()

    def accept(connection: Connection) -> _Owner:
        peers.append(connection.peer.address)
        return _Owner(simulation, "server")

    _, address = simulation.listen(accept, identity=identity)
    _connected(simulation, address)
    for _ in range(65_536):  # more than there are
        simulation.network.rebind()
        if simulation.network.statistics.rebound % 9_000 == 0:
            other, _ = _connected(simulation, address)
            other.close()
            simulation.run(until=simulation.now() + 10)
            listener, _ = simulation.listen(accept, identity=identity)
            assert 20_000 <= listener.port < 65_536
            assert listener.port != address.port
    assert len(peers) == 8
    assert all(50_000 <= int(peer.rpartition(":")[2]) < 65_536 for peer in peers)


def test_a_day_passes_in_seconds() -> None:
    simulation = Simulation()
    connection, owner = _connected(simulation, _listening(simulation), ConnectionOptions(idle_timeout=300, keepalive=100))
    simulation.run(until=86_400)
    assert owner.lost is None
    caller = _Caller(simulation, connection, [1, 2, 3])
    simulation.run(condition=lambda: caller.over)
    assert caller.received == [1, 2, 3]
