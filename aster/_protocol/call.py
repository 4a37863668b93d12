"""One call, as each of its ends sees it: bytes in, messages and an outcome out, and the reverse.

A ``ClientCall`` and a ``ServerCall`` are mirror images, each made of a half that sends and a half that receives. They hold what was received
and not yet taken, count credit, and check every frame against the tables of ``states``. They do no I/O and never wait: whoever drives them
writes the bytes that methods return, and looks at their state after ``receive_data``.

A broken rule raises ``RemoteProtocolError`` (the peer's doing) from ``receive_data``, or ``LocalProtocolError`` (ours) from a method that makes
bytes; in both cases the state is as it was before the frame that broke it, and what came ahead of that frame counts. What a peer sends after a
frame that broke a rule, or after the trailer, is dropped: how its bytes were cut makes no difference to anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from aster._protocol.events import Header, Trailer
from aster._protocol.frames import (
    CHUNK_SIZE,
    MESSAGE_CHARGE,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    decode_credit,
    decode_header,
    decode_metadata,
    decode_trailer,
    encode_credit,
    encode_frame,
    encode_header,
    encode_message,
    encode_metadata,
    encode_trailer,
    frame_limits,
)
from aster._protocol.states import REQUESTS_ONE, RESPONSES_UNKNOWN, TABLES, State, Step, Table
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern

__all__ = ["CallLimits", "ClientCall", "ReceiveHalf", "SendHalf", "ServerCall", "SharedBuffer"]

_END = encode_frame(FrameKind.END, b"")

# Plain integers, since a look-up in an enum costs as much as the comparison that it is for.
_MESSAGE, _PART, _TRAILER = int(FrameKind.MESSAGE), int(FrameKind.PART), int(FrameKind.TRAILER)
_HEADER, _END_KIND, _METADATA = int(FrameKind.HEADER), int(FrameKind.END), int(FrameKind.METADATA)


@dataclass(slots=True)
class SharedBuffer:
    """What all calls of a connection hold together at one end: bytes of messages that arrived and that nobody has taken, charges included.

    Attributes:
        limit: the most of them; the call whose message would cross it fails.
        held: how many there are.
    """

    limit: int
    held: int = 0


_ELSEWHERE = SharedBuffer(1 << 62)
"""Where calls count that count no more."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one end of a call may hold and accept; all in bytes.

    Attributes:
        shared: what it holds together with the other calls of its connection.
        window: unconsumed bytes that this end takes before it has to grant more.
        peer_window: the same of the other end.
        message: the largest message that this end accepts.
        metadata: the most metadata that it accepts at a time, as ``metadata_size`` counts it.
        requests: the largest payload of each kind of frame on the way to the server.
        responses: the same on the way back.
    """

    shared: SharedBuffer
    window: int
    peer_window: int
    message: int
    metadata: int
    requests: Mapping[int, int]
    responses: Mapping[int, int]

    @classmethod
    def create(cls, *, shared: SharedBuffer, window: int, peer_window: int, message: int, metadata: int) -> CallLimits:
        """Limits with the frame sizes that follow from a metadata limit."""
        return cls(shared, window, peer_window, message, metadata, frame_limits(metadata, REQUEST_KINDS), frame_limits(metadata, RESPONSE_KINDS))


class SendHalf:
    """What this end sends: its state, and the credit that is left."""

    __slots__ = ("_window", "credited", "outstanding", "state", "table")

    def __init__(self, table: Table, window: int) -> None:
        self.table = table
        self._window = window
        self.state = State.IDLE
        self.outstanding = 0
        """Bytes sent and not granted again, charges included."""
        self.credited = False
        """Whether credit has arrived; for the driver to look at and to clear."""

    @property
    def ready(self) -> bool:
        """Whether a message may begin now; otherwise credit has to arrive first."""
        return self.outstanding < self._window

    def step(self, step: Step) -> None:
        """Move on, or raise ``LocalProtocolError``."""
        try:
            self.state = self.table[self.state][step]
        except KeyError:
            raise LocalProtocolError(f"{step.name} cannot be sent in state {self.state.name}") from None

    def message(self, payload: bytes) -> bytes:
        """The frames of a message."""
        if self.outstanding >= self._window:
            raise LocalProtocolError("a message may not begin before the peer has granted more credit")
        self.step(Step.MESSAGE)
        self.outstanding += len(payload) + MESSAGE_CHARGE
        return encode_message(payload)

    def stop(self) -> None:
        """The peer reads no more: from here on no message may begin."""
        self._window = 0

    def granted(self, amount: int) -> None:
        """The peer's credit arrived."""
        if amount > self.outstanding:
            raise RemoteProtocolError(f"the peer granted {amount} bytes of credit, but only {self.outstanding} are outstanding")
        self.outstanding -= amount
        self.credited = True


