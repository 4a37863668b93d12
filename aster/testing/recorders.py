"""Owners of connections and streams that only write down what a transport calls, and watch over its contract while they do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel

from aster._reactor import Reactor, open_reactor
from aster.errors import AsterError, ConnectionLost
from aster.transports.base import Connection, ConnectionOptions, Listener, Stream, Transport
from aster.trust import Address, Identity

__all__ = ["LOOK_AGAIN", "PATIENCE", "HandlerRecorder", "StreamRecorder", "TransportPair", "open_pair"]

PATIENCE = 10.0
"""Seconds after which something that must happen has not happened; a check that passes never waits so long."""

LOOK_AGAIN = 0.02
"""Seconds after which a condition is looked at again that came true without a callback, such as more credit."""


class _Watch:
    """What the recorders of one pair share: a place to wait for any callback, whether an owner is inside a method at this moment, and what was wrong.

    A callback that breaks the contract is written down rather than answered with an exception, which would only upset the transport.
    """

    def __init__(self) -> None:
        self.inside = ""
        self.violations: list[str] = []
        self._changed: anyio.Event | None = None

    def expect(self, holds: object, otherwise: str) -> None:
        """Write down a breach of the contract unless ``holds``."""
        if not holds:
            self.violations.append(otherwise)

    def call(self, method: Callable[..., Any], *args: object) -> Any:
        """Call a method of the transport; a callback from inside it breaks the contract."""
        outer, self.inside = self.inside, getattr(method, "__name__", "a method")
        try:
            return method(*args)
        finally:
            self.inside = outer

    def called_back(self, name: str) -> None:
        self.expect(not self.inside, f"{name} was called from inside {self.inside}: callbacks must come from the reactor")
        if self._changed is not None:
            self._changed.set()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition`` holds, looking again after each callback, and now and then for what has none."""
        with anyio.move_on_after(PATIENCE):
            while not (condition() or self.violations):
                self._changed = anyio.Event()
                with anyio.move_on_after(LOOK_AGAIN):
                    await self._changed.wait()
        assert not self.violations, self.violations
        assert condition(), f"it did not happen that {what}"


class StreamRecorder:
    """A sink that records, with the methods of its stream at hand. Use it in place of the stream, so that callbacks from inside a method are noticed.

    Attributes:
        data: the bytes received so far.
        ending: how the peer's half ended: ``"finished"``, ``"reset"``, or nothing yet.
        reset_code: the code of the reset.
        stopped: the code with which the peer stopped this half.
        lost: the error with which the connection ended under the stream.
    """

    def __init__(self, watch: _Watch, on_data: Callable[[StreamRecorder, bytes], None] | None = None) -> None:
        self.data = bytearray()
        self.ending = ""
        self.reset_code: int | None = None
        self.stopped: int | None = None
        self.lost: AsterError | None = None
        self.stream: Stream
        self._watch = watch
        self._on_data = on_data

    # The stream's methods.

    def write(self, data: bytes) -> None:
        self._watch.call(self.stream.write, data)

    def finish(self) -> None:
        self._watch.call(self.stream.finish)

    def reset(self, code: int) -> None:
        self._watch.call(self.stream.reset, code)

    def stop(self, code: int) -> None:
        self._watch.call(self.stream.stop, code)

    # The sink's.

    def data_received(self, data: bytes) -> None:
        self._expect_open("data_received")
        self._watch.expect(type(data) is bytes and data, f"data_received was called with {data!r}, not with bytes")
        self.data += data
        if self._on_data is not None:
            self._on_data(self, data)

    def finished(self) -> None:
        self._expect_open("finished")
        self.ending = "finished"

    def was_reset(self, code: int) -> None:
        self._expect_open("was_reset")
        self.ending = "reset"
        self.reset_code = code

    def was_stopped(self, code: int) -> None:
        self._called("was_stopped")
        self._watch.expect(self.stopped is None, "was_stopped was called twice")
        self.stopped = code

    def connection_lost(self, error: AsterError) -> None:
        self._called("connection_lost")
        self._watch.expect(isinstance(error, ConnectionLost), f"connection_lost was called with {error!r}, not with a ConnectionLost")
        self.lost = error

    def _expect_open(self, name: str) -> None:
        self._called(name)
        self._watch.expect(not self.ending, f"{name} was called after the peer's half had ended: {self.ending}")

    def _called(self, name: str) -> None:
        self._watch.called_back(name)
        self._watch.expect(self.lost is None, f"{name} was called after connection_lost")


