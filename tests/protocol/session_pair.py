"""Both ends of a session, and the bytes between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from aster._protocol.events import Trailer
from aster._protocol.session import (
    CallBytes,
    CallCancelled,
    CallEnded,
    ClientSession,
    ServerSession,
    SessionEnded,
    SessionOpened,
    SessionReady,
)

__all__ = ["Log", "SessionPair"]


@dataclass
class Log:
    """What one end has sent and heard of each call, by its number."""

    sent: list[bytes] = field(default_factory=list[bytes])
    heard: list[bytes] = field(default_factory=list[bytes])
    cancelled: dict[int, int] = field(default_factory=dict[int, int])
    """The reasons of its calls that were cancelled: by the client, or as the server has heard."""
    ended: int = 0
    """Calls whose end the server has sent, or the client has heard."""


class SessionPair:
    """A ``ClientSession`` and a ``ServerSession`` whose bytes travel when told to, in pieces of any size."""

    def __init__(self) -> None:
        self.client, self.server = ClientSession(512), ServerSession(512)
        self.at_client, self.at_server = Log(), Log()
        self.requests, self.responses = bytearray(), bytearray()
        self.opened: SessionOpened | None = None
        self.ready = False
        self.left: Trailer | None = None
        """What the client has said in the end, once the server has heard it."""
        self.outcome: Trailer | None = None
        """What the server has said in the end, once the client has heard it."""

    # The client

    def open(self) -> None:
        self.requests += self.client.send_open("demo.Room", 3)

    def begin(self) -> None:
        self.client.begin_call()
        self.at_client.sent.append(b"")
        self.at_client.heard.append(b"")

    def send_request(self, data: bytes) -> None:
        self.requests += self.client.send_call(data)
        self.at_client.sent[-1] += data

    def cancel(self, code: int) -> None:
        self.requests += self.client.send_cancel(code)
        self.at_client.cancelled[len(self.at_client.sent) - 1] = code

    def leave(self) -> None:
        self.requests += self.client.send_end()

    # The server

    def answer(self) -> None:
        self.responses += self.server.send_ready()

    def send_response(self, data: bytes) -> None:
        self.responses += self.server.send_call(data)
        self.at_server.sent[-1] += data

    def end_call(self) -> None:
        self.responses += self.server.send_call_end()
        self.at_server.ended += 1

    def end(self, outcome: Trailer) -> None:
        self.responses += self.server.send_end(outcome)

    # The bytes

    def deliver_requests(self, size: int) -> None:
        """So many bytes reach the server."""
        data = bytes(self.requests[:size])
        del self.requests[:size]
        log = self.at_server
        for event in self.server.receive_data(data):
            if isinstance(event, CallBytes):
                if event.begins:
                    log.heard.append(b"")
                    log.sent.append(b"")
                log.heard[-1] += event.data
            elif isinstance(event, CallCancelled):
                number = len(log.heard) - 1
                assert number not in log.cancelled
                log.cancelled[number] = event.code
            elif isinstance(event, SessionOpened):
                assert self.opened is None
                self.opened = event
            else:
                assert self.left is None
                self.left = event.outcome

    def deliver_responses(self, size: int) -> None:
        """So many bytes reach the client."""
        data = bytes(self.responses[:size])
        del self.responses[:size]
        log = self.at_client
        for event in self.client.receive_data(data):
            if isinstance(event, CallBytes):
                log.heard[-1] += event.data
            elif isinstance(event, CallEnded):
                log.ended += 1
            elif isinstance(event, SessionReady):
                assert not self.ready
                self.ready = True
            else:
                assert isinstance(event, SessionEnded)
                assert self.outcome is None
                self.outcome = event.outcome
