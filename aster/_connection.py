"""One connection, as each of its ends sees it: hello, the calls in flight, go-away, and what is left to unwind.

These are plain objects that the transport calls back; the tasks that they need live in the task groups of the client or server that owns them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from anyio.abc import TaskGroup

from aster._descriptions import AskedContracts, ToldContracts
from aster._incoming import HostedMethod, IncomingCall
from aster._outgoing import OutgoingCall
from aster._protocol.call import CallLimits, SharedBuffer
from aster._protocol.events import GoAway, Header, Hello, ResetCode, ServiceEntry, Setting, Trailer
from aster._protocol.frames import (
    CLIENT_CONTROL_KINDS,
    CLIENT_HELLO_LIMIT,
    SERVER_CONTROL_KINDS,
    FrameKind,
    FrameReader,
    decode_go_away,
    decode_hello,
    encode_go_away,
    encode_hello,
    frame_limits,
)
from aster._reactor import Condition, Reactor, TimerHandle, Waiter
from aster._tasks import StartedTask
from aster.errors import AsterError, ConnectionLost, IncompatiblePeerError, LocalProtocolError, RemoteProtocolError, RpcError, StatusCode
from aster.transports.base import Connection, ConnectionOptions, Stream, StreamSink
from aster.types import Peer

__all__ = ["PROTOCOL_VERSION", "ClientConnection", "ClientOwner", "CloseCode", "EndpointOptions", "PeerConnection", "ServerConnection", "ServerHost"]

logger = logging.getLogger("aster")

PROTOCOL_VERSION = 1


_REQUIRED_SETTINGS = (Setting.WINDOW, Setting.MESSAGE_LIMIT, Setting.METADATA_LIMIT)
"""What each side must say of itself; a server its CALL_LIMIT besides."""

_WHOLE_NUMBERS = frozenset(
    {
        "window",
        "max_message_size",
        "max_metadata_size",
        "max_connection_buffer",
        "max_concurrent_calls",
        "max_sessions",
        "max_connections",
        "max_connections_per_address",
    }
)

_UNITS = {
    **dict.fromkeys(("window", "max_message_size", "max_metadata_size", "max_connection_buffer"), " of bytes"),
    **dict.fromkeys(("idle_timeout", "keepalive_interval", "cleanup_budget"), " of seconds"),
}

_EVERY_STREAM = 1 << 62
"""Above the number of any stream (RFC 9000, section 2.1)."""

_KEEPALIVES_BEFORE_IDLE = 3
"""How often a silent peer is asked, at the least, before its connection counts as lost: a datagram or two may be lost on the way."""


class CloseCode:
    """Why a connection was closed, as a number of the application (RFC 9000 section 20.2)."""

    NORMAL = 0
    PROTOCOL = 1
    VERSION = 2
    HELLO_TIMEOUT = 3
    CLEANUP_OVERDUE = 4


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """The limits of an endpoint. Sizes are in bytes, times in seconds.

    The default of ``max_connection_buffer`` lets the thousand calls that are allowed at a time hold half a megabyte each. A connection without calls takes some
    100 KB, so that those of ``max_connections`` take some 400 MB; a quarter of them may come from one address, behind which there may be a whole company. A
    client accepts no connections: to it these two mean nothing.

    Raises:
        TypeError: an option is no number, or a size or count not whole; the message names it.
        ValueError: it is not positive.
    """

    window: int = 262_144
    max_message_size: int = 4_194_304
    max_metadata_size: int = 8_192
    max_connection_buffer: int = 536_870_912
    max_concurrent_calls: int = 1_000
    max_sessions: int = 256
    max_connections: int = 4_096
    max_connections_per_address: int = 1_024
    idle_timeout: float = 30.0
    keepalive_interval: float = 10.0
    cleanup_budget: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number{_UNITS.get(name, '')}, not {value!r}")
            if name in _WHOLE_NUMBERS and not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number{_UNITS.get(name, '')}, not {value!r}")
            if not 0 < value < 1 << 53:
                raise ValueError(f"{name} must be a positive number{_UNITS.get(name, '')}, not {value!r}")

    def for_transport(self) -> ConnectionOptions:
        """What the transport needs to know: one stream a call, one a session, one for control."""
        return ConnectionOptions(
            idle_timeout=self.idle_timeout,
            # A connection must not be lost for mere silence because someone has set the one option without the other.
            keepalive=min(self.keepalive_interval, self.idle_timeout / _KEEPALIVES_BEFORE_IDLE),
            max_streams=self.max_concurrent_calls + self.max_sessions + 1,
            max_connections=self.max_connections,
            max_connections_per_address=self.max_connections_per_address,
        )

    def settings(self) -> dict[int, int]:
        """What this endpoint says of itself in its hello."""
        return {
            Setting.WINDOW: self.window,
            Setting.MESSAGE_LIMIT: self.max_message_size,
            Setting.METADATA_LIMIT: self.max_metadata_size,
            Setting.CALL_LIMIT: self.max_concurrent_calls,
            Setting.SESSION_LIMIT: self.max_sessions,
            Setting.CLEANUP_MILLISECONDS: round(self.cleanup_budget * 1000),
        }


_FROM_SERVER = frame_limits(0, SERVER_CONTROL_KINDS)
_FROM_CLIENT = {**frame_limits(0, CLIENT_CONTROL_KINDS), FrameKind.HELLO: CLIENT_HELLO_LIMIT}


class _ControlStream:
    """The first stream of a connection: frames that concern all of it."""

    def __init__(self, on_frame: Callable[[int, bytes], None], on_end: Callable[[str], None], limits: Mapping[int, int] = _FROM_SERVER) -> None:
        self._reader = FrameReader(limits)
        self._on_frame = on_frame
        self._on_end = on_end

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._reader.feed(data):
                self._on_frame(kind, payload)
        except RemoteProtocolError as exc:
            self._on_end(str(exc))

    def finished(self) -> None:
        self._on_end("the peer ended the control stream")

    def was_reset(self, code: int) -> None:
        self._on_end(f"the peer reset the control stream (code {code})")

    def was_stopped(self, code: int) -> None:
        self._on_end(f"the peer stopped the control stream (code {code})")

    def connection_lost(self, error: AsterError) -> None:
        """The connection itself is told as well."""


class PeerConnection(ABC):
    """What both ends of a connection have."""

    required_settings: tuple[Setting, ...] = _REQUIRED_SETTINGS
    """What the peer's hello must give."""

    def __init__(self, reactor: Reactor, options: EndpointOptions, inner: TaskGroup) -> None:
        self.reactor = reactor
        self.options = options
        self.lost: AsterError | None = None
        self.hello: Hello | None = None
        self.limits: CallLimits
        self.peer_metadata_limit = 0
        self.peer_message_limit = 0
        self.peer_call_limit = 0
        self._inner = inner
        self._transport: Connection | None = None
        self._control: Stream | None = None
        self._waiting = Condition(reactor)

    @property
    def connected(self) -> bool:
        """Whether there is a connection below."""
        return self._transport is not None

    @property
    def transport(self) -> Connection:
        """The connection below; there is one from the hello on."""
        assert self._transport is not None
        return self._transport

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a task in the inner task group, the one that ends before the connection does."""
        return StartedTask(self._inner, function, name, self.reactor)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something about the connection's calls has changed so that ``condition`` holds."""
        await self._waiting.wait_for(condition)

    def _receive_hello(self, payload: bytes) -> Hello:
        if self.hello is not None:
            raise RemoteProtocolError("the peer sent a second HELLO")
        hello = decode_hello(payload)
        peer = hello.settings.get
        for setting in self.required_settings:
            if not peer(setting):
                raise RemoteProtocolError(f"the peer's HELLO gives no {setting.name}; without it nothing can be sent")
        self.peer_message_limit = peer(Setting.MESSAGE_LIMIT, 0)
        self.peer_metadata_limit = peer(Setting.METADATA_LIMIT, 0)
        self.peer_call_limit = peer(Setting.CALL_LIMIT, 0)
        # Both sides know both windows and use the smaller: a receiver that offers more could make the sender buffer without bound,
        # and a sender that used less on its own would wait for grants that come by half of the other's.
        window = min(self.options.window, peer(Setting.WINDOW, 0))
        self.limits = CallLimits.create(
            window=window,
            peer_window=window,
            message=self.options.max_message_size,
            metadata=self.options.max_metadata_size,
            shared=SharedBuffer(self.options.max_connection_buffer),
        )
        self.hello = hello
        return hello

    @abstractmethod
    def _broken(self, why: str) -> None:
        """The peer broke a rule that concerns the whole connection."""


