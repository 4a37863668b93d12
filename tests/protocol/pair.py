"""Both ends of a call, and the bytes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aster._protocol.call import CallLimits, ClientCall, ServerCall, SharedBuffer
from aster._protocol.events import SUCCESS, Target, Trailer
from aster._protocol.frames import MESSAGE_CHARGE, encode_header_start
from aster.types import Metadata, RpcPattern, SerializationMode

__all__ = ["Direction", "Pair", "limits_of", "start_of"]


def limits_of(*, window: int = 262_144, peer_window: int = 262_144, message: int = 4_194_304, metadata: int = 8_192) -> CallLimits:
    """The default limits, but for those given, and none for all calls together."""
    return CallLimits.create(shared=SharedBuffer(1 << 62), window=window, peer_window=peer_window, message=message, metadata=metadata)


def start_of(pattern: RpcPattern) -> bytes:
    """The same for every header of a test."""
    return encode_header_start(Target("tests.Service", 1, "method", pattern, SerializationMode.XLANG))


@dataclass
class Direction:
    """What went into one direction, what came out, and the bytes under way."""

    window: int
    sent: list[bytes] = field(default_factory=list[bytes])
    taken: list[bytes] = field(default_factory=list[bytes])
    wire: bytearray = field(default_factory=bytearray)
    refills: int = 0

    def check_credit(self, inbox: Sequence[bytes]) -> None:
        """At most the window plus one message is sent and not taken, wherever it is; the receiver's inbox holds no more of it."""
        costs = [len(message) + MESSAGE_CHARGE for message in self.sent]
        open_cost = sum(costs) - sum(len(message) + MESSAGE_CHARGE for message in self.taken)
        assert open_cost <= self.window - 1 + max(costs, default=0)
        assert sum(len(message) + MESSAGE_CHARGE for message in inbox) <= open_cost


class Pair:
    """A ``ClientCall`` and a ``ServerCall`` whose bytes travel when told to, in pieces of any size."""

    def __init__(self, pattern: RpcPattern, *, request_window: int = 262_144, response_window: int = 262_144) -> None:
        self.pattern = pattern
        self.client = ClientCall(pattern, limits_of(window=response_window, peer_window=request_window))
        self.server = ServerCall(limits_of(window=request_window, peer_window=response_window))
        self.requests = Direction(request_window)
        self.responses = Direction(response_window)

    def send_header(self, timeout: float | None = None, metadata: Metadata | None = None) -> None:
        """The client's first frame."""
        self.requests.wire += self.client.send_header(start_of(self.pattern), timeout, metadata or Metadata())

    def send_request(self, message: bytes) -> None:
        """A request, if there is credit; ``client.requests.ready`` tells."""
        self.requests.wire += self.client.send_message(message)
        self.requests.sent.append(message)

    def send_end(self) -> None:
        """The end of requests."""
        self.requests.wire += self.client.send_end()

    def send_metadata(self, metadata: Metadata) -> None:
        """The server's first frame, if it sends one."""
        self.responses.wire += self.server.send_metadata(metadata)

    def send_response(self, message: bytes) -> None:
        """A response, if there is credit; ``server.responses.ready`` tells."""
        self.responses.wire += self.server.send_message(message)
        self.responses.sent.append(message)

    def send_trailer(self, trailer: Trailer = SUCCESS) -> None:
        """The outcome."""
        self.responses.wire += self.server.send_trailer(trailer)

    def deliver_requests(self, size: int) -> None:
        """So many bytes reach the server."""
        data = _cut(self.requests.wire, size)
        self.server.receive_data(data)

    def deliver_responses(self, size: int) -> None:
        """So many bytes reach the client."""
        data = _cut(self.responses.wire, size)
        self.client.receive_data(data)

    def take_request(self) -> None:
        """The handler takes a request, and may grant credit."""
        self.requests.taken.append(self.server.requests.take())
        grant = self.server.requests.grant()
        self.requests.refills += bool(grant)
        self.responses.wire += grant

    def take_response(self) -> None:
        """The caller takes a response, and may grant credit."""
        self.responses.taken.append(self.client.responses.take())
        grant = self.client.responses.grant()
        self.responses.refills += bool(grant)
        self.requests.wire += grant

    def check(self) -> None:
        """What holds at any moment: order, completeness so far, and the bounds of credit."""
        self.requests.check_credit(self.server.requests.inbox)
        self.responses.check_credit(self.client.responses.inbox)
        _check_order(self.requests, self.server.requests.inbox)
        _check_order(self.responses, self.client.responses.inbox)

    def deliver_all(self) -> None:
        """Everything that is under way arrives."""
        self.deliver_requests(len(self.requests.wire))
        self.deliver_responses(len(self.responses.wire))


def _cut(wire: bytearray, size: int) -> bytes:
    data = bytes(wire[:size])
    del wire[:size]
    return data


def _check_order(direction: Direction, inbox: Sequence[bytes]) -> None:
    arrived = [*direction.taken, *inbox]
    assert arrived == direction.sent[: len(arrived)]
