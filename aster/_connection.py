"""One connection, as each of its ends sees it: hello, the calls in flight, go-away, and what is left to unwind.

These are plain objects that the transport calls back; the tasks that they need live in the task groups of the client or server that owns them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from anyio.abc import TaskGroup

from aster._descriptions import AskedContracts, ToldContracts
from aster._endpoint import EndpointOptions
from aster._entrance import Entrance
from aster._incoming import HostedMethod, IncomingCall
from aster._incoming_session import HostedSession, IncomingSession
from aster._outgoing import OutgoingCall
from aster._outgoing_session import OutgoingSession
from aster._policy import Policy
from aster._protocol.call import CallLimits, SharedBuffer
from aster._protocol.events import CloseCode, GoAway, Header, Hello, ResetCode, ServiceEntry, Setting, Trailer, TrailerOrigin
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
from aster._reactor import Condition, Reactor
from aster._slots import SlotQueue
from aster._tasks import StartedTask, TaskSet
from aster.errors import AsterError, ConnectionLost, IncompatiblePeerError, LocalProtocolError, RemoteProtocolError, RpcError, StatusCode
from aster.transports.base import Connection, Stream, StreamSink
from aster.types import CapabilityRequirement, Peer

__all__ = ["PROTOCOL_VERSION", "ClientConnection", "ClientOwner", "PeerConnection", "ServerConnection", "ServerHost"]

logger = logging.getLogger("aster")

PROTOCOL_VERSION = 1


_REQUIRED_SETTINGS = (Setting.WINDOW, Setting.MESSAGE_LIMIT, Setting.METADATA_LIMIT)
"""What each side must say of itself; a server its CALL_LIMIT besides."""

_EVERY_STREAM = 1 << 62
"""Above the number of any stream (RFC 9000, section 2.1)."""


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
        self.peer_session_limit = 0
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
        self.peer_session_limit = peer(Setting.SESSION_LIMIT, 0)
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
        self.sessions: set[OutgoingSession] = set()
        self.go_away: GoAway | None = None
        self.call_slots = SlotQueue(reactor, self._free_for_calls, self._takes_more)
        self.session_slots = SlotQueue(reactor, self._free_for_sessions, self._takes_more)
        self._breach: str | None = None
        self._refusal: str | None = None
        self._left = False
        self._contracts = AskedContracts()

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a task of a call, which alone cancels it: a call that shields itself goes on in a client's block that was cancelled from outside."""
        return StartedTask(self._inner, function, name, self.reactor, shielded=True)

    def task_set(self) -> TaskSet:
        """A set of tasks beside the calls."""
        return TaskSet(self._inner, self.reactor)

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
        await self.wait_until(lambda: self.hello is not None or self.go_away is not None or self.lost is not None or self._breach is not None)
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
        if self._refusal is not None:
            return ConnectionLost("the server does not admit this client", code=CloseCode.REFUSED, reason=self._refusal)
        if self.lost is not None or self.go_away is None:
            return self.lost
        return ConnectionLost(f"the server takes no new calls: {self.go_away.reason or 'it is closing'}")

    def _takes_more(self) -> bool:
        return self.is_open

    # What a granted slot still has to open is on top of what the engine knows of.

    def _free_for_calls(self) -> int:
        return min(self.peer_call_limit - len(self.calls), self.transport.stream_credit - self.session_slots.reserved)

    def _free_for_sessions(self) -> int:
        return min(self.peer_session_limit - len(self.sessions), self.transport.stream_credit - self.call_slots.reserved)

    @property
    def has_slot(self) -> bool:
        """Whether a call may open its stream now, with nobody before it in the queue."""
        return self.call_slots.has_slot

    async def acquire_slot(self) -> bool:
        """As ``SlotQueue.acquire``, for the stream of a call."""
        return await self.call_slots.acquire()

    def _grant_slots(self) -> None:
        self.call_slots.grant()
        self.session_slots.grant()

    def open_call(self, call: OutgoingCall) -> Stream:
        """The stream of a call."""
        stream = self.transport.open_stream(call)
        self.calls.add(call)
        return stream

    def call_over(self, call: OutgoingCall) -> None:
        """The server's half of a call has ended."""
        self.calls.discard(call)
        self.call_slots.grant()
        self._less_is_open()

    def open_session(self, session: OutgoingSession) -> Stream:
        """The stream of a session."""
        stream = self.transport.open_stream(session)
        self.sessions.add(session)
        return stream

    def session_over(self, session: OutgoingSession) -> None:
        """The server's half of a session's stream has ended."""
        self.sessions.discard(session)
        self.session_slots.grant()
        self._less_is_open()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs on it, and nothing has still to unwind at the server."""
        return not self.calls and not self.sessions

    def _less_is_open(self) -> None:
        if self._waiting:
            self._waiting.notify_all()
        if self.go_away is not None and self.is_idle:
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
        """Cancel all calls, end all sessions, and take no new ones: whoever calls again at once would keep the client's block from ever being left."""
        self._left = True
        self._turn_away_queue()
        self._waiting.notify_all()
        for call in list(self.calls):
            call.cancel(ResetCode.CANCELLED)
        for session in list(self.sessions):
            session.leave()

    def hang_up(self) -> None:
        """Close what is below. ``lost`` tells when that is done."""
        if self._transport is not None and self.lost is None:
            self._transport.close(CloseCode.NORMAL)

    def _turn_away_queue(self) -> None:
        self.call_slots.turn_away()
        self.session_slots.turn_away()

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
        elif kind == FrameKind.CONTRACT:
            if self.hello is None:
                raise RemoteProtocolError("the server's first frame was not its HELLO")
            self._contracts.receive(payload)
        else:
            go_away = decode_go_away(payload)
            if self.hello is None:
                self._refusal = go_away.reason
            self._goes_away(go_away)
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
    policy: Policy | None
    """Who is admitted, and what they hold; ``None`` for everyone and nothing."""
    contract_frames: Mapping[tuple[str, int], bytes]
    """What a client is told that asks for the contract of a service: by name and version."""

    def find(self, header: Header) -> HostedMethod:
        """The method that a header names; RpcError when there is none."""
        ...

    def find_session(self, service: str, version: int) -> HostedSession:
        """The service that a session is to be of; RpcError when there is none."""
        ...

    def connection_over(self, connection: ServerConnection) -> None:
        """A connection is gone and all its handlers have unwound."""
        ...


