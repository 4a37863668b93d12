"""The control stream: each end's hello and go-away, without a network."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from anyio.abc import TaskGroup

from aster._client_connection import ClientConnection
from aster._connection import PROTOCOL_VERSION, PeerConnection
from aster._endpoint import EndpointOptions
from aster._hosted import HostedMethod
from aster._incoming_session import HostedSession
from aster._policy import Policy
from aster._protocol.events import Description, Header, Hello
from aster._protocol.frames import CONTROL_KINDS, FrameKind, FrameReader, encode_contract, encode_hello, frame_limits
from aster._server_connection import ServerConnection
from aster.errors import ConnectionLost, IncompatiblePeerError
from aster.transports.base import Connection, ConnectionHandler, Stream, StreamSink
from aster.types import Peer
from tests.fuzz import grammar
from tests.fuzz.script import Script, chunk
from tests.fuzz.target import Run, Target
from tests.quic.virtual import VirtualNetwork

__all__ = ["HELLO"]

_OPTIONS = EndpointOptions()
_PEER = Peer("0" * 64, "nowhere")
_NOBODY = cast("TaskGroup", None)  # hellos need no task


class _Control(Stream):
    """The control stream of an end: what it writes is kept."""

    def __init__(self) -> None:
        self.written = bytearray()

    @property
    def id(self) -> int:
        return 0

    @property
    def unsent(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.written += data

    def finish(self) -> None:
        """Not looked at."""

    def reset(self, code: int) -> None:
        """Not looked at."""

    def stop(self, code: int) -> None:
        """Not looked at."""


class _Wire(Connection):
    """A connection that leads nowhere. ``close`` is heard once the reactor runs, as the contract wants it."""

    def __init__(self, network: VirtualNetwork) -> None:
        self.control = _Control()
        self.sink: StreamSink
        self.handler: ConnectionHandler | None = None
        self.closed: str | None = None
        self._network = network

    @property
    def peer(self) -> Peer:
        return _PEER

    @property
    def stream_credit(self) -> int:
        return 0

    @property
    def open_streams(self) -> int:
        return 1

    def open_stream(self, sink: StreamSink) -> Stream:
        self.sink = sink
        return self.control

    async def wait_acknowledged(self) -> None:
        """Everything is."""

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.closed is None:
            self.closed = reason
            self._network.call_soon(self._lost)

    def _lost(self) -> None:
        error = ConnectionLost("closed by this side")
        self.sink.connection_lost(error)
        assert self.handler is not None
        self.handler.connection_lost(error)


class _Host:
    options = _OPTIONS
    deadline_cap: float | None = None
    debug = False
    policy: Policy | None = None
    hello_frame = encode_hello(Hello((PROTOCOL_VERSION,), _OPTIONS.settings()))

    def __init__(self) -> None:
        self.over = 0
        self.contract_frames: Mapping[tuple[str, int], bytes] = {("Echo", 1): encode_contract(Description("Echo", 1, b"{}"))}

    def find(self, header: Header) -> HostedMethod:
        raise AssertionError("no call is opened")

    def find_session(self, service: str, version: int) -> HostedSession:
        raise AssertionError("no session is opened")

    def connection_over(self, connection: ServerConnection) -> None:
        self.over += 1


def _make(chance: random.Random) -> bytes:
    # Without one a go-away is the first frame, which refuses a client.
    hello = chance.choice((grammar.server_hello, grammar.client_hello, grammar.server_hello, grammar.client_hello, _nothing))(chance)
    after = chance.choice((grammar.go_away, grammar.describe, grammar.contract, grammar.frames, _nothing))(chance)
    end = b"\x00" if chance.random() < 0.1 else b""
    return bytes((chance.randrange(2),)) + b"".join(b"\x01" + chunk(piece) for piece in _pieces(hello + after, chance)) + end


def _nothing(chance: random.Random) -> bytes:
    return b""


def _pieces(data: bytes, chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(data) + 1)
    return [data] if chance.random() < 0.5 else [data[:at], data[at:]]


def _feed(wire: _Wire, network: VirtualNetwork, script: Script) -> None:
    """Pieces of the control stream, or its end."""
    for step in script.steps():
        if wire.closed is not None:
            return
        if step % 16:
            wire.sink.data_received(script.chunk() or b"\x00")
        else:
            wire.sink.finished()
            return
        network.run(until=network.now())


def _run(data: bytes) -> str:
    script = Script(data)
    return _client(script) if script.byte() % 2 == 0 else _server(script)


def _server(script: Script) -> str:
    network, host = VirtualNetwork(), _Host()
    wire = _Wire(network)
    server = ServerConnection(host, wire, network, _NOBODY)
    wire.handler = server
    wire.sink = server.stream_opened(wire.control)
    _feed(wire, network, script)
    greeted = server.hello is not None
    if greeted:
        _check_limits(server)
        server.announce_drain("the end")
    _check_control(wire)
    network.run(until=60.0)
    assert greeted or wire.closed is not None, "silence without a hello is bounded"
    assert host.over == (wire.closed is not None), "the end is told once"
    if wire.closed is None:
        return "server greeted"
    return "server closed after the hello" if greeted else "server overdue" if wire.closed == "no HELLO in time" else "server refused"


class _Owner:
    """The client's, which would connect again."""

    def connection_changed(self, connection: ClientConnection) -> None:
        assert not connection.is_open


def _client(script: Script) -> str:
    network = VirtualNetwork()
    wire = _Wire(network)
    client = ClientConnection(network, _OPTIONS, _NOBODY, _Owner())
    wire.handler = client
    hello = client.say_hello(wire)
    hello.send(None)
    _feed(wire, network, script)
    _check_control(wire)
    try:
        hello.send(None)
    except StopIteration:
        if client.hello is None:
            return "client refused"
        _check_limits(client)
        return "client greeted" if client.go_away is None else "client told to go away"
    except IncompatiblePeerError:
        return "client incompatible"
    assert wire.closed is None
    hello.close()
    return "client waiting"


def _check_limits(end: PeerConnection) -> None:
    limits: Any = end.limits
    assert 0 < limits.window == limits.peer_window <= _OPTIONS.window
    assert limits.message == _OPTIONS.max_message_size


def _check_control(wire: _Wire) -> None:
    """What an end says is in order, whatever it was told."""
    reader = FrameReader(frame_limits(0, CONTROL_KINDS))
    kinds = [kind for kind, _ in reader.feed(bytes(wire.control.written))]
    assert kinds.count(FrameKind.HELLO) <= 1
    assert kinds.count(FrameKind.CONTRACT) <= 1, "each contract is told once"


@contextmanager
def _open() -> Generator[Run]:
    yield _run


_WORDS = (
    "server greeted",
    "server closed after the hello",
    "server overdue",
    "server refused",
    "client greeted",
    "client told to go away",
    "client refused",
    "client incompatible",
    "client waiting",
)
HELLO = Target("hello", "hello and go-away, both ends", "hello", _make, _open, frozenset(_WORDS), share=150, cost=0.2)