class ReceiveHalf:
    """What this end receives: its state, the messages that nobody has taken yet, and the credit that the peer has used."""

    __slots__ = ("_consumed", "_discarding", "_limit", "_parts", "_parts_size", "_shared", "_unacknowledged", "_window", "inbox", "received", "state", "table")

    def __init__(self, table: Table, limits: CallLimits) -> None:
        self.table = table
        self._window = limits.window
        self._limit = limits.message
        self._shared = limits.shared
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._unacknowledged = 0
        self._consumed = 0
        self._discarding = False
        self.inbox: deque[bytes] = deque()
        self.received = False
        """Whether any part of a message has arrived."""
        self.state = State.IDLE

    def step(self, step: Step) -> None:
        """Move on, or raise ``RemoteProtocolError``."""
        try:
            self.state = self.table[self.state][step]
        except KeyError:
            raise RemoteProtocolError(_unexpected(self.state, step)) from None

    def part(self, data: bytes) -> None:
        """A chunk that does not end its message; it is full, or a peer could make us hold millions of tiny ones."""
        if len(data) != CHUNK_SIZE:
            raise RemoteProtocolError(f"the peer sent a PART of {len(data)} bytes; every part but a message's last has {CHUNK_SIZE}")
        self._hold(data, Step.PART)
        self._parts_size += len(data)
        if not self._discarding:
            self._parts.append(data)

    def message(self, data: bytes) -> None:
        """A chunk that ends its message."""
        self._hold(data, Step.MESSAGE)
        if self._parts_size:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
            self._parts_size = 0
        if not self._discarding:
            self.inbox.append(data)

    def _hold(self, data: bytes, step: Step) -> None:
        begins = not self._parts_size
        if begins and self._unacknowledged >= self._window:
            raise RemoteProtocolError(f"the peer began a message beyond its credit of {self._window} bytes")
        if self._parts_size + len(data) > self._limit:
            raise RemoteProtocolError(
                f"a message is larger than the limit of {self._limit} bytes; raise max_message_size at its receiver, or send it in pieces",
                StatusCode.RESOURCE_EXHAUSTED,
            )
        size = len(data) + (MESSAGE_CHARGE if begins else 0)
        if self._shared.held + size > self._shared.limit:
            raise RemoteProtocolError(
                f"the calls of this connection hold {self._shared.held} bytes that nobody has taken, and {size} more are above the limit; "
                "take messages sooner, make fewer calls at a time, or raise max_connection_buffer at their receiver",
                StatusCode.RESOURCE_EXHAUSTED,
            )
        self.step(step)
        self.received = True
        self._unacknowledged += size
        self._shared.held += size

    def take(self) -> bytes:
        """The oldest message; ``inbox`` must not be empty."""
        data = self.inbox.popleft()
        size = len(data) + MESSAGE_CHARGE
        self._consumed += size
        self._shared.held -= size
        return data

    def grant(self) -> bytes:
        """A CREDIT frame once half a window was taken and the peer may still need it, else nothing."""
        amount = self._consumed
        if amount * 2 < self._window or (self.state is not State.OPEN and self.state is not State.OPEN_PART):
            return b""
        self._unacknowledged -= amount
        self._consumed = 0
        return encode_credit(amount)

    def leave(self) -> None:
        """Count no more among the calls of the connection: the call is over, and what is left of it is its reader's."""
        self._shared.held -= self._unacknowledged - self._consumed
        self._shared = _ELSEWHERE

    def discard(self) -> None:
        """Drop what is held and what is still to come, as though it had been taken; for a call whose messages nobody will read.

        The size of a message under way counts on: what follows is held to the same limits.
        """
        self.leave()
        self._discarding = True
        self.inbox.clear()
        self._parts.clear()
        self._consumed = self._unacknowledged


def _unexpected(state: State, step: Step) -> str:
    if step is Step.END and state is State.EMPTY:
        return "the request is missing: this method takes exactly one message, the peer sent none"
    if step is Step.OK and state in (State.IDLE, State.EMPTY):
        return "the response is missing: this method returns exactly one message, the peer sent none"
    if step in (Step.MESSAGE, Step.PART) and state is State.FULL:
        return "a second message arrived where this method has exactly one"
    return f"the peer sent {step.name} in state {state.name}"