class HandlerRecorder:
    """A connection's owner that records. ``on_data`` serves every stream that the peer opens."""

    def __init__(self, watch: _Watch, on_data: Callable[[StreamRecorder, bytes], None] | None = None) -> None:
        self.streams: list[StreamRecorder] = []
        self.credits = 0
        self.lost: AsterError | None = None
        self.connection: Connection
        self._watch = watch
        self._on_data = on_data

    def stream_opened(self, stream: Stream) -> StreamRecorder:
        self._called("stream_opened")
        recorder = StreamRecorder(self._watch, self._on_data)
        recorder.stream = stream
        self.streams.append(recorder)
        return recorder

    def streams_available(self) -> None:
        self._called("streams_available")
        self.credits += 1

    def connection_lost(self, error: AsterError) -> None:
        self._called("connection_lost")
        self._watch.expect(isinstance(error, ConnectionLost), f"connection_lost was called with {error!r}, not with a ConnectionLost")
        self._watch.expect(all(stream.lost or stream.ending for stream in self.streams), "connection_lost was called before that of the open streams")
        self.lost = error

    def _called(self, name: str) -> None:
        self._watch.called_back(name)
        self._watch.expect(self.lost is None, f"{name} was called after the handler's connection_lost")


class TransportPair:
    """A listener, and clients that connect to it.

    Attributes:
        client: the first client's owner, once it is connected; ``server`` is the owner at the other end.
        accepted: all owners at the listening end, in the order in which they were accepted.
    """

    def __init__(self, transport: Transport, reactor: Reactor, options: ConnectionOptions, on_data: Callable[[StreamRecorder, bytes], None] | None) -> None:
        self.transport = transport
        self.reactor = reactor
        self.options = options
        self.watch = _Watch()
        self.until = self.watch.until
        self.server_identity = Identity.generate()
        self.client_identity = Identity.generate()
        self.accepted: list[HandlerRecorder] = []
        self.connected: list[HandlerRecorder] = []
        self.listener: Listener
        self._on_data = on_data

    @property
    def client(self) -> HandlerRecorder:
        return self.connected[0]

    @property
    def server(self) -> HandlerRecorder:
        return self.accepted[0]

    @property
    def address(self) -> Address:
        return Address(self.server_identity.endpoint_id, self.listener.host, self.listener.port)

    def accept(self, connection: Connection) -> HandlerRecorder:
        self.watch.expect(not self.watch.inside, "accept was called from inside a method: it must come from the reactor")
        owner = HandlerRecorder(self.watch, self._on_data)
        owner.connection = connection
        self.accepted.append(owner)
        return owner

    async def listen(self, host: str) -> None:
        self.listener = await self.transport.listen(host, 0, identity=self.server_identity, accept=self.accept, reactor=self.reactor, options=self.options)

    async def connect(self, *, address: Address | None = None, identity: Identity | None = None) -> HandlerRecorder:
        owner = HandlerRecorder(self.watch)
        owner.connection = await self.transport.connect(
            address or self.address, identity=identity or self.client_identity, handler=owner, reactor=self.reactor, options=self.options
        )
        self.connected.append(owner)
        return owner

    def open(self, owner: HandlerRecorder | None = None, on_data: Callable[[StreamRecorder, bytes], None] | None = None) -> StreamRecorder:
        """Open a stream on a client's connection, the first one's by default."""
        owner = owner or self.client
        recorder = StreamRecorder(self.watch, on_data)
        recorder.stream = self.watch.call(owner.connection.open_stream, recorder)
        owner.streams.append(recorder)
        return recorder

    async def settle(self) -> None:
        """Wait until what was written on the first connection before this call has arrived, and what that set off."""
        for _ in range(3):
            await self.client.connection.wait_acknowledged()
            await self.server.connection.wait_acknowledged()
            await anyio.lowlevel.checkpoint()


@contextmanager
def _bare_failure() -> Generator[None]:
    """What a block around a task group raises comes out as itself, not inside the group's."""
    try:
        yield
        return
    except ExceptionGroup as group:
        failure, *others = group.exceptions
        if others:
            raise
    raise failure  # outside of the handler, or the group would show as its context


@asynccontextmanager
async def open_pair(
    make_transport: Callable[[], Transport],
    *,
    host: str = "127.0.0.1",
    options: ConnectionOptions | None = None,
    on_data: Callable[[StreamRecorder, bytes], None] | None = None,
    connect: bool = True,
) -> AsyncGenerator[TransportPair]:
    """A listener with one client connected to it (unless ``connect`` is false), on a reactor of their own; all is closed at the end.

    ``on_data`` is what the server does with the bytes of every stream, such as to write them back.

    Raises:
        AssertionError: the transport broke its contract.
    """
    with _bare_failure():
        async with anyio.create_task_group() as task_group:
            reactor = open_reactor(task_group)
            try:
                pair = TransportPair(make_transport(), reactor, options or ConnectionOptions(), on_data)
                await pair.listen(host)
                try:
                    if connect:
                        await pair.connect()
                        await pair.until(lambda: pair.accepted, "the listener accepted the client")
                    yield pair
                finally:
                    for owner in pair.connected:
                        owner.connection.close()
                    with anyio.CancelScope(shield=True):
                        await pair.listener.aclose()
                assert not pair.watch.violations, pair.watch.violations
            finally:
                reactor.close()
