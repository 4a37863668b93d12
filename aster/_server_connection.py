"""One connection, as its server sees it: what is admitted, and the handlers that run for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from anyio.abc import TaskGroup

from aster._connection import FROM_CLIENT, PROTOCOL_VERSION, ControlStream, PeerConnection, numbers
from aster._descriptions import ToldContracts
from aster._endpoint import EndpointOptions
from aster._entrance import Entrance
from aster._hosted import HostedMethod
from aster._incoming import IncomingCall
from aster._incoming_session import HostedSession, IncomingSession, refused_while_draining
from aster._policy import Policy
from aster._protocol.events import CloseCode, GoAway, Header, Trailer, TrailerOrigin
from aster._protocol.frames import FrameKind, encode_go_away
from aster._reactor import Reactor
from aster.errors import AsterError, RemoteProtocolError, RpcError, StatusCode
from aster.transports.base import Connection, Stream, StreamSink
from aster.types import CapabilityRequirement, Peer

__all__ = ["ServerConnection", "ServerHost"]

logger = logging.getLogger("aster")


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
        self._admitted_sessions = 0
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
        if self._going_away:
            # Also one whose stream came before the last one that is served: idle, it would hold up the drain.
            raise refused_while_draining()
        limit = self.options.max_sessions
        if self._admitted_sessions >= limit:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"this connection has {limit} sessions, the server's limit")
        hosted = self._host.find_session(service, version)
        if hosted.service.requires is not None:
            self.check_held((hosted.service.requires,), f"a session of {hosted.service.name}")
        self._serve_up_to(session.stream)
        self._admitted_sessions += 1
        return hosted

    def session_unwound(self) -> None:
        """One that was admitted has unwound; it may still wait for the client's half to end, but the client counts it no more."""
        self._admitted_sessions -= 1
        self.handler_ended()

    def _refuse_while_draining(self, stream: Stream) -> None:
        if self._going_away and stream.id > self._last_stream:
            raise refused_while_draining()

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
            return ControlStream(self._control_frame, self._broken, FROM_CLIENT)
        if not self._entrance.is_open:
            self._broken("the client opened a call before its HELLO" if self.hello is None else "the client opened a call before the server's HELLO")
            return ControlStream(lambda kind, payload: None, lambda why: None)
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
            if not self._entrance.is_open:
                # Who is not admitted, or not yet, is told nothing of what is served here.
                raise RemoteProtocolError("the client asked for a contract before the server's HELLO")
            self._control.write(self._contracts.answer(payload))
            return
        hello = self._receive_hello(payload)
        if PROTOCOL_VERSION not in hello.versions:
            # Our hello lets the client say what is wrong; it closes the connection.
            logger.info("%s speaks version %s of the protocol, this server version %d", self.peer.endpoint_id, numbers(hello.versions), PROTOCOL_VERSION)
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
