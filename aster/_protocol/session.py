"""A session, as each of its ends sees it: one stream that carries calls, one after the other.

A ``ClientSession`` and a ``ServerSession`` are mirror images. They wrap the bytes of calls into frames that carry the call's number, and turn the frames of the
peer into events; what a call's own bytes mean is the business of ``call``. The calls of a session count from 0. The client begins the next one once the
server's half of the one before has ended, and not before; what it sent for a call that has ended is dropped, and so is what either end sends after its
SESSION_END. As in ``call`` there is no I/O here, and a broken rule raises ``RemoteProtocolError``, or ``LocalProtocolError`` if it is this end's doing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from aster._protocol.events import Trailer
from aster._protocol.frames import (
    CHUNK_SIZE,
    SESSION_REQUEST_KINDS,
    SESSION_RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    decode_call,
    decode_call_end,
    decode_cancel,
    decode_session,
    decode_session_end,
    encode_call,
    encode_call_end,
    encode_cancel,
    encode_frame,
    encode_session,
    encode_session_end,
    frame_limits,
)
from aster._protocol.states import SESSION_REQUESTS, SESSION_RESPONSES, SessionStep, SessionTable, State
from aster.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "CallBytes",
    "CallCancelled",
    "CallEnded",
    "ClientSession",
    "RequestEvent",
    "ResponseEvent",
    "ServerSession",
    "SessionEnded",
    "SessionOpened",
    "SessionReady",
]

_READY = encode_frame(FrameKind.READY, b"")


class SessionOpened(NamedTuple):
    """The client opens a session of a service."""

    service: str
    version: int


class SessionReady(NamedTuple):
    """The server has made the instance: calls may begin."""


class CallBytes(NamedTuple):
    """Bytes of the present call's half; ``begins`` when they are the first of a new one."""

    data: bytes
    begins: bool


class CallCancelled(NamedTuple):
    """The client wants the present call no more."""

    code: int


class CallEnded(NamedTuple):
    """The server's half of the present call has ended."""


class SessionEnded(NamedTuple):
    """The peer ends the session, and says why."""

    outcome: Trailer


RequestEvent: TypeAlias = SessionOpened | CallBytes | CallCancelled | SessionEnded
ResponseEvent: TypeAlias = SessionReady | CallBytes | CallEnded | SessionEnded


class _Half:
    """Where one half of a session's stream is."""

    __slots__ = ("_table", "state")

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self.state = State.IDLE

    def send(self, step: SessionStep) -> None:
        if step not in self._table[self.state]:
            raise LocalProtocolError(f"{step.name} cannot be sent in state {self.state.name} of a session")
        self.state = self._table[self.state][step]

    def receive(self, step: SessionStep) -> None:
        if step not in self._table[self.state]:
            raise RemoteProtocolError(f"the peer sent {step.name} in state {self.state.name} of a session")
        self.state = self._table[self.state][step]


def _check_under_way(step: SessionStep, under_way: bool) -> None:
    if not under_way:
        raise LocalProtocolError(f"{step.name} cannot be sent in a session without a call under way")


class ClientSession:
    """The client's end.

    Args:
        metadata_limit: bytes of metadata that this end accepts.
    """

    __slots__ = ("_cancelled", "_metadata_limit", "_number", "_reader", "requests", "responses", "running")

    def __init__(self, metadata_limit: int) -> None:
        self._reader = FrameReader(frame_limits(metadata_limit, SESSION_RESPONSE_KINDS))
        self._metadata_limit = metadata_limit
        self.requests = _Half(SESSION_REQUESTS)
        self.responses = _Half(SESSION_RESPONSES)
        self._number = -1
        self._cancelled = False
        self.running = False
        """Whether a call has begun whose server's half has not ended."""

    @property
    def ended(self) -> bool:
        """Whether either side has ended it: nothing may be sent any more."""
        return self.requests.state is State.ENDED or self.responses.state is State.ENDED

    def send_open(self, service: str, version: int) -> bytes:
        """The SESSION frame."""
        self.requests.send(SessionStep.SESSION)
        return encode_session(service, version)

    def begin_call(self) -> None:
        """The bytes that follow are those of a new call."""
        if self.running or self.ended or self.responses.state is State.IDLE:
            raise LocalProtocolError("a call of a session begins once the session is ready, and the call before has ended")
        self._number += 1
        self.running, self._cancelled = True, False

    def send_call(self, data: bytes) -> bytes:
        """Bytes of the present call."""
        self._send(SessionStep.CALL)
        return encode_call(self._number, data)

    def send_cancel(self, code: int) -> bytes:
        """The end of the present call from here; nothing of it may follow."""
        self._send(SessionStep.CANCEL)
        self._cancelled = True
        return encode_cancel(self._number, code)

    def _send(self, step: SessionStep) -> None:
        self.requests.send(step)
        _check_under_way(step, self.running and not self._cancelled)

    def send_end(self) -> bytes:
        """The end of the session from here."""
        self.requests.send(SessionStep.SESSION_END)
        return encode_session_end(Trailer())

    def receive_data(self, data: bytes) -> Iterator[ResponseEvent]:
        """Bytes of the server's half, as events; each is handed out before the next frame is looked at."""
        for kind, payload in self._reader.feed(data):
            if kind == FrameKind.CALL:
                number, part = decode_call(payload)
                self._receive(number, SessionStep.CALL)
                yield CallBytes(part, begins=False)
            elif kind == FrameKind.CALL_END:
                self._receive(decode_call_end(payload), SessionStep.CALL_END)
                self.running = False
                yield CallEnded()
            elif kind == FrameKind.READY:
                self.responses.receive(SessionStep.READY)
                yield SessionReady()
            else:  # SESSION_END: the reader lets no other kind through.
                outcome = decode_session_end(payload, self._metadata_limit)
                self.responses.receive(SessionStep.SESSION_END)
                self.running = False
                yield SessionEnded(outcome)
                return

    def _receive(self, number: int, step: SessionStep) -> None:
        self.responses.receive(step)
        if not self.running or number != self._number:
            raise RemoteProtocolError(f"the peer sent {step.name} for call {number} of a session, which is not under way")


