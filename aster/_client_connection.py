"""One connection, as its client sees it: the calls and sessions in flight, go-away, and what is left to unwind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from anyio.abc import TaskGroup

from aster._connection import PROTOCOL_VERSION, REQUIRED_SETTINGS, ControlStream, PeerConnection, numbers
from aster._descriptions import AskedContracts
from aster._endpoint import EndpointOptions
from aster._outgoing import OutgoingCall
from aster._outgoing_session import OutgoingSession
from aster._protocol.events import CloseCode, GoAway, Hello, ResetCode, ServiceEntry, Setting
from aster._protocol.frames import FrameKind, decode_go_away, encode_hello
from aster._reactor import Reactor
from aster._slots import SlotQueue
from aster._tasks import StartedTask
from aster.errors import AsterError, ConnectionLost, IncompatiblePeerError, LocalProtocolError, RemoteProtocolError
from aster.transports.base import Connection, Stream, StreamSink

__all__ = ["ClientConnection", "ClientOwner"]

logger = logging.getLogger("aster")

_EVERY_STREAM = 1 << 62
"""Above the number of any stream (RFC 9000, section 2.1)."""


class ClientOwner(Protocol):
    """What a client's connection needs of the client."""

    def connection_changed(self, connection: ClientConnection) -> None:
        """It was lost, its server goes away, or the last of its calls is over after that."""
        ...


class ClientConnection(PeerConnection):
    """The client's end: opens calls, queues them at the peer's limit, and knows which have not been confirmed to be over."""

    required_settings = (*REQUIRED_SETTINGS, Setting.CALL_LIMIT)

    def __init__(self, reactor: Reactor, options: EndpointOptions, inner: TaskGroup, owner: ClientOwner) -> None:
        super().__init__(reactor, options, inner)
        self._owner = owner
        self.calls: set[OutgoingCall] = set()
        self.sessions: set[OutgoingSession] = set()
        self.go_away: GoAway | None = None
        self.call_slots = SlotQueue(reactor, self._free_for_calls, self._takes_more, self._grant_slots)
        self.session_slots = SlotQueue(reactor, self._free_for_sessions, self._takes_more, self._grant_slots)
        self._breach: str | None = None
        self._refusal: str | None = None
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
            self._control = transport.open_stream(ControlStream(self._control_frame, self._broken))
        except LocalProtocolError:
            raise IncompatiblePeerError(f"the server at {transport.peer.address} allows no stream, not even the one for its HELLO") from None
        self._control.write(encode_hello(Hello((PROTOCOL_VERSION,), self.options.settings())))
        await self.wait_until(lambda: self.hello is not None or self.go_away is not None or self.lost is not None or self._breach is not None)
        if self._breach is not None:
            raise IncompatiblePeerError(f"the server at {transport.peer.address} does not speak this protocol: {self._breach}")
        if self.hello is not None and PROTOCOL_VERSION not in self.hello.versions:
            transport.close(CloseCode.VERSION, "no version in common")
            raise IncompatiblePeerError(
                f"the server at {transport.peer.address} speaks version {numbers(self.hello.versions)} of the protocol, "
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
        return ControlStream(lambda kind, payload: None, lambda why: None)

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