class _Newcomer:
    """What a client's stream goes to before its first byte tells what it is."""

    __slots__ = ("_connection", "_stream")

    def __init__(self, connection: ServerConnection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        self._become(data[0]).data_received(data)

    def finished(self) -> None:
        self._become(FrameKind.HEADER).finished()

    def was_reset(self, code: int) -> None:
        self._become(FrameKind.HEADER).was_reset(code)

    def was_stopped(self, code: int) -> None:
        self._become(FrameKind.HEADER).was_stopped(code)

    def connection_lost(self, error: AsterError) -> None:
        self._become(FrameKind.HEADER).connection_lost(error)

    def _become(self, kind: int) -> StreamSink:
        self._stream.sink = sink = self._connection.begin(self._stream, kind)
        return sink


class ServerConnection(PeerConnection):
    """The server's end: admits calls and runs their handlers."""

    def __init__(self, host: ServerHost, transport: Connection, reactor: Reactor, inner: TaskGroup) -> None:
        super().__init__(reactor, host.options, inner)
        self._host = host
        self._transport = transport
        self._last_stream = -1
        self._going_away = False
        self._contracts = ToldContracts(host.contract_frames)
        self.calls: set[IncomingCall] = set()
        self.sessions: set[IncomingSession] = set()
        self.peer: Peer = transport.peer
        self.capabilities: frozenset[str] = frozenset()
        self.deadline_cap = host.deadline_cap
        self.debug = host.debug
        self._entrance = Entrance(self, host.policy, host.options.for_transport().handshake_timeout)

    @property
    def running(self) -> int:
        """Handlers and sessions that have not unwound."""
        return self._running_calls + sum(session.running for session in self.sessions)

    @property
    def _running_calls(self) -> int:
        return sum(call.running for call in self.calls)

    @property
    def overdue(self) -> list[str]:
        """What of them there is, as messages name it."""
        return [one.label for one in (*self.calls, *self.sessions) if one.running]

    @property
    def cleanup_budget(self) -> float:
        """Seconds that the hook of a session may take."""
        return self.options.cleanup_budget

    @property
    def interruption(self) -> Trailer:
        """The outcome of a call that was cancelled along with the server."""
        return Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, "the server is shutting down")

    def announce_drain(self, reason: str) -> None:
        """Tell the client that no further calls are taken."""
        if not self._going_away:
            self._going_away = True
            if self._control is not None and self._entrance.is_open:
                self._control.write(encode_go_away(GoAway(self._last_stream, reason)))
            for session in list(self.sessions):
                session.drain(reason)

    def admit(self, call: IncomingCall, header: Header) -> HostedMethod:
        """Find the method; refuse above the limit, while draining, and whoever does not hold what it requires."""
        self._refuse_while_draining(call.stream)
        # A call whose handler has unwound may still be among them, until the client's half has ended; the client counts it no more.
        if len(self.calls) > self.options.max_concurrent_calls <= self._running_calls:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"this connection has {self.options.max_concurrent_calls} calls in flight, the server's limit")
        method = self._host.find(header)
        if method.requires:
            self.check_held(method.requires, method.label)
        self._serve_up_to(call.stream)
        return method

    def admit_session(self, session: IncomingSession, service: str, version: int) -> HostedSession:
        """Find the service; refuse above the limit, while draining, and whoever does not hold what it requires."""
        self._refuse_while_draining(session.stream)
        limit = self.options.max_sessions
        if len(self.sessions) > limit <= sum(other.running for other in self.sessions):
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"this connection has {limit} sessions, the server's limit")
        hosted = self._host.find_session(service, version)
        if hosted.service.requires is not None:
            self.check_held((hosted.service.requires,), f"a session of {hosted.service.name}")
        self._serve_up_to(session.stream)
        return hosted

    def _refuse_while_draining(self, stream: Stream) -> None:
        if self._going_away and stream.id > self._last_stream:
            raise RpcError(StatusCode.UNAVAILABLE, "the server is draining and takes no new calls")

    def _serve_up_to(self, stream: Stream) -> None:
        if not self._going_away:
            self._last_stream = max(self._last_stream, stream.id)

    def check_held(self, requires: Iterable[CapabilityRequirement], label: str) -> None:
        """Refuse what the peer does not hold enough for; ``label`` is how messages name it.

        Raises:
            RpcError: PERMISSION_DENIED, one of the requirements is not met.
        """
        for requirement in requires:
            if not requirement.is_met_by(self.capabilities):
                raise RpcError(
                    StatusCode.PERMISSION_DENIED,
                    f"{label} requires {requirement}, which this caller was not granted: the server's operator grants it by authorize=",
                )

    def handler_ended(self) -> None:
        """A handler has unwound; its call may still wait for the client's half to end."""
        if self._waiting:
            self._waiting.notify_all()

    def call_over(self, call: IncomingCall) -> None:
        """A call has ended on both sides, and its handler has unwound."""
        self.calls.discard(call)
        self._less_is_open()

    def session_over(self, session: IncomingSession) -> None:
        """A session has ended on both sides, and all that it ran has unwound."""
        self.sessions.discard(session)
        self._less_is_open()

    def _less_is_open(self) -> None:
        if self._waiting:
            self._waiting.notify_all()
        self._over_if_ended()

    def _over_if_ended(self) -> None:
        if self.lost is not None and not self.calls and not self.sessions:
            self._host.connection_over(self)

    def stop_calls(self, message: str) -> None:
        """Cancel all handlers, and end all sessions; their callers see UNAVAILABLE."""
        for call in list(self.calls):
            call.fail(Trailer(StatusCode.UNAVAILABLE, call.stopped_by, message))
        for session in list(self.sessions):
            session.end(Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, message))

    # Called by the transport

    def stream_opened(self, stream: Stream) -> StreamSink:
        """The first stream is for control, each other one a call."""
        if stream.id == 0:
            self._control = stream
            return _ControlStream(self._control_frame, self._broken, _FROM_CLIENT)
        if not self._entrance.is_open:
            self._broken("the client opened a call before its HELLO" if self.hello is None else "the client opened a call before the server's HELLO")
            return _ControlStream(lambda kind, payload: None, lambda why: None)
        return _Newcomer(self, stream)

    def begin(self, stream: Stream, kind: int) -> StreamSink:
        """What a stream is that begins with a frame of ``kind``: a session, or a call."""
        if kind == FrameKind.SESSION:
            session = IncomingSession(self, stream)
            self.sessions.add(session)
            return session
        call = IncomingCall(self, stream)
        self.calls.add(call)
        return call

    def streams_available(self) -> None:
        """Servers open no streams."""

    def connection_lost(self, error: AsterError) -> None:
        """The end: every call was told before."""
        self.lost = error
        self._entrance.shut()
        self._waiting.notify_all()
        self._over_if_ended()

    def _control_frame(self, kind: int, payload: bytes) -> None:
        assert self._control is not None
        if kind == FrameKind.DESCRIBE:
            if self.hello is None:
                raise RemoteProtocolError("the client's first frame was not its HELLO")
            self._control.write(self._contracts.answer(payload))
            return
        hello = self._receive_hello(payload)
        if PROTOCOL_VERSION not in hello.versions:
            # Our hello lets the client say what is wrong; it closes the connection.
            logger.info("%s speaks version %s of the protocol, this server version %d", self.peer.endpoint_id, _numbers(hello.versions), PROTOCOL_VERSION)
        self._entrance.hello_came()

    # Called by the entrance

    def welcome(self, capabilities: frozenset[str]) -> None:
        """The client is admitted: say hello, after which its calls may come."""
        self.capabilities = capabilities
        assert self._control is not None
        self._control.write(self._host.hello_frame)
        if self._going_away:
            self._control.write(encode_go_away(GoAway(self._last_stream, "the server is draining")))

    def turn_away(self, reason: str) -> None:
        """The client is not admitted: it is told so reliably, before the connection is closed."""
        assert self._control is not None
        self._control.write(encode_go_away(GoAway(-1, reason)))

    def _broken(self, why: str) -> None:
        if self.lost is None:
            logger.info("closing the connection of %s: %s", self.peer.endpoint_id, why)
            self._entrance.shut()
            self.transport.close(CloseCode.PROTOCOL, why)


def _numbers(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
