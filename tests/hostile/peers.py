"""What the hostile peers are made of: a server to strike at, and a client of plain aioquic that says what it likes to it."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, Self

import anyio
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived
from aioquic.quic.stream import QuicStream

from aster.trust import Address, Identity
from tests.quic.raw import RawPeer, raw_configuration
from tests.rpc.raw import HELLO

__all__ = ["Closed", "Intruder", "Target"]

_IDLE = 1.0
"""Seconds after which a server forgets a hostile client that has vanished: both ends of a connection use the smaller idle timeout."""


@dataclass
class Target:
    """A server, and how often it was struck.

    Attributes:
        most_handshakes: how many a flood of them may begin; without a limit by default.
    """

    host: str
    port: int
    blows: int = 0
    most_handshakes: float = math.inf

    @classmethod
    def at(cls, address: str, most_handshakes: float = math.inf) -> Self:
        """The server at an Aster address."""
        parsed = Address.parse(address)
        return cls(parsed.host, parsed.port, most_handshakes=most_handshakes)

    @property
    def place(self) -> tuple[str, int]:
        return self.host, self.port


class Closed(Exception):
    """The server has ended the connection, or the handshake came to nothing."""


class Intruder(RawPeer):
    """A client that never leaves in order: once closed, it has vanished."""

    def __init__(self, target: Target, *, identity: Identity | None = None, **changes: Any) -> None:
        super().__init__(raw_configuration(is_client=True, identity=identity or Identity.generate(), idle_timeout=_IDLE, **changes), target.place)
        self.target = target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def may_open(self) -> bool:
        """Whether the server allows one more stream."""
        return bool(self.engine.get_next_available_stream_id() < 4 * vars(self.engine)["_remote_max_streams_bidi"])

    def open(self, data: bytes) -> int:
        """The id of a new stream with these bytes."""
        stream_id = self.engine.get_next_available_stream_id()
        self.engine.send_stream_data(stream_id, data)
        return stream_id

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that wait in this process."""
        streams: dict[int, QuicStream] = vars(self.engine)["_streams"]
        if stream_id not in streams:
            return 0
        sender = streams[stream_id].sender
        return int(vars(sender)["_buffer_stop"]) - sender.highest_offset

    def flush(self) -> None:
        with contextlib.suppress(OSError):  # a full buffer: lost as in a network
            super().flush()

    async def step(self, pause: float = 0.0) -> None:
        """Say what is queued, let others run, and take what has come.

        Raises:
            Closed: it is over.
        """
        self.flush()
        await anyio.sleep(pause)
        self.receive()
        now, timer = anyio.current_time(), self.engine.get_timer()
        if timer is not None and now >= timer:
            self.engine.handle_timer(now)
        self.events.clear()
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, ConnectionTerminated):
                raise Closed

    async def shake_hands(self) -> None:
        """Wait until the server has said hello."""
        self.open(HELLO)
        while not self.seen(StreamDataReceived):
            await self.step(0.001)