class ClientCall:
    """The client's end of a call: sends requests, receives metadata, responses and the trailer."""

    __slots__ = ("_metadata_limit", "_reader", "metadata", "requests", "responses", "trailer")

    def __init__(self, pattern: RpcPattern, limits: CallLimits) -> None:
        requests, responses = TABLES[pattern]
        self._reader = FrameReader(limits.responses)
        self._metadata_limit = limits.metadata
        self.requests = SendHalf(requests, limits.peer_window)
        self.responses = ReceiveHalf(responses, limits)
        self.metadata: Metadata | None = None
        self.trailer: Trailer | None = None

    def send_header(self, start: bytes, timeout: float | None, metadata: Metadata) -> bytes:
        """The HEADER; ``start`` comes from ``encode_header_start``, the remaining time is in seconds."""
        self.requests.step(Step.HEADER)
        return encode_header(start, timeout, metadata)

    def send_message(self, payload: bytes) -> bytes:
        """A request; ``requests.ready`` must hold."""
        return self.requests.message(payload)

    def send_end(self) -> bytes:
        """The end of requests."""
        self.requests.step(Step.END)
        return _END

    def receive_data(self, data: bytes) -> None:
        """Bytes of the response half; those that follow a trailer are dropped."""
        responses = self.responses
        for kind, payload in self._reader.feed(data):
            if kind == _MESSAGE:
                responses.message(payload)
            elif kind == _TRAILER:
                trailer = decode_trailer(payload, self._metadata_limit)
                responses.step(Step.ERROR if trailer.status else Step.OK)
                self.trailer = trailer
                return  # Leaving the loop early closes the reader.
            elif kind == _PART:
                responses.part(payload)
            elif kind == _METADATA:
                metadata = decode_metadata(payload, self._metadata_limit)
                responses.step(Step.METADATA)
                self.metadata = metadata
            else:  # CREDIT: the reader lets no other kind through.
                responses.step(Step.CREDIT)
                self.requests.granted(decode_credit(payload))

    def receive_end(self) -> None:
        """The response half's FIN."""
        if self.trailer is None:
            raise RemoteProtocolError("the stream ended without an outcome: the server is broken, or something between cut it short")


class ServerCall:
    """The server's end of a call: receives the header and requests, sends metadata, responses and the trailer."""

    __slots__ = ("_metadata_limit", "_reader", "header", "requests", "responses")

    def __init__(self, limits: CallLimits) -> None:
        self._reader = FrameReader(limits.requests)
        self._metadata_limit = limits.metadata
        self.header: Header | None = None
        # Until a header tells which tables hold, only a header may come and only a failure may be sent; all tables begin in the same state.
        self.requests = ReceiveHalf(REQUESTS_ONE, limits)
        self.responses = SendHalf(RESPONSES_UNKNOWN, limits.peer_window)

    def send_metadata(self, metadata: Metadata) -> bytes:
        """Metadata ahead of the first response."""
        self.responses.step(Step.METADATA)
        return encode_metadata(metadata)

    def send_message(self, payload: bytes) -> bytes:
        """A response; ``responses.ready`` must hold."""
        return self.responses.message(payload)

    def send_trailer(self, trailer: Trailer) -> bytes:
        """The outcome; nothing may follow it but FIN."""
        frame = encode_trailer(trailer)
        self.responses.step(Step.ERROR if trailer.status else Step.OK)
        return frame

    def receive_data(self, data: bytes) -> None:
        """Bytes of the request half."""
        for kind, payload in self._reader.feed(data):
            if kind == _MESSAGE:
                self.requests.message(payload)
            elif kind == _HEADER:
                self._receive_header(payload)
            elif kind == _END_KIND:
                self.requests.step(Step.END)
            elif kind == _PART:
                self.requests.part(payload)
            else:  # CREDIT: the reader lets no other kind through.
                self.requests.step(Step.CREDIT)
                self.responses.granted(decode_credit(payload))

    def _receive_header(self, payload: bytes) -> None:
        header = decode_header(payload, self._metadata_limit)
        if self.header is None:
            self.requests.table, self.responses.table = TABLES[header.target.pattern]
        self.requests.step(Step.HEADER)
        self.header = header

    def receive_end(self) -> None:
        """The request half's FIN."""
        if self.requests.state is not State.ENDED:
            raise RemoteProtocolError("the requests ended without END: the client is broken, or something between cut it short")

    @property
    def requests_ended(self) -> bool:
        """Whether END has arrived."""
        return self.requests.state is State.ENDED