class ServerSession:
    """The server's end."""

    __slots__ = ("_cancelled", "_metadata_limit", "_number", "_reader", "requests", "responses", "running")

    def __init__(self, metadata_limit: int) -> None:
        # A server reads no more of a client's reasons than of anything else: all the streams of a connection may hold one that is not whole.
        self._reader = FrameReader({**frame_limits(metadata_limit, SESSION_REQUEST_KINDS), FrameKind.SESSION_END: CHUNK_SIZE})
        self._metadata_limit = metadata_limit
        self.requests = _Half(SESSION_REQUESTS)
        self.responses = _Half(SESSION_RESPONSES)
        self._number = -1
        self._cancelled = False
        self.running = False
        """Whether a call has begun, and its half here has not ended."""

    @property
    def ended(self) -> bool:
        """Whether this end has said its last."""
        return self.responses.state is State.ENDED

    def send_ready(self) -> bytes:
        """The READY frame, which answers SESSION."""
        if self.requests.state is State.IDLE:
            raise LocalProtocolError("READY cannot be sent in a session that has not been opened")
        self.responses.send(SessionStep.READY)
        return _READY

    def send_call(self, data: bytes) -> bytes:
        """Bytes of the present call."""
        self._send(SessionStep.CALL)
        return encode_call(self._number, data)

    def send_call_end(self) -> bytes:
        """The end of this half of the present call."""
        self._send(SessionStep.CALL_END)
        self.running = False
        return encode_call_end(self._number)

    def _send(self, step: SessionStep) -> None:
        self.responses.send(step)
        _check_under_way(step, self.running)

    def send_end(self, outcome: Trailer) -> bytes:
        """The end of the session, and why.

        Raises:
            LocalProtocolError: the outcome's message is above the limit of a trailer's.
        """
        frame = encode_session_end(outcome)
        self.responses.send(SessionStep.SESSION_END)
        self.running = False
        return frame

    def receive_data(self, data: bytes) -> Iterator[RequestEvent]:
        """Bytes of the client's half, as events; each is handed out before the next frame is looked at."""
        for kind, payload in self._reader.feed(data):
            if self.ended:
                return  # It crossed the news of that.
            if kind == FrameKind.CALL:
                number, part = decode_call(payload)
                self.requests.receive(SessionStep.CALL)
                begins = self._begins(number)
                if begins or self._concerns_present(number, SessionStep.CALL):
                    yield CallBytes(part, begins)
            elif kind == FrameKind.CANCEL:
                number, code = decode_cancel(payload)
                self.requests.receive(SessionStep.CANCEL)
                if self._concerns_present(number, SessionStep.CANCEL):
                    self._cancelled = True
                    yield CallCancelled(code)
            elif kind == FrameKind.SESSION:
                service, version = decode_session(payload)
                self.requests.receive(SessionStep.SESSION)
                yield SessionOpened(service, version)
            else:  # SESSION_END: the reader lets no other kind through.
                outcome = decode_session_end(payload, self._metadata_limit)
                self.requests.receive(SessionStep.SESSION_END)
                yield SessionEnded(outcome)
                return

    def _begins(self, number: int) -> bool:
        if number != self._number + 1 or self.running:
            return False
        if self.responses.state is State.IDLE:
            raise RemoteProtocolError("the peer began a call before the session was ready")
        self._number = number
        self.running, self._cancelled = True, False
        return True

    def _concerns_present(self, number: int, step: SessionStep) -> bool:
        """Whether a frame is for the call that runs; one for a call that is over crossed the news of that."""
        if number > self._number:
            raise RemoteProtocolError(f"the peer sent {step.name} for call {number} of a session while call {self._number} was the last one to begin")
        return number == self._number and self.running and not self._cancelled
