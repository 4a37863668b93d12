"""One stream of a QUIC connection: what its owner has asked for, until the next flush hands it to the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aster.errors import LocalProtocolError
from aster.transports.base import Stream, StreamSink

if TYPE_CHECKING:
    from aster.transports.quic.connection import QuicConnection
    from aster.transports.quic.engine import Engine

__all__ = ["QuicStream", "check_code"]

_CODE_LIMIT = 2**62
"""Error codes are QUIC's variable-length integers (RFC 9000, section 16)."""


def check_code(code: int) -> int:
    """``code``, if it can be sent as an application's error code."""
    if not 0 <= code < _CODE_LIMIT:
        raise LocalProtocolError(f"the code {code} cannot be sent: use one from 0 to 2**62 - 1")
    return code


class QuicStream(Stream):
    """A stream; ``sending`` and ``receiving`` tell which halves are open, from the owner's point of view: a half that was finished has ended."""

    __slots__ = ("_connection", "_finish", "_id", "_pending", "_queued", "_stopped", "_torn_down", "_unsent", "receiving", "sending", "sink")

    def __init__(self, connection: QuicConnection, stream_id: int) -> None:
        self._connection = connection
        self._id = stream_id
        self._pending: list[bytes] = []
        self._unsent = 0
        self._queued = False
        self._finish = False
        self._stopped = False
        self._torn_down = False
        self.sending = True
        self.receiving = True
        self.sink: StreamSink

    @property
    def id(self) -> int:
        return self._id

    def write(self, data: bytes) -> None:
        if not self.sending or not data:
            return
        self._pending.append(data)
        self._unsent += len(data)
        if not self._queued:
            self._queued = True
            self._connection.queue(self)
        self._connection.flush_soon()

    def finish(self) -> None:
        if not self.sending:
            return
        self.sending = False
        self._finish = True
        if not self._queued:
            self._queued = True
            self._connection.queue(self)
            # Alone, the end can wait for company: that saves a packet for each call that ends here.
            self._connection.flush_later()
        self._connection.half_ended(self)

    def reset(self, code: int) -> None:
        check_code(code)
        if self._torn_down or self._connection.has_ended:
            return
        was_sending = self.sending
        self._drop_queued()
        self._connection.open_in_engine(self._id)
        self._connection.engine.reset_stream(self._id, code)
        self._connection.flush_soon()
        if was_sending:
            self._connection.half_ended(self)

    def stop(self, code: int) -> None:
        check_code(code)
        if self._stopped or not self.receiving or self._connection.has_ended:
            return
        self._stopped = True
        self._connection.open_in_engine(self._id)
        self._connection.engine.stop_stream(self._id, code)
        self._connection.flush_soon()

    @property
    def unsent(self) -> int:
        return 0 if self._connection.has_ended or self._torn_down else self._unsent + self._connection.engine.unsent(self._id)

    def stopped_by_peer(self) -> None:
        """The peer wants no more of this half; the engine has reset it already."""
        self._drop_queued()

    def hand_over(self, engine: Engine) -> None:
        """Give the engine what was queued since the last flush, in one piece."""
        self._queued = False
        # The engine obeys STOP_SENDING when it arrives; the event comes later, and not at all once both halves have ended for the owner.
        if self._torn_down or engine.was_reset(self._id):
            return
        pending = self._pending
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        self._unsent = 0
        self._connection.open_in_engine(self._id)
        engine.send_stream_data(self._id, data, self._finish)

    def _drop_queued(self) -> None:
        self._torn_down = True
        self.sending = False
        self._pending.clear()
        self._unsent = 0