class _Slot:
    """A place in the queue for a stream."""

    __slots__ = ("granted", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.granted = False


class ClientOwner(Protocol):
    """What a client's connection needs of the client."""

    def connection_changed(self, connection: ClientConnection) -> None:
        """It was lost, its server goes away, or the last of its calls is over after that."""
        ...


class ClientConnection(PeerConnection):
    """The client's end: opens calls, queues them at the peer's limit, and knows which have not been confirmed to be over."""

    required_settings = (*_REQUIRED_SETTINGS, Setting.CALL_LIMIT)

    def __init__(self, reactor: Reactor, options: EndpointOptions, inner: TaskGroup, owner: ClientOwner) -> None:
        super().__init__(reactor, options, inner)
        self._owner = owner
        self.calls: set[OutgoingCall] = set()
        self.go_away: GoAway | None = None
        self._queue: dict[_Slot, None] = {}  # in their order; one that gives up is found at once
        self._reserved = 0
        self._breach: str | None = None
        self._left = False
        self._contracts = AskedContracts()

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a task of a call, which alone cancels it: a call that shields itself goes on in a client's block that was cancelled from outside."""
        return StartedTask(self._inner, function, name, self.reactor, shielded=True)

    async def say_hello(self, transport: Connection) -> None:
        """Open the control stream, and wait for the server's hello, or until it has closed the connection instead.

        Raises:
            IncompatiblePeerError: it speaks no version that we do, or no sense, or lets nobody speak.
        """
        self._transport = transport
        try:
            self._control = transport.open_stream(_ControlStream(self._control_frame, self._broken))
        except LocalProtocolError:
            raise IncompatiblePeerError(f"the server at {transport.peer.address} allows no stream, not even the one for its HELLO") from None
        self._control.write(encode_hello(Hello((PROTOCOL_VERSION,), self.options.settings())))
        await self.wait_until(lambda: self.hello is not None or self.lost is not None or self._breach is not None)
        if self._breach is not None:
            raise IncompatiblePeerError(f"the server at {transport.peer.address} does not speak this protocol: {self._breach}")
        if self.hello is not None and PROTOCOL_VERSION not in self.hello.versions:
            transport.close(CloseCode.VERSION, "no version in common")
            raise IncompatiblePeerError(
                f"the server at {transport.peer.address} speaks version {_numbers(self.hello.versions)} of the protocol, "
                f"this client version {PROTOCOL_VERSION}; update the older of the two"
            )

    async def contract_of(self, entry: ServiceEntry) -> bytes | None:
        """The canonical form of the contract of a service in the hello, which the server is asked for once.

        Returns:
            ``None`` when the connection takes no calls any more.
        """
        question = self._contracts.question(entry) if self.is_open else b""
        if question:
            assert self._control is not None
            self._control.write(question)
        await self.wait_until(lambda: self._contracts.answer(entry) is not None or not self.is_open)
        return self._contracts.answer(entry)

    @property
    def is_open(self) -> bool:
        """Whether it takes new calls."""
        return self.lost is None and self.go_away is None and self._breach is None and self.hello is not None and not self._left

    @property
    def why_closed(self) -> AsterError | None:
        """Why it takes no new calls, when that is the server's or the network's doing."""
        if self.lost is None and self._breach is not None:
            return ConnectionLost(f"the server broke a rule: {self._breach}")
        if self.lost is not None or self.go_away is None:
            return self.lost
        return ConnectionLost(f"the server takes no new calls: {self.go_away.reason or 'it is closing'}")

    @property
    def has_slot(self) -> bool:
        """Whether a call may open its stream now, with nobody before it in the queue."""
        return not self._queue and self._slots_left() > 0

    def _slots_left(self) -> int:
        return min(self.peer_call_limit - len(self.calls), self.transport.stream_credit) - self._reserved

    async def acquire_slot(self) -> bool:
        """Wait for a stream below the peer's limit, first come first served. Open the call before the next await.

        A waiter that is cancelled has touched nothing.

        Returns:
            Whether there is one; false when the connection takes no calls any more.
        """
        slot = _Slot(self.reactor.waiter())
        self._queue[slot] = None
        self._grant_slots()
        try:
            while not slot.granted and self.is_open:
                await slot.waiter.wait()
        finally:
            if slot.granted:
                self._reserved -= 1
            else:
                del self._queue[slot]
            self._grant_later()
        return self.is_open

    def _grant_later(self) -> None:
        if self._queue:
            self.reactor.call_soon(self._grant_slots)

    def _grant_slots(self) -> None:
        while self._queue and self.lost is None and self._slots_left() > 0:
            slot = next(iter(self._queue))
            del self._queue[slot]
            slot.granted = True
            self._reserved += 1
            slot.waiter.wake()

    def open_call(self, call: OutgoingCall) -> Stream:
        """The stream of a call."""
        stream = self.transport.open_stream(call)
        self.calls.add(call)
        return stream

    def call_over(self, call: OutgoingCall) -> None:
        """The server's half of a call has ended."""
        self.calls.discard(call)
        if self._queue:
            self._grant_slots()
        if self._waiting:
            self._waiting.notify_all()
        if self.go_away is not None and not self.calls:
            self._owner.connection_changed(self)

    def will_refuse(self, stream: Stream) -> bool:
        """Whether the server has said that it does not serve this stream."""
        return self.go_away is not None and stream.id > self.go_away.last_stream

    def refused(self, reason: str) -> None:
        """A call was refused since the server drains, and its go-away, which says up to where it serves, is still on the way."""
        if self.go_away is None:
            self._goes_away(GoAway(_EVERY_STREAM, reason))

    def _goes_away(self, go_away: GoAway) -> None:
        self.go_away = go_away
        self._turn_away_queue()
        self._waiting.notify_all()
        self._owner.connection_changed(self)

    def leave(self) -> None:
        """Cancel all calls, and take no new ones: whoever calls again at once would keep the client's block from ever being left."""
        self._left = True
        self._turn_away_queue()
        self._waiting.notify_all()
        for call in list(self.calls):
            call.cancel(ResetCode.CANCELLED)

    def hang_up(self) -> None:
        """Close what is below. ``lost`` tells when that is done."""
        if self._transport is not None and self.lost is None:
            self._transport.close(CloseCode.NORMAL)

    def _turn_away_queue(self) -> None:
        for slot in self._queue:
            slot.waiter.wake()

    # Called by the transport

    def stream_opened(self, stream: Stream) -> StreamSink:
        """Servers open no streams."""
        self._broken("the server opened a stream")
        return _ControlStream(lambda kind, payload: None, lambda why: None)

    def streams_available(self) -> None:
        """The peer's limit rose."""
        self._grant_slots()

    def connection_lost(self, error: AsterError) -> None:
        """The end."""
        self.lost = error
        self._turn_away_queue()
        self._waiting.notify_all()
        self._owner.connection_changed(self)

    def _control_frame(self, kind: int, payload: bytes) -> None:
        if kind == FrameKind.HELLO:
            self._receive_hello(payload)
        elif self.hello is None:
            raise RemoteProtocolError("the server's first frame was not its HELLO")
        elif kind == FrameKind.CONTRACT:
            self._contracts.receive(payload)
        else:
            self._goes_away(decode_go_away(payload))
        self._waiting.notify_all()

    def _broken(self, why: str) -> None:
        if self.lost is None and self._breach is None:
            self._breach = why
            logger.info("closing the connection to %s: %s", self.transport.peer.address, why)
            # From here on no stream can be opened, though the news of the end comes in a later turn.
            self.transport.close(CloseCode.PROTOCOL, why)
            self._waiting.notify_all()
            self._owner.connection_changed(self)


class ServerHost(Protocol):
    """What a server's connection needs of the server."""

    options: EndpointOptions
    deadline_cap: float | None
    debug: bool
    hello_frame: bytes
    """What each client is told first."""
    contract_frames: Mapping[tuple[str, int], bytes]
    """What a client is told that asks for the contract of a service: by name and version."""

    def find(self, header: Header) -> HostedMethod:
        """The method that a header names; RpcError when there is none."""
        ...

    def connection_over(self, connection: ServerConnection) -> None:
        """A connection is gone and all its handlers have unwound."""
        ...


class ServerConnection(PeerConnection):
    """The server's end: admits calls and runs their handlers."""

    def __init__(self, host: ServerHost, transport: Connection, reactor: Reactor, inner: TaskGroup) -> None:
        super().__init__(reactor, host.options, inner)
        self._host = host
        self._transport = transport
        self._last_stream = -1
        self._going_away = False
        self._contracts = ToldContracts(host.contract_frames)
        self._hello_timer: TimerHandle | None = reactor.call_at(reactor.now() + host.options.for_transport().handshake_timeout, self._hello_overdue)
        self.calls: set[IncomingCall] = set()
        self.peer: Peer = transport.peer
        self.deadline_cap = host.deadline_cap
        self.debug = host.debug

    @property
    def running(self) -> int:
        """Handlers that have not unwound."""
        return sum(call.running for call in self.calls)

    def announce_drain(self, reason: str) -> None:
        """Tell the client that no further calls are taken."""
        if not self._going_away:
            self._going_away = True
            if self._control is not None and self.hello is not None:
                self._control.write(encode_go_away(GoAway(self._last_stream, reason)))

    def admit(self, call: IncomingCall, header: Header) -> HostedMethod:
        """Find the method; refuse above the limit and while draining."""
        if self._going_away and call.stream.id > self._last_stream:
            raise RpcError(StatusCode.UNAVAILABLE, "the server is draining and takes no new calls")
        # A call whose handler has unwound may still be among them, until the client's half has ended; the client counts it no more.
        if len(self.calls) > self.options.max_concurrent_calls <= self.running:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"this connection has {self.options.max_concurrent_calls} calls in flight, the server's limit")
        method = self._host.find(header)
        if not self._going_away:
            self._last_stream = max(self._last_stream, call.stream.id)
        return method

    def handler_ended(self) -> None:
        """A handler has unwound; its call may still wait for the client's half to end."""
        if self._waiting:
            self._waiting.notify_all()

    def call_over(self, call: IncomingCall) -> None:
        """A call has ended on both sides, and its handler has unwound."""
        self.calls.discard(call)
        if self._waiting:
            self._waiting.notify_all()
        if self.lost is not None and not self.calls:
            self._host.connection_over(self)

    def stop_calls(self, message: str) -> None:
        """Cancel all handlers; their callers see UNAVAILABLE."""
        for call in list(self.calls):
            call.fail(Trailer(StatusCode.UNAVAILABLE, call.stopped_by, message))

    # Called by the transport

    def stream_opened(self, stream: Stream) -> StreamSink:
        """The first stream is for control, each other one a call."""
        if stream.id == 0:
            self._control = stream
            return _ControlStream(self._control_frame, self._broken, _FROM_CLIENT)
        if self.hello is None:
            self._broken("the client opened a call before its HELLO")
            return _ControlStream(lambda kind, payload: None, lambda why: None)
        call = IncomingCall(self, stream)
        self.calls.add(call)
        return call

    def streams_available(self) -> None:
        """Servers open no streams."""

    def connection_lost(self, error: AsterError) -> None:
        """The end: every call was told before."""
        self.lost = error
        self._drop_hello_timer()
        self._waiting.notify_all()
        if not self.calls:
            self._host.connection_over(self)

    def _control_frame(self, kind: int, payload: bytes) -> None:
        assert self._control is not None
        if kind == FrameKind.DESCRIBE:
            if self.hello is None:
                raise RemoteProtocolError("the client's first frame was not its HELLO")
            self._control.write(self._contracts.answer(payload))
            return
        hello = self._receive_hello(payload)
        self._drop_hello_timer()
        self._control.write(self._host.hello_frame)
        if PROTOCOL_VERSION not in hello.versions:
            # Our hello is on its way and lets the client say what is wrong; it closes the connection.
            logger.info("%s speaks version %s of the protocol, this server version %d", self.peer.endpoint_id, _numbers(hello.versions), PROTOCOL_VERSION)
        if self._going_away:
            self._control.write(encode_go_away(GoAway(self._last_stream, "the server is draining")))

    def _hello_overdue(self) -> None:
        self._hello_timer = None
        self.transport.close(CloseCode.HELLO_TIMEOUT, "no HELLO in time")

    def _drop_hello_timer(self) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None

    def _broken(self, why: str) -> None:
        if self.lost is None:
            logger.info("closing the connection of %s: %s", self.peer.endpoint_id, why)
            self.transport.close(CloseCode.PROTOCOL, why)


def _numbers(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
